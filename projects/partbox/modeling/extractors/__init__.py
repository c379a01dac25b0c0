"""Part extractors: features and images -> part evidence."""

from .auxiliary import AuxiliaryExtractor
from .base import Extractor, ExtractorInputs, PartObjects
from .detector import DetectorExtractor, DinoExtractor, MaskDinoExtractor
from .oracle import OracleExtractor
from .segmenter import SegmenterExtractor

__all__ = [
    "AuxiliaryExtractor",
    "DetectorExtractor",
    "DinoExtractor",
    "Extractor",
    "ExtractorInputs",
    "MaskDinoExtractor",
    "OracleExtractor",
    "PartObjects",
    "SegmenterExtractor",
]
