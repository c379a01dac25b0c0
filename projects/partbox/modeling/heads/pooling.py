"""The paper's downsampled masks: every soft mask reduced to k x k cells (Sitawarin et al. 2023)."""

from __future__ import annotations

from torch import Tensor, nn

from ..evidence import PartEvidence
from .base import EvidenceHead, hidden_classifier


class PartPoolingHead(EvidenceHead):
    """Masks -> average pooling to k x k -> convolution over the whole grid -> two-layer classifier.

    Args:
        num_channels: P, mask channels without background.
        num_classes: K.
        cells: k.
        keep_background: whether the background's mask is one of the inputs.
        norm: BatchNorm and ReLU on the pooled masks.
        hidden: units of the hidden layer.
    """

    def __init__(
        self,
        num_channels: int,
        num_classes: int,
        *,
        cells: int = 4,
        keep_background: bool = True,
        norm: bool = False,
        hidden: int = 50,
    ) -> None:
        super().__init__()
        self.keep_background = keep_background
        inputs = num_channels + int(keep_background)
        self.pool = nn.AdaptiveAvgPool2d(cells)
        self.norm: nn.Module = nn.Sequential(nn.BatchNorm2d(inputs), nn.ReLU(inplace=True)) if norm else nn.Identity()
        self.mix = nn.Sequential(
            nn.Conv2d(inputs, 5 * inputs, cells), nn.BatchNorm2d(5 * inputs), nn.ReLU(inplace=True), nn.Flatten()
        )
        self.classifier = hidden_classifier(5 * inputs, hidden, num_classes)

    def forward(self, evidence: PartEvidence) -> Tensor:
        masks = evidence.masks if self.keep_background else evidence.masks[:, 1:]
        return self.classifier(self.mix(self.norm(self.pool(masks))))
