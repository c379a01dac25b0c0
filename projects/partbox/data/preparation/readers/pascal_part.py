"""PASCAL-Part (Chen et al., "Detect What You Can", CVPR 2014): part masks of the VOC2010 photographs.

    <folder>/Annotations_Part/<photograph>.mat                     see pascal_part_mat
    <folder>/VOCdevkit/VOC2010/JPEGImages/<photograph>.jpg
    <folder>/VOCdevkit/VOC2010/ImageSets/Main/{train,val}.txt      the owner's splits

The names of the published parts, and how the paper "Part-Based Models Improve Adversarial Robustness" (Sitawarin et
al., ICLR 2023) groups them into three parts for each of five classes, are in pascal_part.json beside this file.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from partbox.data.part_json_types import PartDatasetError

from ..object_crops import Photo, SourceObject, SourcePart
from ..photo_reader import PhotoLabels
from .label_masks import count_notes, names_and_sizes, part_of_mask, tight_box
from .pascal_part_mat import LabelledObject, read_objects

PUBLISHED_PHOTOS = {"train": 4998, "val": 5105}
"""Photographs of VOC2010 train and val. All 10,103 are annotated, with 24,971 objects and 181,770 parts (counted by
https://github.com/micco00x/py-pascalpart)."""

NO_OBJECT = "no object is labelled"
OTHER_CLASS = "of a class that is not chosen"
OTHER_LARGEST = "its largest object is of a class that is not chosen"
NOT_LARGEST = "of another class than the largest object"
LARGEST_UNLABELLED = "the largest object has no part labels"
NO_PIXEL = "mask without a pixel"
HIDDEN = "hidden by parts painted before it"

_GROUPINGS = Path(__file__).with_name("pascal_part.json")
_VOC_FOLDERS = ("VOCdevkit/VOC2010", "VOC2010", ".")
_NUMBER = re.compile(r"_\d+$")  # wheel_1, wheel_2, ...

Entry = tuple[str, str | None]
"""Name of a photograph without its extension, and the owner's split."""


@dataclass
class PascalPartReader:
    """Reads PASCAL-Part; see ``PhotoReader``.

    The paper's parts are painted in the order of the table, and a pixel belongs to the first part that it is in: the
    side of a car is labelled across its windows, so the windows must come first. Pixels of an object that are in none
    of its published parts stay unlabelled. Both as in the paper.

    Attributes:
        folder: holds Annotations_Part, and VOC2010 as its archive unpacks or moved up.
        classes: "paper": 15 parts of 5 classes; "all": the published parts of the 20 classes, numbers left out of their
            names, each whole as it was labelled (an eye is also in its head).
        crop: "none" keeps whole photographs, each of the class of its largest object, with the parts of all objects
            of this class; "objects" cuts out each object of the classes.
        empty: what an object without parts is: "unlabelled", or "absent" (looked at, no part visible).
        find_photos: whether a folder without photographs is refused.
    """

    folder: Path
    classes: Literal["paper", "all"] = "paper"
    crop: Literal["none", "objects"] = "none"
    empty: Literal["unlabelled", "absent"] = "unlabelled"
    find_photos: bool = True
    numbered: bool = field(default=False, init=False)
    image_root: Path = field(init=False)
    part_names: tuple[tuple[str, str], ...] = field(init=False)
    class_names: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        grouping = json.loads(_GROUPINGS.read_text(encoding="utf-8"))[self.classes]
        self.part_names = tuple((class_name, part) for class_name, parts in grouping.items() for part in parts)
        self.class_names = tuple(grouping)
        self._category = {
            (class_name, name): self.part_names.index((class_name, part))
            for class_name, parts in grouping.items()
            for part in parts
            for name in (parts[part] if isinstance(parts, dict) else [part])
        }
        if not (self.folder / "Annotations_Part").is_dir():
            raise PartDatasetError(
                self.folder, "--input", 'has no folder "Annotations_Part"', "unpack trainval.tar.gz there"
            )
        voc = [self.folder / name for name in _VOC_FOLDERS if (self.folder / name / "JPEGImages").is_dir()]
        if not voc and self.find_photos:
            raise PartDatasetError(
                self.folder,
                "--input",
                "has no VOCdevkit/VOC2010/JPEGImages",
                "unpack VOCtrainval_03-May-2010.tar there",
            )
        root = voc[0] if voc else self.folder / _VOC_FOLDERS[0]
        self.image_root = root / "JPEGImages"
        self._lists = root / "ImageSets" / "Main"

    def _files(self) -> list[Path]:
        files = sorted((self.folder / "Annotations_Part").glob("*.mat"))
        if not files:
            raise PartDatasetError(
                self.folder, "Annotations_Part", "holds no .mat file", "unpack trainval.tar.gz again"
            )
        return files

    def describe(self) -> dict[str, Any]:
        return {
            "annotations": "PASCAL-Part",
            "annotations_sha256": names_and_sizes(self.folder, self._files()),
            "classes": self.classes,
            "crop": self.crop,
            "empty": self.empty,
        }

    def count(self) -> int | None:
        return len(self._files())

    def notes(self) -> list[str]:
        """What to tell about the files: where there are more or fewer of them than published."""
        found = Counter(split or "in no official split" for _, split in self.entries())
        return count_notes(dict(found), {**PUBLISHED_PHOTOS, "in no official split": 0}, "annotation files")

    def entries(self) -> Iterator[Entry]:
        split_of = {
            name: split
            for split in PUBLISHED_PHOTOS
            if (self._lists / f"{split}.txt").is_file()
            for name in (self._lists / f"{split}.txt").read_text(encoding="utf-8").split()
        }
        for file in self._files():
            yield file.stem, split_of.get(file.stem)

    def read(self, entry: Entry) -> PhotoLabels:
        name, split = entry
        file = self.folder / "Annotations_Part" / f"{name}.mat"
        objects = read_objects(file)
        height, width = objects[0].mask.shape if objects else (0, 0)
        dropped: Counter[tuple[str, str, str]] = Counter()
        numbers = range(1, len(objects) + 1)
        seen = [(number, target) for number, target in zip(numbers, objects, strict=True) if target.mask.any()]
        for target in objects:
            dropped[target.class_name, "object", NO_PIXEL] += not target.mask.any()
        if not seen:
            dropped["", "photograph", NO_OBJECT] += 1
            kept = []
        elif self.crop == "none":
            kept = self._whole_photo(seen, dropped)
        else:
            kept = [self._cut_out(number, target, dropped) for number, target in self._chosen(seen, dropped)]
        return PhotoLabels(Photo(f"{name}.jpg", width, height, tuple(kept), split), +dropped)

    def _chosen(
        self, seen: list[tuple[int, LabelledObject]], dropped: Counter[tuple[str, str, str]]
    ) -> Iterator[tuple[int, LabelledObject]]:
        for number, target in seen:
            if target.class_name in self.class_names:
                yield number, target
            else:
                dropped[target.class_name, "object", OTHER_CLASS] += 1

    def _cut_out(self, number: int, target: LabelledObject, dropped: Counter[tuple[str, str, str]]) -> SourceObject:
        parts = self._parts(number, target, np.ones_like(target.mask), dropped)
        return self._source_object(number, target.class_name, tight_box(target.mask), parts)

    def _whole_photo(
        self, seen: list[tuple[int, LabelledObject]], dropped: Counter[tuple[str, str, str]]
    ) -> list[SourceObject]:
        """The photograph as one object of the class of its largest one, the first of equals, which is painted first."""
        first, largest = max(seen, key=lambda pair: int(pair[1].mask.sum()))
        class_name = largest.class_name
        if class_name not in self.class_names:
            dropped[class_name, "photograph", OTHER_LARGEST] += 1
            return []
        free = np.ones_like(largest.mask)
        parts = self._parts(first, largest, free, dropped)
        for number, target in self._chosen(seen, dropped):
            if target.class_name != class_name:
                dropped[target.class_name, "object", NOT_LARGEST] += 1
            elif number != first:
                others = self._parts(number, target, free, dropped)
                if not parts:
                    dropped[class_name, "part", LARGEST_UNLABELLED] += len(others)
                else:
                    parts = [*parts, *others]
        return [self._source_object(first, class_name, None, parts)]

    def _source_object(
        self, number: int, class_name: str, box: tuple[float, float, float, float] | None, parts: list[SourcePart]
    ) -> SourceObject:
        labelled = bool(parts) or self.empty == "absent"
        return SourceObject(number, class_name, box, tuple(parts), "mask" if labelled else "none")

    def _parts(
        self, number: int, target: LabelledObject, free: np.ndarray, dropped: Counter[tuple[str, str, str]]
    ) -> list[SourcePart]:
        """The parts of one object, in the order of the table.

        Args:
            number: of the object.
            target: the object.
            free: (H, W) bool, pixels that no part has been painted on. The grouping of the paper paints on it.
            dropped: is told what was left out.
        """
        masks: dict[int, np.ndarray] = {}
        for name, mask in target.parts:
            category = self._category.get((target.class_name, _NUMBER.sub("", name)))
            if category is None:
                dropped[target.class_name, "part", f'its name "{name}" is not known'] += 1
            elif not mask.any():
                dropped[target.class_name, "part", NO_PIXEL] += 1
            else:
                masks[category] = masks.get(category, False) | mask
        parts = []
        for category in sorted(masks):
            mask = masks[category]
            if self.classes == "paper":
                mask = mask & free
                free &= ~mask
            if mask.any():
                parts.append(part_of_mask(category, mask, number))
            else:
                dropped[target.class_name, "part", HIDDEN] += 1
        return parts
