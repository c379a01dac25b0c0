"""Trained models as ONNX files that run without torch, detectron2 and partbox."""

from .capture import OPSETS
from .errors import ExportError
from .export import Exported, ExportOptions, export_onnx

__all__ = ["OPSETS", "ExportError", "ExportOptions", "Exported", "export_onnx"]
