"""Which labelled objects a detector still finds, and how many it sees that are not there."""

from __future__ import annotations

import torch
from detectron2.structures import Boxes, Instances, pairwise_iou
from torch import Tensor

IOU, SCORE = 0.5, 0.5


def match_objects(truth: Instances, predicted: Instances, *, iou: float = IOU, score: float = SCORE) -> tuple[int, int]:
    """Labelled objects that are found, and sure predictions that are none of them.

    Found is an object of which a prediction has the class, a score of at least ``score`` and an overlap of ``iou``.
    Predictions are matched in the order of their scores, each with the free object of its class that it overlaps most,
    as COCO matches; one of that score without a match is a false object, a second one on the same object too.

    Args:
        truth: with ``gt_boxes`` and ``gt_classes``, at any size.
        predicted: with ``pred_boxes``, ``scores``, ``pred_classes``, at any size.
        iou: smallest overlap.
        score: smallest score.

    Returns:
        (found, false objects).
    """
    boxes = _at_unit_size(truth.gt_boxes, truth.image_size)
    sure = predicted[predicted.scores >= score]
    sure = sure[sure.scores.argsort(descending=True, stable=True)]
    overlaps = pairwise_iou(boxes, _at_unit_size(sure.pred_boxes, sure.image_size))
    free = [True] * len(boxes)
    for column, label in enumerate(sure.pred_classes.tolist()):
        best, chosen = iou, -1
        for row in range(len(boxes)):
            overlap = float(overlaps[row, column])
            if free[row] and int(truth.gt_classes[row]) == label and overlap >= best:
                best, chosen = overlap, row
        if chosen >= 0:
            free[chosen] = False
    found = free.count(False)
    return found, len(sure) - found


def object_scores(truth: Instances, predicted: Instances, *, iou: float = IOU) -> Tensor:
    """The best score of a prediction of each labelled object's class that overlaps it by ``iou``; 0 without, (N,)."""
    if not len(truth):
        return torch.zeros(0)
    overlaps = pairwise_iou(
        _at_unit_size(truth.gt_boxes, truth.image_size), _at_unit_size(predicted.pred_boxes, predicted.image_size)
    )
    same = truth.gt_classes.cpu()[:, None] == predicted.pred_classes.cpu()[None, :]
    scores = predicted.scores.detach().cpu().float()[None, :] * (same & (overlaps >= iou))
    return torch.cat([scores, torch.zeros(len(truth), 1)], dim=1).amax(dim=1)


def _at_unit_size(boxes: Boxes, size: tuple[int, int]) -> Boxes:
    """Boxes as shares of the image's sides, on the CPU: both sides of the comparison may have other sizes."""
    scaled = Boxes(boxes.tensor.detach().cpu().clone().float())
    scaled.scale(1 / size[1], 1 / size[0])
    return scaled
