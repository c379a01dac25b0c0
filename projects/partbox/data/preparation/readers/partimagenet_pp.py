"""PartImageNet++ (Li et al., ECCV 2024): part masks of 100 photographs of each of the 1,000 ImageNet classes.

One COCO file a class, ``json/<id of the class>.json``; its categories are the parts of that class ("tench fin"). One
without parts has one category, which is the whole object. ``discarded_data.json`` beside the folder lists photographs
that the owners have discarded. The photographs are those of ImageNet's training set, which is got apart.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from partbox.data.part_json_entry import Entry, describe
from partbox.data.part_json_types import PartDatasetError
from partbox.progress import track

from ..coco_stream import CocoStream
from .imagenet_photos import Counts, Empty, ImageNetEntry, ImageNetReader, Say, is_wnid, photo_name, wnid_of

IMAGE_FOLDERS = ("", "train", "images", "JPEGImages")
"""Where photographs may lie."""

PUBLISHED = Counts(classes=1000, parts=3_308, photographs=100_000, annotations=406_364)
"""Li et al., arXiv 2601.01454. The owners' training code has 3,311 channels: the background, and 3,310 parts, which is
what its table of classes (``data/classinfo_1k_pp.py`` of LixiaoTHU/PartImageNetPP) sums up to, two above the paper."""

SOURCE = "Li et al., arXiv 2601.01454"

DISCARDED_FILE = "discarded_data.json"
DISCARDED = f"discarded by its owners ({DISCARDED_FILE})"
DOUBLE = "is in the file twice"
OTHER_CLASS = "its name is of another ImageNet class than its file"


class PartImageNetPPReader(ImageNetReader):
    """Reads PartImageNet++ in the layout of its download. Classes are named by their ImageNet id.

    Args:
        folder: holds ``json/<class>.json``, or is that folder itself.
        images: where photographs are looked for, in IMAGE_FOLDERS: ImageNet's training set.
        empty, find_photos: as for :class:`ImageNetReader`.
        say: is told, after the last entry, how the counts compare with the published ones.

    Raises:
        PartDatasetError: no file is there, or categories are malformed.
    """

    def __init__(
        self,
        folder: Path,
        images: Path,
        *,
        empty: Empty = "unlabelled",
        find_photos: bool = True,
        say: Say = lambda text: None,
    ) -> None:
        super().__init__(images, IMAGE_FOLDERS, empty=empty, find_photos=find_photos)
        self._files = _find_files(folder)
        self._discarded_file = _find_discarded(next(iter(self._files.values())).parent)
        self._discarded = _read_discarded(self._discarded_file) if self._discarded_file else frozenset()
        self._say = say
        self.class_names = list(self._files)
        self.part_names: list[tuple[str, str]] = []
        self._parts: dict[str, dict[int, int | str]] = {}
        shared = 0
        for wnid, file in track(self._files.items(), len(self._files), "reading categories", "file"):
            names = _read_categories(CocoStream(file))
            parts = {name: len(self.part_names) + i for i, name in enumerate(dict.fromkeys(names.values()))}
            self._parts[wnid] = {category_id: parts[name] for category_id, name in names.items()}
            self.part_names += [(wnid, name) for name in parts]
            shared += len(names) - len(parts)
        self.counts = Counts(classes=len(self._files), parts=len(self.part_names))
        if shared:
            say(f"{shared} categories have the name of another one of their class: they are one part")

    def describe(self) -> dict[str, Any]:
        digest = hashlib.sha256()  # of the names and bytes of all files that are read
        for file in (*self._files.values(), *([self._discarded_file] if self._discarded_file else [])):
            digest.update(f"{file.name} {CocoStream(file).sha256}\n".encode())
        return {
            "annotations": "PartImageNet++",
            "annotations_sha256": {"files": len(self._files), "all": digest.hexdigest()},
            "meaning": {"empty": self._empty},
        }

    def count(self) -> int:
        files = track(list(self._files.values()), len(self._files), "counting images", "file")
        return sum(CocoStream(file).count() for file in files)

    def entries(self) -> Iterator[ImageNetEntry]:
        """The photographs of all classes, in the order of the classes' ids and of the files."""
        self.counts.photographs = self.counts.annotations = 0
        for wnid, file in self._files.items():
            seen: set[str] = set()
            for image, labels in CocoStream(file).photographs():
                self.counts.photographs += 1
                self.counts.annotations += len(labels)
                left_out = self._why_left_out(image, wnid, seen)
                yield ImageNetEntry(image, tuple(labels), wnid, wnid, self._parts[wnid], left_out=left_out)
        for note in self.counts.compare(PUBLISHED, SOURCE):
            self._say(note)

    def _why_left_out(self, image: Entry, wnid: str, seen: set[str]) -> str:
        name = photo_name(image).name
        if wnid_of(image) != wnid:
            return OTHER_CLASS
        if name in self._discarded:
            return DISCARDED
        if name in seen:
            return DOUBLE
        seen.add(name)
        return ""


def _find_files(folder: Path) -> dict[str, Path]:
    """The file of each class, in the order of the classes' ids.

    Raises:
        PartDatasetError: there is none.
    """
    for place in (folder / "json", folder):
        files = {file.stem: file for file in sorted(place.glob("n*.json")) if is_wnid(file.stem)}
        if files:
            return files
    reason = "holds no file of a class such as json/n01440764.json"
    raise PartDatasetError(str(folder), "--input", reason, "name the download, see datasets/README.md")


def _find_discarded(json_folder: Path) -> Path | None:
    places = (json_folder.parent / DISCARDED_FILE, json_folder / DISCARDED_FILE)
    return next((place for place in places if place.is_file()), None)


def _read_categories(stream: CocoStream) -> dict[int, str]:
    """Id -> name of the parts of a class, in the order of their ids."""
    found: dict[int, str] = {}
    for entry in stream.entries("categories"):
        category_id = entry.integer("id")
        if category_id in found:
            raise entry.error(f"id {category_id} is used twice in categories")
        found[category_id] = " ".join(entry.text("name").split())
    return dict(sorted(found.items()))


def _read_discarded(file: Path) -> frozenset[str]:
    """Names of the photographs that the owners have discarded.

    Raises:
        PartDatasetError: the file is malformed.
    """
    try:
        values = orjson.loads(file.read_bytes())
    except OSError as error:
        raise PartDatasetError(str(file), "file", f"cannot be read: {error.strerror}") from error
    except orjson.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise PartDatasetError(str(file), place, f"is not JSON: {error.msg}", "get it again") from error
    if type(values) is not list:
        raise PartDatasetError(str(file), "top level", f"must be a list of images, is {describe(values)}")
    return frozenset(photo_name(Entry(str(file), "images", i, value)).name for i, value in enumerate(values))
