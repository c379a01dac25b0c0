"""Accuracy against the cost of labels: a table and a plot from the summary of a label-budget sweep."""

from __future__ import annotations

import io
import json
import statistics
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from tabulate import tabulate

from partbox.files import write_atomically, write_text

from .learning_curves import GREEN, ORANGE, PURPLE

PLOT, TABLE = "label_budget.png", "label_budget.md"

Summary = Mapping[str, Any]
Budget = tuple[float, float]


def read_summary(folder: str | Path) -> dict[str, Any]:
    """``label_budget.json`` of a sweep."""
    summary: dict[str, Any] = json.loads((Path(folder) / "label_budget.json").read_text(encoding="utf-8"))
    return summary


def _by_budget(summary: Summary) -> dict[Budget, list[dict[str, Any]]]:
    """Runs of each (mask share, box share), cheapest budget first."""
    groups: dict[Budget, list[dict[str, Any]]] = defaultdict(list)
    for run in sorted(summary["runs"], key=lambda run: (run["hours"], run["mask_share"], run["seed"])):
        groups[run["mask_share"], run["box_share"]].append(run)
    return dict(groups)


def threats_of_sweep(summary: Summary) -> list[str]:
    """Threat models that any run of a sweep was attacked under."""
    return list(dict.fromkeys(threat for run in summary["runs"] for threat in run["robust_accuracy"]))


def _spread(values: list[float]) -> str:
    mean = 100 * statistics.fmean(values)
    return f"{mean:.1f} ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else f"{mean:.1f}"


def budget_rows(summary: Summary) -> tuple[list[str], list[list[Any]]]:
    """Headings, and one row a budget: what it labels and costs, mean ± standard deviation (n - 1) over the seeds."""
    threats = threats_of_sweep(summary)
    rows = []
    for (masks, boxes), runs in _by_budget(summary).items():
        first = runs[0]
        robust = [[run["robust_accuracy"][t] for run in runs if t in run["robust_accuracy"]] for t in threats]
        rows.append(
            [
                f"{100 * masks:g}",
                f"{100 * boxes:g}",
                first["images_with_masks"],
                first["images_with_boxes"],
                first["labelled_parts"],
                f"{first['hours']:.1f}",
                len(runs),
                _spread([run["clean_accuracy"] for run in runs]),
                *[_spread(values) if values else "-" for values in robust],
            ]
        )
    headers = ["masks %", "boxes %", "images with masks", "with boxes", "labelled parts", "hours", "seeds", "clean %"]
    return [*headers, *[f"robust % {t}" for t in threats]], rows


def budget_notes(summary: Summary) -> list[str]:
    """Unreliable results, and what is not finished."""
    notes = [f"(!) {run['run']}: {reason}" for run in summary["runs"] for reason in run["unreliable"]]
    return notes + ([f"not finished: {', '.join(summary['missing'])}"] if summary["missing"] else [])


def label_budget_table(summary: Summary) -> str:
    """The rows of :func:`budget_rows`, then the cost of a label and the notes."""
    headers, rows = budget_rows(summary)
    table = tabulate(rows, headers=headers, tablefmt="github", disable_numparse=True)
    cost = f"Cost: {summary['seconds_per_box']:g} s a box, {summary['seconds_per_mask']:g} s a mask."
    return "\n".join([table, "", cost, *budget_notes(summary)])


def save_label_budget_report(folder: str | Path) -> tuple[Path, Path]:
    """Draw ``label_budget.png`` and write ``label_budget.md`` beside the summary; their paths."""
    folder = Path(folder)
    summary = read_summary(folder)
    figure = Figure(figsize=(5 * (1 + len(threats_of_sweep(summary))), 4), layout="constrained")
    panels = figure.subplots(1, 1 + len(threats_of_sweep(summary)), squeeze=False)[0]
    draw_label_cost(panels[0], summary, "clean", None)
    for axes, threat in zip(panels[1:], threats_of_sweep(summary), strict=True):
        draw_label_cost(axes, summary, f"robust, {threat}", threat)
    figure.suptitle(f"{summary['dataset']}, {summary['training_images']} training images")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120, metadata={"Software": None})
    write_atomically(folder / PLOT, lambda file: file.write(buffer.getvalue()))
    write_text(folder / TABLE, label_budget_table(summary) + "\n")
    return folder / PLOT, folder / TABLE


def draw_label_cost(axes: Axes, summary: Summary, title: str, threat: str | None) -> None:
    """A curve for boxes alone, for masks alone, and for mixtures; each seed a point, their mean the line."""
    budgets = _by_budget(summary)
    kinds = {
        "boxes": (GREEN, "o", [b for b in budgets if b[0] == 0]),
        "masks": (ORANGE, "s", [b for b in budgets if b[1] == 0]),
        "masks and boxes": (PURPLE, "^", [b for b in budgets if b[0] > 0 and b[1] > 0]),
    }
    for label, (color, marker, chosen) in kinds.items():
        points = [(budgets[b][0]["hours"], _accuracies(budgets[b], threat)) for b in chosen]
        points = [(hours, values) for hours, values in points if values]
        if not points or (label != "boxes" and all(b == (0, 0) for b in chosen)):
            continue
        for hours, values in points:
            axes.plot([hours] * len(values), values, marker, color=color, alpha=0.4, markersize=4)
        line = "-" if label != "masks and boxes" else ""
        means = [statistics.fmean(values) for _, values in points]
        axes.plot([hours for hours, _ in points], means, marker + line, color=color, label=label)
    axes.set(xlabel="hours of labelling parts", ylabel="accuracy", title=title)
    # matplotlib's own margin is one of the data's range, without the zero
    axes.set_ylim(0, 1.08 * axes.dataLim.y1 if axes.dataLim.y1 > 0 else 1)
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")


def _accuracies(runs: list[dict[str, Any]], threat: str | None) -> list[float]:
    if threat is None:
        return [run["clean_accuracy"] for run in runs]
    return [run["robust_accuracy"][threat] for run in runs if threat in run["robust_accuracy"]]
