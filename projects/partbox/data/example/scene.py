"""From a class and a random generator to a scene: which polygon lies where, in front of what, with which surface.

A scene is planned on a coarse canvas of fixed resolution, so it is the same whatever size it is rendered at. The unit
is the image's shorter side; (0, 0) is the upper left corner.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from partbox.data.example.anatomy import ObjectClass
from partbox.data.example.clutter import blob, distractor, edge_directions, missing_direction
from partbox.data.example.pose import Pose, Shape
from partbox.data.example.shapes import Points, rotate
from partbox.data.example.style import ExampleStyle

OBJECT_SURFACES = (1, 2, 3, 4)
CLUTTER_SURFACES = (5, 6, 7)
NUM_SURFACES = 8
"""Surface 0 is the background. Every image has the same number of surfaces, whatever the number of parts."""

_CANVAS = 72
_MAX_CLUTTER = 40
_POSE_TRIES = 12


class Patch(NamedTuple):
    """A polygon that carries no label."""

    outline: Points
    surface: int


@dataclass(frozen=True)
class Scene:
    """What one image shows, in painting order: background, ``behind``, ``shapes`` with ``markings``, ``front``."""

    extent: tuple[float, float]
    """Height and width of the image; the shorter one is 1."""
    behind: list[Patch]
    shapes: list[Shape]
    shape_surfaces: list[int]
    markings: list[Patch]
    """Patches of another surface on the object; they do not change what part a pixel belongs to."""
    front: list[Patch]


def draw_polygons(size: tuple[int, int], unit: float, polygons: list[Points], values: list[int]) -> NDArray[np.uint8]:
    """Paint polygons over each other: (H, W) uint8, 0 where none is. ``unit`` is the pixels in one unit of length."""
    canvas = Image.new("L", (size[1], size[0]))
    pen = ImageDraw.Draw(canvas)
    for outline, value in zip(polygons, values, strict=True):
        _draw(pen, outline, unit, value)
    return np.asarray(canvas)


def _draw(pen: ImageDraw.ImageDraw, outline: Points, unit: float, value: int) -> None:
    pen.polygon((outline * unit - 0.5).ravel().tolist(), fill=value)


def outline_length(surfaces: NDArray[np.uint8]) -> float:
    """Length of the borders on a planning canvas, in units of length. Borders between two surfaces in front of the
    background count half, because their contrast is smaller.
    """
    length = 0.0
    for first, second in ((surfaces[:, 1:], surfaces[:, :-1]), (surfaces[1:], surfaces[:-1])):
        length += np.count_nonzero(first != second) + np.count_nonzero((first > 0) != (second > 0))
    return length / (2 * _CANVAS)


def _bounds(outlines: list[Points]) -> tuple[Points, Points]:
    points = np.concatenate(outlines)
    return points.min(axis=0), points.max(axis=0)


def _view(rng: Generator, style: ExampleStyle, outlines: list[Points]) -> list[Points]:
    """Look at an object from a random side: flip, stretch, shear, perspective and in-plane rotation.

    The result is centred and its longer side is 1.
    """
    flip = -1.0 if rng.random() < style.flip_probability else 1.0
    stretch, shear, fall_x, fall_y, turn = 2 * rng.random(5) - 1
    low, high = _bounds(outlines)
    widest = (high - low).max()
    matrix = np.array([[flip * (1 + stretch * style.distortion), 0], [shear * style.distortion, 1]])
    perspective = np.array([fall_x, fall_y]) * style.distortion * 2
    moved = []
    for outline in outlines:
        points = ((outline - (low + high) / 2) / widest) @ matrix
        points = points / (1 + points @ perspective)[:, None]
        moved.append(rotate(points, turn * style.rotation))
    low, high = _bounds(moved)
    return [(outline - (low + high) / 2) / (high - low).max() for outline in moved]


def _area(outlines: list[Points]) -> float:
    """Area of the union of outlines whose bounding box is centred and 1 long."""
    canvas = draw_polygons((_CANVAS, _CANVAS), _CANVAS, [outline + 0.5 for outline in outlines], [1] * len(outlines))
    return np.count_nonzero(canvas) / _CANVAS**2


def _place_object(rng: Generator, style: ExampleStyle, entry: ObjectClass, extent: tuple[float, float]) -> list[Shape]:
    """Pose an object, scale it to a random area, and move it to a random place where all of it can be seen."""
    area = rng.uniform(*style.object_area)
    where = rng.random(2)
    for _ in range(_POSE_TRIES):
        shapes = entry.draw(Pose(rng, style.joint_freedom))
        outlines = _view(rng, style, [shape.outline for shape in shapes])
        scale = float(np.sqrt(area / _area(outlines)))
        if scale <= style.max_extent:
            break
    scale = min(scale, style.max_extent)
    low, high = _bounds(outlines)
    room = np.array([extent[1], extent[0]]) - scale * (high - low)
    margin = np.minimum(0.02, room / 2)
    offset = margin + where * (room - 2 * margin) - scale * low
    return [
        Shape(shape.part, shape.instance, outline * scale + offset)
        for shape, outline in zip(shapes, outlines, strict=True)
    ]


def _surface_of_parts(rng: Generator, parts: tuple[str, ...]) -> tuple[dict[str, int], list[int]]:
    """A surface for each part, and the object surfaces that are left for markings."""
    order = [int(surface) for surface in rng.permutation(OBJECT_SURFACES)]
    extra = int(rng.integers(len(order)))
    chosen = [*order, order[extra]][: len(parts)]
    names = [parts[int(index)] for index in rng.permutation(len(parts))]
    return dict(zip(names, chosen, strict=True)), order[len(parts) :]


class _Planner:
    """Adds markings, clutter and an occluder to a placed object, watching their effect on a coarse canvas."""

    def __init__(self, rng: Generator, style: ExampleStyle, extent: tuple[float, float]) -> None:
        self.rng, self.style, self.extent = rng, style, extent
        self.size = (round(extent[0] * _CANVAS), round(extent[1] * _CANVAS))

    def paint(self, patches: list[Patch]) -> NDArray[np.uint8]:
        outlines, values = [patch.outline for patch in patches], [patch.surface for patch in patches]
        return draw_polygons(self.size, _CANVAS, outlines, values)

    def anywhere(self) -> Points:
        return self.rng.random(2) * (self.extent[1], self.extent[0])

    def on(self, mask: NDArray[np.bool_]) -> Points:
        """A random point (x, y) of a mask."""
        candidates = np.flatnonzero(mask)
        row, column = divmod(int(candidates[int(self.rng.integers(len(candidates)))]), mask.shape[1])
        return np.array([column + 0.5, row + 0.5]) / _CANVAS

    def markings(self, canvas: NDArray[np.uint8], surfaces: list[int]) -> list[Patch]:
        """One or two patches of each surface that no part has taken."""
        patches = []
        for surface in surfaces:
            for _ in range(int(self.rng.integers(1, 3))):
                patches.append(Patch(blob(self.rng, self.on(canvas > 0), self.rng.uniform(0.08, 0.18)), surface))
        return patches

    def front(self, canvas: NDArray[np.uint8]) -> list[Patch]:
        """A blob in front of the object, or none."""
        wanted = self.rng.random() < self.style.occlusion_probability
        surface = CLUTTER_SURFACES[int(self.rng.integers(len(CLUTTER_SURFACES)))]
        patch = Patch(blob(self.rng, self.on(canvas > 0), self.rng.uniform(*self.style.occluder_size)), surface)
        hidden = np.count_nonzero((self.paint([patch]) > 0) & (canvas > 0))
        return [patch] if wanted and hidden <= self.style.max_occluded * np.count_nonzero(canvas) else []

    def behind(self, canvas: NDArray[np.uint8], outlines: list[Points]) -> list[Patch]:
        """Distractors behind what ``canvas`` already shows, until the wanted length of borders is reached.

        They are many and small, or few and large, so that they also cover the wanted area, and lie in the directions
        that are rare among the borders of the object, ``outlines``.
        """
        room = self.extent[0] * self.extent[1]
        length = self.rng.uniform(*self.style.outline_length) * room
        area = self.rng.uniform(*self.style.clutter_area) * room
        directions = np.sum([edge_directions(outline) for outline in outlines], axis=0)
        patches: list[Patch] = []
        backdrop = Image.new("L", (self.size[1], self.size[0]))
        pen, in_front = ImageDraw.Draw(backdrop), canvas > 0
        while len(patches) < _MAX_CLUTTER:
            clutter = np.where(in_front, 0, np.asarray(backdrop))
            length_left = length - outline_length(clutter + np.where(in_front, canvas, 0))
            if len(patches) >= self.style.min_clutter and length_left <= 0:
                break
            area_left = area - np.count_nonzero(clutter) / _CANVAS**2
            # a disc of diameter d has an area of 0.8 d d and borders of 4 d pixel sides
            diameter = min(max(5 * area_left / max(length_left, 1e-3), 0.08), 0.26)
            for _ in range(max(1, int(length_left / (6 * diameter)))):
                surface = CLUTTER_SURFACES[int(self.rng.integers(len(CLUTTER_SURFACES)))]
                angle, size = missing_direction(self.rng, directions), diameter * self.rng.uniform(0.7, 1.3)
                patches.append(Patch(distractor(self.rng, self.anywhere(), size, angle), surface))
                directions += edge_directions(patches[-1].outline)
                _draw(pen, patches[-1].outline, _CANVAS, surface)
        return patches


def plan_scene(rng: Generator, entry: ObjectClass, style: ExampleStyle, size: tuple[int, int]) -> Scene:
    """Draw everything about an image of a class but its surfaces. Of ``size`` (height, width) only the ratio counts."""
    extent = (size[0] / min(size), size[1] / min(size))
    planner = _Planner(rng, style, extent)
    shapes = _place_object(rng, style, entry, extent)
    surface_of, spare = _surface_of_parts(rng, entry.parts)
    surfaces = [surface_of[shape.part] for shape in shapes]
    canvas = planner.paint([Patch(shape.outline, surface) for shape, surface in zip(shapes, surfaces, strict=True)])
    markings = planner.markings(canvas, spare)
    marks = planner.paint(markings)
    canvas = np.where((canvas > 0) & (marks > 0), marks, canvas)
    front = planner.front(canvas)
    cover = planner.paint(front)
    behind = planner.behind(np.where(cover > 0, cover, canvas), [shape.outline for shape in shapes])
    return Scene(extent, behind, shapes, surfaces, markings, front)
