"""One function for every kind of corruption."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from partbox.suggestions import unknown

from .kinds import KINDS, SEVERITIES

Image = NDArray[np.uint8]
MIN_SIDE = 32
MAX_SEED = 2**32 - 1


def corrupt(image: Image, name: str, severity: int, seed: int) -> Image:
    """The image under a corruption; a new array, same shape.

    Args:
        image: uint8 (H, W, 3) RGB in [0, 255], sides of at least 32 pixels. Channel order matters: snow, frost, spatter
            and jpeg_compression give other results on BGR. The authors' severities are meant for photographs of about
            224 pixels and more.
        name: one of :data:`partbox.corruptions.KINDS`.
        severity: 1 (weak) to 5 (strong).
        seed: of everything random, 0 to 2**32 - 1. Same arguments, same result; numpy's global generator is left as it
            was.

    The result equals what ``imagecorruptions`` gives after ``np.random.seed(seed)``, for glass_blur and impulse_noise
    (which draw from generators of their own) what it gives with ``seed=seed``.

    Raises:
        TypeError: the image is no uint8 array.
        ValueError: another shape, an image that is too small, an unknown name, a severity or seed out of range.
    """
    check_image(image)
    check_kind(name, severity)
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or not 0 <= seed <= MAX_SEED:
        raise ValueError(f"the seed of a corruption is a whole number from 0 to {MAX_SEED}, not {seed!r}")
    result = _implementation(name)(np.ascontiguousarray(image), int(severity), int(seed))
    return result if result.flags.writeable else result.copy()  # the library gives some in memory of PIL


def check_kind(name: str, severity: int) -> None:
    """Raises ValueError for an unknown kind, or a severity other than 1 to 5."""
    if name not in KINDS:
        raise ValueError(unknown("corruption", name, KINDS))
    if isinstance(severity, bool) or severity not in SEVERITIES:
        raise ValueError(f"a severity is a whole number from 1 to 5, not {severity!r}")


def check_image(image: Image) -> None:
    """Raises TypeError or ValueError for anything but uint8 (H, W, 3) of at least 32 x 32 pixels."""
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8:
        kind = f"an array of {image.dtype}" if isinstance(image, np.ndarray) else f"a {type(image).__name__}"
        raise TypeError(f"corruptions need a uint8 array with values from 0 to 255, not {kind}")
    if image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"corruptions need an RGB image of shape (height, width, 3), not {image.shape}")
    if min(image.shape[:2]) < MIN_SIDE:
        raise ValueError(f"corruptions need sides of at least {MIN_SIDE} pixels, and this image has {image.shape[:2]}")


def _implementation(name: str) -> Callable[[Image, int, int], Image]:
    # Here and not above: the library brings scikit-image and numba, a second or two that most users do not need.
    from . import colour, elastic, glass, library, zoom

    own: dict[str, Callable[[Image, int, int], Image]] = {
        "brightness": colour.brightness,
        "saturate": colour.saturate,
        "elastic_transform": elastic.elastic_transform,
        "glass_blur": glass.glass_blur,
        "zoom_blur": zoom.zoom_blur,
    }
    return own.get(name) or library.from_library(name)
