"""Part masks at three resolutions that only training looks at (multi-scale part supervision)."""

from __future__ import annotations

from detectron2.config import CfgNode
from detectron2.layers import DepthwiseSeparableConv2d, ShapeSpec
from torch import Tensor, nn
from torch.nn import functional

from ..evidence import PartEvidence
from .base import Extractor, ExtractorInputs
from .detector import pyramid

LEVELS = ("res3", "res4", "res5")  # strides 8, 16 and 32: 28, 14 and 7 cells a side of an image of 224 pixels


class AuxiliaryExtractor(Extractor):
    """A top-down pyramid with a mask predictor at strides 8, 16 and 32, beside a plain classifier.

    Each level is a 1 x 1 convolution of its feature map, added to the level above, enlarged, and mixed by a depthwise
    separable convolution (multi-scale part supervision of PartImageNet++, Li et al. 2026, arXiv 2601.01454; there for a
    ResNet-50, here for any backbone with these strides). It runs in training only, so that inference costs what
    the plain classifier costs; what it learns reaches the label through the shared backbone.

    Args:
        channels: of the feature maps res3, res4 and res5.
        features: their names in the backbone.
        num_channels: P.
        width: channels of each level.
    """

    training_only = True
    gives_masks = False  # none that inference could show or an attack could aim at

    def __init__(self, channels: list[int], features: list[str], num_channels: int, width: int) -> None:
        super().__init__()
        self.features = features
        self.num_channels = num_channels
        self.bypasses = nn.ModuleList(
            nn.Sequential(nn.Conv2d(channel, width, 1, bias=False), nn.BatchNorm2d(width)) for channel in channels
        )
        self.mixers = nn.ModuleList(
            DepthwiseSeparableConv2d(width, width, 3, padding=1, norm1="BN", activation1=functional.gelu, norm2="BN")
            for _ in channels
        )
        self.predictors = nn.ModuleList(nn.Conv2d(width, 1 + num_channels, 1) for _ in channels)

    @classmethod
    def from_config(cls, cfg: CfgNode, shapes: dict[str, ShapeSpec], num_channels: int) -> AuxiliaryExtractor:
        """Raises ValueError where the backbone has no feature of one of the strides."""
        names = pyramid(shapes)
        missing = [name for name in LEVELS if name not in names]
        if missing:
            raise ValueError(
                f"the auxiliary extractor reads features of strides 8, 16 and 32, and the backbone has "
                f"{sorted(shape.stride for shape in shapes.values() if shape.stride)}: choose another "
                "MODEL.PART.BACKBONE.TIMM_NAME"
            )
        features = [names[name] for name in LEVELS]
        return cls(
            [shapes[name].channels for name in features], features, num_channels, cfg.MODEL.SEM_SEG_HEAD.CONVS_DIM
        )

    def forward(self, inputs: ExtractorInputs) -> PartEvidence:
        height, width = inputs.images.shape[-2:]
        found: list[Tensor] = []
        above: Tensor | None = None
        for name, bypass, mix, predict in reversed(
            list(zip(self.features, self.bypasses, self.mixers, self.predictors, strict=True))
        ):
            level = bypass(inputs.features[name])
            if above is not None:
                level = level + functional.interpolate(above, size=level.shape[-2:], mode="nearest")
            above = mix(functional.gelu(level))
            found.append(predict(above))
        return PartEvidence(found[-1], (height, width), coarser=tuple(found[-2::-1]))
