"""Clean phase and growth of eps."""

from __future__ import annotations

from detectron2.engine import HookBase

from ..objectives import AdversarialObjective


class EpsWarmup(HookBase):
    """Trains on clean images for ``clean_iters``, then lets eps grow linearly to full strength.

    Args:
        objective: whose strength is set.
        clean_iters: iterations without attack.
        warmup_iters: iterations from there to full strength; 0 = at once.
    """

    def __init__(self, objective: AdversarialObjective, *, clean_iters: int, warmup_iters: int) -> None:
        if clean_iters < 0 or warmup_iters < 0:
            raise ValueError("ADVERSARY.CLEAN_ITERS and ADVERSARY.EPS_WARMUP_ITERS must not be negative")
        self.objective, self.clean_iters, self.warmup_iters = objective, clean_iters, warmup_iters

    def strength(self, iteration: int) -> float:
        """Share of eps in an iteration, in [0, 1]."""
        attacked = iteration - self.clean_iters
        if attacked < 0:
            return 0.0
        return min(1.0, (attacked + 1) / (self.warmup_iters + 1))

    def before_step(self) -> None:
        self.objective.strength = self.strength(self.trainer.iter)
        eps = self.objective.threat.eps * self.objective.strength
        self.trainer.storage.put_scalar("eps", eps, smoothing_hint=False)
