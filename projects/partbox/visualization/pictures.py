"""Images with their parts drawn on them, by detectron2's ``Visualizer``, and several of them on one sheet."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from detectron2.utils.visualizer import Visualizer
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from partbox.colours import Colour
from partbox.files import write_atomically

from .names import Rectangle, write_names
from .text import plain_text

SHORTEST = 360  # pixels of a drawn picture's shorter side: names must be readable on small images
LONGEST = 800  # pixels of its longer side: names must be readable on large ones, which a page shows smaller
ENLARGED = 560  # pixels to which the longer side of a small image is enlarged
LARGEST_SCALE = 12.0
OPACITY = 0.45
DPI = 100


@dataclass(frozen=True, eq=False)
class ShownPart:
    """One part of an image.

    Attributes:
        name: written beside it.
        colour: of mask, box and name.
        box: x0, y0, x1, y1 in pixels of the image; None draws none.
        mask: (H, W) bool, or shares of pixels in [0, 1]; None draws none.
        score: in [0, 1], written behind the name; None of an annotated part.
    """

    name: str
    colour: Colour
    box: Rectangle | None = None
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
    def extent(self) -> Rectangle | None:
        """The box, else that of the mask; None of a part that is nowhere."""
        if self.box is not None:
            return self.box
        if self.mask is None or not self.mask.any():
            return None
        rows, columns = np.flatnonzero(self.mask.any(axis=1)), np.flatnonzero(self.mask.any(axis=0))
        return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)


def draw_parts(
    image: np.ndarray, parts: Sequence[ShownPart], *, shortest: int = SHORTEST, longest: int = LONGEST
) -> np.ndarray:
    """The image with its parts, large ones below small ones; (H', W', 3) uint8.

    Masks are drawn pixel by pixel, holes and parts of one pixel included. Nothing is random.

    Args:
        image: (H, W, 3) uint8 RGB.
        parts: in pixels of the image.
        shortest: smaller images are enlarged until their shorter side has so many pixels, or their longer ENLARGED.
        longest: no picture is longer; larger images are made smaller.
    """
    height, width = image.shape[:2]
    enlarged = min(shortest / min(height, width), ENLARGED / max(height, width), LARGEST_SCALE)
    scale = min(max(1.0, enlarged), longest / max(height, width))
    if scale < 1:
        image, parts = _smaller(image, parts, scale)
    ordered = sorted(parts, key=lambda part: -part.area)
    with plain_text():
        visualizer = Visualizer(image, scale=max(scale, 1.0))
        for part in ordered:
            if part.mask is not None:
                visualizer.draw_soft_mask(part.mask.astype(np.float32), part.colour, alpha=OPACITY)
            if part.box is not None:
                visualizer.draw_box(part.box, alpha=1.0, edge_color=part.colour)
        write_names(visualizer, [(part.text, part.colour, part.extent) for part in ordered if part.extent is not None])
        picture: np.ndarray = visualizer.get_output().get_image()
    return picture


def _smaller(image: np.ndarray, parts: Sequence[ShownPart], scale: float) -> tuple[np.ndarray, list[ShownPart]]:
    """Image and parts of a smaller size; a pixel of a mask is its share of the pixels that it stands for."""
    height, width = image.shape[:2]
    size = max(1, round(width * scale)), max(1, round(height * scale))
    across, down = size[0] / width, size[1] / height

    def shrunk(pixels: np.ndarray) -> np.ndarray:
        return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BOX))

    made = []
    for part in parts:
        x0, y0, x1, y1 = part.box or (0.0, 0.0, 0.0, 0.0)
        box = None if part.box is None else (x0 * across, y0 * down, x1 * across, y1 * down)
        mask = None if part.mask is None else shrunk((part.mask * 255).astype(np.uint8)) / 255
        made.append(replace(part, box=box, mask=mask))
    return shrunk(image), made


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
    with plain_text():
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
