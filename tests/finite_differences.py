"""Whether a gradient is that of the function: compared with its slope along random directions."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor


def assert_whole_gradient(value: Callable[[Tensor], Tensor], at: Tensor, *, directions: int = 3) -> None:
    """The gradient of ``value`` (a number) at ``at``, float64, agrees with central differences to 2 %."""
    leaf = at.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(value(leaf), leaf)
    generator = torch.Generator().manual_seed(2)
    for _ in range(directions):
        direction = torch.randn(at.shape, generator=generator, dtype=at.dtype)
        with torch.no_grad():
            slope = float(value(at + 1e-7 * direction) - value(at - 1e-7 * direction)) / 2e-7
        assert float((gradient * direction).sum()) == pytest.approx(slope, rel=0.02)
