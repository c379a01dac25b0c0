"""The mask of one annotation of a COCO file, or why it has none."""

from __future__ import annotations

from typing import Any

import numpy as np

from partbox.data.part_json_entry import Entry, describe, is_number
from partbox.data.part_json_masks import mask_problem

from ..coco_document import CROWD
from ..crop_geometry import Box, clip_box, union_box

NO_MASK = "no polygon and no RLE"
EMPTY_MASK = "polygons or RLE without area in the photograph"

_LINE = 1e-6  # largest cross product (square pixels) at which a polygon's corners count as one line


def read_mask(entry: Entry, width: int, height: int) -> tuple[Any, Box] | str:
    """The segmentation of an annotation with its tight box (pixels), or the reason why there is none.

    Polygons of fewer than three corners are left out of it. (pycocotools would take one of four numbers for a box.)

    Args:
        entry: of the list ``annotations``.
        width, height: of its image, in pixels.

    Raises:
        PartDatasetError: the annotation is malformed.
    """
    crowd = entry.value.get("iscrowd", 0)
    if crowd not in (0, 1):
        raise entry.error(f"iscrowd must be 0 or 1, is {describe(crowd)}")
    if crowd:
        return CROWD
    given = entry.value.get("segmentation")
    if given in (None, [], {}) or (type(given) is list and all(polygon == [] for polygon in given)):
        return NO_MASK
    if type(given) is dict:
        return _read_rle(entry, given, width, height)
    if type(given) is not list:
        raise entry.error(f"segmentation must be a list of polygons or an RLE object, is {describe(given)}")
    for index, polygon in enumerate(given):
        if type(polygon) is not list or len(polygon) % 2 or not all(map(is_number, polygon)):
            fix = "a polygon is a flat list [x, y, x, y, ...]; a part may have several"
            raise entry.error(f"segmentation: polygon {index} must be an even number of finite numbers", fix)
    kept = [polygon for polygon in given if _has_area(polygon) and clip_box(_extent(polygon), width, height)]
    return (kept, union_box([_extent(polygon) for polygon in kept])) if kept else EMPTY_MASK


def _read_rle(entry: Entry, rle: dict[str, Any], width: int, height: int) -> tuple[Any, Box] | str:
    problem, extent = mask_problem(rle, width, height, 0.0)
    if problem == "RLE mask is empty":
        return EMPTY_MASK
    if problem:
        raise entry.error(f"segmentation: {problem}")
    return rle, extent


def _extent(polygon: list[float]) -> Box:
    return float(min(polygon[::2])), float(min(polygon[1::2])), float(max(polygon[::2])), float(max(polygon[1::2]))


def _has_area(polygon: list[float]) -> bool:
    """Whether the corners of a polygon are three or more and do not lie on one line."""
    if len(polygon) < 6:
        return False
    points = np.array(polygon, dtype=np.float64).reshape(-1, 2)
    offsets = points - points[0]
    farthest = offsets[(offsets**2).sum(axis=1).argmax()]
    return bool(np.abs(offsets[:, 0] * farthest[1] - offsets[:, 1] * farthest[0]).max() > _LINE)
