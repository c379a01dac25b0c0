"""Makes part datasets from labels as their owners publish them; behind the scripts ``datasets/prepare_*.py``."""

from .coco_preparation import CocoOptions, prepare_parts
from .coco_relations import RelationOptions
from .object_crops import CropSettings
from .options import PrepareOptions
from .prepare import prepare_photos
from .report import PreparationReport

__all__ = [
    "CocoOptions",
    "CropSettings",
    "PreparationReport",
    "PrepareOptions",
    "RelationOptions",
    "prepare_parts",
    "prepare_photos",
]
