"""Curves as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from partbox.colours import OKABE_ITO

from .text import plain_text

LABELS = {"passes": "forward passes of the attack", "steps": "steps of the attack", "eps": "eps"}
MARKERS = "os^vDPX"


class DrawnCurve(Protocol):
    """What :class:`partbox.evaluation.attack_curves.Curve` has."""

    @property
    def attack(self) -> str:
        """In the legend."""

    @property
    def axis(self) -> str:
        """One of LABELS."""

    @property
    def quantity(self) -> str:
        """What the y axis shows."""

    @property
    def points(self) -> tuple[tuple[float, float], ...]:
        """(x, y), by x."""


def curves_picture(curves: Sequence[DrawnCurve]) -> np.ndarray:
    """A panel for each pair of axis and quantity, a line a curve; (H, W, 3) uint8."""
    panels = list(dict.fromkeys((curve.axis, curve.quantity) for curve in curves))
    with plain_text():
        figure = Figure(figsize=(5 * len(panels), 4), dpi=100, layout="constrained")
        canvas = FigureCanvasAgg(figure)
        for axes, (axis, quantity) in zip(figure.subplots(1, len(panels), squeeze=False).flat, panels, strict=True):
            drawn = [curve for curve in curves if (curve.axis, curve.quantity) == (axis, quantity)]
            for number, curve in enumerate(drawn):
                colour, marker = OKABE_ITO[(4 + number) % len(OKABE_ITO)], MARKERS[number % len(MARKERS)]
                shown = marker if len(curve.points) <= 20 else ""
                steps = "steps-post" if axis == "passes" else "default"
                axes.plot(*zip(*curve.points, strict=True), color=colour, marker=shown, label=curve.attack, ds=steps)
            axes.set(xlabel=LABELS[axis], ylabel=quantity.replace("_", " "))
            if quantity == "robust_accuracy":
                axes.set_ylim(-0.02, 1.02)
            axes.grid(alpha=0.3)
            axes.legend(fontsize=8)
        canvas.draw()
        picture: np.ndarray = np.asarray(canvas.buffer_rgba())[..., :3].copy()
    return picture
