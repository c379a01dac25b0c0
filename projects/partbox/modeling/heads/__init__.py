"""Classification heads: part evidence (or, where a head says so, the image or features) -> logits."""

from .base import DecoderHead, EvidenceHead, FeatureHead, Head, ImageHead
from .box_sequence import BoxSequenceHead
from .linear import LinearHead
from .masked_image import COMBINATIONS, MaskedImageHead, MaskNetworkHead, MaskReader
from .part_box import PartBoxHead
from .part_to_class import PartToClassHead
from .pooling import PartPoolingHead
from .two_head import DecoderTwoHead, TwoHead

__all__ = [
    "COMBINATIONS",
    "BoxSequenceHead",
    "DecoderHead",
    "DecoderTwoHead",
    "EvidenceHead",
    "FeatureHead",
    "Head",
    "ImageHead",
    "LinearHead",
    "MaskNetworkHead",
    "MaskReader",
    "MaskedImageHead",
    "PartBoxHead",
    "PartPoolingHead",
    "PartToClassHead",
    "TwoHead",
]
