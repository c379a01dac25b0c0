"""Part extractors: features and images -> part evidence."""

from .base import Extractor, ExtractorInputs
from .oracle import OracleExtractor
from .segmenter import SegmenterExtractor

__all__ = ["Extractor", "ExtractorInputs", "OracleExtractor", "SegmenterExtractor"]
