"""Checks of a part-dataset file's annotations: boxes, categories, masks, and that they fit their image.

Two paths, chunk by chunk. The *precise* path looks at one annotation after the other and names the first wrong one; it
is the definition. The *fast* path checks a chunk in numpy and answers "all fine" or "not sure"; only "not sure" chunks
are looked at precisely. A test compares the two on random files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from operator import itemgetter
from typing import Any

import numpy as np

from .part_json_entry import ID_LIMIT, NUMBER_LIMIT, Entry, check_keys, describe, float_array, is_number
from .part_json_masks import mask_extents, mask_problem

CHUNK = 20_000
"""Annotations looked at together; bounds the memory of the fast path."""

BOX_TOLERANCE = 1.0
"""Pixels by which a box may leave its image (rounding). It is clipped to the image when loaded."""

POLYGON_TOLERANCE = 2.0
"""Pixels by which a polygon may leave its image: outlines drawn by hand do (1.8 in a public set). Kept as it is."""

MIN_BOX_SIDE = 0.1
"""Shortest side of a box inside the image, in pixels. Less is no part, and float32 would lose it."""

BOX_MASK_SLACK = 2.0
BOX_MASK_IOU = 0.5
"""A mask contradicts its ``bbox`` when the IoU of ``bbox`` and the mask's bounding box is below ``BOX_MASK_IOU`` even
after each side of the mask's bounding box has moved up to ``BOX_MASK_SLACK`` pixels towards ``bbox``."""

_MASK, _NONE = 0, 2  # codes of part_labels: the position in PART_LABELS


@dataclass(frozen=True)
class AnnotationTables:
    """What annotations are checked against: N images, P categories, K classes.

    Attributes:
        file: name of the JSON file, for errors.
        image_row: id of an image -> its row.
        image_sizes: (N, 2) float64, width and height in pixels.
        image_class: (N,) int64, index of the class.
        image_labels: (N,) int8, position of ``part_labels`` in PART_LABELS, -1 where the image does not say.
        image_predicted: (N,) bool, whether a model made the labels; each of them has a score then.
        category_index: id of a category -> its index.
        category_class: (P,) int64, index of the class.
        class_names: the K names, for errors.
    """

    file: str
    image_row: Mapping[int | str, int]
    image_sizes: np.ndarray
    image_class: np.ndarray
    image_labels: np.ndarray
    image_predicted: np.ndarray
    category_index: Mapping[int, int]
    category_class: np.ndarray
    class_names: tuple[str, ...]


@dataclass(frozen=True)
class AnnotationColumns:
    """A checked annotations, as columns.

    Attributes:
        ids: (A,) int64.
        image_row: (A,) int64, position of the image in the file.
        category: (A,) int64, index of the category.
        boxes: (A, 4) float64, [x, y, w, h] in pixels, clipped to the image.
        has_mask: (A,) bool, whether there is a segmentation.
    """

    ids: np.ndarray
    image_row: np.ndarray
    category: np.ndarray
    boxes: np.ndarray
    has_mask: np.ndarray


def check_annotations(annotations: list[Any], tables: AnnotationTables, *, fast: bool = True) -> AnnotationColumns:
    """Check all annotations of a file.

    Args:
        annotations: the file's list, as parsed.
        tables: the file's images and categories.
        fast: False takes the precise path for every annotation; the outcome is the same.

    Raises:
        PartDatasetError: naming the first annotation that is wrong.
    """
    chunks: list[AnnotationColumns] = []
    for start in range(0, len(annotations), CHUNK):
        chunk = annotations[start : start + CHUNK]
        columns = _check_fast(chunk, tables) if fast else None
        chunks.append(columns if columns is not None else _check_precisely(chunk, start, tables))
    if not chunks:
        empty = np.empty(0, dtype=np.int64)
        return AnnotationColumns(empty, empty, empty, np.empty((0, 4)), np.empty(0, dtype=bool))
    columns = AnnotationColumns(
        ids=np.concatenate([chunk.ids for chunk in chunks]),
        image_row=np.concatenate([chunk.image_row for chunk in chunks]),
        category=np.concatenate([chunk.category for chunk in chunks]),
        boxes=np.concatenate([chunk.boxes for chunk in chunks]),
        has_mask=np.concatenate([chunk.has_mask for chunk in chunks]),
    )
    _check_unique(columns.ids, annotations, tables.file)
    check_keys(tables.file, "annotations", annotations)
    return columns


