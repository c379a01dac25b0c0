"""Training objectives: what one step minimises on a batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from partbox.attacks import PGD, ThreatModel, attack_mode
from partbox.modeling import PartClassifier

Batch = Sequence[dict[str, Any]]


class TrainingObjective(Protocol):
    """Losses of one step.

    Attributes:
        passes: forward-backward passes over the batch that a step costs, the update included.
    """

    @property
    def passes(self) -> int: ...

    def __call__(self, model: PartClassifier, batch: Batch, iteration: int) -> dict[str, Tensor]: ...


class CleanObjective:
    """The model's losses on the images as they are."""

    passes = 1

    def __call__(self, model: PartClassifier, batch: Batch, iteration: int) -> dict[str, Tensor]:
        return model.losses(model.images_of(batch), model.targets_of(batch))


class PGDObjective:
    """The model's losses on images that PGD made worse (adversarial training, Madry et al. 2018).

    The attack sees the model in evaluation mode (running statistics, no dropout) with frozen parameters; the update
    sees it in training mode. The attack maximises the cross-entropy of the class; parts are learned on the same
    adversarial images. A random start depends on (seed, iteration, image id) only.

    Args:
        threat: at full strength.
        steps: gradient steps.
        step_size: in pixel space at full strength; None = 1.25 * eps / steps.
        random_start: start inside the ball at random.
        seed: of the random starts.

    Attributes:
        strength: share of eps in force, in [0, 1]; set from outside (eps warm-up). At 0 the images stay clean.
    """

    def __init__(
        self, threat: ThreatModel, *, steps: int, step_size: float | None, random_start: bool, seed: int
    ) -> None:
        if steps < 1:
            raise ValueError(f"adversarial training needs steps >= 1, not {steps}")
        self.threat = threat
        self.steps = steps
        self.step_size = 1.25 * threat.eps / steps if step_size is None else step_size
        self.random_start = random_start
        self.seed = seed
        self.strength = 1.0
        self.attack_at(1.0)  # refuses bad settings before any work

    @property
    def passes(self) -> int:
        return 1 + (self.steps if self.strength > 0 else 0)

    def attack_at(self, strength: float) -> PGD:
        """The attack with eps and step size scaled by ``strength``."""
        return PGD(self.threat.scaled(strength), self.steps, self.step_size * strength, random_start=self.random_start)

    def __call__(self, model: PartClassifier, batch: Batch, iteration: int) -> dict[str, Tensor]:
        images, targets = model.images_of(batch), model.targets_of(batch)
        if self.strength > 0:
            ids = [f"{iteration}|{sample['image_id']}" for sample in batch]
            # In float16 the attack's gradient would underflow, and a blind attack looks like a robust model.
            with attack_mode(model), torch.autocast(images.device.type, enabled=False):
                images = self.attack_at(self.strength).perturb(
                    model.logits, images, targets.labels, image_ids=ids, seed=self.seed
                )
        return model.losses(images.detach(), targets)
