"""partbox: object recognisers that see parts, and measurements of how robust they really are."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from .api import EvaluationResult, ImageInputError, Model, Part, Prediction, evaluate, load
    from .config import add_partbox_config
    from .data import PartDataset, PartDatasetError, load_part_dataset, register_part_dataset
    from .modeling import PartClassifier

__all__ = [
    "EvaluationResult",
    "ImageInputError",
    "Model",
    "Part",
    "PartClassifier",
    "PartDataset",
    "PartDatasetError",
    "Prediction",
    "add_partbox_config",
    "evaluate",
    "load",
    "load_part_dataset",
    "register_all",
    "register_part_dataset",
]

_HOMES = {
    **dict.fromkeys(("EvaluationResult", "ImageInputError", "Model", "Part", "Prediction", "evaluate", "load"), "api"),
    "PartClassifier": "modeling",
    "PartDataset": "data",
    "PartDatasetError": "data",
    "add_partbox_config": "config",
    "load_part_dataset": "data",
    "register_part_dataset": "data",
}


def __getattr__(name: str) -> Any:
    """Import public names on first use, so that ``import partbox.attacks`` needs no detectron2."""
    if name not in _HOMES:
        raise AttributeError(f"module 'partbox' has no attribute {name!r}")
    from importlib import import_module

    with _explained_imports():
        return getattr(import_module(f".{_HOMES[name]}", __name__), name)


@contextmanager
def _explained_imports() -> Iterator[None]:
    """Say what to do where detectron2 is missing."""
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] != "detectron2":
            raise
        raise ImportError(
            "partbox needs detectron2, which is not installed here: run 'bash scripts/setup_env.sh' in the repository, "
            "or install detectron2 from its official source (README, 'With an official detectron2')"
        ) from error


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def register_all(root: str | Path | None = None) -> None:
    """Register the meta-architecture, the timm backbones and the built-in datasets with detectron2.

    The one place that registers anything; calling it again changes nothing.

    Args:
        root: folder of the datasets; default ``$DETECTRON2_DATASETS``, else ``datasets_root``.
    """
    with _explained_imports():
        from .modeling.registration import register_models

    from .data import register_builtin_datasets

    register_models()
    register_builtin_datasets(root if root is None else Path(root))
