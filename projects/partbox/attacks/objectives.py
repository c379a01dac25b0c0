"""What an attack on a classifier maximises, one value an image."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from partbox.suggestions import unknown

Objective = Callable[[Tensor, Tensor], Tensor]

# The official AutoAttack adds it to DLR's denominators; kept so that values agree.
TINY = 1e-12


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of each image, (B, K), (B,) -> (B,)."""
    return functional.cross_entropy(logits, labels, reduction="none")


def margin(logits: Tensor, labels: Tensor) -> Tensor:
    """Largest wrong logit minus the true one, positive when fooled; (B, K), (B,) -> (B,). Carlini & Wagner 2017."""
    others = logits.scatter(1, labels[:, None], -torch.inf)
    return others.amax(dim=1) - _of_class(logits, labels)


def targeted_margin(logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
    """Logit of the target class minus the true one; (B, K), (B,), (B,) -> (B,)."""
    return _of_class(logits, targets) - _of_class(logits, labels)


def dlr(logits: Tensor, labels: Tensor) -> Tensor:
    """Difference of logits ratio, unchanged by shifting and scaling the logits; (B, K), (B,) -> (B,).

    The margin over the distance of the largest and the third largest logit. Croce & Hein 2020 (arXiv 2003.01690),
    equation 6. With two classes there is no third logit: then the margin itself.
    """
    if logits.shape[1] < 3:
        return margin(logits, labels)
    top = logits.topk(3, dim=1).values
    return margin(logits, labels) / (top[:, 0] - top[:, 2] + TINY)


def targeted_dlr(logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
    """Targeted difference of logits ratio; (B, K), (B,), (B,) -> (B,).

    Croce & Hein 2020 (arXiv 2003.01690), equation 7: the targeted margin over the distance of the largest logit and the
    mean of the third and fourth largest. With fewer than four classes the targeted margin itself (over the distance to
    the third logit it would be the constant -1 when the third class is the target).
    """
    difference = targeted_margin(logits, labels, targets)
    if logits.shape[1] < 4:
        return difference
    top = logits.topk(4, dim=1).values
    return difference / (top[:, 0] - top[:, 2:].mean(dim=1) + TINY)


def replaced_dlr(classes: int, *, targeted: bool) -> str:
    """What stands in for the DLR loss with few classes, as a sentence; "" where the loss is the published one."""
    needed = 4 if targeted else 3
    if classes >= needed:
        return ""
    name = "targeted margin" if targeted else "margin"
    loss = "the targeted DLR loss" if targeted else "the DLR loss"
    return f"{classes} classes: the {name} was maximised instead of {loss}, which needs {needed} logits"


def _of_class(logits: Tensor, classes: Tensor) -> Tensor:
    return logits.gather(1, classes[:, None]).squeeze(1)


OBJECTIVES: dict[str, Objective] = {"ce": cross_entropy, "margin": margin, "dlr": dlr}


def get_objective(name: str) -> Objective:
    """Look an objective up by name.

    Raises:
        ValueError: unknown name.
    """
    if name not in OBJECTIVES:
        raise ValueError(unknown("attack loss", name, OBJECTIVES))
    return OBJECTIVES[name]
