"""Tables of models x threat models."""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tabulate import tabulate

FEW = 6  # columns of noise and corruptions that a table in a terminal has place for

Run = Mapping[str, Any]
Runs = Mapping[str, Run]


@dataclass(frozen=True)
class RobustColumn:
    """Robust accuracy under a threat model; two runs share a column only if the same attacks were used.

    Attributes:
        threat: such as ``linf 8/255``.
        attacks: names without the threat model, sorted: ``pgd-20`` is not ``pgd-100x5``.
        settings: of the attacks as JSON, since a name does not tell them all (queries, step size).
    """

    threat: str
    attacks: tuple[str, ...]
    settings: str

    @property
    def title(self) -> str:
        return f"{self.threat} ({', '.join(self.attacks)})"


def robust_columns(run: Run) -> dict[RobustColumn, float]:
    """Robust accuracy of a run by column. Noise of the same size is no attack and has no part in the number."""
    results = run["results"]
    settings = {name: one.get("settings", {}) for name, one in results["by_perturbation"].items()}
    columns = {}
    for threat, accuracy in results["robust_accuracy"].items():
        attacks = {
            name.removesuffix(threat).strip(): its
            for name, its in settings.items()
            if name.endswith(threat) and its.get("name") != "noise"
        }
        columns[RobustColumn(threat, tuple(sorted(attacks)), json.dumps(attacks, sort_keys=True))] = accuracy
    return columns


def _titles(columns: Sequence[RobustColumn]) -> list[str]:
    """Titles of columns; of those that would have the same one, with the settings in which they differ."""
    titles = []
    for column in columns:
        alike = [json.loads(one.settings) for one in columns if one.title == column.title]
        its = json.loads(column.settings)
        differing = [
            f"{attack} {key} {its[attack].get(key)}"
            for attack in its
            for key in sorted({key for one in alike for key in one[attack]})
            if any(one[attack].get(key) != its[attack].get(key) for one in alike)
        ]
        titles.append(f"{column.title}{': ' * bool(differing)}{', '.join(differing)}")
    return titles


def other_columns(run: Run) -> dict[str, float]:
    """Accuracy of a run under noise and single corruptions, by their names."""
    return {
        name: one["accuracy"]
        for name, one in run["results"]["by_perturbation"].items()
        if one.get("settings", {}).get("name") in ("noise", "corruption")
    }


def _columns(runs: Runs) -> list[RobustColumn]:
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
    measured = [*[f"robust % {title}" for title in _titles(columns)], *[f"{column} %" for column in shown]]
    headers = ["model", "clean %", *measured, "part mIoU %", "images", "seconds"]
    table = tabulate(rows, headers=headers, tablefmt=style, disable_numparse=True)
    lines = [f"(!) {note}" for note in notes]
    over = {tuple(sorted(parts)) for parts in map(_part_names, runs.values()) if parts}
    if len(over) > 1:
        lines.append(
            "(!) part mIoU % is a mean over other parts in some rows, which are not comparable with the others"
        )
    if others and not shown:
        lines.append(f"{len(others)} perturbations by noise and corruptions are not shown: see tools/make_report.py")
    return "\n".join([table, *([""] if lines else []), *lines])


def seeds_table(runs: Runs, style: str = "github") -> str:
    """One row a model: mean and standard deviation (n - 1) of the accuracies over its runs ``MODEL-seedN``.

    Raises:
        ValueError: the runs were evaluated on different images; a run is not named ``MODEL-seedN``; or the runs of a
            model were attacked in different ways, or trained with the same seed.
    """
    _check_same_images(runs)
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
        seeds = [run["seeds"]["training"] for run in members if "seeds" in run]
        if len(set(seeds)) < len(seeds):
            raise ValueError(f"the runs of {model} are no trainings of different seeds: {', '.join(map(str, seeds))}")
        rows.append(
            [
                model,
                len(members),
                _mean_and_spread([run["results"]["clean_accuracy"] for run in members]),
                *[_mean_and_spread([values[c] for values in robust]) if c in robust[0] else "-" for c in columns],
            ]
        )
    headers = ["model", "seeds", "clean %", *[f"robust % {title}" for title in _titles(columns)]]
    return tabulate(rows, headers=headers, tablefmt=style, disable_numparse=True)


def _part_names(run: Run) -> list[str]:
    """The parts that the mean IoU of a run is over."""
    return list((run["results"]["by_perturbation"]["clean"].get("part_segmentation") or {}).get("IoU") or {})


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}"


def _mean_and_spread(shares: list[float]) -> str:
    spread = f" ± {100 * statistics.stdev(shares):.1f}" if len(shares) > 1 else ""
    return f"{100 * statistics.mean(shares):.1f}{spread}"
