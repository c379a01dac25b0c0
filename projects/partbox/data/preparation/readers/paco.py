"""PACO: parts of 75 common objects on photographs of LVIS and on video frames of Ego4D.

Ramanathan et al., "PACO: Parts and Attributes of Common Objects", CVPR 2023, https://arxiv.org/abs/2301.01795. Layout
and counts: docs/PACO_DATASET.md of https://github.com/facebookresearch/paco. One COCO file a split, in which

* ``categories`` are objects (``mug``, supercategory OBJECT) and their parts (``mug:handle``, supercategory PART). The
  lists ``part_categories`` (``handle``) and ``attributes`` have ids of their own, which no ``category_id`` means;
* an annotation is an object if its ``obj_ann_id`` is its own id, and else a part of the object that it names. A part
  has one mask an object, in however many pieces;
* the attributes of an annotation (``attribute_ids``, ``dom_color_ids``, ``unknown_color``, ...) and the lists of an
  image that say which categories were looked for (``neg_category_ids``, ``not_exhaustive_category_ids``) are not read:
  they do not change what an object or a part is.

All objects were shown to annotators with the list of their class's parts, and all visible parts outlined; objects that
were too small, blurred or hidden were rejected (section 2.5.2 of the paper). So an object without a part is one that
was rejected: its parts are not labelled, which is not "no part is visible". The same goes for objects of the two
classes that own no part, ``ball`` and ``napkin``.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from partbox.data.part_json_annotations import POLYGON_TOLERANCE
from partbox.data.part_json_entry import Entry, describe, is_number
from partbox.data.part_json_types import PartDatasetError

from ..coco_document import EMPTY_BOX
from ..coco_mask import CROWD, NO_MASK, read_mask
from ..coco_objects import LEFT_OUT, NO_LABELS
from ..coco_stream import CocoStream
from ..crop_geometry import Box
from ..object_crops import PartLabels, Photo, SourceObject, SourcePart
from ..options import KeptLabels
from ..photo_reader import PhotoLabels, Reason
from .paco_release import CLASSES, PARTS, Release, same_categories

IGNORED = "to be ignored (ignore = 1)"

_FRAME = re.compile(r"(?P<video>.+)_\d+\.\w+")


@dataclass(frozen=True)
class PacoEntry:
    """An image of a split with its annotations."""

    split: str
    image: Entry
    annotations: tuple[Entry, ...]


@dataclass
class _Owner:
    """An annotated object: its class, box, and parts; ``left_out`` says why it is not cut out, "" if it is."""

    class_name: str
    box: Box
    left_out: str = ""
    parts: list[SourcePart] = field(default_factory=list)


class PacoReader:
    """Reads PACO; a :class:`~partbox.data.preparation.photo_reader.PhotoReader`.

    Args:
        release: which of the two data sets.
        annotations: folder of the three files.
        image_root: folder that their ``file_name`` starts from.
        labels: "mask" leaves out parts without a mask; otherwise their box is taken.
        empty: what an object without any part label is: "unlabelled", or "absent" (looked at, no part visible).
        say: is told, when ``entries`` is through, how the files compare with what their owners count.

    Raises:
        PartDatasetError: a file is absent, or its categories are not PACO's.
    """

    numbered = False  # the ids of annotations are unique in their file only

    def __init__(
        self,
        release: Release,
        annotations: Path,
        image_root: Path,
        *,
        labels: KeptLabels = "mask",
        empty: Literal["unlabelled", "absent"] = "unlabelled",
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.release = release
        self.image_root = Path(image_root)
        self.labels: KeptLabels = labels
        self.empty = empty
        self.say: Callable[[str], None] | None = say
        files = {split: Path(annotations) / release.files.format(split=split) for split in release.published}
        for file in files.values():
            if not file.is_file():
                raise PartDatasetError(str(file), "file", "does not exist", f"unpack the annotations of {release.name}")
        self.streams = {split: CocoStream(file) for split, file in files.items()}
        self.categories = same_categories(self.streams.values())
        self.class_names = tuple(self.categories.classes.values())
        self.part_names = self.categories.part_names

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "say": None}  # the main process speaks

    def describe(self) -> dict[str, Any]:
        """All that the labels depend on."""
        return {
            "annotations": self.release.name,
            "annotations_sha256": {stream.file.name: stream.sha256 for stream in self.streams.values()},
            "meaning": {
                "labels": self.labels,
                "empty": self.empty,
                "classes": list(self.class_names),
                "parts": [":".join(names) for names in self.part_names],
            },
        }

    def count(self) -> int:
        """Number of images."""
        return sum(stream.count() for stream in self.streams.values())

    def entries(self) -> Iterator[PacoEntry]:
        """The images of train, val and test, in the order of the files."""
        found: dict[str, Counter[str]] = {}
        videos: dict[str, set[str]] = {}
        for split, stream in self.streams.items():
            counts, frames_of = found.setdefault(split, Counter()), videos.setdefault(split, set())
            for image, labels in stream.photographs():
                parts = sum(entry.integer("category_id") in self.categories.parts for entry in labels)
                counts.update(images=1, objects=len(labels) - parts, parts=parts)
                if self.release.videos:
                    frames_of.add(_video(image))
                yield PacoEntry(split, image, tuple(labels))
        if self.say is not None:
            for note in (*self._compare(found), *_crossing(videos.values())):
                self.say(note)

    def _compare(self, found: Mapping[str, Counter[str]]) -> Iterator[str]:
        """Sentences that say where the files hold other numbers than their owners count, or that they do not."""
        numbers = [("", "classes", len(self.class_names), CLASSES), ("", "kinds of parts", len(self.part_names), PARTS)]
        for split, published in self.release.published.items():
            for what, count in vars(published).items():
                name = "part masks" if what == "parts" else what
                numbers.append((f"the {split} split of ", name, found[split][what], count))
        different = [row for row in numbers if row[2] != row[3]]
        for where, what, count, published_count in different:
            yield f"{where}{self.release.name} has {count:,} {what}, its owners count {published_count:,}"
        if not different:
            yield f"{self.release.name}: all numbers of images, objects and part masks are those of its owners"

    def read(self, entry: PacoEntry) -> PhotoLabels:
        """The objects of one image with their parts."""
        size = entry.image.integer("width", 1), entry.image.integer("height", 1)
        dropped: Counter[Reason] = Counter()
        owners = self._objects(entry, dropped)
        if not owners:
            dropped["", "photograph", NO_LABELS] += 1
        self._link_parts(entry, size, owners, dropped)
        objects = tuple(
            SourceObject(number, owner.class_name, owner.box, tuple(owner.parts), self._kind(owner))
            for number, owner in owners.items()
            if not owner.left_out
        )
        source = _video(entry.image) if self.release.videos else ""
        return PhotoLabels(Photo(_name(entry.image), *size, objects, split=entry.split, source=source), dropped)

    def _kind(self, owner: _Owner) -> PartLabels:
        if not owner.parts and self.empty == "unlabelled":
            return "none"
        return self.labels

    # ---------------------------------------------------------------- annotations

    def _objects(self, entry: PacoEntry, dropped: Counter[Reason]) -> dict[int, _Owner]:
        """Id -> object, also of those that are left out, whose parts have to be told from strays."""
        owners: dict[int, _Owner] = {}
        seen: set[int] = set()
        for annotation in entry.annotations:
            number, category = annotation.integer("id"), annotation.integer("category_id")
            if number in seen:
                raise annotation.error(f"id {number} is used twice in its image")
            seen.add(number)
            if category not in self.categories.classes and category not in self.categories.parts:
                raise annotation.error(f"unknown category_id {category}", "it must be the id of one of the categories")
            is_object = annotation.integer("obj_ann_id") == number
            if is_object != (category in self.categories.classes):
                what = "an object" if is_object else f"a part of object {annotation.value['obj_ann_id']}"
                raise annotation.error(f"obj_ann_id says that it is {what}, category_id {category} is none")
            if is_object:
                owner = _Owner(self.categories.classes[category], _box(annotation))
                owner.left_out = _flagged(annotation) or (EMPTY_BOX if _is_empty(owner.box) else "")
                owners[number] = owner
                if owner.left_out:
                    dropped[owner.class_name, "object", owner.left_out] += 1
        return owners

    def _link_parts(
        self, entry: PacoEntry, size: tuple[int, int], owners: Mapping[int, _Owner], dropped: Counter[Reason]
    ) -> None:
        """Give each part to its object."""
        for annotation in entry.annotations:
            if annotation.value["category_id"] not in self.categories.parts:
                continue
            part = self.categories.parts[annotation.value["category_id"]]
            owner_id = annotation.value["obj_ann_id"]
            if owner_id not in owners:
                raise annotation.error(f"obj_ann_id {owner_id} is no object of its image")
            owner, class_name = owners[owner_id], self.part_names[part][0]
            if class_name != owner.class_name:
                reason = f"the part belongs to class {class_name!r}, its object {owner_id} to {owner.class_name!r}"
                raise annotation.error(reason)
            placed = LEFT_OUT if owner.left_out else _flagged(annotation) or self._part(annotation, part, size)
            if isinstance(placed, str):
                dropped[class_name, "part", placed] += 1
            else:
                owner.parts.append(placed)

    def _part(self, annotation: Entry, part: int, size: tuple[int, int]) -> SourcePart | str:
        """A part with the tight box of its mask, or why it is left out."""
        found = read_mask(annotation, *size, tolerance=POLYGON_TOLERANCE)
        if not isinstance(found, str):
            segmentation, box = found
            return SourcePart(part, box, segmentation)
        if found != NO_MASK or self.labels == "mask":
            return found
        box = _box(annotation)
        return EMPTY_BOX if _is_empty(box) else SourcePart(part, box)


# ---------------------------------------------------------------- one annotation


def _flagged(annotation: Entry) -> str:
    """Why an annotation says of itself that it is not to be used, "" if it does not."""
    if annotation.value.get("iscrowd"):
        return CROWD
    return IGNORED if annotation.value.get("ignore") else ""


def _is_empty(box: Box) -> bool:
    return box[2] <= box[0] or box[3] <= box[1]


def _box(annotation: Entry) -> Box:
    """An annotation's ``bbox`` as xyxy."""
    box = annotation.get("bbox")
    if type(box) is not list or len(box) != 4 or not all(map(is_number, box)):
        raise annotation.error(f"bbox must be four finite numbers [x, y, width, height], is {describe(box)}")
    x, y, width, height = map(float, box)
    if width < 0 or height < 0:
        fix = "bbox is [x, y, width, height], not two corners"
        raise annotation.error(f"bbox {box} has a negative width or height", fix)
    return x, y, x + width, y + height


# ---------------------------------------------------------------- images


def _name(image: Entry) -> str:
    """An image's path below the image root."""
    name = PurePosixPath(image.text("file_name"))
    if name.is_absolute() or ".." in name.parts:
        raise image.error(f"file_name {describe(str(name))} is no path below the folder of the images")
    return str(name)


def _video(image: Entry) -> str:
    """The video that an image is a frame of."""
    match = _FRAME.fullmatch(image.text("file_name"))
    if match is None:
        fix = "frames of one video must stay together, so their names have to tell the video"
        raise image.error("file_name is not <video>_<number>.jpeg", fix)
    return match["video"]


def _crossing(videos: Iterable[set[str]]) -> Iterator[str]:
    """A sentence if videos have frames in several of the owners' splits, which part objects, not videos."""
    seen = Counter(video for names in videos for video in names)
    several = sum(count > 1 for count in seen.values())
    if several:
        yield f"videos with frames in several of the owners' splits: {several}; with --split A,B,C each stays in one"
