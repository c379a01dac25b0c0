"""Checkpoints to continue from."""

from __future__ import annotations

from typing import Any

from detectron2.engine import hooks

from ..checkpoint import PREFIX, RunCheckpointer

KEPT = 2


class ResumeCheckpoints(hooks.PeriodicCheckpointer):
    """detectron2's checkpoints every ``period`` iterations and at the end, and one when :meth:`save_now` asks for it.

    The newest two of the folder are kept, and an older one is deleted after the new one is complete. detectron2's own
    hook knows those alone that it has written itself, so each start of a run would leave two behind.

    Args:
        checkpointer: writes them.
        period: iterations from one to the next.
    """

    def __init__(self, checkpointer: RunCheckpointer, period: int) -> None:
        super().__init__(checkpointer, period, file_prefix=PREFIX)
        self.every = period

    def step(self, iteration: int, **kwargs: Any) -> None:
        super().step(iteration, **kwargs)
        if (iteration + 1) % self.period == 0:
            self.checkpointer.drop_older(iteration, keep=KEPT)

    def save_now(self) -> str:
        """Have a checkpoint of this iteration, after its step; the name of its file."""
        iteration: int = self.trainer.iter
        if (iteration + 1) % self.every:  # else there is one already
            self.period = 1
            self.step(iteration)
            self.period = self.every
        return f"{PREFIX}_{iteration:07d}.pth"
