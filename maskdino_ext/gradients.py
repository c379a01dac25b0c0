"""Where DINO and Mask DINO cut gradients, and where they must not."""

from __future__ import annotations

from torch import Tensor, nn


def learns(module: nn.Module) -> bool:
    """Whether a forward pass of ``module`` is one of its own training.

    The papers cut the gradient of the chosen tokens and of the boxes that a layer starts from, so that each layer
    learns from its own prediction only. That is a matter of learning. Whoever asks for the gradient of the *image* (a
    white-box attack, a saliency map) wants that of the function which the network computes: with the cuts it points
    elsewhere, and an attack that follows it finds the network more robust than it is. So gradients are cut in training
    mode, and only while there are weights that learn.
    """
    return module.training and any(parameter.requires_grad for parameter in module.parameters())


def cut(value: Tensor, learning: bool) -> Tensor:
    """``value``, without its gradient while the weights learn."""
    return value.detach() if learning else value
