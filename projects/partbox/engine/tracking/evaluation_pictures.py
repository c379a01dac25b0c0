"""A few images of an evaluation under its attacks, with the parts that the model finds in them, as one picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from partbox.colours import RIGHT, WRONG, bare_name, colours_of
from partbox.evaluation.examples import Example
from partbox.visualization.pictures import Panel, ShownPart, draw_parts, sheet

MOST_ROWS = 8
SHORTEST, LONGEST = 224, 280  # pixels of an image in the picture
INCHES = 2.4


def examples_picture(
    examples: Mapping[str, Sequence[Example]],
    perturbations: Sequence[str],
    *,
    class_names: Sequence[str],
    part_names: Sequence[str],
    count: int,
    score: float,
) -> np.ndarray | None:
    """A row a perturbation, a column an image, each with its parts; (H, W, 3) uint8.

    Args:
        examples: by perturbation, the same images in the same order under each.
        perturbations: which of them, the first MOST_ROWS.
        class_names: of labels and predictions.
        part_names: of part maps and boxes.
        count: images, the first ones.
        score: boxes with a smaller score are not drawn.

    Returns:
        None where no image was kept.
    """
    rows = [
        [_panel(name, one, class_names, part_names, score) for one in examples.get(name, ())[:count]]
        for name in perturbations[:MOST_ROWS]
    ]
    return sheet([row for row in rows if row], inches=INCHES) if any(rows) else None


def _panel(
    perturbation: str, example: Example, class_names: Sequence[str], part_names: Sequence[str], score: float
) -> Panel:
    parts = found_parts(example, part_names, score)
    said = f"{len(parts)} part{'' if len(parts) == 1 else 's'}"
    if example.prediction is not None and example.label is not None:
        sure = "" if example.confidence is None else f" {example.confidence:.0%}"
        said = f"{class_names[example.label]} seen as {class_names[example.prediction]}{sure}, {said}"
    colour = "black" if example.correct is None else RIGHT if example.correct else WRONG
    verdict = "" if example.correct is None else ", right" if example.correct else ", wrong"
    picture = draw_parts(example.image, parts, shortest=SHORTEST, longest=LONGEST)
    return Panel(picture, f"{perturbation}{verdict}\n{said}", colour)


def found_parts(example: Example, part_names: Sequence[str], score: float) -> list[ShownPart]:
    """The parts of an example, as they are drawn: regions of its part map, else boxes from ``score`` on."""
    names, colours = [bare_name(name) for name in part_names], colours_of(part_names)
    if example.part_map is not None:
        channels = [channel - 1 for channel in np.unique(example.part_map).tolist() if channel]
        return [ShownPart(names[one], colours[one], None, example.part_map == one + 1) for one in channels]
    boxes = zip(example.boxes.tolist(), example.scores.tolist(), example.categories.tolist(), strict=True)
    return [
        ShownPart(names[category], colours[category], (box[0], box[1], box[2], box[3]), None, sure)
        for box, sure, category in boxes
        if sure >= score
    ]
