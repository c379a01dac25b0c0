"""Clean and attacked images with the parts or objects that a model finds in them."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from partbox.colours import PALETTE, RIGHT, WRONG, colours_of

from .examples import FOLDER, Example, read_examples
from .learning_curves import save_figure

MOST_BOXES = 12  # of an image, the surest: more hide it


def coloured(part_map: np.ndarray, part_names: Sequence[str]) -> np.ndarray:
    """Parts as colours, (H, W) int -> (H, W, 4) in [0, 1]; the background is transparent."""
    palette = np.array([(0.0, 0.0, 0.0, 0.0), *((*colour, 0.6) for colour in colours_of(part_names))], np.float32)
    return palette[part_map]


def save_example_pictures(folder: str | Path, *, most_images: int = 8, most_perturbations: int = 4) -> Path | None:
    """Draw ``examples.png`` from ``examples/`` of a run's folder; None where there is none.

    One column an image; a row of images and, where the model finds parts or objects, a row of those for each
    perturbation. A title is green where the prediction is right, or all labelled objects are found.

    Args:
        folder: of the run.
        most_images: columns at most.
        most_perturbations: perturbations at most, in the order of the evaluation.

    Raises:
        ExamplesError: the examples cannot be read.
    """
    folder = Path(folder)
    if not (folder / FOLDER).exists() or not (examples := read_examples(folder / FOLDER)):
        return None
    ids = list(dict.fromkeys(one.image_id for one in examples))[:most_images]
    names = list(dict.fromkeys(one.perturbation for one in examples))[:most_perturbations]
    by_place = {(one.perturbation, one.image_id): one for one in examples}
    kinds = ["image", "found"] if any(one.part_map is not None or one.boxes for one in examples) else ["image"]
    rows = [(name, kind) for name in names for kind in kinds]
    figure = Figure(figsize=(1.7 * len(ids) + 0.8, 1.9 * len(rows)), layout="constrained")
    grid = figure.subplots(len(rows), len(ids), squeeze=False)
    for axes_row, (name, kind) in zip(grid, rows, strict=True):
        for axes, image_id in zip(axes_row, ids, strict=True):
            axes.set(xticks=[], yticks=[])
            if (name, image_id) in by_place:
                _draw(axes, by_place[name, image_id], kind)
        lines = textwrap.wrap(name, 18, max_lines=3) or [""]
        axes_row[0].set_ylabel("\n".join([*lines, kind]), fontsize=7, parse_math=False)
    for axes, image_id in zip(grid[-1], ids, strict=True):
        label = by_place[names[0], image_id].label if (names[0], image_id) in by_place else None
        if label is not None:
            axes.set_xlabel(f"true: {label}", fontsize=8, parse_math=False)
    return save_figure(figure, folder / "examples.png")


def _draw(axes: Axes, example: Example, kind: str) -> None:
    """One image, alone with its title or with what was found in it."""
    axes.imshow(example.image, interpolation="nearest")
    if kind == "image":
        color = "black" if example.correct is None else RIGHT if example.correct else WRONG
        axes.set_title(_title(example), fontsize=8, color=color, parse_math=False)
        return
    if example.part_map is not None:
        axes.imshow(coloured(example.part_map, example.part_names), interpolation="nearest")
    shades = dict(zip(example.part_names, colours_of(example.part_names), strict=True))
    for found in example.boxes[:MOST_BOXES]:
        x0, y0, x1, y1 = found.box
        shade = shades.get(found.name, PALETTE[0])
        axes.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, edgecolor=shade, linewidth=1))
        text = f"{found.name} {found.score:.0%}"
        behind = {"facecolor": shade, "alpha": 0.7, "pad": 0.5, "linewidth": 0}
        axes.text(x0, y0, text, fontsize=5, va="top", bbox=behind, clip_on=True, parse_math=False)


def _title(example: Example) -> str:
    if example.prediction is not None:
        sure = "" if example.confidence is None else f" {example.confidence:.0%}"
        return f"{example.prediction}{sure}"
    if example.correct is not None:
        return "all objects found" if example.correct else "objects missed"
    return ""
