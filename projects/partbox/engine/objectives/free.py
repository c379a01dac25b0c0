"""Adversarial training for free: the update's own backward pass moves the perturbation."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from partbox.attacks import ThreatModel
from partbox.attacks.draws import random_starts
from partbox.modeling import PartClassifier
from partbox.processes import gathered, rank, world_size

from .adversarial import PGDObjective
from .base import Batch


class FreeObjective(PGDObjective):
    """Free adversarial training (Shafahi et al. 2019, arXiv 1904.12843).

    Each batch comes ``replays`` times in a row. One forward and backward pass gives the gradient of the weights, which
    the optimizer follows, and of the pixels, by whose sign times eps the batch's perturbation moves for the next
    replay. The perturbation starts at random for each new batch (the authors carry it over to the next, another image),
    so that a batch does not depend on the one before it.

    Unlike in the other objectives, the gradient of the pixels is that of the model in training mode.

    Args:
        threat: linf, at full strength.
        replays: m, >= 2.
        seed: of the random starts.

    Raises:
        ValueError: another norm than linf, or fewer than two replays.
    """

    def __init__(self, threat: ThreatModel, *, replays: int, seed: int) -> None:
        if threat.norm != "linf":
            raise ValueError(f"free adversarial training is defined for linf, not {threat.norm}")
        if replays < 2:
            raise ValueError(f"REPLAYS must be at least 2, not {replays}: one replay would train on random noise")
        super().__init__(threat, steps=1, step_size=threat.eps, random_start=True, seed=seed)
        self.replays = replays
        self._delta: Tensor | None = None  # of the batch that is being replayed
        self._leaf: Tensor | None = None  # its last adversarial images, whose gradient the update fills in

    @property
    def passes(self) -> int:
        return 1

    def __call__(self, model: PartClassifier, batch: Batch, iteration: int) -> dict[str, Tensor]:
        images, targets = model.images_of(batch), model.targets_of(batch)
        if self.strength == 0:
            return model.losses(images, targets)
        eps = self.threat.eps * self.strength
        if iteration % self.replays == 0 or self._delta is None:
            ids = [f"{iteration // self.replays}|{sample['image_id']}" for sample in batch]
            ball = self.threat.scaled(self.strength)
            self._delta = random_starts(ball, images, ids, seed=self.seed, restart=0) - images
        else:
            self._delta = self._moved(self._delta, eps)
        self._leaf = (images + self._delta).clamp(0, 1).detach().requires_grad_()
        return model.losses(self._leaf, targets)

    def _moved(self, delta: Tensor, eps: float) -> Tensor:
        if self._leaf is None or self._leaf.grad is None:
            return delta  # the step before was taken by somebody else
        return (delta + eps * self._leaf.grad.sign()).clamp(-eps, eps)

    def state_dict(self) -> dict[str, Any]:
        """The perturbation and the gradient that a resumed run needs in the middle of a batch's replays.

        They are of the whole batch, so that a run may go on with another number of processes.
        """
        gradient = None if self._leaf is None or self._leaf.grad is None else self._leaf.grad / world_size()
        return {"delta": _whole_batch(self._delta), "gradient": _whole_batch(gradient)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from :meth:`state_dict`."""
        self._delta, self._leaf = _own_share(state["delta"]), None
        gradient = _own_share(state["gradient"])
        if gradient is not None:
            self._leaf = torch.zeros_like(gradient)
            self._leaf.grad = gradient


def _whole_batch(share: Tensor | None) -> Tensor | None:
    """What all processes have of a batch, in the order of the batch, on this one's device."""
    pieces = [piece for piece in gathered(None if share is None else share.cpu()) if piece is not None]
    return None if share is None else torch.cat(pieces).to(share)


def _own_share(whole: Tensor | None) -> Tensor | None:
    """This process's images of a batch."""
    return None if whole is None else whole.chunk(world_size())[rank()].clone()
