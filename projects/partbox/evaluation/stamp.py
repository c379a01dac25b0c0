"""What decides the records of an evaluation: records made under another stamp are refused, never mixed."""

from __future__ import annotations

import hashlib
import json
import platform
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .batches import Batches
from .image_evaluator import ImageEvaluator
from .perturbations import Perturbation
from .subject import Subject

PACKAGES = (
    "partbox",
    "detectron2",
    "sal-detectron2",
    "torch",
    "torchvision",
    "timm",
    "numpy",
    "pillow",
    "torchmetrics",
    "pycocotools",
    "imagecorruptions-imaug",
    "scikit-image",
    "scipy",
    "numba",
    "foolbox",
    "opencv-python-headless",
)
LAYERS = (torch.nn.modules.conv._ConvNd, torch.nn.modules.batchnorm._NormBase, torch.nn.Linear, torch.nn.LayerNorm)
NO_SETTINGS = ("training", "loss_normalizer")  # the latter is a running number of objects in RetinaNet


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that numbers depend on."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def stamp_of(
    subject: Subject,
    batches: Batches,
    perturbations: Sequence[Perturbation],
    evaluators: Sequence[ImageEvaluator],
    seed: int,
) -> dict[str, Any]:
    """Everything that the caller of an evaluation cannot forget to tell, as plain JSON values.

    Raises:
        ValueError: no images, one without id, or two with one id.
    """
    ids = image_ids_of(batches.records)
    check_unique(ids)
    sizes = list(batches.sizes)
    return {
        "model": {"class": type(subject.module).__name__, "asked as": type(subject).__name__, **_settings(subject)},
        "attributes of the model": plain_attributes(subject.module),
        "weights": weights_digest(subject.module),
        "image count": len(ids),
        "image ids": _digest(ids),
        "image records": records_digest(batches.records),
        "reading of images": _reading(batches.mapper),
        "batch size": max(sizes, default=0),
        "sizes of batches": _digest(sizes),
        "seed": seed,
        "perturbations": {one.name: one.settings for one in perturbations},
        "evaluators": [one.name for one in evaluators],
        "versions": versions(),
    }


def image_ids_of(records: Sequence[Mapping[str, Any]]) -> list[int | str]:
    """The ids of a dataset's images.

    Raises:
        ValueError: no images, or one without id.
    """
    if not len(records):
        raise ValueError("there are no images to evaluate")
    missing = [record for record in records if "image_id" not in record]
    if missing:
        raise ValueError(
            f"{len(missing)} records of the dataset have no image_id, the first is of {missing[0].get('file_name')}: "
            "give each image one of its own, on which its draws depend"
        )
    return [record["image_id"] for record in records]


def check_unique(ids: Sequence[int | str]) -> None:
    """Raises ValueError where an image id occurs twice: its records, draws and labels could not be told apart."""
    repeated = [image_id for image_id, count in Counter(ids).items() if count > 1]
    if repeated:
        raise ValueError(f"{len(repeated)} image ids occur more than once, the first is {repeated[0]!r}")


def _settings(subject: Any) -> dict[str, Any]:
    return dict(getattr(subject, "settings", {}))


def _reading(mapper: Any) -> str:
    """How a mapper reads images, in words: its name, channel order and steps (the resize above all)."""
    name = getattr(mapper, "__qualname__", type(mapper).__name__)
    steps = f"{getattr(mapper, 'image_format', '')} {getattr(mapper, 'augmentations', '')}"
    return re.sub(r" at 0x[0-9a-fA-F]+", "", f"{name} {steps}".strip())  # an address changes with every start


def records_digest(records: Sequence[Mapping[str, Any]]) -> str:
    """Digest of images and labels of a dataset, wherever it lies; of image files the names: one may be mended."""
    return _digest([{**record, "file_name": Path(record.get("file_name", "")).name} for record in records])


def _digest(values: Any) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=_plain).encode()).hexdigest()[:16]


def _plain(value: Any) -> Any:
    """JSON's view of what samples in memory hold; never an address, which would change with every start."""
    if isinstance(value, torch.Tensor):
        return _plain(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()), str(value.shape)
    if isinstance(value, np.ndarray) and value.dtype != object:
        data = hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()
        return data, str(value.shape), str(value.dtype)
    if isinstance(value, np.generic):
        return value.item()
    if hasattr(value, "get_fields"):  # detectron2's Instances
        return value.image_size, value.get_fields()
    for inside in ("tensor", "polygons"):  # its boxes, keypoints and masks
        if hasattr(value, inside):
            return getattr(value, inside)
    return value.decode("latin-1") if isinstance(value, bytes) else type(value).__name__


def weights_digest(model: torch.nn.Module) -> str:
    """Digest of all weights and buffers, those too that no checkpoint holds, such as detectron2's pixel mean."""
    digest = hashlib.sha256()
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def plain_attributes(model: torch.nn.Module) -> dict[str, Any]:
    """Settings of a model that are no weights, by their place, such as ``roi_heads.box_predictor.test_score_thresh``.

    What modules hold as plain numbers, texts, and lists and mappings of them; not those of torch's own layers, which
    follow from the shapes of the weights, nor what a model counts while it is trained.
    """
    return {
        f"{place}.{key}".lstrip("."): value
        for place, module in model.named_modules()
        if not isinstance(module, LAYERS) and not type(module).__module__.startswith("torch.")
        for key, value in vars(module).items()
        if not key.startswith("_") and key not in NO_SETTINGS and _is_plain(value)
    }


def _is_plain(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(isinstance(key, str | int | bool) and _is_plain(one) for key, one in value.items())
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return value is None or (isinstance(value, bool | int | float | str) and value == value)  # NaN equals nothing
