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
        ValueError: two images have one id.
    """
    ids = [record["image_id"] for record in batches.records]
    check_unique(ids)
    sizes = list(batches.sizes)
    return {
        "model": {"class": type(subject.module).__name__, "asked as": type(subject).__name__, **_settings(subject)},
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
    """Digest of images and labels of a dataset, wherever it lies."""
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
    """Digest of all weights and buffers."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        if not isinstance(tensor, torch.Tensor):  # the extra state of a module
            continue
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
