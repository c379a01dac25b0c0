"""Boxes as tensors: conversions, overlap, and boxes around masks.

``cxcywh`` is (centre x, centre y, width, height), ``xyxy`` (left, top, right, bottom).
"""

from __future__ import annotations

import torch
from torch import Tensor

TINY = 1e-6  # added to both denominators of the overlap, as in the official code


def cxcywh_to_xyxy(boxes: Tensor) -> Tensor:
    """(..., 4) -> (..., 4)."""
    centre, size = boxes[..., :2], boxes[..., 2:]
    return torch.cat([centre - 0.5 * size, centre + 0.5 * size], dim=-1)


def xyxy_to_cxcywh(boxes: Tensor) -> Tensor:
    """(..., 4) -> (..., 4)."""
    low, high = boxes[..., :2], boxes[..., 2:]
    return torch.cat([(low + high) / 2, high - low], dim=-1)


def inverse_sigmoid(x: Tensor, eps: float) -> Tensor:
    """Logit of x in [0, 1], with x and 1 - x kept above ``eps``."""
    x = x.clamp(0, 1)
    return torch.log(x.clamp(min=eps) / (1 - x).clamp(min=eps))


def generalised_iou(boxes: Tensor, others: Tensor) -> Tensor:
    """Generalised intersection over union (arXiv 1902.09630) of boxes that broadcast, (..., 4) xyxy -> (...)."""
    sides = (torch.minimum(boxes[..., 2:], others[..., 2:]) - torch.maximum(boxes[..., :2], others[..., :2])).clamp(0)
    hull = (torch.maximum(boxes[..., 2:], others[..., 2:]) - torch.minimum(boxes[..., :2], others[..., :2])).clamp(0)
    intersection, around = sides.prod(dim=-1), hull.prod(dim=-1)
    area = (boxes[..., 2:] - boxes[..., :2]).prod(dim=-1) + (others[..., 2:] - others[..., :2]).prod(dim=-1)
    union = area - intersection
    return intersection / (union + TINY) - (around - union) / (around + TINY)


def boxes_of_masks(masks: Tensor, *, closed: bool) -> Tensor:
    """Tight boxes around masks, (N, H, W) bool -> (N, 4) xyxy in pixels.

    Args:
        masks: may be empty.
        closed: as the official ``mask2box``, right and bottom are the last pixel, and an empty mask gives
            (1e8, 1e8, 0, 0); otherwise (``bitmask``) they are one past it, and an empty mask gives zeros.
    """
    height, width = masks.shape[-2:]
    empty = ~masks.flatten(1).any(dim=1)
    bounds = []
    for axis, size in ((1, width), (2, height)):
        index = torch.arange(size, device=masks.device, dtype=torch.float32)
        there = masks.any(dim=axis)
        first = torch.where(there, index, torch.full_like(index, 1e8)).amin(dim=1)
        last = torch.where(there, index, torch.zeros_like(index)).amax(dim=1)
        bounds.append((first, last if closed else last + 1))
    (left, right), (top, bottom) = bounds
    boxes = torch.stack([left, top, right, bottom], dim=1)
    return boxes if closed else torch.where(empty[:, None], torch.zeros_like(boxes), boxes)
