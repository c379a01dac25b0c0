"""The paper's weighted bounding boxes: soft centroid, spread and score of each part (Sitawarin et al. 2023)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..evidence import PartEvidence
from .base import EvidenceHead
from .detection_features import detected_boxes, detected_scores

TINY = 1e-6  # keeps the moments of an absent part, and the square root's gradient, finite


def axis_moments(profile: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the position on one axis.

    Args:
        profile: (B, P, n) mask mass at n cells that divide the axis [0, 1].

    Returns:
        centre (B, P) in [0, 1] and spread (B, P) >= 0, both as shares of the axis.
    """
    size = profile.shape[-1]
    position = (torch.arange(size, device=profile.device, dtype=profile.dtype) + 0.5) / size
    weight = profile + TINY
    weight = weight / weight.sum(dim=-1, keepdim=True)
    centre = (weight * position).sum(dim=-1)
    variance = (weight * (position - centre[..., None]) ** 2).sum(dim=-1)
    return centre, (variance + TINY).sqrt()


def part_scores(evidence: PartEvidence) -> Tensor:
    """Score of each part: its mask logit averaged with the foreground as weight, (B, P).

    The foreground weight is sigmoid(sum of the parts' logits - background logit), normalised over the pixels.
    """
    background, parts = evidence.mask_logits[:, :1], evidence.mask_logits[:, 1:]
    foreground = torch.sigmoid(parts.sum(dim=1, keepdim=True) - background).clamp_min(TINY)
    foreground = foreground / foreground.sum(dim=(2, 3), keepdim=True)
    return (parts * foreground).sum(dim=(2, 3))


def soft_boxes(evidence: PartEvidence) -> Tensor:
    """Soft box of each part as [cx, cy, spread x, spread y], shares of the image's width and height, (B, P, 4).

    Height and width are treated separately, so non-square images are right.
    """
    masks = evidence.masks[:, 1:]
    centre_x, spread_x = axis_moments(masks.sum(dim=2))
    centre_y, spread_y = axis_moments(masks.sum(dim=3))
    return torch.stack([centre_x, centre_y, spread_x, spread_y], dim=-1)


class PartBoxHead(EvidenceHead):
    """[score, cx, cy, spread x, spread y] of each part -> BatchNorm -> two-layer classifier.

    Args:
        num_channels: P, mask channels without background.
        num_classes: K.
        hidden: units of the hidden layer.
        score: whether the score is a feature.
        normalized: centres in [-1, 1] and spreads as 2 x share of the side; else both in pixels of the image.
        part_conv: mix each part's features by one Conv1d(features, 10, 1) shared over the parts.
        from_detections: boxes and scores of a detector's queries instead of masks.
    """

    def __init__(
        self,
        num_channels: int,
        num_classes: int,
        *,
        hidden: int = 50,
        score: bool = True,
        normalized: bool = True,
        part_conv: bool = False,
        from_detections: bool = False,
    ) -> None:
        super().__init__()
        self.from_detections = from_detections
        self.score = score
        self.normalized = normalized
        per_part = 4 + int(score)
        self.mix: nn.Module = nn.Conv1d(per_part, 10, 1) if part_conv else nn.Identity()
        num_features = num_channels * (10 if part_conv else per_part)
        self.classifier = nn.Sequential(
            nn.BatchNorm1d(num_features),
            nn.Linear(num_features, hidden),
            nn.ReLU(inplace=True),
            nn.BatchNorm1d(hidden),
            nn.Linear(hidden, num_classes),
        )

    def part_features(self, evidence: PartEvidence) -> Tensor:
        """(B, P, 4 or 5)."""
        if self.from_detections:
            boxes, scores = detected_boxes(evidence.detections), detected_scores(evidence.detections)
        else:
            boxes, scores = soft_boxes(evidence), part_scores(evidence)
        if self.normalized:
            boxes = torch.cat([boxes[..., :2] * 2 - 1, boxes[..., 2:] * 2], dim=-1)
        else:
            height, width = evidence.image_size
            boxes = boxes * boxes.new_tensor([width, height, width, height])
        return torch.cat([scores[..., None], boxes], dim=-1) if self.score else boxes

    def forward(self, evidence: PartEvidence) -> Tensor:
        features = self.part_features(evidence)
        return self.classifier(self.mix(features.transpose(1, 2)).flatten(1))
