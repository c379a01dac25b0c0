"""From predictions to detectron2's results: instances, semantic and panoptic segmentation."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from detectron2.structures import Boxes, Instances
from torch import Tensor

from .boxes import cxcywh_to_xyxy

TINY = 1e-6


def top_detections(scores: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """The best pairs of query and class: scores (Q, K) -> scores, queries and classes, (min(count, Q * K),) each."""
    best = scores.flatten().topk(min(count, scores.numel()))
    classes = scores.shape[1]
    return best.values, torch.div(best.indices, classes, rounding_mode="floor"), best.indices % classes


def instances_from_masks(
    scores: Tensor,
    masks: Tensor,
    boxes: Tensor,
    count: int,
    *,
    things: Collection[int] | None = None,
    box_scores: bool = False,
) -> Instances:
    """Instances with masks.

    Args:
        scores: (Q, K) in [0, 1].
        masks: (Q, H, W) logits at the output's size.
        boxes: (Q, 4) xyxy in output pixels.
        count: instances at most.
        things: classes that may be instances; None for all.
        box_scores: the class score alone; otherwise it is multiplied with how sure the mask is of its own pixels.
    """
    values, queries, classes = top_detections(scores, count)
    if things is not None:
        kept = torch.isin(classes, torch.tensor(sorted(things), dtype=classes.dtype, device=classes.device))
        values, queries, classes = values[kept], queries[kept], classes[kept]
    chosen = masks[queries]
    binary = (chosen > 0).float()
    if not box_scores:
        sure = (chosen.sigmoid().flatten(1) * binary.flatten(1)).sum(dim=1) / (binary.flatten(1).sum(dim=1) + TINY)
        values = values * sure
    result = Instances((masks.shape[1], masks.shape[2]))
    result.pred_masks, result.pred_boxes = binary, Boxes(boxes[queries])
    result.scores, result.pred_classes = values, classes
    return result


def instances_from_boxes(scores: Tensor, boxes: Tensor, count: int, size: tuple[int, int]) -> Instances:
    """Instances without masks: scores (Q, K), boxes (Q, 4) xyxy in pixels of an output of ``size`` (H, W)."""
    values, queries, classes = top_detections(scores, count)
    result = Instances(size)
    result.pred_boxes, result.scores, result.pred_classes = Boxes(boxes[queries]), values, classes
    return result


def scaled_boxes(boxes: Tensor, width: float, height: float) -> Tensor:
    """(..., 4) cxcywh in [0, 1] -> xyxy in pixels; not clipped, as in the official code."""
    return cxcywh_to_xyxy(boxes) * boxes.new_tensor([width, height, width, height])


def class_scores(logits: Tensor, *, softmax: bool, temperature: float | None) -> Tensor:
    """Scores (Q, K) for segmentation.

    Args:
        logits: (Q, K), or (Q, K + 1) where the last is "no object".
        softmax: the class head was trained with a softmax.
        temperature: sharpen sigmoid scores by a softmax over classes at this temperature; None for not.
    """
    if softmax:
        return logits.softmax(dim=-1)[..., :-1]
    scores = logits.sigmoid()
    return scores if temperature is None else (scores / temperature).softmax(dim=-1)


def semantic_map(scores: Tensor, masks: Tensor) -> Tensor:
    """Scores (Q, K) and mask logits (Q, H, W) -> (K, H, W)."""
    return torch.einsum("qk,qhw->khw", scores, masks.sigmoid())


def panoptic_map(
    logits: Tensor,
    masks: Tensor,
    things: Collection[int],
    *,
    threshold: float,
    overlap: float,
    temperature: float | None,
) -> tuple[Tensor, list[dict[str, Any]]]:
    """Each pixel's segment (MaskFormer, arXiv 2107.06278, section 3.4).

    Args:
        logits: (Q, K).
        masks: (Q, H, W) logits at the output's size.
        things: classes with instances; segments of another class are merged.
        threshold: score that a query needs.
        overlap: share of a query's own mask that must be left after the others took theirs.
        temperature: see :func:`class_scores`; it changes which class, not which queries are kept.

    Returns:
        (H, W) int32 with 0 for no segment, and detectron2's ``segments_info``.
    """
    kept = logits.sigmoid().amax(dim=-1) > threshold
    scores, classes = class_scores(logits, softmax=False, temperature=temperature).max(dim=-1)
    scores, classes, probability = scores[kept], classes[kept], masks.sigmoid()[kept]
    segments = torch.zeros(masks.shape[-2:], dtype=torch.int32, device=masks.device)
    found: list[dict[str, Any]] = []
    if not len(scores):
        return segments, found
    owner = (scores[:, None, None] * probability).argmax(dim=0)
    stuff: dict[int, int] = {}
    for query, category in enumerate(classes.tolist()):
        own, all_of_it = owner == query, probability[query] >= 0.5
        visible = own & all_of_it
        areas = int(own.sum()), int(all_of_it.sum())
        if not min(areas) or not bool(visible.any()) or areas[0] / areas[1] < overlap:
            continue
        is_thing = category in things
        if not is_thing and category in stuff:
            segments[visible] = stuff[category]
            continue
        number = len(found) + 1
        segments[visible] = number
        if not is_thing:
            stuff[category] = number
        found.append({"id": number, "isthing": is_thing, "category_id": category})
    return segments, found
