"""Pixels of each image's segmentation, from the batches of an evaluation: what an interval of an IoU needs."""

from __future__ import annotations

import json
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
    found: dict[tuple[str, str], dict[Any, list[list[int]]]] = {}
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
                            found.setdefault((one["perturbation"], name), {}).setdefault(one["image_id"], entries)
                except (ValueError, KeyError, TypeError) as error:
                    raise ReportError(
                        f"{path}, line {number} is damaged ({error}): delete the file to redo its part"
                    ) from error
    return {key: _overlaps(images) for key, images in found.items()}


def _overlaps(images: dict[Any, list[list[int]]]) -> Overlaps:
    classes = 1 + max(max(true, seen) for entries in images.values() for true, seen, _ in entries)
    overlap, labelled, predicted = np.zeros((3, len(images), classes))
    for row, image in enumerate(sorted(images, key=str)):  # one order for all runs and processes
        for true, seen, pixels in images[image]:
            labelled[row, true] += pixels
            predicted[row, seen] += pixels
            if true == seen:
                overlap[row, true] += pixels
    return Overlaps(overlap[None], (labelled + predicted - overlap)[None], labelled[None])
