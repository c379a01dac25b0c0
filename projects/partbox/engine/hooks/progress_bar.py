"""How far a training is, on a terminal.

The log has lines of its own, see :class:`partbox.engine.hooks.metric_writers.MetricWriters`.
"""

from __future__ import annotations

from detectron2.engine import HookBase

from partbox.processes import is_main
from partbox.progress import Progress


class ProgressBar(HookBase):
    """A bar with the time left, where the main process runs on a terminal."""

    def __init__(self) -> None:
        self._bar: Progress | None = None

    def before_train(self) -> None:
        first, last = self.trainer.start_iter, self.trainer.max_iter
        self._bar = Progress(last, "training", "iteration", done=first, shown=is_main(), lines=False)
        self._bar.__enter__()

    def after_step(self) -> None:
        if self._bar is not None:
            self._bar.step()

    def after_train(self) -> None:
        if self._bar is not None:
            self._bar.__exit__(None, None, None)
            self._bar = None
