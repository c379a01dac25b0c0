"""Adversarial training with a multi-step attack: PGD, TRADES, MART and the mixed loss."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from partbox.attacks import PGD, PartPGD, ThreatModel, attack_mode
from partbox.attacks.base import Predict
from partbox.attacks.draws import gaussian_starts
from partbox.evaluation.part_predictions import part_predict
from partbox.modeling import PartClassifier, PartTargets

from .base import Batch
from .losses import boosted_cross_entropy, divergence, mart_robust_loss, trades_robust_loss
from .weight_perturbation import WeightPerturbation


class AdversarialObjective(ABC):
    """Losses of a model on images that an attack made worse.

    The attack sees the model in evaluation mode (running statistics, no dropout) with frozen parameters; the update
    sees it in training mode. Parts are learned on the adversarial images. A random start depends on (seed, iteration,
    image id) only.

    Args:
        threat: at full strength.
        steps: gradient steps of the attack.
        step_size: in pixel space at full strength; None = 1.25 * eps / steps.
        random_start: start inside the ball at random.
        seed: of the random starts.

    Attributes:
        strength: share of eps in force, in [0, 1]; set from outside (eps warm-up). At 0 the images stay clean.
        part_attack: None, or the attack on parts that takes the place of the one on the class alone.
        weight_perturbation: None, or what moves the weights against the update (AWP), while ``strength`` is above 0.
    """

    update_passes = 1

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
        self.part_attack: PartPGD | None = None
        self.weight_perturbation: WeightPerturbation | None = None
        self.attack_at(1.0)  # refuses bad settings before any work

    @property
    def passes(self) -> int:
        if self.strength == 0:
            return 1
        # With moved weights, the update's passes happen twice; the clean pass of TRADES' attack does not.
        return self.attack_passes + self.update_passes * (2 if self.weight_perturbation else 1)

    @property
    def attack_passes(self) -> int:
        """Forward passes over the batch that the attack costs."""
        return self.steps

    def attack_at(self, strength: float) -> PGD:
        """The attack with eps and step size scaled by ``strength``."""
        return PGD(self.threat.scaled(strength), self.steps, self.step_size * strength, random_start=self.random_start)

    def __call__(self, model: PartClassifier, batch: Batch, iteration: int) -> dict[str, Tensor]:
        images, targets = model.images_of(batch), model.targets_of(batch)
        if self.strength == 0:
            return model.losses(images, targets)
        ids = [f"{iteration}|{sample['image_id']}" for sample in batch]
        # In float16 the attack's gradient would underflow, and a blind attack looks like a robust model.
        with attack_mode(model), torch.autocast(images.device.type, enabled=False):
            if self.part_attack is not None:
                adversarial = self._perturb_parts(self.part_attack, model, images, targets, ids)
            else:
                adversarial = self.perturb(model.logits_for(batch), images, targets.labels, ids)
        if self.weight_perturbation is not None:
            return self.weight_perturbation(self.losses, model, images, adversarial.detach(), targets)
        return self.losses(model, images, adversarial.detach(), targets)

    def perturb(self, predict: Predict, images: Tensor, labels: Tensor, ids: Sequence[str]) -> Tensor:
        """Adversarial images (B, 3, H, W) of a model in evaluation mode."""
        return self.attack_at(self.strength).perturb(predict, images, labels, image_ids=ids, seed=self.seed)

    def _perturb_parts(
        self, attack: PartPGD, model: PartClassifier, images: Tensor, targets: PartTargets, ids: Sequence[str]
    ) -> Tensor:
        scaled = PartPGD(
            attack.threat.scaled(self.strength),
            attack.goal,
            attack.steps,
            attack.step_size * self.strength,
            part_weight=attack.part_weight,
            region=attack.region,
        )
        return scaled.perturb(
            part_predict(model),
            images,
            targets.labels,
            model.level_map(targets.part_maps),
            image_ids=ids,
            seed=self.seed,
            random_start=self.random_start,
        )

    @abstractmethod
    def losses(
        self, model: PartClassifier, images: Tensor, adversarial: Tensor, targets: PartTargets
    ) -> dict[str, Tensor]:
        """Weighted losses of the update, by name."""


class PGDObjective(AdversarialObjective):
    """The model's losses on the adversarial images alone (Madry et al. 2018, arXiv 1706.06083)."""

    def losses(
        self, model: PartClassifier, images: Tensor, adversarial: Tensor, targets: PartTargets
    ) -> dict[str, Tensor]:
        return model.losses(adversarial, targets)


