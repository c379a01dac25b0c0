"""Checkpoints to continue from."""

from __future__ import annotations

from pathlib import Path

from detectron2.engine import hooks

from partbox import processes

from ..checkpoint import RunCheckpointer

PREFIX = "resume"
KEPT = 2


class ResumeCheckpoints(hooks.PeriodicCheckpointer):
    """detectron2's checkpoints every ``period`` iterations and at the end, and one when :meth:`save_now` asks for it.

    The newest two are kept, those of earlier starts of the run counted; all processes call it.

    Args:
        checkpointer: writes them.
        period: iterations from one to the next.
    """

    def __init__(self, checkpointer: RunCheckpointer, period: int) -> None:
        kept = KEPT if processes.is_main() else None  # who writes them deletes them
        super().__init__(checkpointer, period, max_to_keep=kept, file_prefix=PREFIX)
        self.every = period

    def before_train(self) -> None:
        super().before_train()
        earlier = sorted(Path(self.checkpointer.save_dir).glob(f"{PREFIX}_{'[0-9]' * 7}.pth"))
        earlier = [path for path in earlier if _iteration(path) < self.trainer.start_iter]
        self.recent_checkpoints = [str(path) for path in earlier[-KEPT:]]
        if processes.is_main():
            for path in earlier[:-KEPT]:
                path.unlink()

    def save_now(self) -> str:
        """Have a checkpoint of this iteration, after its step; the name of its file."""
        iteration: int = self.trainer.iter
        if (iteration + 1) % self.every:  # else there is one already
            self.period = 1
            self.step(iteration)
            self.period = self.every
        return f"{PREFIX}_{iteration:07d}.pth"


def _iteration(path: Path) -> int:
    return int(path.stem.removeprefix(f"{PREFIX}_"))
