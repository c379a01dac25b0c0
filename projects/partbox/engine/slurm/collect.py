"""The results of a sweep in one file: every cell with its results, or with the reason why it has none."""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from partbox.evaluation.record_files import RecordsError, read_object, writing
from partbox.files import write_text

from ..checks import ConfigError
from ..run_folder import NO_EFFECT, settings_of
from .plan import Cell
from .status import CellStatus

RESULTS = "sweep_results.json"
SHOWN = 6  # perturbations of one cell that the summary names; a family of corruptions has 75
# evaluator's entry, metric, factor to a share
METRICS = (("bbox", "AP", 0.01), ("segm", "AP", 0.01), ("sem_seg", "mIoU", 1.0), ("part_segmentation", "mIoU", 1.0))
PROVENANCE = ("created", "config_hash", "dataset", "device", "seeds", "versions", "weights")
MAY_DIFFER = (*NO_EFFECT, "SEED", "MODEL.WEIGHTS")  # between seeds of one configuration


def collect(folder: Path, cells: Sequence[Cell], statuses: Sequence[CellStatus]) -> dict[str, Any]:
    """Merge the results of the evaluations, or of the trainings where there are no others, into one file.

    Raises:
        ConfigError: no cell has results.
        RecordsError: results of a cell are damaged, or are of another seed than the plan's; they cannot be written.
    """
    evaluations = [cell for cell in cells if cell.kind == "evaluate"] or list(cells)
    found: list[dict[str, Any]] = []
    settings: dict[tuple[str, str], dict[str, str]] = {}
    missing: list[dict[str, Any]] = []
    status_of = {status.name: status for status in statuses}
    for cell in evaluations:
        status = status_of[cell.name]
        if cell.finished:
            entry, settings_text = _entry(cell, status)
            found.append(entry)
            settings.setdefault((cell.config, cell.perturbation), {})[cell.name] = settings_text
        else:
            missing.append({**_identity(cell), "state": status.state, "reason": _why(cell, status, status_of)})
    if not found:
        raise ConfigError(f"no cell of {folder} has results yet; 'status {folder}' says why")
    document = {
        "schema_version": 1,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "cells": found,
        "missing": missing,
        "summary": summary_of(evaluations, found),
        "warnings": [words for of_seeds in settings.values() for words in differing_settings(of_seeds)],
    }
    with writing(folder / RESULTS, "the results of the sweep"):
        write_text(folder / RESULTS, json.dumps(document, indent=2, allow_nan=False) + "\n")
    return document


def _identity(cell: Cell) -> dict[str, Any]:
    return {
        "name": cell.name,
        "config": cell.config,
        "seed": cell.seed,
        "perturbation": cell.perturbation,
        "folder": cell.output,
    }


def _entry(cell: Cell, status: CellStatus) -> tuple[dict[str, Any], str]:
    """What the file holds of a cell, and the configuration that it was made with, as text."""
    path = Path(cell.output) / "results.json"
    results = read_object(path, "delete it and submit again: it is computed from the records")
    try:
        values, provenance = results["results"], {name: results.get(name) for name in PROVENANCE}
    except KeyError:
        raise RecordsError(f"{path} is no results file of partbox: delete it and submit again") from None
    if results.get("seeds", {}).get("training", cell.seed) != cell.seed:
        raise RecordsError(f"{path} is of seed {results['seeds']['training']}, and the plan says {cell.seed}")
    entry = {**_identity(cell), "job": status.job, "provenance": provenance, "results": values}
    return entry, results.get("config", "")


def differing_settings(configurations: Mapping[str, str]) -> list[str]:
    """What cells that only their seed should tell apart have different, in sentences: their mean means nothing.

    Such as where the file of the configuration was edited between two submissions.

    Args:
        configurations: name of a cell -> complete configuration, as YAML.
    """
    (first, text), *others = configurations.items()
    unlike = [(name, other) for name, other in others if _without_own(other) != _without_own(text)]
    one = settings_of(text, MAY_DIFFER) if unlike else {}  # reading YAML takes a while
    sentences = []
    for name, other in unlike:
        two = settings_of(other, MAY_DIFFER)
        changed = [key for key in sorted(one.keys() | two.keys()) if one.get(key) != two.get(key)]
        shown = "; ".join(f"{key} is {one.get(key)!r} and {two.get(key)!r}" for key in changed[:3])
        if changed:
            sentences.append(f"{first} and {name} were made with different settings: {shown}")
    return sentences


def _without_own(text: str) -> str:
    """A configuration's text without the lines that each cell has its own of."""
    return re.sub(r"(?m)^(SEED|OUTPUT_DIR|  WEIGHTS): .*\n", "", text)


def _why(cell: Cell, status: CellStatus, status_of: Mapping[str, CellStatus]) -> str:
    training = status_of.get(cell.training)
    if training is not None and training.failed:
        return f"its training {training.name} failed: {training.reason}"
    return status.reason or status.progress or "it has not ended"


def metrics_of(results: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """The numbers of an evaluation that a table shows, as shares; clean ones alone where nothing else was measured."""
    entries = results["by_perturbation"]
    names = [name for name in entries if name != "clean"] or ["clean"]
    for name in names if len(names) <= SHOWN else ():
        if "accuracy" in entries[name]:
            yield f"accuracy, {name}", entries[name]["accuracy"]
        for evaluator, metric, factor in METRICS:
            value = entries[name].get(evaluator, {}).get(metric)
            if value is not None:
                yield f"{evaluator} {metric}, {name}", value * factor
    for threat, accuracy in results.get("robust_accuracy", {}).items():
        yield f"robust accuracy, {threat}", accuracy
    for name, table in results.get("performance_under_corruptions", {}).items():
        for metric in ("mPC", "rPC"):
            if table.get(metric) is not None:
                yield f"{metric} of {name}", table[metric]


def summary_of(cells: Sequence[Cell], found: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Mean and standard deviation (n - 1) over seeds, by configuration, perturbation and metric.

    ``missing_seeds`` are those of the plan that have no results: a mean without them is not what was asked for.
    """
    planned: dict[tuple[str, str], list[int]] = {}
    for cell in cells:
        planned.setdefault((cell.config, cell.perturbation), []).append(cell.seed)
    values: dict[tuple[str, str, str], dict[int, float]] = {}
    for entry in found:
        for metric, value in metrics_of(entry["results"]):
            values.setdefault((entry["config"], entry["perturbation"], metric), {})[entry["seed"]] = value
    rows = []
    for (config, perturbation), seeds in planned.items():
        metrics = [metric for one, other, metric in values if (one, other) == (config, perturbation)]
        for metric in metrics:
            by_seed = values[config, perturbation, metric]
            rows.append(
                {
                    "config": config,
                    "perturbation": perturbation,
                    "metric": metric,
                    "by_seed": {str(seed): by_seed[seed] for seed in sorted(by_seed)},
                    "mean": statistics.mean(by_seed.values()),
                    "standard_deviation": statistics.stdev(by_seed.values()) if len(by_seed) > 1 else None,
                    "missing_seeds": sorted(set(seeds) - by_seed.keys()),
                }
            )
    return rows
