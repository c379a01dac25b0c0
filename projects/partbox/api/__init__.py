"""partbox from Python: load a trained model, ask it about images, evaluate it."""

from .evaluation import EvaluationResult, evaluate
from .images import ImageInput, ImageInputError
from .loading import load
from .models import Model
from .prediction import Part, Prediction

__all__ = [
    "EvaluationResult",
    "ImageInput",
    "ImageInputError",
    "Model",
    "Part",
    "Prediction",
    "evaluate",
    "load",
]
