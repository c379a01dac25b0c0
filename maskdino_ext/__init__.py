"""DINO and MaskDINO detectors as a detectron2 extension; knows nothing of partbox."""

__version__ = "0.1.0"
