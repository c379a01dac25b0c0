"""Robust evaluation: dataset x perturbation x evaluator."""

from partbox.data.loader import ImageError

from .batches import RecordBatches
from .corruption_mapper import CorruptionMapper
from .detectron2_subject import DetectorSubject, SegmenterSubject, labelled_test_mapper
from .perturbations import Perturbation, build_perturbation, build_perturbations
from .run import Evaluation, evaluate, self_checks
from .store import RecordsError, RecordStore

__all__ = [
    "CorruptionMapper",
    "DetectorSubject",
    "Evaluation",
    "ImageError",
    "Perturbation",
    "RecordBatches",
    "RecordStore",
    "RecordsError",
    "SegmenterSubject",
    "build_perturbation",
    "build_perturbations",
    "evaluate",
    "labelled_test_mapper",
    "self_checks",
]
