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
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from partbox.data.part_json_annotations import POLYGON_TOLERANCE
from partbox.data.part_json_entry import Entry, describe, is_number
from partbox.data.part_json_masks import mask_problem
from partbox.data.part_json_types import PartDatasetError

from ..coco_stream import CocoStream
from ..crop_geometry import Box, clip_box, union_box
from ..object_crops import PartLabels, Photo, SourceObject, SourcePart
from ..photo_reader import PhotoLabels

CLASSES, PARTS = 75, 456
"""Published numbers of objects and of parts of objects."""

CROWD = "crowd (iscrowd = 1)"
IGNORED = "to be ignored (ignore = 1)"
EMPTY_BOX = "empty box"
OUTSIDE = "outside its photograph"
NO_MASK = "no mask"
EMPTY_MASK = "mask without a pixel"
LEFT_OUT = "its object is left out"
NO_LABELS = "no labels"

_FRAME = re.compile(r"(?P<video>.+)_\d+\.\w+")


@dataclass(frozen=True)
class Counts:
    """Numbers of images, objects and part masks."""

    images: int
    objects: int
    parts: int


@dataclass(frozen=True)
class Release:
    """One of the two data sets that make up PACO.

    Attributes:
        name: for messages.
        files: name of each split's file, with ``{split}`` in place of the split.
        published: split -> what its owners count (docs/PACO_DATASET.md, "Dataset Overview").
        videos: whether images are frames ``<video>_<number>.jpeg``; those of one video must not cross splits.
    """

    name: str
    files: str
    published: Mapping[str, Counts]
    videos: bool


PACO_LVIS = Release(
    "PACO-LVIS",
    "paco_lvis_v1_{split}.json",
    {
        "train": Counts(45_790, 217_117, 395_071),
        "val": Counts(2_410, 10_794, 20_945),
        "test": Counts(9_443, 45_861, 86_041),
    },
    videos=False,
)
PACO_EGO4D = Release(
    "PACO-EGO4D",
    "paco_ego4d_v1_{split}.json",
    {
        "train": Counts(15_667, 34_835, 81_528),
        "val": Counts(825, 1_816, 4_240),
        "test": Counts(9_892, 21_708, 53_580),
    },
    videos=True,
)


