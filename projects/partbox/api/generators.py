"""Whoever asks this API keeps the random numbers that they would have drawn without it."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def generators_kept() -> Iterator[None]:
    """The global generators of Python, numpy and torch go on afterwards where they were.

    Those of GPUs too, where any is in use already; else none is woken for it.
    """
    python, numpy_state = random.getstate(), np.random.get_state()
    awake = range(torch.cuda.device_count() if torch.cuda.is_initialized() else 0)
    with torch.random.fork_rng(devices=awake):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy_state)
