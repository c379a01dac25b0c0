"""The choice of a threshold for pseudo-labels as a picture."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from .learning_curves import BLUE, GREEN, ORANGE, save_figure

PLOT = "thresholds.png"
COLORS = {"precision": BLUE, "recall": ORANGE, "f1": GREEN}


def save_threshold_curve(folder: str | Path) -> Path | None:
    """Draw ``thresholds.png`` from ``thresholds.json``: all parts together; None where the threshold was given."""
    folder = Path(folder)
    values: dict[str, Any] = json.loads((folder / "thresholds.json").read_text(encoding="utf-8"))
    if values["curve"] is None:
        return None
    curve, found = values["curve"]["all parts"], values["criterion"]
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for name, color in COLORS.items():
        axes.plot(curve["threshold"], curve[name], color=color, label=name.replace("f1", "F1"))
    common = values["threshold"]["common"]
    axes.axvline(common, color="black", linestyle="--", label=f"{values['threshold']['choice']}: {common:.3f}")
    axes.set(xlabel="threshold of the score", ylabel="share", xlim=(0, 1), ylim=(0, 1))
    axes.set_title(
        f"{found['name']}\n{found['labelled_parts']} parts of {found['images']} images of {found['dataset']}"
    )
    axes.grid(alpha=0.3)
    axes.legend()
    return save_figure(figure, folder / PLOT)
