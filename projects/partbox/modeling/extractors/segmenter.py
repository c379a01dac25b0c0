"""A DeepLabV3+ segmenter (detectron2's) as part extractor."""

from __future__ import annotations

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.projects.deeplab import DeepLabV3PlusHead
from torch import Tensor, nn

from ..evidence import PartEvidence
from .base import Extractor, ExtractorInputs


def choose_features(shapes: dict[str, ShapeSpec], wanted: list[str], common_stride: int) -> list[str]:
    """Names of the feature maps that the decoder reads.

    ``wanted`` if it names maps that exist; else the deepest map and the deepest map at ``common_stride``, so that
    one configuration serves every backbone.

    Raises:
        ValueError: no map of that stride.
    """
    if all(name in shapes for name in wanted):
        return wanted
    names = list(shapes)
    fine = [name for name in names if shapes[name].stride == common_stride]
    if not fine or fine[-1] == names[-1]:
        strides = {name: shapes[name].stride for name in names}
        raise ValueError(
            f"the backbone has no feature map of stride MODEL.SEM_SEG_HEAD.COMMON_STRIDE = {common_stride} "
            f"below its last one; it has {strides}"
        )
    return [fine[-1], names[-1]]


class SegmenterExtractor(Extractor):
    """Soft part masks at the decoder's stride (``MODEL.SEM_SEG_HEAD``), from a shared backbone.

    Args:
        decoder: gives features (B, C, h, w) through ``layers(features)``, and of those mask logits (B, 1 + P, h, w)
            through ``predictor``.
        num_channels: P.
    """

    def __init__(self, decoder: DeepLabV3PlusHead, num_channels: int) -> None:
        super().__init__()
        self.decoder = decoder
        decoder.decoder_only = True  # layers() stops before the predictor
        self.num_channels = num_channels
        self.decoder_channels = decoder.predictor.in_channels
        self.decoder_stride = decoder.common_stride

    @classmethod
    def from_config(cls, cfg: CfgNode, shapes: dict[str, ShapeSpec], num_channels: int) -> SegmenterExtractor:
        head = cfg.MODEL.SEM_SEG_HEAD
        chosen = choose_features(shapes, list(head.IN_FEATURES), head.COMMON_STRIDE)
        decoder = DeepLabV3PlusHead(
            input_shape={name: shapes[name] for name in chosen},
            project_channels=list(head.PROJECT_CHANNELS)[-(len(chosen) - 1) :],
            aspp_dilations=list(head.ASPP_DILATIONS),
            aspp_dropout=head.ASPP_DROPOUT,
            decoder_channels=[head.CONVS_DIM] * (len(chosen) - 1) + [head.ASPP_CHANNELS],
            common_stride=head.COMMON_STRIDE,
            norm=head.NORM,
            train_size=None,
            num_classes=1 + num_channels,
            use_depthwise_separable_conv=head.USE_DEPTHWISE_SEPARABLE_CONV,
        )
        # detectron2 starts these weights at a standard deviation of 0.001: hardly any gradient reaches the decoder
        # then, and the masks stay at "background everywhere" for hundreds of iterations.
        nn.init.kaiming_normal_(decoder.predictor.weight, nonlinearity="linear")
        return cls(decoder, num_channels)

    def decode(self, inputs: ExtractorInputs) -> Tensor:
        decoded: Tensor = self.decoder.layers(inputs.features)
        return decoded

    def evidence_of(self, decoded: Tensor, inputs: ExtractorInputs) -> PartEvidence:
        height, width = inputs.images.shape[-2:]
        return PartEvidence(self.decoder.predictor(decoded), (height, width))

    def forward(self, inputs: ExtractorInputs) -> PartEvidence:
        return self.evidence_of(self.decode(inputs), inputs)
