"""Any detectron2 dataset seen through a corruption."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from detectron2.data import transforms as T
from fvcore.transforms.transform import NoOpTransform, Transform

from partbox.corruptions import corrupt
from partbox.corruptions.corrupt import check_kind

from .unattacked import corruption_seed


class CorruptionMapper:
    """Reads any detectron2 dataset through a corruption: applied to the photograph as it is read, at its own size.

    Args:
        mapper: detectron2's ``DatasetMapper``, or another mapper with ``augmentations`` and ``image_format``; it is
            used, not changed.
        kind: one of :data:`partbox.corruptions.KINDS`.
        severity: 1 to 5.
        seed: with the record's ``image_id`` (or ``file_name``) the seed of the image's draw.

    Raises:
        ValueError: a mapper whose augmentations or channel order are unknown, an unknown kind, or another severity.
    """

    def __init__(self, mapper: Callable[[dict[str, Any]], Any], kind: str, severity: int, seed: int = 0) -> None:
        check_kind(kind, severity)
        channels = getattr(mapper, "image_format", None)
        if not hasattr(mapper, "augmentations") or channels not in ("RGB", "BGR"):
            raise ValueError(
                f"a {type(mapper).__name__} cannot be read through a corruption: it needs detectron2's attributes "
                "augmentations and image_format (RGB or BGR), as DatasetMapper has them"
            )
        self.mapper: Any = mapper
        self.seed = seed
        self.step = _CorruptionStep(kind, severity, channels)

    def __call__(self, record: dict[str, Any]) -> Any:
        self.step.seed = corruption_seed(self.seed, record.get("image_id", record["file_name"]))
        before = self.mapper.augmentations
        self.mapper.augmentations = T.AugmentationList([self.step, before])
        try:
            return self.mapper(record)
        finally:
            self.mapper.augmentations = before


class _CorruptionStep(T.Augmentation):
    """The corruption as a step before a mapper's own augmentations."""

    def __init__(self, kind: str, severity: int, channels: str) -> None:
        super().__init__()
        self.kind, self.severity, self.channels, self.seed = kind, severity, channels, 0

    def get_transform(self, image: np.ndarray) -> Transform:
        return _CorruptionTransform(self.kind, self.severity, self.channels, self.seed)


class _CorruptionTransform(NoOpTransform):
    """Changes pixels only: boxes and masks stay."""

    def __init__(self, kind: str, severity: int, channels: str, seed: int) -> None:
        super().__init__()
        self.kind, self.severity, self.channels, self.seed = kind, severity, channels, seed

    def apply_image(self, img: np.ndarray) -> np.ndarray:
        """A uint8 (H, W, 3) image in the mapper's channel order; corruptions see RGB."""
        if self.channels == "RGB":
            return corrupt(img, self.kind, self.severity, self.seed)
        return np.ascontiguousarray(corrupt(img[:, :, ::-1], self.kind, self.severity, self.seed)[:, :, ::-1])

    def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
        """Labels stay; the base class would treat them as an image."""
        return segmentation
