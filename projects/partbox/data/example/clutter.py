"""Distractors: single shapes of the kinds that objects are made of, placed so that they hide simple clues.

They even out what would otherwise tell the class without looking at any part: the amount of borders in the image, the
directions these run in, and the area that is not background.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.random import PCG64, Generator
from numpy.typing import NDArray

from partbox.data.example.shapes import Points, chain, ellipse, limb, place, smooth

NUM_DIRECTIONS = 8
_BANK_SIZE = 90


def edge_directions(outline: Points) -> NDArray[np.float64]:
    """Length of the sides of a polygon in each of 8 ranges of direction, (8,); the first one is along x."""
    sides = np.empty_like(outline)
    np.subtract(outline[1:], outline[:-1], out=sides[1:])
    np.subtract(outline[0], outline[-1], out=sides[0])
    angles = np.arctan2(sides[:, 1], sides[:, 0]) * (NUM_DIRECTIONS / np.pi)
    bins = (angles + (0.5 + 2 * NUM_DIRECTIONS)).astype(np.int64) % NUM_DIRECTIONS
    lengths = np.bincount(bins, np.sqrt((sides * sides).sum(axis=1)), minlength=NUM_DIRECTIONS)
    return lengths.astype(np.float64)


def missing_direction(rng: Generator, directions: NDArray[np.float64]) -> float:
    """A random direction in degrees, of those that are short in a histogram of directions (8,)."""
    missing = np.cumsum((directions.max() - directions) ** 3 + 1e-9)
    chosen = int(np.searchsorted(missing, rng.random() * missing[-1]))
    return (chosen + rng.random() - 0.5) * (180 / NUM_DIRECTIONS)


def distractor(rng: Generator, centre: Points, diameter: float, angle: float) -> Points:
    """A random ellipse, bar, bent limb, triangle, quadrilateral or blob whose longer side points along ``angle``."""
    bank = _bank()
    shape = bank[int(rng.integers(len(bank)))]
    mirror = 1.0 if rng.random() < 0.5 else -1.0
    return place(shape * (diameter * 1.2, diameter * 0.8 * mirror), centre, angle)


def blob(rng: Generator, centre: Points, diameter: float) -> Points:
    """A rounded irregular shape."""
    angles = np.arange(7) * (2 * np.pi / 7)
    radii = diameter / 2 * rng.uniform(0.7, 1.4, 7)
    return smooth(np.stack([np.cos(angles), np.sin(angles)], axis=1) * radii[:, None]) + centre


@cache
def _bank() -> list[Points]:
    """Shapes of a mean diameter of 1, the longer side along x; always the same ones."""
    rng = Generator(PCG64(0))
    return [_bank_shape(rng, index % 6) for index in range(_BANK_SIZE)]


def _bank_shape(rng: Generator, kind: int) -> Points:
    if kind == 0:
        return ellipse([0.0, 0.0], rng.uniform(0.55, 0.75), rng.uniform(0.25, 0.45))
    if kind == 1:
        width = rng.uniform(0.25, 0.4)
        return limb([[-0.6, 0.0], [0.6, 0.0]], [width, width * rng.uniform(0.7, 1.3)])
    if kind == 2:
        bend = rng.uniform(15, 40)
        bones = chain([0.0, 0.0], [-bend, bend], [0.7, 0.7])
        return limb(bones - bones.mean(axis=0), [0.35, 0.3, 0.25])
    if kind in (3, 4):
        turns = np.sort((np.arange(kind) + rng.uniform(-0.2, 0.2, kind)) * (2 * np.pi / kind))
        return np.stack([np.cos(turns), np.sin(turns)], axis=1) * rng.uniform(0.5, 0.8, (kind, 1)) * (1.15, 0.85)
    return blob(rng, np.zeros(2), 1.0) * (1.15, 0.85)
