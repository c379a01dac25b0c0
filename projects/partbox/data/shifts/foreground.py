"""Which pixels of an image are its object, from the labels of the parts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from partbox.data.part_map import box_slices, decode_mask

from .kinds import Foreground

Image = NDArray[np.uint8]
"""(H, W, 3) RGB."""
Mask = NDArray[np.bool_]
"""(H, W)."""

_GRABCUT_STEPS = 5
_SURE = 0.5  # of the largest distance to the outline: pixels this deep inside the parts are foreground for GrabCut


class Rectangle(NamedTuple):
    """Whole pixels; bottom and right are exclusive."""

    top: int
    bottom: int
    left: int
    right: int

    @property
    def area(self) -> int:
        """In pixels."""
        return (self.bottom - self.top) * (self.right - self.left)

    @property
    def slices(self) -> tuple[slice, slice]:
        """Rows and columns."""
        return slice(self.top, self.bottom), slice(self.left, self.right)


def part_union(record: Mapping[str, Any]) -> Mask:
    """The pixels of all labelled parts: of each its mask, or else its box.

    Args:
        record: one image of a part dataset in detectron2's format.
    """
    union = np.zeros((record["height"], record["width"]), dtype=bool)
    for part in record["annotations"]:
        if "segmentation" in part:
            union |= decode_mask(part["segmentation"], *union.shape)
        else:
            union[box_slices(part["bbox"], *union.shape)] = True
    return union


def bounding_box(mask: Mask) -> Rectangle:
    """The smallest rectangle around a mask that is not empty."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return Rectangle(int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1)


def foreground_mask(union: Mask, how: Foreground, image: Image) -> Mask:
    """The foreground, never empty.

    Args:
        union: the pixels of the parts, not empty.
        how: "parts" takes them as they are; "hull" their convex hull, which also holds what is between them; "box"
            their bounding box; "grabcut" what GrabCut (Rother et al. 2004) finds inside the bounding box by colour,
            started from the parts. ImageNet-9 was made by GrabCut from bounding boxes.
        image: its pixels; only "grabcut" looks at them.
    """
    if how == "parts":
        return union
    if how == "box":
        mask = np.zeros_like(union)
        mask[bounding_box(union).slices] = True
        return mask
    if how == "hull":
        points = np.argwhere(union)[:, ::-1].astype(np.int32)
        filled = cv2.fillConvexPoly(np.zeros(union.shape, np.uint8), cv2.convexHull(points), 1)
        return filled.astype(bool) | union
    return _grabcut(union, image)


def _grabcut(union: Mask, image: Image) -> Mask:
    """Outside the bounding box is background, the innermost pixels of the parts are foreground, the rest is open."""
    box = bounding_box(union)
    if box.area == union.size:
        return union  # nothing is known to be background
    labels = np.full(union.shape, cv2.GC_BGD, np.uint8)
    labels[box.slices] = cv2.GC_PR_BGD
    labels[union] = cv2.GC_PR_FGD
    depth = cv2.distanceTransform(np.pad(union, 1).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1]
    labels[depth >= _SURE * depth.max()] = cv2.GC_FGD
    cv2.setRNGSeed(0)  # GrabCut draws the starts of its colour clusters
    bgr = np.ascontiguousarray(image[..., ::-1])
    cv2.grabCut(bgr, labels, (0, 0, 1, 1), np.zeros((1, 65)), np.zeros((1, 65)), _GRABCUT_STEPS, cv2.GC_INIT_WITH_MASK)
    return (labels == cv2.GC_FGD) | (labels == cv2.GC_PR_FGD)
