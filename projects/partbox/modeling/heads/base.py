"""The kinds of heads, by what they may look at; each says so by its base class."""

from __future__ import annotations

from torch import Tensor, nn

from ..evidence import PartEvidence


class Head(nn.Module):
    """What all kinds share.

    Attributes:
        from_detections: whether it reads a detector's queries rather than masks.
        exact_gradient: whether the gradient that autograd gives is that of the logits. False: it is an estimate in the
            place of one that is zero or undefined, so that attacks are not blind; evaluations say so.
    """

    from_detections = False
    exact_gradient = True


class EvidenceHead(Head):
    """Names the object from the part evidence alone: there is no other path from the image to the label."""

    def forward(self, evidence: PartEvidence) -> Tensor:
        """Logits (B, K)."""
        raise NotImplementedError


class ImageHead(Head):
    """Names the object from part evidence and image together: the image is a path of its own to the label."""

    def forward(self, evidence: PartEvidence, images: Tensor) -> Tensor:
        """Evidence and normalised images (B, 3, H, W) -> logits (B, K)."""
        raise NotImplementedError


class FeatureHead(Head):
    """Names the object from the backbone's features; the label does not depend on the part evidence."""

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        """Logits (B, K)."""
        raise NotImplementedError


class DecoderHead(Head):
    """Names the object from what the part extractor's masks are made of; the label does not depend on the masks."""

    def forward(self, decoded: Tensor) -> Tensor:
        """The decoder's features (B, C, h, w) -> logits (B, K)."""
        raise NotImplementedError


def hidden_classifier(num_features: int, hidden: int, num_classes: int) -> nn.Sequential:
    """Linear -> BatchNorm -> ReLU -> Linear, (B, num_features) -> (B, K)."""
    return nn.Sequential(
        nn.Linear(num_features, hidden), nn.BatchNorm1d(hidden), nn.ReLU(inplace=True), nn.Linear(hidden, num_classes)
    )
