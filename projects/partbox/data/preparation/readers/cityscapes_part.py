"""Cityscapes-Panoptic-Parts (Meletis et al., arXiv 2004.07944): part labels of the Cityscapes street scenes.

    <folder>/gtFinePanopticParts/{train,val}/<city>/<city>_<sequence>_<frame>_gtFinePanopticParts.tif
    <folder>/leftImg8bit/{train,val}/<city>/<city>_<sequence>_<frame>_leftImg8bit.png

A label file is one int32 image. A pixel holds a *uid* of up to seven digits, SS, SSIII or SSIIIPP: semantic class
(sid), instance (iid, counted from 0 for each class and photograph), part (pid, 0 is "not labelled").
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from partbox.data.part_json_types import PartDatasetError

from ..object_crops import Photo, SourceObject
from ..photo_reader import PhotoLabels
from .label_masks import count_notes, names_and_sizes, part_of_mask, tight_box

PUBLISHED_PHOTOS = {"train": 2975, "val": 500}
"""Photographs of Cityscapes train and val (Cordts et al., CVPR 2016); the labels of test are withheld."""

SEMANTIC_NAMES = {24: "person", 25: "rider", 26: "car", 27: "truck", 28: "bus"}
"""The semantic classes of Cityscapes that have parts."""

CLASS_OF_SID = {24: "human", 25: "human", 26: "vehicle", 27: "vehicle", 28: "vehicle"}
"""The two classes of "Part-Based Models Improve Adversarial Robustness" (Sitawarin et al., ICLR 2023)."""

PARTS = {
    "human": ("torso", "head", "arms", "legs"),
    "vehicle": ("windows", "wheels", "lights", "plate", "chassis"),
}
"""The parts of pid 1, 2, ... of each class."""

NO_UID = "no pixel of a person, rider, car, truck or bus"
GROUP = "a group that is not divided into instances"
OCCLUDED = "the other class covers more than half its area"

_LABELS = ("gtFinePanopticParts", "gtFinePanopticParts_trainval/gtFinePanopticParts")
_SUFFIX = "_gtFinePanopticParts.tif"
_NAME = re.compile(r"(?P<city>.+)_(?P<sequence>\d{6})_(?P<frame>\d{6})" + re.escape(_SUFFIX))
_NO_ID = -1
_FIX = "unpack the labels again"

Entry = tuple[str, str, str]
"""Split, city, and name of a label file without its suffix."""


@dataclass
class CityscapesPartReader:
    """Reads Cityscapes-Panoptic-Parts; see ``PhotoReader``. One object an instance of the classes of CLASS_OF_SID.

    Attributes:
        folder: holds gtFinePanopticParts and leftImg8bit.
        min_pixels: instances with fewer pixels are left out.
        group: what must not cross splits: a "sequence", in which neighbours may show the same cars, or a "photograph".
            Some cities are one sequence of hundreds of photographs, so sequences cannot give exact shares.
        empty: what an object without parts is: "unlabelled", or "absent" (looked at, no part visible).
        find_photos: whether a folder without photographs is refused.
    """

    folder: Path
    min_pixels: int = 1000
    group: Literal["sequence", "photograph"] = "sequence"
    empty: Literal["unlabelled", "absent"] = "unlabelled"
    find_photos: bool = True
    numbered: bool = field(default=False, init=False)
    image_root: Path = field(init=False)
    part_names: tuple[tuple[str, str], ...] = field(init=False)
    class_names: tuple[str, ...] = field(default=tuple(PARTS), init=False)

    def __post_init__(self) -> None:
        self.part_names = tuple((class_name, part) for class_name, parts in PARTS.items() for part in parts)
        found = [self.folder / name for name in _LABELS if (self.folder / name).is_dir()]
        if not found:
            fix = "unpack gtFinePanopticParts_trainval.zip there"
            raise PartDatasetError(self.folder, "--input", f'has no folder "{_LABELS[0]}"', fix)
        self._labels = found[0]
        self.image_root = self.folder / "leftImg8bit"
        if self.find_photos and not self.image_root.is_dir():
            fix = "unpack leftImg8bit_trainvaltest.zip there"
            raise PartDatasetError(self.folder, "--input", 'has no folder "leftImg8bit"', fix)

    def _files(self) -> list[Path]:
        files = [file for split in PUBLISHED_PHOTOS for file in sorted((self._labels / split).glob("*/*.tif"))]
        if not files:
            raise PartDatasetError(self._labels, "{train,val}/<city>", "hold no .tif file", _FIX)
        for file in files:
            if not _NAME.fullmatch(file.name) or not file.name.startswith(f"{file.parent.name}_"):
                reason = f"is not named {file.parent.name}_<sequence>_<frame>{_SUFFIX}"
                raise PartDatasetError(file, "the file", reason, "take it out of the folder")
        return files

    def describe(self) -> dict[str, Any]:
        return {
            "annotations": "Cityscapes-Panoptic-Parts",
            "labels_sha256": names_and_sizes(self._labels, self._files()),
            "min_pixels": self.min_pixels,
            "group": self.group,
            "empty": self.empty,
        }

    def count(self) -> int | None:
        return len(self._files())

    def notes(self) -> list[str]:
        """What to tell about the files: where there are more or fewer of them than published."""
        return count_notes(dict(Counter(split for split, _, _ in self.entries())), PUBLISHED_PHOTOS, "label files")

    def entries(self) -> Iterator[Entry]:
        for file in self._files():
            yield file.parent.parent.name, file.parent.name, file.name.removesuffix(_SUFFIX)

    def read(self, entry: Entry) -> PhotoLabels:
        split, city, name = entry
        file = self._labels / split / city / f"{name}{_SUFFIX}"
        uids = read_uids(file)
        sids, iids, pids = split_uids(uids, file)
        dropped: Counter[tuple[str, str, str]] = Counter()
        objects: list[SourceObject] = []
        for sid, class_name in CLASS_OF_SID.items():
            of_class = sids == sid
            if (of_class & (iids == _NO_ID)).any():
                dropped[class_name, "object", GROUP] += 1
            for iid in np.unique(iids[of_class]).tolist():
                if iid == _NO_ID:
                    continue
                mask = of_class & (iids == iid)
                target = self._instance(sid, iid, mask, sids, pids, dropped)
                if target is not None:
                    objects.append(target)
        if not np.isin(sids, list(CLASS_OF_SID)).any():
            dropped["", "photograph", NO_UID] += 1
        height, width = uids.shape
        source = name.rpartition("_")[0] if self.group == "sequence" else ""
        photo = Photo(f"{split}/{city}/{name}_leftImg8bit.png", width, height, tuple(objects), split, source=source)
        return PhotoLabels(photo, dropped)

    def _instance(
        self,
        sid: int,
        iid: int,
        mask: np.ndarray,
        sids: np.ndarray,
        pids: np.ndarray,
        dropped: Counter[tuple[str, str, str]],
    ) -> SourceObject | None:
        """One instance as an object to be cut out; None, and a count in ``dropped``, if it is left out."""
        class_name = CLASS_OF_SID[sid]
        if np.count_nonzero(mask) < self.min_pixels:
            dropped[class_name, "object", f"fewer than {self.min_pixels} pixels"] += 1
            return None
        box = tight_box(mask)
        window = slice(int(box[1]), int(box[3])), slice(int(box[0]), int(box[2]))
        corner, photo_size = (int(box[0]), int(box[1])), mask.shape[::-1]
        mask, pids = mask[window], pids[window]
        if is_occluded(sids[window], sid):
            dropped[class_name, "object", OCCLUDED] += 1
            return None
        parts = []
        for pid in np.unique(pids[mask]).tolist():
            if pid > len(PARTS[class_name]):
                dropped[class_name, "part", f"part id {pid} of a {SEMANTIC_NAMES[sid]} is not defined"] += 1
            elif pid > 0:
                category = self.part_names.index((class_name, PARTS[class_name][pid - 1]))
                part = mask & (pids == pid)
                parts.append(part_of_mask(category, part, corner=corner, photo_size=photo_size))
        labelled = bool(parts) or self.empty == "absent"
        number = sid * 1000 + iid
        return SourceObject(number, class_name, box, tuple(parts), "mask" if labelled else "none")


def read_uids(file: Path) -> np.ndarray:
    """The uids of a label file: (H, W) int32.

    Raises:
        PartDatasetError: the file cannot be read, or is no image of int32.
    """
    try:
        with Image.open(file) as image:
            mode, uids = image.mode, np.asarray(image)
    except (OSError, SyntaxError, ValueError, TypeError, KeyError, Image.DecompressionBombError) as error:
        raise PartDatasetError(file, "the file", f"cannot be read as an image: {error}", _FIX) from error
    if mode != "I" or uids.ndim != 2:
        raise PartDatasetError(file, "the file", f"must hold int32 pixels, has mode {mode}", _FIX)
    return uids


def split_uids(uids: np.ndarray, file: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Semantic classes, instances and parts of uids.

    Args:
        uids: (H, W) int32.
        file: for the error.

    Returns:
        sid, iid and pid, each (H, W) int32; iid and pid are -1 where the uid does not go so far.

    Raises:
        PartDatasetError: a uid is negative, or has three or more than seven digits.
    """
    wrong = (uids < 0) | ((uids > 99) & (uids < 1000)) | (uids > 99_999_99)
    if wrong.any():
        row, column = np.argwhere(wrong)[0]
        reason = f"the uid {uids[row, column]} is none of SS, SSIII, SSIIIPP"
        raise PartDatasetError(file, f"pixel ({column}, {row})", reason, _FIX)
    has_iid, has_pid = uids > 99, uids > 99_999
    instances = np.where(has_pid, uids // 100, uids)  # SS or SSIII
    sids = np.where(has_iid, instances // 1000, instances)
    return sids, np.where(has_iid, instances % 1000, _NO_ID), np.where(has_pid, uids % 100, _NO_ID)


def is_occluded(sids: np.ndarray, sid: int) -> bool:
    """Whether an object's box shows so much of the other class that a classifier could not tell which one is meant.

    As in the paper: true if one semantic class of the other class has more than half the pixels that the object's
    semantic class, its neighbours of this class included, has.

    Args:
        sids: (h, w) semantic classes in the object's box.
        sid: semantic class of the object.
    """
    own = np.count_nonzero(sids == sid)
    others = (other for other, class_name in CLASS_OF_SID.items() if class_name != CLASS_OF_SID[sid])
    return any(np.count_nonzero(sids == other) > own / 2 for other in others)
