"""Pixels of each image's segmentation, from the batches of an evaluation: what an interval of an IoU needs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from .result_files import BATCHES, ReportError, Run

# group of results.json -> evaluator whose measurements are confusion matrices, [true, found, pixels] a line
EVALUATORS = {"part_segmentation": "PartSegmentationEvaluator", "sem_seg": "SemanticEvaluator"}


class Overlaps(NamedTuple):
    """Pixels of K runs, n images, C classes.

    Attributes:
        overlaps: (K, n, C) labelled as a class and found as it.
        unions: (K, n, C) labelled or found as it.
        labelled: (K, n, C).
    """

    overlaps: np.ndarray
    unions: np.ndarray
    labelled: np.ndarray


def read_overlaps(run: Run) -> dict[tuple[str, str], Overlaps]:
    """By perturbation and evaluator, K = 1; empty where the run has no folder of batches.

    Images whose parts are not labelled are left out, as in the results.

    Raises:
        ReportError: a file of the folder is damaged.
    """
    found: dict[tuple[str, str], dict[Any, np.ndarray]] = {}
    files = sorted((run.folder / BATCHES).glob("process-*.jsonl")) if run.folder is not None else []
    for path in files:
        with open(path, "rb") as file:
            for number, line in enumerate(file, start=1):
                if not line.endswith(b"\n"):  # cut by a kill; the batch was done again elsewhere
                    break
                if not any(name.encode() in line for name in EVALUATORS.values()):
                    continue
                try:
                    one = json.loads(line)
                    for name in EVALUATORS.values():
                        entries = one["measurements"].get(name)
                        if entries is not None:
                            lines = np.array(entries, dtype=np.int64).reshape(-1, 3)
                            found.setdefault((one["perturbation"], name), {}).setdefault(one["image_id"], lines)
                except (ValueError, KeyError, TypeError, OverflowError) as error:
                    raise ReportError(
                        f"{path}, line {number} is damaged ({error}): delete the file to redo its part"
                    ) from error
    return {key: _overlaps(images) for key, images in found.items()}


def _overlaps(images: Mapping[Any, np.ndarray]) -> Overlaps:
    classes = 1 + max((int(lines[:, :2].max(initial=0)) for lines in images.values()), default=0)
    overlap, labelled, predicted = np.zeros((3, len(images), classes))
    for row, image in enumerate(sorted(images, key=str)):  # one order for all runs and processes
        true, seen, pixels = images[image].T
        np.add.at(labelled[row], true, pixels)
        np.add.at(predicted[row], seen, pixels)
        same = true == seen
        np.add.at(overlap[row], true[same], pixels[same])
    return Overlaps(overlap[None], (labelled + predicted - overlap)[None], labelled[None])
