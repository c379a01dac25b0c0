"""The multi-task baseline: parts are supervised, the class is read from the shared features."""

from __future__ import annotations

from detectron2.layers import ShapeSpec
from torch import Tensor, nn

from .base import FeatureHead

POOL = 4
CHANNELS = 64


class TwoHead(FeatureHead):
    """Last feature map -> 4 x 4 average pooling -> BatchNorm -> convolution -> linear (Sitawarin et al. 2023).

    Args:
        shapes: of the backbone's feature maps, in order of depth.
        num_classes: K.
    """

    def __init__(self, shapes: dict[str, ShapeSpec], num_classes: int) -> None:
        super().__init__()
        self.feature = list(shapes)[-1]
        channels = shapes[self.feature].channels
        self.classifier = nn.Sequential(
            nn.AdaptiveAvgPool2d(POOL),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, CHANNELS, POOL),
            nn.BatchNorm2d(CHANNELS),
            nn.ReLU(inplace=True),
            nn.Flatten(),
            nn.Linear(CHANNELS, num_classes),
        )

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        return self.classifier(features[self.feature])
