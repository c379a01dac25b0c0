"""What a training step asks an objective for, and the plainest of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from torch import Tensor

from partbox.modeling import PartClassifier

Batch = Sequence[dict[str, Any]]


class TrainingObjective(Protocol):
    """Losses of one step.

    Attributes:
        passes: forward passes over the batch that a step costs, the update included; most have a backward pass, too.
    """

    @property
    def passes(self) -> int: ...

    def __call__(self, model: PartClassifier, batch: Batch, iteration: int) -> dict[str, Tensor]: ...


class CleanObjective:
    """The model's losses on the images as they are."""

    passes = 1

    def __call__(self, model: PartClassifier, batch: Batch, iteration: int) -> dict[str, Tensor]:
        return model.losses(model.images_of(batch), model.targets_of(batch))
