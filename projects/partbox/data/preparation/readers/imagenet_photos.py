"""What PartImageNet and PartImageNet++ share: whole photographs of ImageNet, whose names tell the class; counts."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from partbox.data.part_json_entry import Entry, describe
from partbox.data.part_json_types import PartDatasetError

from ..coco_mask import read_mask
from ..object_crops import Photo, SourceObject, SourcePart
from ..photo_reader import PhotoLabels, Reason

Empty = Literal["unlabelled", "absent"]
Say = Callable[[str], None]

LEFT_OUT = "its photograph is left out"

_WNID = re.compile(r"n\d{8}")


@dataclass(frozen=True)
class ImageNetEntry:
    """A photograph as a COCO file has it.

    Attributes:
        image: entry of the list ``images``.
        annotations: its entries of the list ``annotations``.
        wnid: id of its ImageNet class, e.g. "n01440764".
        class_name: what it shows; "" if that is unknown.
        categories: id of each category of the file -> which part it is (as in :class:`SourcePart`), or why its
            annotations are left out.
        split: the owner's, None where there is none.
        left_out: why nothing is made of it; "" if something is.
    """

    image: Entry
    annotations: tuple[Entry, ...]
    wnid: str
    class_name: str
    categories: Mapping[int, int | str]
    split: str | None = None
    left_out: str = ""


class ImageNetReader:
    """Reads entries of COCO files as whole photographs. In a worker, where it arrives without tables, it only reads.

    Args:
        image_root: where photographs are looked for.
        folders: below it, in the order in which they are tried; "{split}" stands for the owner's split.
        empty: a photograph without any annotation: "unlabelled" (nobody labelled it), or "absent" (no part is visible).
        find_photos: whether they are needed; if not, they are named as the labels name them.

    Raises:
        PartDatasetError: ``image_root`` is no folder.
    """

    numbered = False

    def __init__(self, image_root: Path, folders: Sequence[str], *, empty: Empty, find_photos: bool) -> None:
        if find_photos and not image_root.is_dir():
            raise PartDatasetError(str(image_root), "--images", "is not a folder")
        self.image_root, self._folders = image_root, tuple(folders)
        self._empty, self._find_photos = empty, find_photos

    def __getstate__(self) -> dict[str, Any]:
        return {key: self.__dict__[key] for key in ("image_root", "_folders", "_empty", "_find_photos")}

    def read(self, entry: ImageNetEntry) -> PhotoLabels:
        """The labels of one photograph."""
        width, height = entry.image.integer("width", 1), entry.image.integer("height", 1)
        dropped: Counter[Reason] = Counter()
        if entry.left_out:
            dropped[entry.class_name, "photograph", entry.left_out] = 1
            dropped[entry.class_name, "part", LEFT_OUT] = len(entry.annotations)
            return PhotoLabels(Photo(str(photo_name(entry.image)), width, height, (), entry.split), dropped)
        parts: list[SourcePart] = []
        for annotation in entry.annotations:
            part = _read_part(annotation, entry.categories, width, height)
            if isinstance(part, str):
                dropped[entry.class_name, "part", part] += 1
            else:
                parts.append(part)
        absent = self._empty == "absent" and not entry.annotations  # what was left out shows that there are parts
        labels: Literal["mask", "none"] = "mask" if parts or absent else "none"
        target = SourceObject(1, entry.class_name, None, tuple(parts), labels)
        source = (
            f"{entry.wnid}/{photo_name(entry.image).name}"  # splits are drawn from it, wherever the photograph lies
        )
        return PhotoLabels(Photo(self._name(entry), width, height, (target,), entry.split, source), dropped)

    def _name(self, entry: ImageNetEntry) -> str:
        """Path of a photograph below the image root: in a folder as ``file_name`` says, below its class, or without.

        Raises:
            PartDatasetError: it is nowhere.
        """
        name = photo_name(entry.image)
        if not self._find_photos:
            return str(name)
        names = dict.fromkeys((name, PurePosixPath(entry.wnid) / name.name, PurePosixPath(name.name)))
        for folder in self._folders:
            for candidate in names:
                path = PurePosixPath(folder.format(split=entry.split)) / candidate
                if (self.image_root / path).is_file():
                    return str(path)
        reason = f"no folder of {self.image_root} holds {name.name}"
        raise entry.image.error(reason, "get the photographs too, or name their folder with --images")


def _read_part(annotation: Entry, categories: Mapping[int, int | str], width: int, height: int) -> SourcePart | str:
    """The part that an annotation of a (width, height) photograph labels, or why it is left out."""
    category_id = annotation.integer("category_id")
    if category_id not in categories:
        raise annotation.error(f"unknown category_id {category_id}", "it must be the id of one of the categories")
    category = categories[category_id]
    if isinstance(category, str):
        return category
    mask = read_mask(annotation, width, height)
    return mask if isinstance(mask, str) else SourcePart(category, mask[1], mask[0])


def is_wnid(text: str) -> bool:
    """Whether a text is the id of an ImageNet class, e.g. "n01440764"."""
    return _WNID.fullmatch(text) is not None


def photo_name(image: Entry) -> PurePosixPath:
    """``file_name`` of an image, with "/" between folders.

    Raises:
        PartDatasetError: it is no path below a folder.
    """
    name = PurePosixPath(image.text("file_name").replace("\\", "/"))
    if name.is_absolute() or ".." in name.parts or not name.name or "\0" in str(name):
        raise image.error(f"file_name {describe(image.value['file_name'])} is no path below a folder")
    return name


def wnid_of(image: Entry) -> str:
    """The ImageNet class of an image, from its name (``n01440764_8938.JPEG``) or else its folder.

    Raises:
        PartDatasetError: neither names one.
    """
    name = photo_name(image)
    for text in (name.name.partition("_")[0], name.parent.name):
        if is_wnid(text):
            return text
    reason = f"file_name {describe(image.value['file_name'])} does not name its ImageNet class"
    raise image.error(reason, "names look like n01440764_8938.JPEG or n01440764/n01440764_8938.JPEG")


@dataclass
class Counts:
    """What a data set holds: ImageNet classes, categories of parts, photographs, annotations."""

    classes: int = 0
    parts: int = 0
    photographs: int = 0
    annotations: int = 0

    def compare(self, published: Counts, source: str) -> list[str]:
        """A sentence for each number that is not the published one, or one that says that all are."""
        found, expected = asdict(self), asdict(published)
        names = {"classes": "ImageNet classes", "parts": "part categories"}
        notes = [
            f"counts: {found[key]:,} {names.get(key, key)}, published are {expected[key]:,} ({source})"
            for key in found
            if found[key] != expected[key]
        ]
        return notes or [f"counts: classes, part categories, photographs and annotations are as published ({source})"]
