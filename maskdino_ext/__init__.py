"""DINO and Mask DINO detectors as a detectron2 extension; knows nothing of partbox."""

from .config import add_maskdino_config
from .registration import register_detectors

__all__ = ["add_maskdino_config", "register_detectors"]
__version__ = "0.1.0"
