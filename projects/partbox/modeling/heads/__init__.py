"""Classification heads: part evidence (or, where a head says so, features) -> logits."""

from .base import EvidenceHead, FeatureHead
from .linear import LinearHead
from .part_box import PartBoxHead
from .part_to_class import PartToClassHead
from .pooling import PartPoolingHead
from .two_head import TwoHead

__all__ = [
    "EvidenceHead",
    "FeatureHead",
    "LinearHead",
    "PartBoxHead",
    "PartPoolingHead",
    "PartToClassHead",
    "TwoHead",
]
