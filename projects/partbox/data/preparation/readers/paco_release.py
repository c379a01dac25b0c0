"""The two data sets that make up PACO: their files, what their owners count in them, and what their categories mean."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from partbox.data.part_json_entry import Entry, describe
from partbox.data.part_json_types import PartDatasetError

from ..coco_stream import CocoStream

CLASSES, PARTS = 75, 456
"""Published numbers of objects and of parts of objects."""


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


def same_categories(streams: Iterable[CocoStream]) -> PacoCategories:
    """The categories of all files, which must be the same.

    Raises:
        PartDatasetError: they are not, or one is neither an object nor a part of one.
    """
    first: PacoCategories | None = None
    for stream in streams:
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
    kinds: dict[str, list[Entry]] = {"OBJECT": [], "PART": []}
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
