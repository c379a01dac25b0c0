"""Elastic transform: pixels displaced by smooth random fields."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray
from skimage.filters import gaussian

from .corrupt import Image

STRENGTH = (250 * 0.05, 250 * 0.065, 250 * 0.085, 250 * 0.1, 250 * 0.12)


def elastic_transform(image: Image, severity: int, seed: int) -> Image:
    """As in the library, bit for bit. Both fields are scaled by the image's height, also the horizontal one."""
    generator = np.random.RandomState(seed)  # numpy's old generator, as after np.random.seed
    right = _smooth_field(generator, image, severity)
    down = _smooth_field(generator, image, severity)
    scaled = image.astype(np.float32) / np.float32(255.0)
    return np.asarray(np.clip(_sample(scaled, down, right), 0, 1) * 255).astype(np.uint8)


def _smooth_field(generator: np.random.RandomState, image: Image, severity: int) -> NDArray[np.float32]:
    """Displacements in pixels, (H, W)."""
    size = image.shape[:2]
    largest = size[0] * 0.005
    noise = generator.uniform(-largest, largest, size=size)
    smooth = gaussian(noise, np.array(size) * 0.01, mode="reflect", truncate=3) * STRENGTH[severity - 1]
    return np.asarray(smooth, dtype=np.float32)


def _reflect(position: float, length: int) -> float:
    """A position inside the image for one outside, mirrored at the outer edges of the border pixels, as scipy does."""
    if position < 0:
        if length <= 1:
            return 0.0
        if position < -2 * length:
            position = 2 * length * int(-position / (2 * length)) + position
        if position < -length:
            return position + 2 * length
        return (1e-15 if position > -1e-15 else -position) - 1
    if position > length - 1:
        if length <= 1:
            return 0.0
        position -= 2 * length * int(position / (2 * length))
        if position >= length:
            return 2 * length - position - 1
    return position


_mirrored: Any = njit(_reflect)


def _sample_loop(
    image: NDArray[np.float32], down: NDArray[np.float32], right: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Bilinear values at displaced positions with scipy's order of operations: in double, then rounded to float."""
    height, width = image.shape[:2]
    result = np.empty_like(image)
    for i in range(height):
        for j in range(width):
            row = _mirrored(i + np.float64(down[i, j]), height)
            column = _mirrored(j + np.float64(right[i, j]), width)
            top, left = int(np.floor(row)), int(np.floor(column))
            south, east = row - top, column - left
            north, west = 1.0 - south, 1.0 - east
            above, below = max(top, 0), min(top + 1, height - 1)
            before, after = max(left, 0), min(left + 1, width - 1)
            for channel in range(3):
                value = np.float64(image[above, before, channel]) * north * west
                value += np.float64(image[above, after, channel]) * north * east
                value += np.float64(image[below, before, channel]) * south * west
                value += np.float64(image[below, after, channel]) * south * east
                result[i, j, channel] = np.float32(value)
    return result


_sample: Any = njit(_sample_loop)
