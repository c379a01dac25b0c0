"""Training objectives: what one step minimises on a batch."""

from .adversarial import AdversarialObjective, MartObjective, MixedObjective, PGDObjective, TradesObjective
from .base import Batch, CleanObjective, TrainingObjective
from .free import FreeObjective
from .single_step import NoisyFGSMObjective

__all__ = [
    "AdversarialObjective",
    "Batch",
    "CleanObjective",
    "FreeObjective",
    "MartObjective",
    "MixedObjective",
    "NoisyFGSMObjective",
    "PGDObjective",
    "TradesObjective",
    "TrainingObjective",
]
