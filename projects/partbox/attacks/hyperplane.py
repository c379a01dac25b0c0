"""Nearest point of a hyperplane inside the box of allowed pixels."""

from __future__ import annotations

import torch
from torch import Tensor

from .threat import Norm

MOST_STEPS = 60  # Newton's method ends after a handful; a bound for inputs that are not finite


def step_to_hyperplane(points: Tensor, normals: Tensor, offsets: Tensor, norm: Norm) -> Tensor:
    """The smallest step from each point onto its hyperplane that keeps all coordinates in [0, 1].

    Solves min ||d|| subject to <w, x + d> = b and 0 <= x + d <= 1 (Croce & Hein 2020, arXiv 1907.02044, section 3.1).
    Towards the hyperplane every coordinate moves against the sign of its weight until it meets its wall; how far
    is one number an image, the root of a concave, increasing, piecewise linear function (linf: sum of
    |w| min(r, room); l2: sum of |w| min(r |w|, room)), found exactly by Newton's method from the left. Where the
    hyperplane does not meet the box, the step leads to the corner nearest to it.

    Args:
        points: (B, D) in [0, 1].
        normals: (B, D) w.
        offsets: (B,) b.
        norm: ``linf`` or ``l2``.

    Returns:
        (B, D) steps d.
    """
    gap = (normals * points).sum(dim=1) - offsets
    # Turned so that the value has to decrease.
    weights = torch.where(gap[:, None] < 0, -normals, normals)
    gap = gap.abs()
    size = weights.abs()
    room = torch.where(weights > 0, points, 1 - points)
    room = torch.where(weights == 0, 0.0, room)
    rate = torch.ones_like(size) if norm == "linf" else size
    # A coordinate meets its wall at this length; l2 moves coordinates in proportion to their weight.
    wall = room if norm == "linf" else torch.where(size > 0, room / size.clamp_min(torch.finfo(size.dtype).tiny), 0.0)
    length = torch.zeros_like(gap)
    reach = (size * room).sum(dim=1)
    for _ in range(MOST_STEPS):
        moves = torch.minimum(length[:, None] * rate, room)
        missing = gap - (size * moves).sum(dim=1)
        slope = (size * rate * (length[:, None] < wall)).sum(dim=1)
        going = (missing > 1e-7 * gap) & (slope > 0)
        if not bool(going.any()):
            break
        length = torch.where(going, length + missing / slope.clamp_min(torch.finfo(slope.dtype).tiny), length)
    moves = torch.minimum(length[:, None] * rate, room)
    moves = torch.where((gap > reach)[:, None], room, moves)
    return -weights.sign() * moves
