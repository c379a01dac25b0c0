"""The few images of an evaluation that are kept for pictures, as arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor
from torch.nn import functional

from .record_files import write_arrays


def stack_examples(
    samples: Sequence[Mapping[str, Any]], images: Sequence[Tensor], outputs: Sequence[Mapping[str, Any]]
) -> dict[str, np.ndarray]:
    """Arrays of a classifier's images, (N, ...) each.

    Args:
        samples: with ``label``.
        images: (3, H, W) in [0, 1], one size.
        outputs: with ``label``, ``probabilities`` (K,) and, where the model finds parts, ``part_probabilities``.

    Returns:
        ``images`` (N, H, W, 3) uint8, ``labels``, ``predictions``, ``confidences`` and, with parts, ``parts``
        (N, H, W) with 0 = background.
    """
    pixels = np.stack([image.detach().cpu().permute(1, 2, 0).numpy() for image in images])
    arrays = {
        "images": np.rint(pixels * 255).astype(np.uint8),
        "labels": np.array([sample["label"] for sample in samples]),
        "predictions": np.array([output["label"] for output in outputs]),
        "confidences": np.array([float(output["probabilities"].max()) for output in outputs]),
    }
    if "part_probabilities" in outputs[0]:
        arrays["parts"] = np.stack(
            [_part_map(output["part_probabilities"], image) for output, image in zip(outputs, images, strict=True)]
        )
    return arrays


def _part_map(masks: Tensor, image: Tensor) -> np.ndarray:
    enlarged = functional.interpolate(
        masks[None].float().cpu(), size=image.shape[-2:], mode="bilinear", align_corners=False
    )
    return enlarged.argmax(dim=1)[0].numpy().astype(np.int32)


def save_examples(
    path: str | Path, examples: Mapping[str, Mapping[str, np.ndarray]], class_names: Sequence[str]
) -> None:
    """Write the arrays of each perturbation to one ``.npz`` file; one without arrays is left out.

    Arrays of perturbation i carry ``_i`` (``images_0``); ``labels`` (N,), ``perturbations`` and ``class_names`` are
    common to all.

    Args:
        path: of the file.
        examples: by perturbation, from :func:`stack_examples`.
        class_names: of the model.

    Raises:
        RecordsError: the file cannot be written.
    """
    examples = {name: kept for name, kept in examples.items() if kept}
    arrays: dict[str, Any] = {"perturbations": np.array(list(examples)), "class_names": np.array(class_names)}
    for index, kept in enumerate(examples.values()):
        for key, array in kept.items():
            arrays[key if key == "labels" else f"{key}_{index}"] = array
    write_arrays(Path(path), arrays)
