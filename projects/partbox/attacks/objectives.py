"""What an attack on a classifier maximises, one value an image."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

Objective = Callable[[Tensor, Tensor], Tensor]


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of each image, (B, K), (B,) -> (B,)."""
    return functional.cross_entropy(logits, labels, reduction="none")


def margin(logits: Tensor, labels: Tensor) -> Tensor:
    """Largest wrong logit minus the true one, positive when fooled; (B, K), (B,) -> (B,). Carlini & Wagner 2017."""
    true = logits.gather(1, labels[:, None]).squeeze(1)
    others = logits.scatter(1, labels[:, None], -torch.inf)
    return others.amax(dim=1) - true


OBJECTIVES: dict[str, Objective] = {"ce": cross_entropy, "margin": margin}


def get_objective(name: str) -> Objective:
    """Look an objective up by name.

    Raises:
        ValueError: unknown name.
    """
    if name not in OBJECTIVES:
        raise ValueError(f"unknown attack loss {name!r}; known: {', '.join(OBJECTIVES)}")
    return OBJECTIVES[name]
