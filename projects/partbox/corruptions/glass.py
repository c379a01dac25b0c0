"""Glass blur: pixels displaced within a small window, between two Gaussian blurs."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray
from skimage.filters import gaussian

from .corrupt import Image

# standard deviation of the blurs in pixels, largest displacement in pixels, repetitions
SETTINGS = ((0.7, 1, 2), (0.9, 2, 1), (1.0, 2, 3), (1.1, 3, 2), (1.5, 4, 2))


def glass_blur(image: Image, severity: int, seed: int) -> Image:
    """As in the library with its argument ``seed``, bit for bit; all displacements are drawn at once."""
    deviation, reach, repetitions = SETTINGS[severity - 1]
    blurred = (gaussian(image / 255.0, sigma=deviation, channel_axis=-1) * 255).astype(np.uint8)
    height, width = image.shape[:2]
    pixels = max(0, height - 2 * reach) * max(0, width - 2 * reach)
    # numpy's old generator: the library's loop draws from the same stream, pixel by pixel.
    draws = np.random.RandomState(seed).randint(-reach, reach, size=(repetitions, pixels, 2))
    _displace(blurred, draws, reach)
    again = gaussian(blurred / 255.0, sigma=deviation, channel_axis=-1)
    return np.asarray(np.clip(again, 0, 1) * 255).astype(np.uint8)


def _displace_loop(image: Image, draws: NDArray[np.int64], reach: int) -> None:
    """From the last pixel to the first, each takes the colour of a neighbour, in place.

    The authors meant to swap the two; through numpy's views their line copies, and the benchmark was made like that.
    """
    height, width = image.shape[:2]
    for repetition in range(draws.shape[0]):
        k = 0
        for i in range(height - reach, reach, -1):
            for j in range(width - reach, reach, -1):
                down, right = draws[repetition, k, 1], draws[repetition, k, 0]
                for channel in range(3):
                    image[i, j, channel] = image[i + down, j + right, channel]
                k += 1


_displace: Any = njit(_displace_loop)
