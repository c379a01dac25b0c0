"""Parts vote for their class; nothing between the masks and the label but the map from parts to classes."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from partbox.suggestions import unknown

from ..evidence import PartEvidence
from .base import EvidenceHead
from .detection_features import detected_scores

PixelWeight = Literal["uniform", "foreground"]


class PartToClassHead(EvidenceHead):
    """Mean over the pixels of (part mask logits x part-to-class matrix); or a detector's scores x matrix.

    Scores are in [0, 1], so that a part that is not found is no vote against its class: logits, which are far below
    zero for most parts, would name the class with the fewest parts.

    Args:
        matrix: (P, K), each row sums to 1: the class that a part votes for. Row p belongs to mask channel 1 + p.
        learned: make the matrix a parameter that starts at these values; else the head has no parameters.
        from_detections: votes of a detector's queries instead of masks.
        pixel_weight: ``uniform``, or ``foreground`` = sigmoid(sum of the parts' logits - background logit).

    Raises:
        ValueError: a row that does not sum to 1, or an unknown pixel weight.
    """

    matrix: Tensor

    def __init__(
        self,
        matrix: Tensor,
        *,
        learned: bool = False,
        pixel_weight: PixelWeight = "uniform",
        from_detections: bool = False,
    ) -> None:
        super().__init__()
        self.from_detections = from_detections
        if matrix.dim() != 2 or not torch.allclose(matrix.sum(dim=1), matrix.new_ones(len(matrix))):
            raise ValueError("every row of the part-to-class matrix (P, K) must sum to 1")
        if pixel_weight not in ("uniform", "foreground"):
            raise ValueError(unknown("pixel weight", pixel_weight, ("uniform", "foreground")))
        self.pixel_weight = pixel_weight
        if learned:
            self.matrix = nn.Parameter(matrix.clone())
        else:
            self.register_buffer("matrix", matrix.clone())

    def forward(self, evidence: PartEvidence) -> Tensor:
        if self.from_detections:
            return detected_scores(evidence.detections).sigmoid() @ self.matrix
        background, parts = evidence.mask_logits[:, :1], evidence.mask_logits[:, 1:]
        if self.pixel_weight == "foreground":
            weight = torch.sigmoid(parts.sum(dim=1, keepdim=True) - background).clamp_min(1e-6)
            votes = (parts * weight).sum(dim=(2, 3)) / weight.sum(dim=(2, 3))
        else:
            votes = parts.mean(dim=(2, 3))
        return votes @ self.matrix
