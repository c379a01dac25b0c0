"""The terms of the training loss, each summed over pairs and divided by the number of objects."""

from __future__ import annotations

import torch
from detectron2.projects.point_rend.point_features import point_sample
from torch import Tensor
from torch.nn import functional

from .boxes import cxcywh_to_xyxy, generalised_iou
from .draws import Draws
from .matcher import ALPHA, GAMMA


def times(values: Tensor, weights: Tensor | None) -> Tensor:
    """Values (N, ...) times weights (N,); None stands for ones."""
    return values if weights is None else values * weights.view(-1, *[1] * (values.dim() - 1))


def focal_loss(logits: Tensor, classes: Tensor, weights: Tensor | None = None) -> Tensor:
    """Sum of the sigmoid focal loss (arXiv 1708.02002) over everything.

    Args:
        logits: (B, Q, K).
        classes: (B, Q) int64; K where a query is no object.
        weights: (B,) of the images; None stands for ones.
    """
    wanted = functional.one_hot(classes, logits.shape[-1] + 1)[..., :-1].to(logits.dtype)
    probability = logits.sigmoid()
    right = probability * wanted + (1 - probability) * (1 - wanted)
    share = ALPHA * wanted + (1 - ALPHA) * (1 - wanted)
    entropy = functional.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
    return times(share * (1 - right) ** GAMMA * entropy, weights).sum()


def box_losses(boxes: Tensor, wanted: Tensor, weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Sums of the L1 distance and of 1 - generalised IoU, of boxes (N, 4) cxcywh in [0, 1], with weights (N,)."""
    distance = times((boxes - wanted).abs(), weights).sum()
    overlap = generalised_iou(cxcywh_to_xyxy(boxes), cxcywh_to_xyxy(wanted))
    return distance, times(1 - overlap, weights).sum()


def mask_losses(found: Tensor, wanted: Tensor, weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Sums over masks of the mean binary cross-entropy and of the dice loss.

    Args:
        found: (N, P) logits at points.
        wanted: (N, P) masks there, in [0, 1].
        weights: (N,) of the masks; None stands for ones.
    """
    entropy = functional.binary_cross_entropy_with_logits(found, wanted, reduction="none").mean(dim=1)
    probability = found.sigmoid()
    dice = 1 - (2 * (probability * wanted).sum(dim=1) + 1) / (probability.sum(dim=1) + wanted.sum(dim=1) + 1)
    return times(entropy, weights).sum(), times(dice, weights).sum()


@torch.no_grad()
def uncertain_points(
    logits: Tensor, count: int, oversample: float, important: float, purpose: str, draws: Draws
) -> Tensor:
    """Points where masks are compared (PointRend, arXiv 1912.08193, section 3.3).

    Args:
        logits: (N, h, w) masks.
        count: P points for each mask.
        oversample: random points to choose from, for each point.
        important: share of the points that are the least certain of those; the rest is random.
        purpose: names the draws.
        draws: where random points come from.

    Returns:
        (N, P, 2) in [0, 1], (x, y).
    """
    many = draws.uniform(f"{purpose}/rand_over", (len(logits), int(count * oversample), 2), logits.device).to(logits)
    certainty = point_sample(logits[:, None], many, align_corners=False)[:, 0].abs()
    kept = int(important * count)
    index = certainty.topk(kept, dim=1, largest=False).indices
    points = many.gather(1, index[..., None].expand(-1, -1, 2))
    if kept == count:
        return points
    rest = draws.uniform(f"{purpose}/rand_extra", (len(logits), count - kept, 2), logits.device).to(logits)
    return torch.cat([points, rest], dim=1)
