"""From part annotations to the objects that a detector learns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from detectron2.data import transforms as T
from detectron2.structures import BitMasks, Boxes, BoxMode, Instances

from .part_map import box_slices, decode_mask, is_supervised

SMALLEST = 1e-3  # side of a box in pixels; less is left of a part that a crop cut off


def part_instances(
    record: Mapping[str, Any],
    transforms: T.Transform,
    size: tuple[int, int],
    supervision: str,
    *,
    wants_masks: bool = True,
) -> Instances | None:
    """The labelled parts of one image after its transforms, those that a crop cut off left out.

    Args:
        record: one image of a part dataset in detectron2's format.
        transforms: of the image.
        size: (height, width) of the result.
        supervision: ``box``: boxes and no masks; ``mask``: images with masks only; ``auto``: both, and in an image that
            counts as labelled with boxes (``part_labels``) each box is filled to be the mask of its part.
        wants_masks: False for a detector of boxes, which is spared the decoding of masks.

    Returns:
        ``gt_classes``, ``gt_boxes`` (XYXY in pixels) and, where wanted and not under ``box``, ``gt_masks``; None for an
        image whose parts are not labelled, which is not an image without parts.
    """
    if not is_supervised(record, supervision):
        return None
    parts = [_box(part, transforms, size) for part in record["annotations"]]
    masks = None
    if wants_masks and supervision != "box":
        masks = [transforms.apply_segmentation(_mask(part, record)) for part in record["annotations"]]
        for number, mask in enumerate(masks):
            rows, columns = np.nonzero(mask)
            # the rest of a part, where a crop has cut it, has a smaller box than the rest of its box
            box = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) if len(rows) else (0, 0, 0, 0)
            parts[number] = np.asarray(box, dtype=np.float32)
    kept = [i for i, box in enumerate(parts) if box[2] - box[0] > SMALLEST and box[3] - box[1] > SMALLEST]
    found = Instances(size)
    found.gt_classes = torch.tensor([record["annotations"][i]["category_id"] for i in kept], dtype=torch.int64)
    found.gt_boxes = Boxes(torch.tensor(np.array([parts[i] for i in kept], dtype=np.float32).reshape(-1, 4)))
    if masks is not None:
        planes = [torch.from_numpy(np.array(masks[i])).bool() for i in kept]
        found.gt_masks = BitMasks(torch.stack(planes) if planes else torch.zeros((0, *size), dtype=torch.bool))
    return found


def _box(part: Mapping[str, Any], transforms: T.Transform, size: tuple[int, int]) -> np.ndarray:
    """XYXY in pixels of the result, clipped."""
    box = np.array(BoxMode.convert(list(part["bbox"]), part["bbox_mode"], BoxMode.XYXY_ABS), dtype=np.float64)
    height, width = size
    moved: np.ndarray = transforms.apply_box(box[None])[0].clip(min=0)
    return np.minimum(moved, [width, height, width, height]).astype(np.float32)


def _mask(part: Mapping[str, Any], record: Mapping[str, Any]) -> np.ndarray:
    """uint8 (height, width) of the photograph."""
    height, width = record["height"], record["width"]
    if record["part_labels"] == "mask":
        return decode_mask(part["segmentation"], height, width).astype(np.uint8)
    filled = np.zeros((height, width), dtype=np.uint8)
    box = BoxMode.convert(list(part["bbox"]), part["bbox_mode"], BoxMode.XYWH_ABS)
    filled[box_slices(box, height, width)] = 1
    return filled
