"""Part classifiers as detectron2 models."""

from .evidence import PartEvidence
from .part_classifier import PartClassifier, PartOutput, PartTargets

__all__ = ["PartClassifier", "PartEvidence", "PartOutput", "PartTargets"]
