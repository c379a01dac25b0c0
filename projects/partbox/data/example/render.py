"""From a scene to pixels and part masks."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from partbox.data.example.anatomy import ObjectClass
from partbox.data.example.scene import CLUTTER_SURFACES, NUM_SURFACES, OBJECT_SURFACES, Scene, draw_polygons, plan_scene
from partbox.data.example.style import ExampleStyle
from partbox.data.example.texture import draw_colours, draw_surfaces, pixel_grid

_FINE = 3
"""Sub-pixels along each side of a pixel. Colours are their mean; the middle one decides whose the pixel is."""


_BRIGHTNESS = [(0.42, 0.58), *[(0.66, 0.92)] * len(OBJECT_SURFACES), *[(0.08, 0.34)] * len(CLUTTER_SURFACES)]
"""Range of each surface's brightness (mean of RGB). The background lies between parts and clutter, so that the borders
of both are equally strong on average and statistics of edges cannot tell how much of them is the object's."""


class ExampleImage(NamedTuple):
    """A rendered image and the visible part instances on it."""

    image: NDArray[np.uint8]
    """(H, W, 3), RGB."""
    parts: list[tuple[str, int]]
    """Name and instance number of each visible part, in painting order."""
    masks: NDArray[np.bool_]
    """(number of parts, H, W): the visible pixels of each; no pixel has two parts."""


def render_example(
    rng: Generator, entry: ObjectClass, *, size: tuple[int, int] = (64, 64), style: ExampleStyle | None = None
) -> ExampleImage:
    """Draw one random image of a class. ``size`` is (height, width) in pixels."""
    style = style or ExampleStyle()
    scene = plan_scene(rng, entry, style, size)
    surface_map, instance_map, instances = _rasterise(scene, size)
    image = _paint(rng, surface_map, size, style)
    present = [index for index in range(len(instances)) if (instance_map == index + 1).any()]
    masks = instance_map[None] == np.array(present, dtype=np.uint8)[:, None, None] + 1
    return ExampleImage(image, [instances[index] for index in present], masks)


def _rasterise(
    scene: Scene, size: tuple[int, int]
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], list[tuple[str, int]]]:
    """Surface of each sub-pixel (3 H, 3 W), part instance of each pixel (H, W; 0 none, else 1 + its place in the list
    of instances), and that list.
    """
    instances = list(dict.fromkeys((shape.part, shape.instance) for shape in scene.shapes))
    plain = [(patch.outline, patch.surface, 0) for patch in scene.behind]
    plain += [
        (shape.outline, surface, 1 + instances.index((shape.part, shape.instance)))
        for shape, surface in zip(scene.shapes, scene.shape_surfaces, strict=True)
    ]
    plain += [(patch.outline, patch.surface, 0) for patch in scene.front]
    fine_size, unit = (size[0] * _FINE, size[1] * _FINE), min(size) * _FINE
    layers = draw_polygons(fine_size, unit, [outline for outline, _, _ in plain], list(range(1, len(plain) + 1)))
    surface_of = np.array([0, *(surface for _, surface, _ in plain)], dtype=np.uint8)
    instance_of = np.array([0, *(instance for _, _, instance in plain)], dtype=np.uint8)
    surfaces, owners = surface_of[layers], instance_of[layers]
    if scene.markings:
        outlines = [patch.outline for patch in scene.markings]
        marks = draw_polygons(fine_size, unit, outlines, [patch.surface for patch in scene.markings])
        surfaces = np.where((owners > 0) & (marks > 0), marks, surfaces)
    return surfaces, owners[_FINE // 2 :: _FINE, _FINE // 2 :: _FINE], instances


def _paint(
    rng: Generator, surface_map: NDArray[np.uint8], size: tuple[int, int], style: ExampleStyle
) -> NDArray[np.uint8]:
    """Colour the sub-pixels, average them, and add uneven light and noise: (H, W, 3) uint8."""
    height, width = size
    colours = draw_colours(rng, _BRIGHTNESS, style.contrast)
    if rng.random() >= style.bright_object:
        colours = 1 - colours
    surfaces = draw_surfaces(rng, colours, size, style.texture_strength)
    pixels = np.arange(height * width).reshape(height, 1, width, 1)
    counts = surface_map.reshape(height, _FINE, width, _FINE) + pixels * NUM_SURFACES
    shares = np.bincount(counts.ravel(), minlength=height * width * NUM_SURFACES).reshape(-1, NUM_SURFACES)
    image = surfaces.mix(shares / _FINE**2).reshape(height, width, 3)
    y, x = pixel_grid(size)
    tilt_y, tilt_x = 0.15 * (2 * rng.random(2) - 1)
    image *= (1 + tilt_y * (y - y.mean()) + tilt_x * (x - x.mean()))[:, :, None]
    image += style.noise * rng.standard_normal((height, width, 3))
    return np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)
