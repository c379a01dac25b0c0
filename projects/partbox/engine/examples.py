"""The few images of an evaluation that are kept for pictures, as one file of arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch.nn import functional

from partbox.files import write_atomically


def save_examples(
    path: str | Path, examples: Mapping[str, Sequence[Mapping[str, Any]]], class_names: Sequence[str]
) -> None:
    """Write the images, predictions and parts of each perturbation.

    Arrays of perturbation i: ``images_i`` (N, H, W, 3) uint8, ``predictions_i`` (N,), ``confidences_i`` (N,) and,
    where the model finds parts, ``parts_i`` (N, H, W) with 0 = background. ``labels`` (N,), ``perturbations`` and
    ``class_names`` are common.

    Args:
        path: of the ``.npz`` file.
        examples: by perturbation, as :class:`partbox.evaluation.Evaluation` keeps them.
        class_names: of the model.
    """
    arrays: dict[str, Any] = {"perturbations": np.array(list(examples)), "class_names": np.array(class_names)}
    for index, kept in enumerate(examples.values()):
        arrays["labels"] = np.array([example["sample"]["label"] for example in kept])
        images = np.stack([example["image"].cpu().permute(1, 2, 0).numpy() for example in kept])
        arrays[f"images_{index}"] = np.rint(images * 255).astype(np.uint8)
        arrays[f"predictions_{index}"] = np.array([example["label"] for example in kept])
        arrays[f"confidences_{index}"] = np.array([float(example["probabilities"].max()) for example in kept])
        if "part_probabilities" in kept[0]:
            arrays[f"parts_{index}"] = np.stack([_part_map(example) for example in kept])
    write_atomically(path, lambda file: np.savez_compressed(file, **arrays))


def _part_map(example: Mapping[str, Any]) -> np.ndarray:
    size = example["image"].shape[-2:]
    masks = functional.interpolate(
        example["part_probabilities"][None].float().cpu(), size=size, mode="bilinear", align_corners=False
    )
    return masks.argmax(dim=1)[0].numpy().astype(np.int32)
