"""The two kinds of heads: those that see evidence only, and those that see features."""

from __future__ import annotations

from torch import Tensor, nn

from ..evidence import PartEvidence


class EvidenceHead(nn.Module):
    """Names the object from the part evidence alone: there is no other path from the image to the label.

    Attributes:
        from_detections: whether it reads a detector's queries rather than masks.
    """

    from_detections = False

    def forward(self, evidence: PartEvidence) -> Tensor:
        """Logits (B, K)."""
        raise NotImplementedError


class FeatureHead(nn.Module):
    """Names the object from the backbone's features; the label does not depend on the part evidence."""

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        """Logits (B, K)."""
        raise NotImplementedError


def hidden_classifier(num_features: int, hidden: int, num_classes: int) -> nn.Sequential:
    """Linear -> BatchNorm -> ReLU -> Linear, (B, num_features) -> (B, K)."""
    return nn.Sequential(
        nn.Linear(num_features, hidden), nn.BatchNorm1d(hidden), nn.ReLU(inplace=True), nn.Linear(hidden, num_classes)
    )
