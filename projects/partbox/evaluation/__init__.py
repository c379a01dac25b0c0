"""Robust evaluation: dataset x perturbation x evaluator."""

from .perturbations import Perturbation, build_perturbation, build_perturbations
from .run import Evaluation, evaluate

__all__ = ["Evaluation", "Perturbation", "build_perturbation", "build_perturbations", "evaluate"]
