"""Part classifiers as detectron2 models."""

from .evidence import PartEvidence
from .outputs import PartOutput, PartTargets
from .part_classifier import PartClassifier

__all__ = ["PartClassifier", "PartEvidence", "PartOutput", "PartTargets"]