class TwoBranchObjective(AdversarialObjective):
    """A classification loss of clean and adversarial images together; parts are learned on the adversarial ones.

    Args:
        beta: weight of the second term, >= 0.
        **attack: see :class:`AdversarialObjective`.

    Raises:
        ValueError: a setting out of range.
    """

    update_passes = 2

    def __init__(self, threat: ThreatModel, *, beta: float, **attack: object) -> None:
        super().__init__(threat, **attack)  # type: ignore[arg-type]
        if beta < 0:
            raise ValueError(f"BETA must not be negative, not {beta}")
        self.beta = beta

    @abstractmethod
    def class_losses(
        self, model: PartClassifier, clean: Tensor, adversarial: Tensor, targets: PartTargets
    ) -> tuple[Tensor, Tensor]:
        """The two terms, weighted against each other, of the logits (B, K) on clean and adversarial images."""

    def losses(
        self, model: PartClassifier, images: Tensor, adversarial: Tensor, targets: PartTargets
    ) -> dict[str, Tensor]:
        clean = model.run(images, targets, evidence_needed=False).logits
        output = model.run(adversarial, targets)
        first, second = self.class_losses(model, clean, output.logits, targets)
        weight = 1 - model.part_loss_weight
        return {"loss_class": weight * first, "loss_robust": weight * second, **model.part_losses(output, targets)}


class TradesObjective(TwoBranchObjective):
    """Clean cross-entropy plus beta times KL(clean || adversarial) (TRADES, Zhang et al. 2019, arXiv 1901.08573).

    The attack maximises that divergence from a start 0.001 * N(0, 1) away, and asks for the clean logits once, not once
    a step.

    Args:
        beta: weight of the divergence, >= 0.
        **attack: see :class:`AdversarialObjective`; ``random_start`` False starts at the clean image, where the
            divergence has no gradient, and is refused.

    Raises:
        ValueError: a setting out of range.
    """

    START_NOISE = 0.001

    @property
    def attack_passes(self) -> int:
        return self.steps + 1  # the clean logits

    def __init__(self, threat: ThreatModel, *, beta: float, **attack: object) -> None:
        super().__init__(threat, beta=beta, **attack)
        if not self.random_start:
            raise ValueError("TRADES needs RANDOM_START: its divergence has no gradient at the clean image")

    def perturb(self, predict: Predict, images: Tensor, labels: Tensor, ids: Sequence[str]) -> Tensor:
        with torch.no_grad():
            clean = predict(images)
        attack = self.attack_at(self.strength)
        starts = gaussian_starts(attack.threat, images, ids, seed=self.seed, deviation=self.START_NOISE)
        return attack.perturb(
            predict,
            images,
            labels,
            image_ids=ids,
            seed=self.seed,
            objective=lambda logits, _: divergence(clean, logits),
            starts=starts,
        )

    def class_losses(
        self, model: PartClassifier, clean: Tensor, adversarial: Tensor, targets: PartTargets
    ) -> tuple[Tensor, Tensor]:
        return model.classification_loss(clean, targets), self.beta * trades_robust_loss(clean, adversarial)


class MartObjective(TwoBranchObjective):
    """Boosted cross-entropy and a divergence that looks at misclassified images (MART, Wang et al. 2020).

    Args:
        beta: weight of the divergence, >= 0.
        **attack: see :class:`AdversarialObjective`; the attack maximises the cross-entropy.

    Raises:
        ValueError: a setting out of range.
    """

    def class_losses(
        self, model: PartClassifier, clean: Tensor, adversarial: Tensor, targets: PartTargets
    ) -> tuple[Tensor, Tensor]:
        return boosted_cross_entropy(adversarial, targets.labels), self.beta * mart_robust_loss(
            clean, adversarial, targets.labels
        )


class MixedObjective(TwoBranchObjective):
    """(1 - beta) * clean + beta * adversarial cross-entropy (the original system's MAT).

    Args:
        beta: share of the adversarial images, in [0, 1].
        **attack: see :class:`AdversarialObjective`.

    Raises:
        ValueError: a setting out of range.
    """

    def __init__(self, threat: ThreatModel, *, beta: float, **attack: object) -> None:
        super().__init__(threat, beta=beta, **attack)
        if not 0 <= beta <= 1:
            raise ValueError(f"BETA of the mixed objective is a share in [0, 1], not {beta}")

    def class_losses(
        self, model: PartClassifier, clean: Tensor, adversarial: Tensor, targets: PartTargets
    ) -> tuple[Tensor, Tensor]:
        return (1 - self.beta) * model.classification_loss(clean, targets), self.beta * functional.cross_entropy(
            adversarial, targets.labels
        )
