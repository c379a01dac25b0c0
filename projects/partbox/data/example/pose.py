"""The vocabulary of the anatomy: a shape that belongs to a part, and the random pose that joints draw from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from numpy.random import Generator

from partbox.data.example.shapes import Points


class Shape(NamedTuple):
    """A filled polygon that belongs to one instance of a part; an instance may consist of several shapes."""

    part: str
    """Name of the part within its class, e.g. ``"Head"``."""
    instance: int
    """Which one of the parts of this name, from 0."""
    outline: Points
    """Corners (N, 2) as (x, y), y down."""


@dataclass(frozen=True)
class Pose:
    """Draws joint angles and proportions around their standard values."""

    rng: Generator
    freedom: float = 1.0
    """Scales every spread; 0 is the standard pose."""

    def about(self, standard: float, spread: float) -> float:
        """A value uniform in ``standard`` plus or minus ``spread`` (times the freedom)."""
        return standard + spread * self.freedom * (2 * float(self.rng.random()) - 1)

    def side(self) -> int:
        """-1 or 1, each half of the time."""
        return 1 if self.rng.random() < 0.5 else -1
