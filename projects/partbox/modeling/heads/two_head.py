"""The multi-task baselines: parts are supervised, the class is read from the shared features."""

from __future__ import annotations

from detectron2.layers import ShapeSpec
from torch import Tensor, nn

from .base import DecoderHead, FeatureHead

POOL = 4
CHANNELS = 64
DECODER_CHANNELS = (50, 10)


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


class DecoderTwoHead(DecoderHead):
    """The decoder's features -> 3 x 3 convolution -> 1 x 1 convolution -> two linear layers (the original's 2heads_d).

    After each convolution BatchNorm, ReLU and 2 x 2 maximum pooling. The linear layers see every cell, so the size of
    the images is part of the model.

    Args:
        channels: of the decoder.
        size: (height, width) of its features.
        num_classes: K.
        hidden: units of the first linear layer (100 and 128 in the original).

    Raises:
        ValueError: features so small that nothing is left.
    """

    def __init__(self, channels: int, size: tuple[int, int], num_classes: int, *, hidden: int = 100) -> None:
        super().__init__()
        self.size = size
        height, width = ((side - 2) // 2 // 2 for side in size)
        if height < 1 or width < 1:
            raise ValueError(f"the head two_head_decoder needs 6 x 6 cells of the decoder, not {size}: see INPUT.SIZE")
        first, second = DECODER_CHANNELS
        self.classifier = nn.Sequential(
            nn.Conv2d(channels, first, 3),
            nn.BatchNorm2d(first),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
            nn.Conv2d(first, second, 1),
            nn.BatchNorm2d(second),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(second * height * width, hidden),
            nn.ReLU(inplace=True),
            nn.Linear(hidden, num_classes),
        )

    def forward(self, decoded: Tensor) -> Tensor:
        """Raises ValueError for images of another size than the model was built for."""
        if tuple(decoded.shape[-2:]) != self.size:
            raise ValueError(
                f"the head two_head_decoder was built for {self.size} cells (INPUT.SIZE), these images have "
                f"{tuple(decoded.shape[-2:])}"
            )
        return self.classifier(decoded)
