"""What a detector says about each part, whatever query says it: the order of queries carries no information."""

from __future__ import annotations

import torch
from torch import Tensor

from ..evidence import PartDetections

BOX_VARIANCE = 1 / 12  # of a point drawn from a box, in shares of its side squared


def query_weights(detections: PartDetections) -> Tensor:
    """How much each query speaks for each part, (B, Q, P), summing to 1 over the queries.

    In proportion to the odds s / (1 - s) of its score s, so that many queries with low scores do not outweigh one with
    a high score.
    """
    return detections.logits.softmax(dim=1)


def detected_scores(detections: PartDetections) -> Tensor:
    """Logit of each part, averaged over the queries with their weights, (B, P)."""
    return (query_weights(detections) * detections.logits).sum(dim=1)


def detected_boxes(detections: PartDetections) -> Tensor:
    """Weighted box of each part as [cx, cy, spread x, spread y] in shares of the image, (B, P, 4).

    Mean and standard deviation of a point that is drawn from a box, which is drawn with the weights: the same moments
    as those of a soft mask (:func:`partbox.modeling.heads.part_box.soft_boxes`).
    """
    weights = query_weights(detections)
    centre = torch.einsum("bqp,bqc->bpc", weights, detections.boxes[..., :2])
    within = torch.einsum("bqp,bqc->bpc", weights, detections.boxes[..., 2:] ** 2) * BOX_VARIANCE
    offset = detections.boxes[:, :, None, :2] - centre[:, None]
    between = (weights[..., None] * offset**2).sum(dim=1)
    return torch.cat([centre, (within + between + 1e-6).sqrt()], dim=-1)
