"""Learning curves of a training run."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from partbox.files import write_atomically

# Okabe & Ito: told apart by colour-blind readers
BLUE, ORANGE, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#CC79A7"


def read_metrics(folder: str | Path) -> list[dict[str, Any]]:
    """The entries of ``metrics.json``; a last line cut by a kill is left out."""
    entries = []
    for line in (Path(folder) / "metrics.json").read_text(encoding="utf-8").splitlines():
        try:
            entries.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return entries


def _draw(axes: Axes, entries: list[dict[str, Any]], key: str, label: str, color: str, marker: str = "") -> None:
    points = [(entry["iteration"] + 1, entry[key]) for entry in entries if key in entry]
    if points:
        axes.plot(*zip(*points, strict=True), label=label, color=color, marker=marker)


def validations(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The entries of new validations: what one has measured stays in the log until the next one."""
    kept: list[dict[str, Any]] = []
    before: dict[str, Any] = {}
    for entry in entries:
        measured = {key: value for key, value in entry.items() if key.startswith("validation/")}
        if measured != before:
            kept.append(entry)
        before = measured
    return kept


def save_learning_curves(folder: str | Path) -> Path | None:
    """Draw ``learning_curves.png`` from ``metrics.json`` of a run's folder; None where there is nothing to draw."""
    folder = Path(folder)
    if not (folder / "metrics.json").exists() or not (entries := read_metrics(folder)):
        return None
    figure = Figure(figsize=(10, 4), layout="constrained")
    losses, accuracies = figure.subplots(1, 2)
    _draw(losses, entries, "loss_class", "class term", BLUE)
    _draw(losses, entries, "loss_part", "part term", GREEN)
    losses.set(xlabel="iteration", ylabel="weighted loss", title=f"{folder.name}: training loss", ylim=(0, None))
    measured = validations(entries)
    _draw(accuracies, measured, "validation/clean_accuracy", "clean", BLUE, "o")
    _draw(accuracies, measured, "validation/robust_accuracy", "under attack", ORANGE, "s")
    accuracies.set(xlabel="iteration", ylabel="accuracy", title="validation", ylim=(0, 1))
    for axes in (losses, accuracies):
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend()
    return save_figure(figure, folder / "learning_curves.png")


def save_figure(figure: Figure, path: Path, *, dpi: int = 110) -> Path:
    """Write a figure as PNG with ``dpi`` pixels an inch, whole or not at all."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    write_atomically(path, lambda file: file.write(buffer.getvalue()))
    return path
