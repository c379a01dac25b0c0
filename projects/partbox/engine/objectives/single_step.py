"""Adversarial training with one step and much noise."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from partbox.attacks import ThreatModel
from partbox.attacks.base import Predict
from partbox.attacks.draws import random_starts

from .adversarial import PGDObjective

NOISE = 2.0  # times eps


class NoisyFGSMObjective(PGDObjective):
    """N-FGSM (de Jorge et al. 2022, arXiv 2202.01181): one step of eps from noise of 2 eps, not projected back.

    The adversarial image may lie up to 3 eps from the clean one; only pixels are clipped to [0, 1]. That noise is
    what keeps single-step training from catastrophic overfitting.

    Args:
        threat: linf, at full strength.
        seed: of the noise.

    Raises:
        ValueError: another norm than linf.
    """

    def __init__(self, threat: ThreatModel, *, seed: int) -> None:
        if threat.norm != "linf":
            raise ValueError(f"n-fgsm is defined for linf, not {threat.norm}")
        super().__init__(threat, steps=1, step_size=threat.eps, random_start=True, seed=seed)

    def perturb(self, predict: Predict, images: Tensor, labels: Tensor, ids: Sequence[str]) -> Tensor:
        noise_ball = self.threat.scaled(NOISE * self.strength)
        noisy = random_starts(noise_ball, images, ids, seed=self.seed, restart=0)
        # Around the noisy image, one step of eps never meets the wall of its own ball.
        step = self.attack_at(self.strength)
        return step.perturb(predict, noisy, labels, image_ids=ids, seed=self.seed, starts=noisy)
