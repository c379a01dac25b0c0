"""The plain classifier's head."""

from __future__ import annotations

from detectron2.layers import ShapeSpec
from torch import Tensor, nn

from ..backbones import POOLED
from .base import FeatureHead


class LinearHead(FeatureHead):
    """One linear layer on the pooled feature vector.

    Args:
        shapes: of the backbone's outputs; a backbone without pooled vector is averaged over its last feature map.
        num_classes: K.
    """

    def __init__(self, shapes: dict[str, ShapeSpec], num_classes: int) -> None:
        super().__init__()
        self.feature = POOLED if POOLED in shapes else list(shapes)[-1]
        self.linear = nn.Linear(shapes[self.feature].channels, num_classes)

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        vector = features[self.feature]
        if vector.dim() == 4:
            vector = vector.mean(dim=(2, 3))
        return self.linear(vector)
