"""PartImageNet (He et al., ECCV 2022): 158 ImageNet classes in 11 super-classes, which share 40 parts.

COCO files of the parts of whole photographs: ``annotations/{split}/{split}.json`` in release ``PartImageNet_Seg``,
``{split}.json`` in ``PartImageNet_OOD`` and in the first release. ``supercategory`` of a category is its super-class,
its name the super-class and the part ("Quadruped Head"). The ImageNet class of a photograph is in its name.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from partbox.data.part_json_entry import Entry, describe
from partbox.data.part_json_types import PartDatasetError
from partbox.progress import track

from ..coco_stream import CocoStream
from .imagenet_photos import Counts, Empty, ImageNetEntry, ImageNetReader, Say, photo_name, wnid_of

SPLITS = ("train", "val", "test")

LAYOUTS = ("annotations/{split}/{split}.json", "annotations/{split}.json", "{split}.json")
"""Where the files may lie, in the order in which they are looked for."""

IMAGE_FOLDERS = ("images/{split}", "{split}", "images", "JPEGImages", "train", "")
"""Where photographs may lie; "train" is that of ImageNet, which all of them are from."""

PARTS_OF = {
    "Aeroplane": 5,
    "Bicycle": 4,
    "Biped": 5,
    "Bird": 5,
    "Boat": 2,
    "Bottle": 2,
    "Car": 3,
    "Fish": 4,
    "Quadruped": 4,
    "Reptile": 4,
    "Snake": 2,
}
"""Super-class -> number of its parts, as its owners publish (README of TACJu/PartImageNet)."""

PUBLISHED = Counts(classes=158, parts=40, photographs=24_095, annotations=111_960)
"""Classes, parts and photographs: README of TACJu/PartImageNet; annotations: He et al., 2022."""

SOURCE = "He et al., 2022; releases differ, see issue 8 of TACJu/PartImageNet"

DOUBLE = "is in the files twice"
NO_SUPER_CLASS = "no photograph of its ImageNet class has a part label"
OTHER_CLASS = "part of another super-class than its ImageNet class"


class PartImageNetReader(ImageNetReader):
    """Reads PartImageNet in the layout of its download.

    The super-class of an ImageNet class is the one that most of its annotations belong to; annotations of another one
    are left out. With 158 classes each ImageNet class owns all parts of its super-class, whether the data show them or
    not, as in the original (598 parts).

    Args:
        folder: with the COCO files.
        images: where photographs are looked for, in IMAGE_FOLDERS; None is ``folder``.
        classes: 11 super-classes, or 158 ImageNet classes, named by their id.
        own_splits: refuse files whose splits no classifier can learn from.
        empty, find_photos: as for :class:`ImageNetReader`.
        say: is told how the counts compare with the published ones.

    Raises:
        PartDatasetError: a file is missing, malformed, or not of PartImageNet; or ``own_splits``, and a class of val or
            test has no photograph in train, as in PartImageNet_OOD.
    """

    def __init__(
        self,
        folder: Path,
        images: Path | None = None,
        *,
        classes: Literal[11, 158] = 11,
        own_splits: bool = False,
        empty: Empty = "unlabelled",
        find_photos: bool = True,
        say: Say = lambda text: None,
    ) -> None:
        super().__init__(images or folder, IMAGE_FOLDERS, empty=empty, find_photos=find_photos)
        self.folder, self.classes = folder, classes
        self._files = _find_files(folder)
        first, *others = self._files.values()
        self._categories = _read_categories(first)
        for stream in others:
            if _read_categories(stream) != self._categories:
                reason = f"differ from those of {first.file}"
                raise PartDatasetError(str(stream.file), "categories", reason, "take all files from one release")
        self.counts = Counts(parts=len(self._categories))
        self._splits_of: dict[str, set[str]] = defaultdict(set)
        self.super_class_of = self._survey()
        self._list_parts()
        if own_splits:
            self._check_own_splits()
        for note in self.counts.compare(PUBLISHED, SOURCE):
            say(note)

    def _survey(self) -> dict[str, str]:
        """The super-class of each ImageNet class of which a photograph has a part label. Counts everything."""
        votes: dict[str, Counter[str]] = defaultdict(Counter)
        for split, stream in self._files.items():
            for image, labels in track(stream.photographs(), None, f"counting labels of {split}", "image"):
                wnid = wnid_of(image)
                self._splits_of[wnid].add(split)
                votes[wnid].update(self._super_class(label) for label in labels)
                self.counts.photographs += 1
                self.counts.annotations += len(labels)
        self.counts.classes = len(votes)
        return {wnid: min(found, key=lambda name: (-found[name], name)) for wnid, found in votes.items() if found}

    def _super_class(self, annotation: Entry) -> str:
        category_id = annotation.integer("category_id")
        if category_id not in self._categories:
            raise annotation.error(f"unknown category_id {category_id}", "it must be the id of one of the categories")
        return self._categories[category_id][0]

    def _list_parts(self) -> None:
        """Set the names of classes and parts, and for each class what the file's categories are in it."""
        owners = self.super_class_of if self.classes == 158 else {name: name for name in PARTS_OF}
        self.class_names = sorted(owners)
        self.part_names: list[tuple[str, str]] = []
        self._parts: dict[str, dict[int, int | str]] = {"": {}}
        for name in self.class_names:
            parts = self._parts[name] = dict[int, int | str]()
            for category_id, (super_class, part) in sorted(self._categories.items()):
                if super_class == owners[name]:
                    parts[category_id] = len(self.part_names)
                    self.part_names.append((name, part))
                else:
                    parts[category_id] = OTHER_CLASS

    def _class_name(self, wnid: str) -> str:
        """The class of the photographs of an ImageNet class, "" if it is unknown."""
        super_class = self.super_class_of.get(wnid, "")
        return wnid if super_class and self.classes == 158 else super_class

    def _check_own_splits(self) -> None:
        splits: dict[str, set[str]] = defaultdict(set)
        for wnid, found in self._splits_of.items():
            if self._class_name(wnid):
                splits[self._class_name(wnid)] |= found
        untrained = sorted(name for name, found in splits.items() if "train" not in found)
        if untrained:
            names = ", ".join(untrained[:3]) + (", ..." if len(untrained) > 3 else "")
            reason = (
                f"{len(untrained)} of the {len(splits)} classes ({names}) have no photograph in train to learn from"
            )
            fix = "use a seeded split (--split 0.8,0.1,0.1), or PartImageNet_Seg, whose splits share their classes"
            raise PartDatasetError(str(self.folder), "--split official", reason, fix)

    def describe(self) -> dict[str, Any]:
        files = self._files.values()
        return {
            "annotations": "PartImageNet",
            "annotations_sha256": {file.file.relative_to(self.folder).as_posix(): file.sha256 for file in files},
            "meaning": {"classes": self.classes, "empty": self._empty},
        }

    def count(self) -> int:
        return self.counts.photographs

    def entries(self) -> Iterator[ImageNetEntry]:
        """The photographs of train, val and test, in the order of the files. One that is there twice counts once."""
        seen: set[str] = set()
        for split, stream in self._files.items():
            for image, labels in stream.photographs():
                name, wnid = photo_name(image).name, wnid_of(image)
                class_name = self._class_name(wnid)
                left_out = DOUBLE if name in seen else "" if class_name else NO_SUPER_CLASS
                seen.add(name)
                parts = self._parts[class_name]
                yield ImageNetEntry(image, tuple(labels), wnid, class_name, parts, split, left_out)


