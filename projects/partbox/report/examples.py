"""Example images that an evaluation keeps for pictures: what the model saw and what it found."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

FOLDER = "examples"  # of a run's folder
INDEX = "index.json"
SCHEMA_VERSION = 1


class ExamplesError(ValueError):
    """Example images that cannot be read; names the file."""


@dataclass(frozen=True)
class FoundPart:
    """A part or an object that the model found.

    Attributes:
        name: of the part or category.
        score: in [0, 1].
        box: (x0, y0, x1, y1) in pixels of the example's image.
    """

    name: str
    score: float
    box: tuple[float, float, float, float]


@dataclass(frozen=True, eq=False)
class Example:
    """One image under one perturbation.

    Attributes:
        image_id: as in the dataset file.
        perturbation: as in ``results.json``; ``clean`` is the unperturbed image.
        label: name of the true class; None from a detector or segmenter.
        prediction: name of the class that the model answers; None from a detector or segmenter.
        confidence: probability of that class.
        correct: of a classifier: it answers the label; of a detector: every labelled object is found; None where there
            is nothing to be right about (a segmenter, an image without objects).
        image: (H, W, 3) uint8 RGB, what the model saw.
        part_map: (H, W) int, 0 = background, k = ``part_names[k - 1]``; None from a model without masks.
        part_names: of the part map.
        boxes: parts or objects found, the surest first.
    """

    image_id: str
    perturbation: str
    label: str | None
    prediction: str | None
    confidence: float | None
    correct: bool | None
    image: np.ndarray
    part_map: np.ndarray | None
    part_names: tuple[str, ...]
    boxes: tuple[FoundPart, ...]


def read_examples(folder: str | Path) -> list[Example]:
    """The example images in ``examples/`` of a run: by perturbation in the order of the evaluation, always of the same
    images in the same order.

    Args:
        folder: with ``index.json``.

    Raises:
        ExamplesError: there is no index, or it is damaged or of another schema version; a picture is missing, damaged
            or of another size or kind than the index says. The file is named.
    """
    folder = Path(folder)
    path = folder / INDEX
    index = _read_index(path)
    try:
        names = tuple(str(name) for name in index["part_names"])
        return [_example(folder, entry, names) for entry in index["examples"]]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, ExamplesError):
            raise
        raise ExamplesError(f"{path} is damaged ({type(error).__name__}: {error}): evaluate again") from error


def _read_index(path: Path) -> Mapping[str, Any]:
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:  # ValueError: neither JSON nor UTF-8
        raise ExamplesError(f"{path} is damaged or cannot be read ({error}): evaluate again") from error
    version = index.get("schema_version") if isinstance(index, dict) else None
    if version != SCHEMA_VERSION:
        raise ExamplesError(f"{path} has schema version {version}, this partbox reads {SCHEMA_VERSION}: evaluate again")
    checked: Mapping[str, Any] = index
    return checked


def _example(folder: Path, entry: Mapping[str, Any], part_names: tuple[str, ...]) -> Example:
    image = _read_picture(folder, entry["image"], ("RGB",))
    part_map = None
    if entry["part_map"] is not None:
        part_map = _read_picture(folder, entry["part_map"], ("L", "I;16", "I")).astype(np.int32)
        if part_map.shape != image.shape[:2]:
            raise ExamplesError(f"{folder / entry['part_map']} has another size than {entry['image']}")
        if part_map.max(initial=0) > len(part_names):
            raise ExamplesError(f"{folder / entry['part_map']} has part {part_map.max()} of {len(part_names)}")
    confidence = entry["confidence"]
    return Example(
        image_id=str(entry["image_id"]),
        perturbation=str(entry["perturbation"]),
        label=_text(entry["label"]),
        prediction=_text(entry["prediction"]),
        confidence=None if confidence is None else float(confidence),
        correct=None if entry["correct"] is None else bool(entry["correct"]),
        image=image,
        part_map=part_map,
        part_names=part_names,
        boxes=tuple(_found(box) for box in entry["boxes"]),
    )


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def _found(entry: Mapping[str, Any]) -> FoundPart:
    x0, y0, x1, y1 = (float(value) for value in entry["box"])
    return FoundPart(str(entry["name"]), float(entry["score"]), (x0, y0, x1, y1))


def _read_picture(folder: Path, name: str, modes: tuple[str, ...]) -> np.ndarray:
    path = folder / name
    if Path(name).name != name:  # an index from somewhere else must not open files outside its folder
        raise ExamplesError(f"{folder / INDEX} names {name!r}, which is no file of its folder: evaluate again")
    try:
        with Image.open(path, formats=("PNG",)) as picture:
            if picture.mode not in modes:
                raise ExamplesError(f"{path} is a picture of mode {picture.mode}, expected {' or '.join(modes)}")
            return np.array(picture)
    except (OSError, SyntaxError) as error:  # SyntaxError: what Pillow calls a broken PNG
        raise ExamplesError(f"{path} is missing or damaged ({error}): evaluate again") from error
