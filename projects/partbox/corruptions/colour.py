"""Corruptions that change brightness or saturation in HSV space."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from .corrupt import Image

BRIGHTNESS = (0.1, 0.2, 0.3, 0.4, 0.5)
SATURATION = ((0.3, 0.0), (0.1, 0.0), (2.0, 0.0), (5.0, 0.1), (20.0, 0.2))  # factor and summand


def brightness(image: Image, severity: int, seed: int) -> Image:
    """A summand to the value of each pixel; as in the library, bit for bit, nothing random."""
    return _shift_hsv(image, 1.0, 0.0, BRIGHTNESS[severity - 1])


def saturate(image: Image, severity: int, seed: int) -> Image:
    """A factor and a summand to the saturation of each pixel; as in the library, bit for bit, nothing random."""
    factor, summand = SATURATION[severity - 1]
    return _shift_hsv(image, factor, summand, -1.0)


def _hsv_loop(image: Image, factor: float, summand: float, brighter: float) -> Image:
    """RGB -> HSV -> RGB in double, with scikit-image's order of operations.

    ``brighter`` < 0 changes the saturation, else the value. Where several channels are largest, the last one decides
    the hue, as in scikit-image.
    """
    result = np.empty_like(image)
    for i in range(image.shape[0]):
        for j in range(image.shape[1]):
            red, green, blue = image[i, j, 0] / 255.0, image[i, j, 1] / 255.0, image[i, j, 2] / 255.0
            value = max(red, green, blue)
            spread = value - min(red, green, blue)
            hue = 0.0
            saturation = 0.0
            if spread > 0:
                saturation = spread / value
                if blue == value:
                    hue = 4.0 + (red - green) / spread
                elif green == value:
                    hue = 2.0 + (blue - red) / spread
                else:
                    hue = (green - blue) / spread
                hue = (hue / 6.0) % 1.0
            if brighter < 0:
                saturation = min(max(saturation * factor + summand, 0.0), 1.0)
            else:
                value = min(max(value + brighter, 0.0), 1.0)
            sector = np.floor(hue * 6)
            part = hue * 6 - sector
            low = value * (1 - saturation)
            falling = value * (1 - part * saturation)
            rising = value * (1 - (1 - part) * saturation)
            six = int(sector) % 6
            if six == 0:
                red, green, blue = value, rising, low
            elif six == 1:
                red, green, blue = falling, value, low
            elif six == 2:
                red, green, blue = low, value, rising
            elif six == 3:
                red, green, blue = low, falling, value
            elif six == 4:
                red, green, blue = rising, low, value
            else:
                red, green, blue = value, low, falling
            result[i, j, 0] = np.uint8(min(max(red, 0.0), 1.0) * 255)
            result[i, j, 1] = np.uint8(min(max(green, 0.0), 1.0) * 255)
            result[i, j, 2] = np.uint8(min(max(blue, 0.0), 1.0) * 255)
    return result


_shift_hsv: Any = njit(_hsv_loop)
