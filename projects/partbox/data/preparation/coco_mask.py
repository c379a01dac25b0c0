"""The mask of one annotation of a COCO file, or why it has none."""

from __future__ import annotations

from typing import Any

import numpy as np

from partbox.data.part_json_entry import Entry, describe, is_number
from partbox.data.part_json_masks import mask_problem

from .crop_geometry import Box, clip_box, union_box

CROWD = "crowd (iscrowd = 1)"
NO_MASK = "no mask"
EMPTY_MASK = "mask without a pixel in its photograph"

_LINE = 1e-6  # largest cross product (square pixels) at which a polygon's corners count as one line


def read_mask(entry: Entry, width: int, height: int, *, tolerance: float = float("inf")) -> tuple[Any, Box] | str:
    """The segmentation of an annotation with its tight box (pixels), or the reason why there is none.

    Polygons of fewer than three corners are left out of it. (pycocotools would take one of four numbers for a box.)

    Args:
        entry: of the list ``annotations``.
        width, height: of its image, in pixels.
        tolerance: pixels by which polygons may leave the image.

    Raises:
        PartDatasetError: the annotation is malformed.
    """
    crowd = entry.value.get("iscrowd", 0)
    if crowd not in (0, 1):
        raise entry.error(f"iscrowd must be 0 or 1, is {describe(crowd)}")
    if crowd:
        return CROWD
    given = entry.value.get("segmentation")
    if is_absent(given):
        return NO_MASK
    if type(given) is dict:
        problem, extent = mask_problem(given, width, height, 0.0)
        if problem == "RLE mask is empty":
            return EMPTY_MASK
        if problem:
            raise entry.error(f"segmentation: {problem}")
        return given, extent
    kept, extents = [], []
    for polygon in read_polygons(entry):
        x0, y0, x1, y1 = extent = polygon_extent(polygon)
        if max(-x0, -y0, x1 - width, y1 - height) > tolerance:
            raise entry.error(f"segmentation: a polygon leaves its image of {width} x {height} pixels")
        if clip_box(extent, width, height):
            kept.append(polygon)
            extents.append(extent)
    return (kept, union_box(extents)) if kept else EMPTY_MASK


def is_absent(segmentation: object) -> bool:
    """Whether a ``segmentation`` says "only a box", in one of the ways of writing that."""
    if type(segmentation) is list:
        return all(polygon == [] for polygon in segmentation)
    return segmentation in (None, {})


def read_polygons(entry: Entry) -> list[list[float]]:
    """The polygons of an annotation that enclose an area.

    Raises:
        PartDatasetError: its ``segmentation`` is no list of polygons.
    """
    given = entry.value["segmentation"]
    if type(given) is not list:
        raise entry.error(f"segmentation must be a list of polygons or an RLE object, is {describe(given)}")
    for index, polygon in enumerate(given):
        if type(polygon) is not list or len(polygon) % 2 or not all(map(is_number, polygon)):
            fix = "a polygon is a flat list [x, y, x, y, ...]; a part may have several"
            raise entry.error(f"segmentation: polygon {index} must be an even number of finite numbers", fix)
    return [polygon for polygon in given if _has_area(polygon)]


def polygon_extent(polygon: list[float]) -> Box:
    """The tight box of a polygon, in pixels."""
    return float(min(polygon[::2])), float(min(polygon[1::2])), float(max(polygon[::2])), float(max(polygon[1::2]))


def _has_area(polygon: list[float]) -> bool:
    """Whether the corners of a polygon are three or more and do not lie on one line."""
    if len(polygon) < 6:
        return False
    points = np.array(polygon, dtype=np.float64).reshape(-1, 2)
    offsets = points - points[0]
    farthest = offsets[(offsets**2).sum(axis=1).argmax()]
    return bool(np.abs(offsets[:, 0] * farthest[1] - offsets[:, 1] * farthest[0]).max() > _LINE)
