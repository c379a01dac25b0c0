"""Images with their parts drawn on them, by detectron2's ``Visualizer``, and several of them on one sheet."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.utils.visualizer import Visualizer
from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from partbox.colours import Colour
from partbox.files import write_atomically

SHORTEST = 360  # pixels of a drawn picture's shorter side: names must be readable on small images
LARGEST_SCALE = 12.0
OPACITY = 0.45
DPI = 100
# A part may be called "$x_1$": no name is a formula. Not every name is Latin either: the font is matplotlib's own.
PLAIN_TEXT: Any = {"text.parse_math": False, "text.usetex": False}


@dataclass(frozen=True, eq=False)
class ShownPart:
    """One part of an image.

    Attributes:
        name: written beside it.
        colour: of mask, box and name.
        box: x0, y0, x1, y1 in pixels of the image; None draws none.
        mask: (H, W) bool; None draws none.
        score: in [0, 1], written behind the name; None of an annotated part.
    """

    name: str
    colour: Colour
    box: tuple[float, float, float, float] | None = None
    mask: np.ndarray | None = None
    score: float | None = None

    @property
    def text(self) -> str:
        """What is written."""
        return self.name if self.score is None else f"{self.name} {self.score:.0%}"

    @property
    def area(self) -> float:
        """Pixels."""
        if self.mask is not None:
            return float(self.mask.sum())
        if self.box is None:
            return 0.0
        return (self.box[2] - self.box[0]) * (self.box[3] - self.box[1])

    @property
    def corner(self) -> tuple[float, float] | None:
        """Upper left corner of the box, else of the mask; None of a part that is nowhere."""
        if self.box is not None:
            return self.box[0], self.box[1]
        if self.mask is None or not self.mask.any():
            return None
        rows, columns = self.mask.nonzero()
        return float(columns.min()), float(rows.min())


def draw_parts(image: np.ndarray, parts: Sequence[ShownPart], *, shortest: int = SHORTEST) -> np.ndarray:
    """The image with its parts, large ones below small ones; (H', W', 3) uint8.

    Masks are drawn pixel by pixel, holes and parts of one pixel included. Nothing is random.

    Args:
        image: (H, W, 3) uint8 RGB.
        parts: in pixels of the image.
        shortest: smaller images are enlarged until their shorter side has so many pixels.
    """
    scale = min(max(1.0, shortest / min(image.shape[:2])), LARGEST_SCALE)
    order = sorted(range(len(parts)), key=lambda index: -parts[index].area)
    with rc_context(PLAIN_TEXT):
        visualizer = Visualizer(image, scale=scale)
        for part in (parts[index] for index in order):
            if part.mask is not None:
                visualizer.draw_soft_mask(part.mask.astype(np.float32), part.colour, alpha=OPACITY)
            if part.box is not None:
                visualizer.draw_box(part.box, alpha=1.0, edge_color=part.colour)
        for part in (parts[index] for index in order):
            if (corner := part.corner) is not None:
                visualizer.draw_text(part.text, corner, color=part.colour, horizontal_alignment="left")
        picture: np.ndarray = visualizer.get_output().get_image()
    return picture


@dataclass(frozen=True, eq=False)
class Panel:
    """A picture on a sheet.

    Attributes:
        picture: (H, W, 3) uint8.
        title: above it.
        colour: of the title.
    """

    picture: np.ndarray
    title: str
    colour: str = "black"


def sheet(rows: Sequence[Sequence[Panel]], *, title: str = "", inches: float = 4.0) -> np.ndarray:
    """Panels in rows on white, (H, W, 3) uint8.

    Args:
        rows: of panels; all of one length.
        title: above all of them.
        inches: width of a panel, of DPI pixels each.
    """
    columns = len(rows[0])
    heights = [max(panel.picture.shape[0] / panel.picture.shape[1] for panel in row) for row in rows]
    lines = max(panel.title.count("\n") + 1 for row in rows for panel in row)
    height = sum(min(max(share, 0.3), 2.0) * inches + 0.2 * lines for share in heights) + (0.35 if title else 0.1)
    with rc_context(PLAIN_TEXT):
        figure = Figure(figsize=(inches * columns + 0.1, height), dpi=DPI, layout="constrained")
        canvas = FigureCanvasAgg(figure)
        grid = figure.subplots(len(rows), columns, squeeze=False)
        for axes, panel in zip(grid.flat, [panel for row in rows for panel in row], strict=True):
            axes.imshow(panel.picture)
            axes.set_axis_off()
            axes.set_title(panel.title, fontsize=9, color=panel.colour, wrap=True)
        if title:
            figure.suptitle(title, fontsize=10)
        canvas.draw()
        drawn: np.ndarray = np.asarray(canvas.buffer_rgba())[..., :3].copy()
    return drawn


def save_picture(path: Path, picture: np.ndarray) -> None:
    """Write a picture (H, W, 3) uint8 as PNG, whole or not at all."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="PNG")
    write_atomically(path, lambda file: file.write(buffer.getvalue()))
