"""From part annotations to one map of parts an image."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from detectron2.structures import BoxMode
from pycocotools import mask as mask_util

BACKGROUND = 0
IGNORE = -1  # not labelled


SUPERVISIONS = ("auto", "mask", "box")


def is_supervised(record: Mapping[str, Any], supervision: str) -> bool:
    """Whether an image's part labels are used under a kind of supervision (``auto`` uses masks and boxes)."""
    return record["part_labels"] == "mask" or (record["part_labels"] == "box" and supervision != "mask")


def decode_mask(segmentation: Any, height: int, width: int) -> np.ndarray:
    """Polygons or RLE (compressed or not) -> bool (height, width)."""
    if isinstance(segmentation, list):
        rle = mask_util.merge(mask_util.frPyObjects(segmentation, height, width))
    elif isinstance(segmentation["counts"], list):
        rle = mask_util.frPyObjects(segmentation, height, width)
    else:
        rle = segmentation
    return mask_util.decode(rle).astype(bool)


def box_slices(box: Iterable[float], height: int, width: int) -> tuple[slice, slice]:
    """Rows and columns of the pixels that an XYWH box covers, at least one pixel each, inside the image."""
    x, y, w, h = box
    left, top = min(round(x), width - 1), min(round(y), height - 1)
    left, top = max(left, 0), max(top, 0)
    right, bottom = max(round(x + w), left + 1), max(round(y + h), top + 1)
    return slice(top, min(bottom, height)), slice(left, min(right, width))


def paint_part_map(record: Mapping[str, Any], supervision: str) -> np.ndarray:
    """Part of each pixel of one image, int16 (height, width): 0 = background, 1 + category, -1 = not labelled.

    Larger parts are painted first, so that a small part on a large one stays visible; equal areas in file order.

    Args:
        record: one image of a part dataset in detectron2's format.
        supervision: ``mask`` paints masks and leaves an image that has boxes only unlabelled; ``box`` fills boxes
            and never looks at a mask, so an image with masks costs no decoding.

    Raises:
        ValueError: unknown supervision.
    """
    if supervision not in ("mask", "box"):
        raise ValueError(f"part supervision must be mask or box, not {supervision!r}")
    height, width = record["height"], record["width"]
    if not is_supervised(record, supervision):
        return np.full((height, width), IGNORE, dtype=np.int16)
    canvas = np.full((height, width), BACKGROUND, dtype=np.int16)
    parts = record["annotations"]
    if supervision == "box":
        for part in sorted(parts, key=lambda part: -part["bbox"][2] * part["bbox"][3]):
            canvas[box_slices(_xywh(part), height, width)] = 1 + part["category_id"]
        return canvas
    masks = [(decode_mask(part["segmentation"], height, width), 1 + part["category_id"]) for part in parts]
    for mask, channel in sorted(masks, key=lambda pair: -int(pair[0].sum())):
        canvas[mask] = channel
    return canvas


def _xywh(part: Mapping[str, Any]) -> list[float]:
    return BoxMode.convert(list(part["bbox"]), part["bbox_mode"], BoxMode.XYWH_ABS)
