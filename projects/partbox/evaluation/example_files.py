"""Example images as files: in the store of an unfinished evaluation, and for whoever looks at a finished one."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from partbox.files import whole_folder, write_text

from .examples import Example
from .record_files import writing

SCHEMA_VERSION = 1  # of the folder; partbox.report.examples reads it
FACTS = ("image_id", "label", "prediction", "confidence", "correct")
ARRAYS = ("image", "part_map", "boxes", "scores", "categories")


def to_arrays(examples: Sequence[Example]) -> dict[str, np.ndarray]:
    """Plain arrays of examples, for :func:`partbox.evaluation.record_files.write_arrays`."""
    facts = [{name: getattr(one, name) for name in FACTS} for one in examples]
    arrays = {"facts": np.array(json.dumps(facts))}
    for i, one in enumerate(examples):
        arrays |= {f"{name}_{i}": getattr(one, name) for name in ARRAYS if getattr(one, name) is not None}
    return arrays


def from_arrays(arrays: Mapping[str, np.ndarray]) -> list[Example]:
    """What :func:`to_arrays` was given.

    Raises:
        KeyError, TypeError, ValueError: the arrays are others.
    """
    facts = json.loads(str(arrays["facts"]))
    examples = []
    for i, one in enumerate(facts):
        values: dict[str, Any] = {name: arrays[f"{name}_{i}"] for name in ARRAYS if name != "part_map"}
        examples.append(Example(**one, **values, part_map=arrays.get(f"part_map_{i}")))
    return examples


def write_examples(
    folder: str | Path,
    examples: Mapping[str, Sequence[Example]],
    *,
    class_names: Sequence[str],
    part_names: Sequence[str],
    score: float,
) -> None:
    """Write ``index.json`` and a lossless PNG for each image and part map, the whole folder or nothing.

    A folder that is there already is replaced as a whole. Files are numbered: ids and names may hold any characters.

    Args:
        folder: to write.
        examples: by perturbation, the same images in the same order under each.
        class_names: of the labels and predictions.
        part_names: of the part maps and boxes.
        score: boxes below it are left out.

    Raises:
        RecordsError: something cannot be written.
    """
    folder, number = Path(folder), 0
    entries: list[dict[str, Any]] = []
    with writing(folder, "example pictures"), whole_folder(folder) as new:
        for perturbation, its in examples.items():
            for one in its:
                files = _write_pictures(new, f"{number:05d}", one, wide=len(part_names) > 255)
                entries.append({"perturbation": perturbation, **_entry(one, class_names, part_names, score), **files})
                number += 1
        index = {"schema_version": SCHEMA_VERSION, "part_names": list(part_names), "score": score, "examples": entries}
        write_text(new / "index.json", json.dumps(index, indent=1, allow_nan=False))


def _write_pictures(folder: Path, name: str, example: Example, *, wide: bool) -> dict[str, str | None]:
    """The files of an example by their keys of the index."""
    files: dict[str, str | None] = {"image": f"{name}.png", "part_map": None}
    Image.fromarray(example.image).save(folder / f"{name}.png")
    if example.part_map is not None:
        files["part_map"] = f"{name}_parts.png"
        Image.fromarray(example.part_map.astype(np.uint16 if wide else np.uint8)).save(folder / f"{name}_parts.png")
    return files


def _entry(example: Example, class_names: Sequence[str], part_names: Sequence[str], score: float) -> dict[str, Any]:
    boxes = [
        {"name": part_names[category], "score": float(sure), "box": [float(side) for side in box]}
        for box, sure, category in zip(example.boxes, example.scores, example.categories, strict=True)
        if sure >= score
    ]
    return {
        "image_id": example.image_id,
        "label": None if example.label is None else class_names[example.label],
        "prediction": None if example.prediction is None else class_names[example.prediction],
        "confidence": example.confidence,
        "correct": example.correct,
        "boxes": boxes,
    }
