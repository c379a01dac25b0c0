"""The log of a run's metrics, which goes on after an interruption as if there had been none."""

from __future__ import annotations

from typing import Any

from detectron2.config import CfgNode
from detectron2.engine import HookBase
from detectron2.utils.events import EventWriter

from partbox.processes import is_main

from ..run_folder import writers

PERIOD = 20  # iterations between two lines, each the median over these iterations
CLOCKS = ("time", "data_time", "eta_seconds")  # tell of one start of a run, and of no other


class MetricWriters(HookBase):
    """Writes the metrics every ``PERIOD`` iterations and at the end: log lines, ``metrics.json``, TensorBoard.

    A line is a median over the iterations since the one before it, or the last value of what is measured now and then.
    What has been measured since the last line is part of a checkpoint: without it, the first line after an
    interruption would speak of fewer iterations, and the validations among them would be lost. Must stand behind the
    hooks that measure, and before the one that writes checkpoints.

    Args:
        cfg: complete configuration.
    """

    def __init__(self, cfg: CfgNode) -> None:
        self.cfg = cfg
        self._writers: list[EventWriter] = []
        self._measured: dict[str, Any] = {}

    def before_train(self) -> None:
        first = self.trainer.start_iter // PERIOD * PERIOD  # that no line tells of yet
        storage = self.trainer.storage
        for name, scalar in self._measured.items():
            for value, iteration in scalar["recent"]:
                storage.put_scalar(name, value, smoothing_hint=scalar["smoothed"], cur_iter=iteration)
            if storage.latest()[name][1] < first:  # is in a line already
                del storage.latest()[name]
        self._writers = writers(self.cfg, first) if is_main() else []

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        if done % PERIOD == 0 or done == self.trainer.max_iter:
            for writer in self._writers:
                writer.write()

    def after_train(self) -> None:
        for writer in self._writers:
            writer.write()
            writer.close()

    def state_dict(self) -> dict[str, Any]:
        storage = getattr(self.trainer, "storage", None)
        if storage is None:  # before the training
            return {"measured": self._measured}
        smoothed = storage.smoothing_hints()
        return {
            "measured": {
                name: {"smoothed": smoothed[name], "recent": [list(pair) for pair in history.values()[-PERIOD:]]}
                for name, history in storage.histories().items()
                if name not in CLOCKS
            }
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._measured = state_dict["measured"]
