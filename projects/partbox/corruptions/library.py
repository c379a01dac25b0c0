"""The kinds that the library ``imagecorruptions`` computes fast enough, without its global random numbers."""

from __future__ import annotations

import threading
from collections.abc import Callable

import imagecorruptions
import numpy as np

from .corrupt import Image

_global_generator = threading.Lock()


def from_library(name: str) -> Callable[[Image, int, int], Image]:
    """The library's corruption of that name as ``(image, severity, seed) -> image``."""

    def apply(image: Image, severity: int, seed: int) -> Image:
        # The library draws from numpy's global generator: seeded for this call, and put back as it was. Other threads
        # that draw from it at the same moment would disturb the result; loaders use processes.
        with _global_generator:
            before = np.random.get_state()
            np.random.seed(seed)
            try:
                return _call(image, name, severity, seed)
            finally:
                np.random.set_state(before)

    return apply


def _call(image: Image, name: str, severity: int, seed: int) -> Image:
    options = {"seed": seed} if name == "impulse_noise" else {}
    result: Image = imagecorruptions.corrupt(image, severity=severity, corruption_name=name, **options)
    return result
