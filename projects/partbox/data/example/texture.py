"""Surfaces: colours with a pattern, all drawn from one distribution, whatever they will cover."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

Array = NDArray[np.float64]
Pattern = Callable[[Generator, Array, Array], Array]


def pixel_grid(size: tuple[int, int]) -> tuple[Array, Array]:
    """Pixel centres: y (H, 1) and x (1, W), with the shorter side as unit."""
    height, width = size
    unit = min(size)
    return (np.arange(height)[:, None] + 0.5) / unit, (np.arange(width)[None, :] + 0.5) / unit


def _wave(rng: Generator, y: Array, x: Array, lowest: float, highest: float) -> Array:
    angle, phase = rng.random() * np.pi, rng.random() * 2 * np.pi
    frequency = 2 * np.pi * (lowest + (highest - lowest) * rng.random())
    across, down = frequency * np.cos(angle) * x, frequency * np.sin(angle) * y + phase
    return np.sin(across) * np.cos(down) + np.cos(across) * np.sin(down)  # sin(across + down), of H + W values only


def stripes(rng: Generator, y: Array, x: Array) -> Array:
    """Parallel stripes, 4 to 12 on a side."""
    return _wave(rng, y, x, 4, 12)


def dots(rng: Generator, y: Array, x: Array) -> Array:
    """Two crossing waves: dots on a skewed lattice."""
    return _wave(rng, y, x, 4, 10) * _wave(rng, y, x, 4, 10) * 1.4


def noise(rng: Generator, y: Array, x: Array) -> Array:
    """Clouds: random values on a grid of 6 to 16 cells on a side, interpolated linearly."""
    cells = int(rng.integers(6, 17))
    rows, columns = int(np.ceil(y.max() * cells)) + 1, int(np.ceil(x.max() * cells)) + 1
    values = rng.standard_normal((rows, columns)) * 0.8
    weight_y = np.maximum(0, 1 - np.abs(y * cells - np.arange(rows)))
    weight_x = np.maximum(0, 1 - np.abs(x.T * cells - np.arange(columns)))
    return weight_y @ values @ weight_x.T


def gradient(rng: Generator, y: Array, x: Array) -> Array:
    """A slow change across the whole image."""
    return _wave(rng, y, x, 0.3, 0.9) * 1.2


PATTERNS: tuple[Pattern, ...] = (stripes, dots, noise, gradient)


def draw_colours(rng: Generator, brightness: Sequence[tuple[float, float]], contrast: float) -> Array:
    """Colours (S, 3), RGB in [0.08, 0.92], the mean of whose channels lies in the given ranges, pairwise at least
    ``contrast`` apart where that can be found quickly.

    The first of 128 candidates that is far enough from all earlier colours is taken, else the farthest one.
    """
    colours = np.empty((len(brightness), 3))
    candidates = 0.08 + 0.84 * rng.random((len(brightness), 128, 3))
    means = candidates.mean(axis=2)
    for index, (darkest, brightest) in enumerate(brightness):
        allowed = candidates[index][(means[index] >= darkest) & (means[index] <= brightest)]
        offsets = allowed[:, None] - colours[None, :index]
        nearest = np.sqrt((offsets**2).sum(axis=2)).min(axis=1, initial=10)
        far_enough = np.flatnonzero(nearest >= contrast)
        colours[index] = allowed[far_enough[0] if len(far_enough) else nearest.argmax()]
    return colours


@dataclass(frozen=True)
class Surfaces:
    """The S surfaces of an image: at each pixel, surface s has the colour ``colours[s] + patterns[s] * tints[s]``."""

    colours: Array
    """(S, 3), RGB in [0, 1]."""
    tints: Array
    """(S, 3), RGB: in which direction and how far the pattern changes the colour."""
    patterns: Array
    """(S, H W), about -1 to 1."""

    def mix(self, shares: Array) -> Array:
        """Colours (H W, 3) of pixels that show the surfaces in ``shares`` (H W, S), each row of which sums to 1."""
        return shares @ self.colours + (shares * self.patterns.T) @ self.tints


def draw_surfaces(rng: Generator, colours: Array, size: tuple[int, int], strength: float) -> Surfaces:
    """Give each colour a pattern of amplitude 0.3 to 1.7 times ``strength``."""
    count = len(colours)
    y, x = pixel_grid(size)
    kinds = rng.integers(len(PATTERNS), size=count)
    patterns = np.stack([PATTERNS[kind](rng, y, x).ravel() for kind in kinds.tolist()])
    amplitudes = strength * (0.3 + 1.4 * rng.random((count, 1)))
    return Surfaces(colours, amplitudes * (1 + 0.4 * rng.standard_normal((count, 3))), patterns)
