"""Drawing primitives: functions that return the outline of a shape as a polygon.

Points are arrays of shape (..., 2) holding (x, y), x to the right and y down, in any unit. Angles are in degrees;
0 points right, 90 down.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

Points = NDArray[np.float64]

_CIRCLE_STEPS = 20
_ANGLES = np.arange(_CIRCLE_STEPS) * (2 * np.pi / _CIRCLE_STEPS)
_CIRCLE: Points = np.stack([np.cos(_ANGLES), np.sin(_ANGLES)], axis=1)
_CAP_ANGLES = np.linspace(np.pi / 2, -np.pi / 2, 7)
_CAP: Points = np.stack([np.cos(_CAP_ANGLES), np.sin(_CAP_ANGLES)], axis=1)


def direction(angle: float) -> Points:
    """Unit vector (2,) of an angle in degrees."""
    radians = np.deg2rad(angle)
    return np.array([np.cos(radians), np.sin(radians)])


def rotate(points: ArrayLike, angle: float) -> Points:
    """Rotate points (N, 2) about the origin by an angle in degrees (from x towards y)."""
    cos, sin = direction(angle)
    return np.asarray(points, dtype=np.float64) @ np.array([[cos, sin], [-sin, cos]])


def place(points: ArrayLike, at: ArrayLike, angle: float = 0.0, scale: float = 1.0) -> Points:
    """Scale, rotate and then move points (N, 2) so that their origin comes to ``at`` (2,)."""
    return rotate(points, angle) * scale + np.asarray(at)


def ellipse(centre: ArrayLike, radius_x: float, radius_y: float, angle: float = 0.0) -> Points:
    """Outline of an ellipse, (20, 2)."""
    return place(_CIRCLE * (radius_x, radius_y), centre, angle)


def ring(centre: ArrayLike, radius: float, inner_radius: float) -> Points:
    """Outline of a ring: the outer circle and, walked backwards, the inner one, joined by a seam of no width."""
    circle = np.concatenate([_CIRCLE, _CIRCLE[:1]])
    return np.concatenate([circle * radius, circle[::-1] * inner_radius]) + np.asarray(centre)


def limb(points: ArrayLike, widths: Sequence[float] | NDArray[np.float64]) -> Points:
    """Outline of a stroke with round ends along a line of points (N, 2), ``widths`` (N,) wide at each of them."""
    line = np.asarray(points, dtype=np.float64)
    half = np.asarray(widths, dtype=np.float64)[:, None] / 2
    steps = line[1:] - line[:-1]
    steps = steps / np.maximum(np.sqrt((steps**2).sum(axis=1, keepdims=True)), 1e-9)
    along = np.concatenate([steps[:1], steps[:-1] + steps[1:], steps[-1:]])
    along = along / np.maximum(np.sqrt((along**2).sum(axis=1, keepdims=True)), 1e-9)
    across = np.stack([-along[:, 1], along[:, 0]], axis=1)
    end = _CAP[:, :1] * along[-1] + _CAP[:, 1:] * across[-1]
    start = -_CAP[:, :1] * along[0] - _CAP[:, 1:] * across[0]
    left, right = line + across * half, line - across * half
    return np.concatenate([left, line[-1] + end * half[-1], right[::-1], line[0] + start * half[0]])


def smooth(points: ArrayLike) -> Points:
    """Round the corners of a closed polygon (N, 2) by cutting them twice (Chaikin): (4 N, 2)."""
    outline = np.asarray(points, dtype=np.float64)
    for _ in range(2):
        following = np.concatenate([outline[1:], outline[:1]])
        outline = np.stack([0.75 * outline + 0.25 * following, 0.25 * outline + 0.75 * following], axis=1).reshape(
            -1, 2
        )
    return outline


def chain(start: ArrayLike, angles: Sequence[float], lengths: Sequence[float]) -> Points:
    """Joints (N + 1, 2) of a jointed limb: from ``start``, bones of the given absolute angles and lengths."""
    radians = np.deg2rad(np.asarray(angles, dtype=np.float64))
    bones = np.stack([np.cos(radians), np.sin(radians)], axis=1) * np.asarray(lengths, dtype=np.float64)[:, None]
    return np.concatenate([np.zeros((1, 2)), np.cumsum(bones, axis=0)]) + np.asarray(start)


def curve(start: ArrayLike, angle: float, bend: float, length: float, steps: int = 6) -> Points:
    """Points (steps + 1, 2) of an arc that starts at an angle and turns by ``bend`` degrees along its length."""
    angles = angle + bend * (np.arange(steps) + 0.5) / steps
    return chain(start, list(angles), [length / steps] * steps)
