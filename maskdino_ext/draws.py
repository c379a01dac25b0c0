"""Where random numbers of a training step come from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor


class Draws:
    """torch's own generator, which ``torch.manual_seed`` seeds."""

    def uniform(self, purpose: str, shape: Sequence[int], device: torch.device) -> Tensor:
        """Float32 in [0, 1). ``purpose`` says what they are for, such as ``points/final/rand_over``."""
        return torch.rand(tuple(shape), device=device)

    def integers(self, purpose: str, shape: Sequence[int], high: int, device: torch.device) -> Tensor:
        """Int64 in [0, high)."""
        return torch.randint(high, tuple(shape), device=device)


class RecordedDraws(Draws):
    """Draws of an earlier run, by purpose: what makes two implementations comparable.

    Args:
        recorded: purpose -> tensor.
    """

    def __init__(self, recorded: Mapping[str, Tensor]) -> None:
        self.recorded = recorded

    def _of(self, purpose: str, shape: Sequence[int], device: torch.device) -> Tensor:
        if purpose not in self.recorded:
            raise KeyError(f"no draw was recorded for {purpose}")
        found = self.recorded[purpose].to(device)
        if tuple(found.shape) != tuple(shape):
            raise ValueError(f"the draw recorded for {purpose} has shape {tuple(found.shape)}, not {tuple(shape)}")
        return found

    def uniform(self, purpose: str, shape: Sequence[int], device: torch.device) -> Tensor:
        """The recorded numbers.

        Raises:
            KeyError, ValueError: nothing was recorded for this purpose, or for another shape.
        """
        return self._of(purpose, shape, device)

    def integers(self, purpose: str, shape: Sequence[int], high: int, device: torch.device) -> Tensor:
        """See :meth:`uniform`."""
        return self._of(purpose, shape, device).long()
