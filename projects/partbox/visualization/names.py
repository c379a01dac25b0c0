"""Where the names of parts are written in a picture: at their parts, inside the picture, not over each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from detectron2.utils.visualizer import Visualizer

from partbox.colours import Colour

from .text import readable

Rectangle = tuple[float, float, float, float]
"""x0, y0, x1, y1 in pixels of the picture, y downwards."""

MARGIN = 2.0  # pixels of black around a name


def write_names(visualizer: Visualizer, names: Sequence[tuple[str, Colour, Rectangle]]) -> None:
    """Write the names of parts.

    A name stands in the upper left corner of its part; where others stand there already, at another corner or side.
    What is no longer free anywhere stands where it hides least.

    Args:
        visualizer: its ``draw_text`` draws them.
        names: what is written, in which colour (made lighter where it could not be read), and the part's box in pixels
            of the image.
    """
    taken: list[Rectangle] = []
    for text, colour, box in names:
        if text:
            taken.append(_write(visualizer, text, colour, box, taken))


def _write(visualizer: Visualizer, text: str, colour: Colour, box: Rectangle, taken: Sequence[Rectangle]) -> Rectangle:
    output = visualizer.output
    visualizer.draw_text(text, box[:2], color=readable(colour), horizontal_alignment="left")
    drawn: Any = output.ax.texts[-1]
    extent = drawn.get_window_extent(output.canvas.get_renderer())
    width, height = extent.width + 2 * MARGIN, extent.height + 2 * MARGIN
    x0, y0, x1, y1 = (output.scale * side for side in box)
    right, bottom = output.scale * output.width - width, output.scale * output.height - height
    corners = ((x0, y0), (x0, y0 - height), (x1 - width, y0), (x0, y1 - height), (x1 - width, y1 - height), (x0, y1))
    places = [(max(0.0, min(x, right)), max(0.0, min(y, bottom))) for x, y in (*corners, (x1, y0), (x1, y1))]
    rectangles = [(x, y, x + width, y + height) for x, y in places]
    best = min(rectangles, key=lambda one: sum(_shared(one, other) for other in taken))  # the first of equals
    drawn.set_position(((best[0] + MARGIN) / output.scale, (best[1] + MARGIN) / output.scale))
    return best


def _shared(one: Rectangle, other: Rectangle) -> float:
    """Square pixels in both."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    return max(0.0, width) * max(0.0, height)
