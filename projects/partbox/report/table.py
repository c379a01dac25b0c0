"""Tables of models x threat models."""

from __future__ import annotations

import re
import statistics
from collections.abc import Mapping
from typing import Any

from tabulate import tabulate

Runs = Mapping[str, Mapping[str, Any]]


def _threats(runs: Runs) -> list[str]:
    """Threat models of all runs, in order of appearance."""
    return list(dict.fromkeys(threat for run in runs.values() for threat in run["results"]["robust_accuracy"]))


def results_table(runs: Runs, style: str = "github") -> str:
    """One row a run: clean accuracy, robust accuracy under each threat model, part mIoU, images, seconds.

    Args:
        runs: contents of ``results.json`` by the name of the run.
        style: of the ``tabulate`` package.
    """
    threats = _threats(runs)
    rows = []
    for name, run in runs.items():
        results = run["results"]
        parts = results["by_perturbation"]["clean"].get("part_segmentation")
        robust = [results["robust_accuracy"].get(threat) for threat in threats]
        rows.append(
            [
                name,
                _percent(results["clean_accuracy"]),
                *[_percent(value) for value in robust],
                _percent(parts["mIoU"]) if parts else "-",
                results["images"],
                f"{run['seconds']:.0f}",
            ]
        )
    headers = ["model", "clean %", *[f"robust % ({threat})" for threat in threats], "part mIoU %", "images", "seconds"]
    return tabulate(rows, headers=headers, tablefmt=style, disable_numparse=True)


def seeds_table(runs: Runs, style: str = "github") -> str:
    """One row a model: mean and standard deviation (n - 1) of the accuracies over its runs ``MODEL-seedN``.

    Raises:
        ValueError: a run is not named ``MODEL-seedN``.
    """
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for name, run in runs.items():
        match = re.fullmatch(r"(.+)-seed\d+", name)
        if not match:
            raise ValueError(f"run {name!r} is not named MODEL-seedN")
        groups.setdefault(match.group(1), []).append(run["results"])
    threats = _threats(runs)
    rows = [
        [
            model,
            len(results),
            _mean_and_spread([entry["clean_accuracy"] for entry in results]),
            *[_mean_and_spread([entry["robust_accuracy"][threat] for entry in results]) for threat in threats],
        ]
        for model, results in groups.items()
    ]
    headers = ["model", "seeds", "clean %", *[f"robust % ({threat})" for threat in threats]]
    return tabulate(rows, headers=headers, tablefmt=style, disable_numparse=True)


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}"


def _mean_and_spread(shares: list[float]) -> str:
    spread = f" ± {100 * statistics.stdev(shares):.1f}" if len(shares) > 1 else ""
    return f"{100 * statistics.mean(shares):.1f}{spread}"
