"""Class scores and box of each query of a detector -> logits (the original system's ``seq``)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from partbox.suggestions import unknown

from ..evidence import PartDetections, PartEvidence
from .base import EvidenceHead, hidden_classifier

Scores = Literal["softmax", "sigmoid"]
Order = Literal["pool", "sort"]


def query_features(detections: PartDetections, scores: Scores) -> Tensor:
    """Class scores, over the parts and not over the queries, and box in [-1, 1] of each query, (B, Q, P + 4).

    The softmax has "no part" as one more class, whose logit is 0 and whose score is left out: without it a query that
    shows nothing would look like one that shows something, since a softmax does not change with the size of all logits
    together.
    """
    if scores == "sigmoid":
        probability = detections.logits.sigmoid()
    else:
        nothing = torch.zeros_like(detections.logits[..., :1])
        probability = torch.cat([detections.logits, nothing], dim=-1).softmax(dim=-1)[..., :-1]
    return torch.cat([probability, detections.boxes * 2 - 1], dim=-1)


class BoxSequenceHead(EvidenceHead):
    """Names the object from what the queries say, in an order that carries no information.

    ``pool``: a layer shared by all queries, then maximum and mean over the queries: their order does not matter.
    ``sort``: the queries with the largest logits, sorted by them, one after the other.

    Args:
        num_channels: P, parts of the detector.
        num_classes: K.
        queries: of the detector.
        order: ``pool`` or ``sort``.
        scores: ``softmax`` over the parts, or ``sigmoid`` of each.
        hidden: units of the hidden layer (64 in the original).
        kept: queries that ``sort`` looks at.

    Raises:
        ValueError: an unknown order or kind of scores, or more queries to look at than there are.
    """

    from_detections = True

    def __init__(
        self,
        num_channels: int,
        num_classes: int,
        queries: int,
        *,
        order: Order = "pool",
        scores: Scores = "softmax",
        hidden: int = 64,
        kept: int = 50,
    ) -> None:
        super().__init__()
        if order not in ("pool", "sort"):
            raise ValueError(unknown("order of queries", order, ("pool", "sort")))
        if scores not in ("softmax", "sigmoid"):
            raise ValueError(unknown("kind of scores", scores, ("softmax", "sigmoid")))
        if order == "sort" and not 1 <= kept <= queries:
            raise ValueError(f"sort looks at 1 to {queries} queries (as many as the detector has), not at {kept}")
        self.order, self.scores, self.kept = order, scores, kept
        width = num_channels + 4
        self.shared: nn.Module = (
            nn.Sequential(nn.Linear(width, hidden), nn.ReLU()) if order == "pool" else nn.Identity()
        )
        features = 2 * hidden if order == "pool" else self.kept * width
        self.classifier = nn.Sequential(nn.BatchNorm1d(features), hidden_classifier(features, hidden, num_classes))

    def forward(self, evidence: PartEvidence) -> Tensor:
        features = self.shared(query_features(evidence.detections, self.scores))
        if self.order == "pool":
            return self.classifier(torch.cat([features.amax(dim=1), features.mean(dim=1)], dim=-1))
        best = evidence.detections.logits.amax(dim=-1).topk(self.kept, dim=1).indices
        chosen = features.gather(1, best[..., None].expand(-1, -1, features.shape[-1]))
        return self.classifier(chosen.flatten(1))
