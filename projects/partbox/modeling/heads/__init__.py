"""Classification heads: part evidence (or, where a head says so, features) -> logits."""

from .base import EvidenceHead, FeatureHead
from .box_sequence import BoxSequenceHead
from .linear import LinearHead
from .part_box import PartBoxHead
from .part_to_class import PartToClassHead
from .pooling import PartPoolingHead
from .two_head import TwoHead

__all__ = [
    "BoxSequenceHead",
    "EvidenceHead",
    "FeatureHead",
    "LinearHead",
    "PartBoxHead",
    "PartPoolingHead",
    "PartToClassHead",
    "TwoHead",
]
