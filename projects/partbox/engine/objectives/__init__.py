"""Training objectives: what one step minimises on a batch."""

from .adversarial import AdversarialObjective, MartObjective, MixedObjective, PGDObjective, TradesObjective
from .base import Batch, CleanObjective, TrainingObjective
from .single_step import NoisyFGSMObjective

__all__ = [
    "AdversarialObjective",
    "Batch",
    "CleanObjective",
    "MartObjective",
    "MixedObjective",
    "NoisyFGSMObjective",
    "PGDObjective",
    "TradesObjective",
    "TrainingObjective",
]
