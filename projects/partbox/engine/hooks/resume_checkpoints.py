"""Checkpoints to continue from."""

from __future__ import annotations

from typing import Any

from detectron2.engine import hooks

from ..checkpoint import PREFIX, RunCheckpointer

KEPT = 2


class ResumeCheckpoints(hooks.PeriodicCheckpointer):
    """Writes a checkpoint every ``period`` iterations and at the end, and keeps the newest two of the folder.

    An older one is deleted after the new one is complete. detectron2's own hook knows those alone that it has written
    itself, so each start of a run would leave two behind.

    Args:
        checkpointer: writes them.
        period: iterations between two.
    """

    def __init__(self, checkpointer: RunCheckpointer, period: int) -> None:
        super().__init__(checkpointer, period, file_prefix=PREFIX)

    def step(self, iteration: int, **kwargs: Any) -> None:
        super().step(iteration, **kwargs)
        if (iteration + 1) % self.period == 0:
            self.checkpointer.drop_older(iteration, keep=KEPT)
