"""Zoom blur: the mean of an image and of enlargements of its centre."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from .corrupt import Image

ZOOM_FACTORS = (
    np.arange(1, 1.11, 0.01),
    np.arange(1, 1.16, 0.01),
    np.arange(1, 1.21, 0.02),
    np.arange(1, 1.26, 0.02),
    np.arange(1, 1.31, 0.03),
)


def zoom_blur(image: Image, severity: int, seed: int) -> Image:
    """As in the library, bit for bit; nothing random. The enlargement does only the pixels that stay in the image."""
    scaled = (image / 255.0).astype(np.float32)
    total = np.zeros_like(scaled)
    factors = ZOOM_FACTORS[severity - 1]
    height, width = image.shape[:2]
    for factor in factors:
        top, rows = _centre(height, factor)
        left, columns = _centre(width, factor)
        crop = scaled[top : top + rows, left : left + columns]
        _add_enlarged(crop, _taps(rows, factor, height), _taps(columns, factor, width), total)
    mean = (scaled + total) / (len(factors) + 1)
    return (np.clip(mean, 0, 1) * 255).astype(np.uint8)


def _centre(length: int, factor: float) -> tuple[int, int]:
    """First index and length of the centre that fills ``length`` pixels once enlarged by the factor."""
    kept = int(np.ceil(length / float(factor)))
    return (length - kept) // 2, kept


def _taps(length: int, factor: float, wanted: int) -> NDArray[np.float64]:
    """Where the first ``wanted`` pixels of the enlargement lie in the centre, as ``scipy.ndimage.zoom`` puts them.

    A position beyond the last pixel by a rounding error counts as outside there, so it is -1 here.
    """
    enlarged = round(length * factor)
    step = np.float64(length - 1) / np.float64(enlarged - 1) if enlarged > 1 else np.float64(1)
    positions = np.arange(min(enlarged, wanted), dtype=np.float64) * step
    positions[positions > length - 1] = -1.0
    return positions


def _enlarge_loop(
    crop: NDArray[np.float32], rows: NDArray[np.float64], columns: NDArray[np.float64], total: NDArray[np.float32]
) -> None:
    """Add the bilinear enlargement to ``total``, with scipy's order of operations: in double, then rounded to float."""
    for i in range(len(rows)):
        if rows[i] < 0:
            continue
        top = int(np.floor(rows[i]))
        bottom = min(top + 1, crop.shape[0] - 1)
        down = rows[i] - top
        up = 1.0 - down
        for j in range(len(columns)):
            if columns[j] < 0:
                continue
            left = int(np.floor(columns[j]))
            right = min(left + 1, crop.shape[1] - 1)
            east = columns[j] - left
            west = 1.0 - east
            for channel in range(3):
                value = np.float64(crop[top, left, channel]) * up * west
                value += np.float64(crop[top, right, channel]) * up * east
                value += np.float64(crop[bottom, left, channel]) * down * west
                value += np.float64(crop[bottom, right, channel]) * down * east
                total[i, j, channel] += np.float32(value)


_add_enlarged: Any = njit(_enlarge_loop)
