"""Notices when training against a single step stops making the model robust."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from detectron2.engine import HookBase

logger = logging.getLogger(__name__)

DROP = 0.2  # of the accuracy under PGD; Wong et al. 2020 stop there


class CatastrophicOverfitting(HookBase):
    """Compares the accuracy under the training attack with that under PGD on the same few training images.

    In catastrophic overfitting (Wong et al. 2020, arXiv 2001.03994) the first goes on rising while the second falls,
    usually to zero within an epoch. Nothing else in the log shows it: the training loss looks better than ever.

    The alarm needs both: PGD leaves much less than it once did, and the gap between the two grew as much, so that the
    first did not simply fall with the second. The first itself may lie a few images below its best.

    Args:
        probe: measures (accuracy under the training attack, accuracy under PGD), both in [0, 1].
        period: iterations between two probes.

    Raises:
        ValueError: the period is not positive.
    """

    def __init__(self, probe: Callable[[], tuple[float, float]], *, period: int) -> None:
        if period < 1:
            raise ValueError(f"ADVERSARY.PROBE_PERIOD must be positive here, not {period}")
        self.probe, self.period = probe, period
        self.best = (0.0, 0.0)  # when PGD left most: accuracy under the training attack, under PGD

    def after_step(self) -> None:
        if (self.trainer.iter + 1) % self.period:
            return
        trained, pgd = self.probe()
        self.trainer.storage.put_scalars(
            **{"probe/training_attack_accuracy": trained, "probe/pgd_accuracy": pgd}, smoothing_hint=False
        )
        if pgd >= self.best[1]:
            self.best = (trained, pgd)
        elif self.best[1] - pgd > DROP and (trained - pgd) - (self.best[0] - self.best[1]) > DROP:
            logger.warning(
                "CATASTROPHIC OVERFITTING at iteration %d: accuracy under PGD fell from %.2f to %.2f while "
                "accuracy under the single training step is %.2f (was %.2f). The model has learned to blind "
                "that one step. Try ADVERSARY.OBJECTIVE n-fgsm or pgd, or a smaller SOLVER.BASE_LR.",
                self.trainer.iter + 1,
                self.best[1],
                pgd,
                trained,
                self.best[0],
            )

    def state_dict(self) -> dict[str, Any]:
        return {"best": list(self.best)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        trained, pgd = state_dict["best"]
        self.best = (trained, pgd)