def _check_unique(ids: np.ndarray, annotations: list[Any], file: str) -> None:
    if (np.diff(np.sort(ids)) > 0).all():
        return
    first: dict[int, int] = {}
    for index, annotation_id in enumerate(ids.tolist()):
        if first.setdefault(annotation_id, index) != index:
            entry = Entry(file, "annotations", index, annotations[index])
            raise entry.error(f"id {annotation_id} is already used by annotations[{first[annotation_id]}]")


# ---------------------------------------------------------------- rules shared by both paths, on arrays


def clip_boxes(boxes: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Clip boxes to their images: (A, 4) xywh pixels and (A, 2) width, height -> (A, 4) xywh.

    What lies inside is kept to the last bit.
    """
    low, high = boxes[:, :2], boxes[:, :2] + boxes[:, 2:]
    clipped = np.clip(low, 0, sizes)
    sides = np.where((low >= 0) & (high <= sizes), boxes[:, 2:], np.clip(high, 0, sizes) - clipped)
    return np.concatenate([clipped, sides], axis=1)


def _box_faults(boxes: np.ndarray, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For finite boxes: which are empty, which are outside the image, which are too thin inside it; (A,) bool each."""
    empty = (boxes[:, 2:] <= 0).any(axis=1)
    high = boxes[:, :2] + boxes[:, 2:]
    outside = ((boxes[:, :2] < -BOX_TOLERANCE) | (high > sizes + BOX_TOLERANCE)).any(axis=1)
    thin = (clip_boxes(boxes, sizes)[:, 2:] < MIN_BOX_SIDE).any(axis=1)
    return np.asarray(empty), np.asarray(outside), np.asarray(thin)


def _contradicts(extents: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Which masks contradict their boxes: (A, 4) xyxy extents of the masks and (A, 4) xywh boxes -> (A,) bool."""
    target = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
    moved = extents + np.clip(target - extents, -BOX_MASK_SLACK, BOX_MASK_SLACK)
    shared = np.minimum(moved[:, 2:], target[:, 2:]) - np.maximum(moved[:, :2], target[:, :2])
    overlap = np.clip(shared, 0, None).prod(axis=1)
    union = (moved[:, 2:] - moved[:, :2]).prod(axis=1) + boxes[:, 2:].prod(axis=1) - overlap
    return overlap < BOX_MASK_IOU * union


# ---------------------------------------------------------------- the precise path


def _check_precisely(chunk: list[Any], start: int, tables: AnnotationTables) -> AnnotationColumns:
    rows = [_check_one(Entry(tables.file, "annotations", start + i, value), tables) for i, value in enumerate(chunk)]
    ids, image_rows, categories, boxes, masks = zip(*rows, strict=True)
    return AnnotationColumns(
        ids=np.array(ids, dtype=np.int64),
        image_row=np.array(image_rows, dtype=np.int64),
        category=np.array(categories, dtype=np.int64),
        boxes=np.concatenate(boxes),
        has_mask=np.array(masks, dtype=bool),
    )


def _check_one(entry: Entry, tables: AnnotationTables) -> tuple[int, int, int, np.ndarray, bool]:
    """Check one annotation: its id, image row, category index, clipped box (1, 4), and whether it has a mask."""
    # pycocotools marks an unmatched detection by annotation id 0, so a part with that id could never be found
    annotation_id = entry.integer("id", 1)
    image_id, category_id = entry.identifier("image_id"), entry.integer("category_id")
    if image_id not in tables.image_row:
        raise entry.error(f"no image has the id {describe(image_id)}", _type_hint(image_id, tables))
    if category_id not in tables.category_index:
        raise entry.error(f"unknown category_id {category_id}", "it must be the id of one of the categories")
    row, category = tables.image_row[image_id], tables.category_index[category_id]
    part_class, image_class = int(tables.category_class[category]), int(tables.image_class[row])
    if part_class != image_class:
        names = tables.class_names[part_class], tables.class_names[image_class]
        raise entry.error('the part belongs to class "{}", its image to class "{}"'.format(*names))
    _check_optional_fields(entry)
    box = _check_box(entry, tables.image_sizes[row])
    has_mask = "segmentation" in entry.value
    _check_declared(entry, int(tables.image_labels[row]), has_mask)
    if tables.image_predicted[row]:
        _check_score(entry)
    if has_mask:
        width, height = tables.image_sizes[row].tolist()
        segmentation = entry.value["segmentation"]
        problem, extent = mask_problem(segmentation, int(width), int(height), POLYGON_TOLERANCE)
        if problem:
            raise entry.error(f"segmentation: {problem}")
        if _contradicts(np.array([extent]), box)[0]:
            x0, y0, x1, y1 = extent
            spans = f"x {x0:g} to {x1:g} and y {y0:g} to {y1:g}"
            raise entry.error(f"bbox {entry.value['bbox']} contradicts the segmentation, which spans {spans}")
    return annotation_id, row, category, box, has_mask


def _type_hint(image_id: int | str, tables: AnnotationTables) -> str:
    other = str(image_id) if isinstance(image_id, int) else int(image_id) if _is_digits(image_id) else None
    return "the image's id has another type (integer, string)" if other in tables.image_row else ""


def _is_digits(text: str) -> bool:
    return text.isdecimal() and len(text) < 17


def _check_optional_fields(entry: Entry) -> None:
    if "object_id" in entry.value:
        entry.identifier("object_id")
    if "area" in entry.value and not (is_number(entry.value["area"]) and entry.value["area"] >= 0):
        raise entry.error(f"area must be a finite number >= 0, is {describe(entry.value['area'])}")
    crowd = entry.value.get("iscrowd", 0)
    if type(crowd) not in (int, bool) or crowd not in (0, 1):
        raise entry.error(f"iscrowd must be 0 or 1, is {describe(crowd)}")
    if crowd:
        raise entry.error("iscrowd is 1, but a crowd is not one part", "leave the annotation out")


def _check_box(entry: Entry, size: np.ndarray) -> np.ndarray:
    """Check ``bbox`` against the image's (width, height) and return it clipped to the image, (1, 4)."""
    box = entry.get("bbox")
    if type(box) is not list or len(box) != 4:
        raise entry.error(f"bbox must be a list [x, y, width, height], is {describe(box)}")
    for number in box:
        if not is_number(number):
            raise entry.error(f"bbox must hold four finite numbers, one is {describe(number)}")
    boxes = np.array([[float(number) for number in box]])
    sizes = size[None]
    empty, outside, thin = _box_faults(boxes, sizes)
    image = "its image of {:g} x {:g} pixels".format(*size)
    if empty[0]:
        raise entry.error(f"bbox {box} is empty", "its width and height must be above 0")
    if outside[0]:
        raise entry.error(f"bbox {box} lies outside {image}", "bbox is [x, y, width, height] in pixels")
    if thin[0]:
        raise entry.error(f"bbox {box} is less than {MIN_BOX_SIDE} pixels wide or high inside {image}")
    return clip_boxes(boxes, sizes)


def _check_declared(entry: Entry, label: int, has_mask: bool) -> None:
    if label == _NONE:
        raise entry.error('its image says part_labels "none", yet here is an annotation')
    if label == _MASK and not has_mask:
        fix = 'add it, or write "box"'
        raise entry.error('its image says part_labels "mask", yet the annotation has no segmentation', fix)


def _check_score(entry: Entry) -> None:
    if "score" not in entry.value:
        raise entry.error('its image says label_source "predicted", yet the annotation has no score')
    score = entry.value["score"]
    if not is_number(score) or not 0 <= score <= 1:
        raise entry.error(f"score must be a number in [0, 1], is {describe(score)}")


# ---------------------------------------------------------------- the fast path


def _check_fast(chunk: list[Any], tables: AnnotationTables) -> AnnotationColumns | None:
    """The columns of a chunk if everything in it is surely fine, else None."""
    if set(map(type, chunk)) != {dict}:
        return None
    try:
        ids, image_ids, category_ids, boxes = (
            list(map(itemgetter(key), chunk)) for key in ("id", "image_id", "category_id", "bbox")
        )
    except KeyError:
        return None
    if set(map(type, ids)) != {int} or set(map(type, category_ids)) != {int} or set(map(type, image_ids)) - {int, str}:
        return None
    if min(ids) < 1 or max(ids) >= ID_LIMIT or not _optional_fields_pass(chunk):
        return None
    rows = list(map(tables.image_row.get, image_ids))
    categories = list(map(tables.category_index.get, category_ids))
    box_array = _box_array(boxes)
    if None in rows or None in categories or box_array is None:
        return None
    columns = AnnotationColumns(
        ids=np.array(ids, dtype=np.int64),
        image_row=np.array(rows, dtype=np.int64),
        category=np.array(categories, dtype=np.int64),
        boxes=box_array,
        has_mask=np.fromiter(("segmentation" in annotation for annotation in chunk), dtype=bool, count=len(chunk)),
    )
    return _check_columns(columns, chunk, tables)


def _check_columns(columns: AnnotationColumns, chunk: list[Any], tables: AnnotationTables) -> AnnotationColumns | None:
    """The rules that tie annotations to their images and masks; None where one may be broken."""
    predicted = np.flatnonzero(tables.image_predicted[columns.image_row])
    if not _scores_pass([chunk[index].get("score") for index in predicted.tolist()]):
        return None
    sizes = tables.image_sizes[columns.image_row]
    labels = tables.image_labels[columns.image_row]
    wrong = tables.category_class[columns.category] != tables.image_class[columns.image_row]
    wrong |= (labels == _NONE) | ((labels == _MASK) & ~columns.has_mask)
    if wrong.any() or not (np.abs(columns.boxes) < NUMBER_LIMIT).all() or np.any(_box_faults(columns.boxes, sizes)):
        return None
    clipped = clip_boxes(columns.boxes, sizes)
    masked = np.flatnonzero(columns.has_mask)
    if len(masked):
        segmentations = [chunk[index]["segmentation"] for index in masked.tolist()]
        extents = mask_extents(segmentations, sizes[masked], POLYGON_TOLERANCE)
        if extents is None or _contradicts(extents, clipped[masked]).any():
            return None
    return AnnotationColumns(columns.ids, columns.image_row, columns.category, clipped, columns.has_mask)


def _box_array(boxes: list[Any]) -> np.ndarray | None:
    if set(map(type, boxes)) != {list} or set(map(len, boxes)) != {4}:
        return None
    numbers = list(chain.from_iterable(boxes))
    array = float_array(numbers) if set(map(type, numbers)) <= {int, float} else None
    return None if array is None else array.reshape(-1, 4)


def _scores_pass(scores: list[Any]) -> bool:
    array = float_array(scores) if set(map(type, scores)) <= {int, float} else None
    return array is not None and bool(((array >= 0) & (array <= 1)).all())


def _optional_fields_pass(chunk: list[Any]) -> bool:
    areas = [annotation["area"] for annotation in chunk if "area" in annotation]
    if set(map(type, areas)) - {int, float}:
        return False
    area_array = float_array(areas)
    if area_array is None or not ((area_array >= 0) & (area_array < NUMBER_LIMIT)).all():
        return False
    crowds = [annotation["iscrowd"] for annotation in chunk if "iscrowd" in annotation]
    if set(map(type, crowds)) - {int, bool} or any(crowds):
        return False
    objects = [annotation["object_id"] for annotation in chunk if "object_id" in annotation]
    kinds = set(map(type, objects))
    if kinds <= {int}:
        return not objects or (min(objects) > -ID_LIMIT and max(objects) < ID_LIMIT)
    return kinds == {str} and all(map(str.strip, objects)) and all(map(str.isascii, objects))
