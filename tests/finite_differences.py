"""Whether a gradient is that of the function: compared with its slopes along random directions."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

TOLERANCE = 0.02  # of the slopes' length; a kink (ReLU, order of scores) within a step shows in some of them


def assert_whole_gradient(value: Callable[[Tensor], Tensor], at: Tensor, *, directions: int = 4) -> None:
    """The gradient of ``value`` (a number) at ``at``, float64, agrees with central differences along all directions."""
    leaf = at.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(value(leaf), leaf)
    generator = torch.Generator().manual_seed(2)
    found, wanted = [], []
    for _ in range(directions):
        direction = torch.randn(at.shape, generator=generator, dtype=at.dtype)
        with torch.no_grad():
            wanted.append(float(value(at + 1e-7 * direction) - value(at - 1e-7 * direction)) / 2e-7)
        found.append(float((gradient * direction).sum()))
    difference = torch.dist(torch.tensor(found), torch.tensor(wanted))
    assert difference <= TOLERANCE * torch.tensor(wanted).norm(), (found, wanted)
