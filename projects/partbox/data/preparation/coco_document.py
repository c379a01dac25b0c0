"""A COCO file of anybody's part labels, read and checked; what the entries mean is up to :mod:`.coco_relations`.

Malformed entries are errors that name the entry. Labels that are well formed but empty (a box of no width, a polygon of
two points) are kept out and counted: files that were labelled by hand have a few of them.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from partbox.data.part_json_entry import Entry, describe, is_number
from partbox.data.part_json_masks import mask_problem
from partbox.data.part_json_types import PartDatasetError

from .coco_mask import CROWD, is_absent, polygon_extent, read_polygons
from .crop_geometry import Box, union_box

EMPTY_BOX = "empty box"
EMPTY_POLYGON = "polygons without area"

BOX_DISAGREES = 2.0
"""Pixels by which a box may differ from that of its own polygons or RLE before it is mentioned."""


@dataclass(frozen=True)
class CocoImage:
    """An image entry: its id, width and height in pixels (None where the file does not say), and the entry itself."""

    id: int | str
    size: tuple[int, int] | None
    entry: Entry


@dataclass(frozen=True)
class CocoAnnotation:
    """An annotation entry.

    Attributes:
        id: unique in the file.
        image_id: of one of the images.
        category_id: of one of the categories.
        box: [x0, y0, x1, y1] in pixels; that of the segmentation where there is one.
        segmentation: polygons or RLE, None if there is only a box.
        entry: the entry itself.
    """

    id: int
    image_id: int | str
    category_id: int
    box: Box
    segmentation: Any
    entry: Entry


@dataclass
class CocoDocument:
    """A COCO file whose entries are well formed.

    Attributes:
        file: where it was read from.
        sha256: of its bytes.
        images, annotations, categories: by id, in the order of the file.
        class_names: id -> name of the top-level list ``classes``, empty if there is none.
        dropped: (image id, category id, reason) -> number of annotations kept out.
        dropped_ids: ids of the annotations kept out.
        disagreeing_boxes: number of annotations whose box is not that of their own polygons or RLE.
    """

    file: str
    sha256: str
    images: dict[int | str, CocoImage] = field(default_factory=dict)
    annotations: dict[int, CocoAnnotation] = field(default_factory=dict)
    categories: dict[int, Entry] = field(default_factory=dict)
    class_names: dict[int, str] = field(default_factory=dict)
    dropped: Counter[tuple[int | str, int, str]] = field(default_factory=Counter)
    dropped_ids: set[int] = field(default_factory=set)
    disagreeing_boxes: int = 0


def read_coco(file: str | Path) -> CocoDocument:
    """Read a COCO file.

    Raises:
        PartDatasetError: naming the first entry that is malformed.
    """
    name = str(file)
    try:
        data = Path(file).read_bytes()
    except OSError as error:
        raise PartDatasetError(name, "file", f"cannot be read: {error.strerror}") from error
    try:
        parsed = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise PartDatasetError(
            name, f"line {error.lineno}, column {error.colno}", f"is not JSON: {error.msg}"
        ) from error
    if type(parsed) is not dict:
        raise PartDatasetError(name, "top level", f"must be an object, is {describe(parsed)}")
    for key in ("images", "annotations", "categories"):
        if type(parsed.get(key)) is not list:
            problem = f'required list "{key}" is missing' if key not in parsed else f'"{key}" must be a list'
            raise PartDatasetError(name, "top level", problem, "give a COCO file of instances")
    document = CocoDocument(name, hashlib.sha256(data).hexdigest())
    _read_classes(document, parsed.get("classes"))
    for index, value in enumerate(parsed["categories"]):
        entry = Entry(name, "categories", index, value)
        entry.text("name")
        _add(document.categories, entry.integer("id"), entry, entry)
    for index, value in enumerate(parsed["images"]):
        entry = Entry(name, "images", index, value)
        _add(document.images, entry.identifier("id"), CocoImage(entry.identifier("id"), _size(entry), entry), entry)
    for index, value in enumerate(parsed["annotations"]):
        _read_annotation(document, Entry(name, "annotations", index, value))
    return document


def _add(known: dict[Any, Any], key: int | str, value: object, entry: Entry) -> None:
    if key in known:
        raise entry.error(f"id {describe(key)} is used twice in {entry.place}")
    known[key] = value


def _read_classes(document: CocoDocument, classes: object) -> None:
    if type(classes) is list:
        for index, value in enumerate(classes):
            entry = Entry(document.file, "classes", index, value)
            _add(document.class_names, entry.integer("id"), entry.text("name"), entry)


def _size(entry: Entry) -> tuple[int, int] | None:
    if "width" not in entry.value and "height" not in entry.value:
        return None
    return entry.integer("width", 1), entry.integer("height", 1)


def _read_annotation(document: CocoDocument, entry: Entry) -> None:
    annotation_id, image_id, category_id = (
        entry.integer("id"),
        entry.identifier("image_id"),
        entry.integer("category_id"),
    )
    if image_id not in document.images:
        raise entry.error(f"no image has the id {describe(image_id)}")
    if category_id not in document.categories:
        raise entry.error(f"unknown category_id {category_id}", "it must be the id of one of the categories")
    segmentation, extent = _segmentation(entry, document.images[image_id].size)
    box = _box(entry, required=extent is None)
    reason = _why_kept_out(entry, box, segmentation)
    if reason:
        document.dropped[image_id, category_id, reason] += 1
        document.dropped_ids.add(annotation_id)
        return
    if extent is not None and box is not None:
        document.disagreeing_boxes += bool(np.abs(np.subtract(box, extent)).max() > BOX_DISAGREES)
    used = extent if extent is not None else box
    assert used is not None  # _box raises where there is neither
    annotation = CocoAnnotation(annotation_id, image_id, category_id, used, segmentation, entry)
    _add(document.annotations, annotation_id, annotation, entry)


def _why_kept_out(entry: Entry, box: Box | None, segmentation: Any) -> str:
    if entry.value.get("iscrowd"):
        return CROWD
    if segmentation == []:
        return EMPTY_POLYGON
    if segmentation is None and box is not None and (box[2] <= box[0] or box[3] <= box[1]):
        return EMPTY_BOX
    return ""


def _box(entry: Entry, *, required: bool) -> Box | None:
    """The entry's ``bbox`` as xyxy."""
    if not required and "bbox" not in entry.value:
        return None
    box = entry.get("bbox")
    if type(box) is not list or len(box) != 4 or not all(map(is_number, box)):
        raise entry.error(f"bbox must be four finite numbers [x, y, width, height], is {describe(box)}")
    if box[2] < 0 or box[3] < 0:
        raise entry.error(
            f"bbox {box} has a negative width or height", "bbox is [x, y, width, height], not two corners"
        )
    x, y, width, height = map(float, box)
    return x, y, x + width, y + height


def _segmentation(entry: Entry, size: tuple[int, int] | None) -> tuple[Any, Box | None]:
    """The entry's polygons or RLE and their box: (None, None) if it has none, ([], box) if they have no area."""
    given = entry.value.get("segmentation")
    if is_absent(given):
        return None, None
    if type(given) is dict:
        if size is None:
            raise entry.error("an RLE needs its image's width and height", "add them to the image")
        problem, extent = mask_problem(given, *size, 0.0)
        if problem == "RLE mask is empty":
            return [], (0.0, 0.0, 0.0, 0.0)
        if problem:
            raise entry.error(f"segmentation: {problem}")
        return given, extent
    kept = read_polygons(entry)
    return kept, union_box([polygon_extent(polygon) for polygon in kept]) if kept else (0.0, 0.0, 0.0, 0.0)
