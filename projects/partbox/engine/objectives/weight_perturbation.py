"""Adversarial weight perturbation (AWP, Wu et al. 2020, arXiv 2004.05884)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from partbox.processes import averaged_together, world_size

Losses = dict[str, Tensor]


class WeightPerturbation:
    """Takes the losses of a step at weights that were moved against the model, layer by layer.

    Each weight matrix or kernel w moves by gamma * |w| along its gradient of the total loss (paper, equation 8, one
    step); the update's gradient is taken there and applied to the weights as they are. Biases and normalisation layers
    stay, as in the official implementation. BatchNorm's running statistics see the update only.

    Args:
        gamma: size of the move relative to the layer's norm, > 0 (paper: 0.005 to 0.01).

    Raises:
        ValueError: gamma is not positive.
    """

    def __init__(self, gamma: float) -> None:
        if not gamma > 0:
            raise ValueError(f"AWP_GAMMA must be positive, not {gamma}")
        self.gamma = gamma

    def __call__(self, losses: Callable[..., Losses], model: nn.Module, *inputs: Any) -> Losses:
        """``losses(model, *inputs)`` at the moved weights, with gradients for the model's own parameters."""
        call = _Call(losses, model)
        weights = {name: p for name, p in call.named_parameters() if p.requires_grad and p.dim() > 1}
        buffers = {name: buffer.clone() for name, buffer in call.named_buffers()}
        total = torch.stack(
            [loss.float() for loss in functional_call(call, buffers, inputs, tie_weights=False).values()]
        ).sum()
        gradients = self._of_all_processes(
            list(weights.values()), torch.autograd.grad(total, list(weights.values()), allow_unused=True)
        )
        moved = {
            name: weight + self._move(weight.detach(), gradient)
            for (name, weight), gradient in zip(weights.items(), gradients, strict=True)
            if gradient is not None
        }
        # Modules under several names (a detector's shared heads) are replaced once, and put back once.
        result: Losses = functional_call(call, moved, inputs, tie_weights=False)
        return result

    @staticmethod
    def _of_all_processes(weights: Sequence[Tensor], gradients: Sequence[Tensor | None]) -> Sequence[Tensor | None]:
        """The gradients of the whole batch: all processes must move to the same weights."""
        if world_size() == 1:
            return gradients
        there = [torch.zeros_like(w) if g is None else g for w, g in zip(weights, gradients, strict=True)]
        return averaged_together(there)

    def _move(self, weight: Tensor, gradient: Tensor) -> Tensor:
        return self.gamma * weight.norm() * gradient / gradient.norm().clamp_min(1e-20)


class _Call(nn.Module):
    """A function of a model as a module's forward, so that its parameters can be replaced for one call."""

    def __init__(self, function: Callable[..., Losses], model: nn.Module) -> None:
        super().__init__()
        self.function, self.model = function, model

    def forward(self, *inputs: Any) -> Losses:
        return self.function(self.model, *inputs)
