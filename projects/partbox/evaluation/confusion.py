"""Confusion matrices of segmentations, kept image by image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

Entries = list[list[int]]  # [true, found, pixels]


class Overlap(NamedTuple):
    """Sums over a dataset.

    Attributes:
        iou: (C,) intersection over union of each class.
        labelled: (C,) labelled pixels of each class.
        right: pixels found right.
    """

    iou: Tensor
    labelled: Tensor
    right: int


def confusion_entries(found: Tensor, target: Tensor, classes: int, ignore: int) -> Entries | None:
    """The non-zero entries of one image's confusion matrix, (H, W) int64 each; None without a labelled pixel."""
    # here, because it takes a third of a second, with which every process of every run would begin
    from torchmetrics.functional.classification import multiclass_confusion_matrix

    if not bool((target != ignore).any()):
        return None
    matrix = multiclass_confusion_matrix(found[None], target[None], classes, ignore_index=ignore)
    return [[true, seen, int(matrix[true, seen])] for true, seen in matrix.nonzero().tolist()]


def intersection_over_union(entries: Sequence[Entries], classes: int) -> Overlap:
    """IoU with intersections and unions summed over all images, never averaged by image."""
    matrix = torch.zeros(classes, classes, dtype=torch.int64)
    for image in entries:
        for true, seen, pixels in image:
            matrix[true, seen] += pixels
    labelled, predicted, overlap = matrix.sum(dim=1), matrix.sum(dim=0), matrix.diagonal()
    iou = overlap.double() / (labelled + predicted - overlap).clamp_min(1)
    return Overlap(iou, labelled, int(overlap.sum()))
