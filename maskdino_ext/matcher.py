"""Which prediction is which object: bipartite matching (DETR section 3.1; Mask DINO section 3.4, "hybrid matching")."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from detectron2.projects.point_rend.point_features import point_sample
from torch import Tensor
from torch.nn import functional

from .boxes import cxcywh_to_xyxy, generalised_iou
from .draws import Draws
from .structures import Predictions, Target

ALPHA, GAMMA = 0.25, 2.0  # of the focal loss
Pairs = list[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class MatchingCosts:
    """Weights of the terms of the cost; ``mask`` and ``dice`` 0 where there are no masks.

    ``points`` is the number of random points at which masks are compared.
    """

    label: float
    box: float
    overlap: float
    mask: float = 0.0
    dice: float = 0.0
    points: int = 0


class HungarianMatcher:
    """Finds, for each image, the cheapest one-to-one assignment of predictions to objects."""

    def __init__(self, costs: MatchingCosts) -> None:
        self.costs = costs

    @torch.no_grad()
    def __call__(self, predictions: Predictions, targets: Sequence[Target], stage: str, draws: Draws) -> Pairs:
        """Pairs of each image: (queries, objects), both (min(Q, N),) int64, queries in ascending order.

        Args:
            predictions: of one layer.
            targets: of each image.
            stage: names the layer for the draws.
            draws: of the points.

        Raises:
            FloatingPointError: predictions that are not finite: the training has diverged.
        """
        from scipy.optimize import linear_sum_assignment  # half a second that others need not wait

        pairs = []
        for image, target in enumerate(targets):
            # sums over thousands of points overflow in half precision
            with torch.autocast(predictions.boxes.device.type, enabled=False):
                cost = self.cost(predictions, image, target, f"match/{stage}/{image}", draws)
            if not bool(torch.isfinite(cost).all()):
                raise FloatingPointError(
                    "the detector predicts values that are not finite: training has diverged; lower SOLVER.BASE_LR or "
                    "clip gradients (SOLVER.CLIP_GRADIENTS)"
                )
            rows, columns = linear_sum_assignment(cost.cpu().numpy())
            device = target.labels.device
            pairs.append((torch.as_tensor(rows, device=device), torch.as_tensor(columns, device=device)))
        return pairs

    def cost(self, predictions: Predictions, image: int, target: Target, purpose: str, draws: Draws) -> Tensor:
        """(Q, N) cost of each prediction of an image for each object."""
        logits, boxes = predictions.logits[image].float(), predictions.boxes[image].float()
        costs = self.costs
        total = costs.label * focal_cost(logits)[:, target.labels]
        total = total + costs.box * torch.cdist(boxes, target.boxes, p=1)
        overlap = generalised_iou(cxcywh_to_xyxy(boxes)[:, None], cxcywh_to_xyxy(target.boxes)[None])
        total = total - costs.overlap * overlap
        if costs.mask or costs.dice:
            if target.masks is None or predictions.masks is None:
                raise ValueError("matching by masks needs masks, predicted and labelled; set their costs to 0")
            points = draws.uniform(f"{purpose}/points", (costs.points, 2), boxes.device)
            if len(target.labels):
                found = _at_points(predictions.masks[image].float(), points)
                wanted = _at_points(target.masks, points)
                total = total + costs.mask * _cross_entropy_cost(found, wanted) + costs.dice * _dice_cost(found, wanted)
        return total


def focal_cost(logits: Tensor) -> Tensor:
    """What naming each class would change in the focal loss, (Q, K) -> (Q, K)."""
    tiny = 1e-8
    probability = logits.sigmoid()
    negative = (1 - ALPHA) * probability**GAMMA * -(1 - probability + tiny).log()
    positive = ALPHA * (1 - probability) ** GAMMA * -(probability + tiny).log()
    return positive - negative


def _at_points(masks: Tensor, points: Tensor) -> Tensor:
    """Masks (N, h, w) at the same points (P, 2) in [0, 1]: (N, P)."""
    sampled: Tensor = point_sample(masks[:, None].float(), points.expand(len(masks), -1, -1), align_corners=False)
    return sampled[:, 0]


def _cross_entropy_cost(found: Tensor, wanted: Tensor) -> Tensor:
    """Mean binary cross-entropy of logits (Q, P) to masks (N, P): (Q, N)."""
    inside, outside = functional.softplus(-found), functional.softplus(found)
    return (inside @ wanted.T + outside @ (1 - wanted).T) / found.shape[1]


def _dice_cost(found: Tensor, wanted: Tensor) -> Tensor:
    """Dice loss of logits (Q, P) to masks (N, P): (Q, N)."""
    probability = found.sigmoid()
    return 1 - (2 * probability @ wanted.T + 1) / (probability.sum(dim=1)[:, None] + wanted.sum(dim=1)[None] + 1)
