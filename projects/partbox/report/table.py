"""Tables of models x threat models."""

from __future__ import annotations

import re
import statistics
from collections.abc import Mapping
from typing import Any

from tabulate import tabulate

FEW = 6  # columns of noise and corruptions that a table in a terminal has place for

Run = Mapping[str, Any]
Runs = Mapping[str, Run]


def robust_columns(run: Run) -> dict[str, float]:
    """Robust accuracy of a run by threat model and the attacks that it was measured with.

    Two runs share a column only if the same attacks were used: ``linf 8/255 (pgd-20)`` is not ``(pgd-100x5)``. Noise
    of the same size is no attack and has no part in the number.
    """
    results = run["results"]
    entries = results["by_perturbation"]
    attacking = [name for name, one in entries.items() if one.get("settings", {}).get("name") != "noise"]
    columns = {}
    for threat, accuracy in results["robust_accuracy"].items():
        attacks = [name.removesuffix(threat).strip() for name in attacking if name.endswith(threat)]
        columns[f"{threat} ({', '.join(attacks)})"] = accuracy
    return columns


def other_columns(run: Run) -> dict[str, float]:
    """Accuracy of a run under noise and single corruptions, by their names."""
    return {
        name: one["accuracy"]
        for name, one in run["results"]["by_perturbation"].items()
        if one.get("settings", {}).get("name") in ("noise", "corruption")
    }


def _columns(runs: Runs) -> list[str]:
    """Columns of all runs, in order of appearance."""
    return list(dict.fromkeys(column for run in runs.values() for column in robust_columns(run)))


def _check_same_images(runs: Runs) -> None:
    seen = {(run["dataset"]["name"], f"{run['dataset']['images']} images{_drawn(run)}") for run in runs.values()}
    if len(seen) > 1:
        found = ", ".join(f"{name} ({images})" for name, images in sorted(seen))
        raise ValueError(f"these runs were evaluated on different images, one table would mislead: {found}")


def _drawn(run: Run) -> str:
    """How the images were drawn, where they are not all of the data set."""
    data = run["dataset"]
    drawn = data["images"] != data.get("of", data["images"])
    return f" drawn with ROBUST_EVAL.SEED {run['seeds']['evaluation']}" if drawn else ""


def results_table(runs: Runs, style: str = "github") -> str:
    """One row a run: clean accuracy, robust accuracy under each threat model, accuracy under noise and a few single
    corruptions, part mIoU, images, seconds.

    Warnings of the evaluations follow below the table; there, too, it is said where noise and corruptions are more
    than FEW and have no columns.

    Args:
        runs: contents of ``results.json`` by the name of the run.
        style: of the ``tabulate`` package.

    Raises:
        ValueError: the runs were evaluated on different images.
    """
    _check_same_images(runs)
    columns = _columns(runs)
    others = list(dict.fromkeys(column for run in runs.values() for column in other_columns(run)))
    shown = others if len(others) <= FEW else []
    rows, notes = [], []
    for name, run in runs.items():
        results = run["results"]
        parts = results["by_perturbation"]["clean"].get("part_segmentation")
        robust = robust_columns(run)
        notes += [f"{name}: {warning}" for warning in results["warnings"]]
        rows.append(
            [
                name + (" (!)" if results["warnings"] else ""),
                _percent(results["clean_accuracy"]),
                *[_percent(robust.get(column)) for column in columns],
                *[_percent(other_columns(run).get(column)) for column in shown],
                _percent(parts["mIoU"]) if parts else "-",
                results["images"],
                f"{run['seconds']:.0f}",
            ]
        )
    measured = [*[f"robust % {column}" for column in columns], *[f"{column} %" for column in shown]]
    headers = ["model", "clean %", *measured, "part mIoU %", "images", "seconds"]
    table = tabulate(rows, headers=headers, tablefmt=style, disable_numparse=True)
    lines = [f"(!) {note}" for note in notes]
    if others and not shown:
        lines.append(f"{len(others)} perturbations by noise and corruptions are not shown: see tools/make_report.py")
    return "\n".join([table, *([""] if lines else []), *lines])


def seeds_table(runs: Runs, style: str = "github") -> str:
    """One row a model: mean and standard deviation (n - 1) of the accuracies over its runs ``MODEL-seedN``.

    Raises:
        ValueError: a run is not named ``MODEL-seedN``, or one of a model's runs lacks an attack that another one has.
    """
    groups: dict[str, list[Run]] = {}
    for name, run in runs.items():
        match = re.fullmatch(r"(.+)-seed\d+", name)
        if not match:
            raise ValueError(f"run {name!r} is not named MODEL-seedN")
        groups.setdefault(match.group(1), []).append(run)
    columns = _columns(runs)
    rows = []
    for model, members in groups.items():
        robust = [robust_columns(run) for run in members]
        if any(values.keys() != robust[0].keys() for values in robust):
            raise ValueError(f"the runs of {model} were not attacked in the same way")
        rows.append(
            [
                model,
                len(members),
                _mean_and_spread([run["results"]["clean_accuracy"] for run in members]),
                *[_mean_and_spread([values[c] for values in robust]) if c in robust[0] else "-" for c in columns],
            ]
        )
    headers = ["model", "seeds", "clean %", *[f"robust % {column}" for column in columns]]
    return tabulate(rows, headers=headers, tablefmt=style, disable_numparse=True)


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}"


def _mean_and_spread(shares: list[float]) -> str:
    spread = f" ± {100 * statistics.stdev(shares):.1f}" if len(shares) > 1 else ""
    return f"{100 * statistics.mean(shares):.1f}{spread}"
