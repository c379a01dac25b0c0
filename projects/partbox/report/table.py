"""The table of models x threat models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tabulate import tabulate


def results_table(runs: Mapping[str, Mapping[str, Any]], style: str = "github") -> str:
    """One row a run: clean accuracy, robust accuracy under each threat model, part mIoU, images, seconds.

    Args:
        runs: contents of ``results.json`` by the name of the run.
        style: of the ``tabulate`` package.
    """
    threats: list[str] = []
    for run in runs.values():
        threats += [threat for threat in run["results"]["robust_accuracy"] if threat not in threats]
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


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}"
