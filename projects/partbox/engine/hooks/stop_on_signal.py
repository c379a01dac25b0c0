"""Ending a training on a signal."""

from __future__ import annotations

from detectron2.engine import HookBase

from partbox import processes

from ..interruption import Interrupted, Interruption
from .resume_checkpoints import ResumeCheckpoints


class StopOnSignal(HookBase):
    """After the step in which a signal came: a checkpoint, and the end. All processes stop after the same step.

    Must stand after everything whose state a checkpoint keeps, and after the checkpoints, in the list of hooks. After
    the last step it does nothing, since what follows the training stops by itself.

    Args:
        checkpoints: write it.
        interruption: tells of the signal.
    """

    def __init__(self, checkpoints: ResumeCheckpoints, interruption: Interruption) -> None:
        self.checkpoints, self.interruption = checkpoints, interruption

    def after_step(self) -> None:
        if not processes.any_of(bool(self.interruption.received)):
            return
        if self.trainer.iter + 1 >= self.trainer.max_iter:
            return
        name = self.checkpoints.save_now()
        processes.any_of(False)  # nobody leaves before the file is there: the end of one may end the others
        raise Interrupted(
            f"after iteration {self.trainer.iter}, checkpoint {name}; --resume goes on from there", together=True
        )
