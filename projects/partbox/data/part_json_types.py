"""The value types of a part dataset: what :func:`partbox.data.load_part_dataset` gives, and what it raises."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

PART_LABELS = ("mask", "box", "none")
"""What an image's parts are labelled with. "none" is "nobody labelled it", not "no part is visible"."""


LABEL_SOURCES = ("annotated", "predicted")
"""Where an image's part labels come from: somebody's work, or a model (pseudo-labels)."""


class PartDatasetError(ValueError):
    """A part dataset that cannot be used as it is.

    Attributes:
        file: the file that is wrong (the JSON file, also when one of its images is the reason).
        entry: where in the file, e.g. ``annotations[17] (id 204)``.
        reason: what is wrong with it.
        fix: what to do about it; empty where the reason says enough.
    """

    def __init__(self, file: str | Path, entry: str, reason: str, fix: str = "") -> None:
        super().__init__(str(file), entry, reason, fix)  # in args, so that the error survives pickling
        self.file = str(file)
        self.entry = entry
        self.reason = reason
        self.fix = fix

    def __str__(self) -> str:
        text = f"{self.file}: {self.entry}: {self.reason}."
        if self.fix:
            text += f" {self.fix}" if self.fix.endswith("?") else f" {self.fix}."
        return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


@dataclass(frozen=True)
class PartCategory:
    """One part of one class.

    Attributes:
        id: the category's id in the file.
        name: the part's name, e.g. "head". Unique within its class only.
        class_index: contiguous index of the class it belongs to, in [0, number of classes).
    """

    id: int
    name: str
    class_index: int


@dataclass(frozen=True, eq=False)
class PartDataset:
    """A checked part dataset. Classes, categories, images and annotations stand in the order of the file.

    Attributes:
        json_file: the file it was read from.
        image_root: absolute path of the folder that the file's image names start from.
        class_names: the K class names.
        class_ids: the K class ids of the file.
        categories: the P parts.
        records: one dict an image, in detectron2's standard format: ``file_name`` (absolute path), ``image_id`` (int or
            str, as in the file), ``height``, ``width`` (pixels, after EXIF orientation), ``label`` (index of the
            class), ``part_labels`` ("mask" | "box" | "none"), ``label_source`` ("annotated" | "predicted"),
            ``source_image`` (str or None), ``annotations``: dicts with ``bbox`` ([x, y, w, h] floats in pixels, inside
            the image), ``bbox_mode`` (``BoxMode.XYWH_ABS``), ``category_id`` (index into ``categories``), ``iscrowd``
            0, ``score`` (float in [0, 1]) in images with predicted labels, and where the file has them
            ``segmentation`` (list of polygons, or compressed RLE) and ``object_id``.
    """

    json_file: Path
    image_root: Path
    class_names: tuple[str, ...]
    class_ids: tuple[int, ...]
    categories: tuple[PartCategory, ...]
    records: list[dict[str, Any]] = field(repr=False)

    @property
    def part_to_class(self) -> np.ndarray:
        """Index of the class that each part belongs to: (P,) int64."""
        return np.array([category.class_index for category in self.categories], dtype=np.int64)