def _find_files(folder: Path) -> dict[str, CocoStream]:
    """The file of each split.

    Raises:
        PartDatasetError: no layout has all three.
    """
    for layout in LAYOUTS:
        files = {split: folder / layout.format(split=split) for split in SPLITS}
        if all(file.is_file() for file in files.values()):
            return {split: CocoStream(file) for split, file in files.items()}
    looked = ", ".join(layout.format(split="train") for layout in LAYOUTS)
    reason = f"holds no files of train, val and test (looked for {looked} and so on)"
    raise PartDatasetError(str(folder), "--input", reason, "name the unpacked download, see datasets/README.md")


def _read_categories(stream: CocoStream) -> dict[int, tuple[str, str]]:
    """Id -> (super-class, part) of the 40 categories.

    Raises:
        PartDatasetError: they are not those of PartImageNet.
    """
    known = {name.lower(): name for name in PARTS_OF}
    found: dict[int, tuple[str, str]] = {}
    for entry in stream.entries("categories"):
        super_class = known.get(entry.text("supercategory").strip().lower())
        if super_class is None:
            reason = f"supercategory {describe(entry.value['supercategory'])} is none of PartImageNet"
            raise entry.error(reason, f"those are {', '.join(PARTS_OF)}")
        part = " ".join(entry.text("name").split())
        if part.lower().startswith(f"{super_class.lower()} "):
            part = part[len(super_class) + 1 :]
        category_id = entry.integer("id")
        if category_id in found or (super_class, part) in found.values():
            raise entry.error(f"category {category_id}, part {describe(part)} of {super_class}, is there twice")
        found[category_id] = super_class, part
    numbers = Counter(super_class for super_class, _ in found.values())
    for super_class, expected in PARTS_OF.items():
        if numbers[super_class] != expected:
            reason = f"{super_class} has {numbers[super_class]} parts, PartImageNet has {expected}"
            raise PartDatasetError(str(stream.file), "categories", reason, "take the file as its owners publish it")
    return found