@dataclass(frozen=True)
class PacoCategories:
    """What the ids of ``categories`` mean.

    Attributes:
        classes: id of an object -> its name.
        parts: id of a part -> index into ``part_names``.
        part_names: (class, part), in the order of the file.
    """

    classes: dict[int, str]
    parts: dict[int, int]
    part_names: tuple[tuple[str, str], ...]


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
        labels: what parts are labelled with.
        min_area_share: objects whose box covers less of their photograph are left out.
        empty: what an object without any part label is: "unlabelled", or "absent" (looked at, no part visible).

    Attributes:
        class_names: the objects in the order of the file, also those without a part.
        notes: after ``entries``, sentences that compare the files with what their owners count.

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
        labels: PartLabels = "mask",
        min_area_share: float = 0.01,
        empty: Literal["unlabelled", "absent"] = "unlabelled",
    ) -> None:
        self.release = release
        self.image_root = Path(image_root)
        self.labels = labels
        self.min_area_share = min_area_share
        self.empty = empty
        self.notes: list[str] = []
        files = {split: Path(annotations) / release.files.format(split=split) for split in release.published}
        for file in files.values():
            if not file.is_file():
                raise PartDatasetError(str(file), "file", "does not exist", f"unpack the annotations of {release.name}")
        self.streams = {split: CocoStream(file) for split, file in files.items()}
        self.categories = _same_categories(self.streams)
        self.class_names = tuple(self.categories.classes.values())
        self.part_names = self.categories.part_names

    def describe(self) -> dict[str, Any]:
        """All that the labels depend on."""
        return {
            "source": self.release.name,
            "annotations_sha256": {stream.file.name: stream.sha256 for stream in self.streams.values()},
            "labels": self.labels,
            "empty": self.empty,
            "min_area_share": self.min_area_share,
            "classes": list(self.class_names),
            "parts": [":".join(names) for names in self.part_names],
        }

    def count(self) -> int:
        """Number of images."""
        return sum(stream.count() for stream in self.streams.values())

    def entries(self) -> Iterator[PacoEntry]:
        """The images of train, val and test, in the order of the files."""
        self.notes = _compare("all", "classes", len(self.class_names), CLASSES, self.release)
        self.notes += _compare("all", "kinds of parts", len(self.part_names), PARTS, self.release)
        for split, stream in self.streams.items():
            found: Counter[str] = Counter()
            for image, labels in stream.photographs():
                parts = sum(entry.value.get("category_id") in self.categories.parts for entry in labels)
                found.update(images=1, parts=parts, objects=len(labels) - parts)
                yield PacoEntry(split, image, tuple(labels))
            for what, published in vars(self.release.published[split]).items():
                name = "part masks" if what == "parts" else what
                self.notes += _compare(split, name, found[what], published, self.release)

    def read(self, entry: PacoEntry) -> PhotoLabels:
        """The objects of one image with their parts."""
        name = entry.image.text("file_name")
        size = entry.image.integer("width", 1), entry.image.integer("height", 1)
        dropped: Counter[tuple[str, str, str]] = Counter()
        owners = self._objects(entry, size, dropped)
        if not owners:
            dropped["", "photograph", NO_LABELS] += 1
        self._link_parts(entry, size, owners, dropped)
        objects = tuple(
            SourceObject(number, owner.class_name, owner.box, tuple(owner.parts), self._kind(owner))
            for number, owner in owners.items()
            if not owner.left_out
        )
        source = self._video(entry.image) if self.release.videos else ""
        return PhotoLabels(Photo(name, *size, objects, split=entry.split, source=source), dropped)

    def _video(self, image: Entry) -> str:
        """The video that an image is a frame of."""
        match = _FRAME.fullmatch(image.text("file_name"))
        if match is None:
            fix = "frames of one video must stay together, so their names have to tell the video"
            raise image.error("file_name is not <video>_<number>.jpeg", fix)
        return match["video"]

    def _kind(self, owner: _Owner) -> PartLabels:
        return self.labels if owner.parts or self.empty == "absent" else "none"

    # ---------------------------------------------------------------- annotations

    def _objects(
        self, entry: PacoEntry, size: tuple[int, int], dropped: Counter[tuple[str, str, str]]
    ) -> dict[int, _Owner]:
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
                owner.left_out = _flagged(annotation) or self._why_left_out(owner.box, size)
                owners[number] = owner
                if owner.left_out:
                    dropped[owner.class_name, "object", owner.left_out] += 1
        return owners

    def _why_left_out(self, box: Box, size: tuple[int, int]) -> str:
        """Why the object in a box is left out, "" if it is not."""
        if box[2] <= box[0] or box[3] <= box[1]:
            return EMPTY_BOX
        inside = clip_box(box, *size)
        if inside is None:
            return OUTSIDE
        area = (inside[2] - inside[0]) * (inside[3] - inside[1])
        too_small = area < self.min_area_share * size[0] * size[1]
        return f"box below {100 * self.min_area_share:g} % of its photograph" if too_small else ""

    def _link_parts(
        self,
        entry: PacoEntry,
        size: tuple[int, int],
        owners: Mapping[int, _Owner],
        dropped: Counter[tuple[str, str, str]],
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
        segmentation, box = _mask(annotation, size)
        if segmentation is not None:
            return SourcePart(part, box, segmentation) if segmentation else EMPTY_MASK
        if self.labels == "mask":
            return NO_MASK
        box = _box(annotation)
        return SourcePart(part, box) if box[2] > box[0] and box[3] > box[1] else EMPTY_BOX


# ---------------------------------------------------------------- one annotation


def _flagged(annotation: Entry) -> str:
    """Why an annotation says of itself that it is not to be used, "" if it does not."""
    if annotation.value.get("iscrowd"):
        return CROWD
    return IGNORED if annotation.value.get("ignore") else ""


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


def _mask(annotation: Entry, size: tuple[int, int]) -> tuple[Any, Box]:
    """The RLE or polygons of an annotation and their tight box; None if it has none, [] if they hold no pixel."""
    given = annotation.value.get("segmentation")
    nowhere = 0.0, 0.0, 0.0, 0.0
    if given in (None, [], {}):
        return None, nowhere
    if type(given) is not list:
        problem, extent = mask_problem(given, *size, POLYGON_TOLERANCE)
        if problem == "RLE mask is empty":
            return [], nowhere
        if problem:
            raise annotation.error(f"segmentation: {problem}")
        return given, extent
    kept, extents = [], []
    for index, polygon in enumerate(given):
        if type(polygon) is list and len(polygon) in (0, 2, 4):
            continue  # a point or a line
        problem, extent = mask_problem([polygon], *size, POLYGON_TOLERANCE)
        if not problem:
            kept.append(polygon)
            extents.append(extent)
        elif "is degenerate" not in problem:
            raise annotation.error(f"segmentation: {problem.replace('polygon 0', f'polygon {index}')}")
    return kept, union_box(extents) if extents else nowhere


# ---------------------------------------------------------------- categories and counts


def _same_categories(streams: Mapping[str, CocoStream]) -> PacoCategories:
    """The categories of all files, which must be the same."""
    first: PacoCategories | None = None
    for stream in streams.values():
        found = read_categories(stream)
        if first is not None and found != first:
            fix = "unpack the files of one release together"
            raise PartDatasetError(str(stream.file), "categories", "are not those of the other splits", fix)
        first = first or found
    assert first is not None
    return first


def read_categories(stream: CocoStream) -> PacoCategories:
    """What the categories of a file mean.

    Raises:
        PartDatasetError: naming the category that is neither an object nor a part of one.
    """
    entries = list(stream.entries("categories"))
    kinds = {"OBJECT": [], "PART": []}  # type: dict[str, list[Entry]]
    seen: dict[int | str, int] = {}
    for entry in entries:
        for key in (entry.integer("id"), entry.text("name")):
            if key in seen:
                raise entry.error(f"{describe(key)} is already used by categories[{seen[key]}]")
            seen[key] = entry.index
        kind = entry.text("supercategory")
        if kind not in kinds:
            raise entry.error(f"supercategory must be OBJECT or PART, is {describe(kind)}")
        if (":" in entry.text("name")) != (kind == "PART"):
            fix = 'objects are named "mug", parts "mug:handle"'
            raise entry.error(f"the name {describe(entry.text('name'))} does not fit supercategory {kind}", fix)
        kinds[kind].append(entry)
    classes = {entry.integer("id"): entry.text("name") for entry in kinds["OBJECT"]}
    part_names = []
    for entry in kinds["PART"]:
        class_name, _, part = entry.text("name").partition(":")
        if class_name not in classes.values():
            raise entry.error(f"no object is named {class_name!r}")
        if not part.strip():
            raise entry.error("the name of the part is missing")
        part_names.append((class_name, part))
    if not part_names:
        fix = 'the files of PACO list parts as "mug:handle" among the categories'
        raise PartDatasetError(str(stream.file), "categories", "none is a part", fix)
    parts = {entry.integer("id"): index for index, entry in enumerate(kinds["PART"])}
    return PacoCategories(classes, parts, tuple(part_names))


def _compare(split: str, what: str, found: int, published: int, release: Release) -> list[str]:
    """A sentence if the files hold another number than their owners count."""
    where = release.name if split == "all" else f"the {split} split of {release.name}"
    return [f"{where} has {found:,} {what}, its owners count {published:,}"] if found != published else []
