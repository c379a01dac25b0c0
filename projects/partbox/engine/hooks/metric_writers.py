"""The log of a run's metrics, which goes on after an interruption as if there had been none."""

from __future__ import annotations

from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.engine import HookBase
from detectron2.utils.events import EventStorage, EventWriter

from partbox.processes import on_main

from ..run_folder import writers
from ..tracking.wandb_writer import WandbWriter

PERIOD = 20  # iterations between two lines, each the median over these iterations
CLOCKS = ("time", "data_time", "eta_seconds")  # tell of one start of a run, and of no other


class MetricWriters(HookBase):
    """Writes the metrics every ``PERIOD`` iterations and at the end: log lines, ``metrics.json``, TensorBoard, wandb.

    A line is a median over the iterations since the one before it, or the last value of what is measured now and then.
    What has been measured since the last line is part of a checkpoint: without it, the first line after an
    interruption would speak of fewer iterations, and the validations among them would be lost. So are pictures that no
    writer has taken yet. Must stand behind the hooks that measure, and before the one that writes checkpoints.

    Args:
        cfg: complete configuration.
    """

    def __init__(self, cfg: CfgNode) -> None:
        self.cfg = cfg
        self._writers: list[EventWriter] = []
        self._measured: dict[str, Any] = {}
        self._pictures: list[list[Any]] = []

    def before_train(self) -> None:
        first = self.trainer.start_iter // PERIOD * PERIOD  # that no line tells of yet
        storage = self.trainer.storage
        for name, scalar in self._measured.items():
            for value, iteration in scalar["recent"]:
                storage.put_scalar(name, value, smoothing_hint=scalar["smoothed"], cur_iter=iteration)
            if storage.latest()[name][1] < first:  # is in a line already
                del storage.latest()[name]
        for name, picture, iteration in self._pictures:
            if iteration >= first:
                put_picture(storage, name, picture, iteration)
        on_main(lambda: self._open(first))

    def _open(self, first: int) -> None:
        """On the main process; what is refused before the first iteration, such as a tracker without an account, is."""
        self._writers = writers(self.cfg, first, resumed=self.trainer.start_iter > 0)

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        if done % PERIOD == 0 or done == self.trainer.max_iter:
            for writer in self._writers:
                writer.write()

    def after_train(self) -> None:
        for writer in self._writers:
            writer.write()
            if isinstance(writer, WandbWriter):
                writer.complete = self.trainer.iter >= self.trainer.max_iter
            writer.close()

    def state_dict(self) -> dict[str, Any]:
        storage = getattr(self.trainer, "storage", None)
        if storage is None:  # before the training
            return {"measured": self._measured, "pictures": self._pictures}
        smoothed = storage.smoothing_hints()
        return {
            "measured": {
                name: {"smoothed": smoothed[name], "recent": [list(pair) for pair in history.values()[-PERIOD:]]}
                for name, history in storage.histories().items()
                if name not in CLOCKS
            },
            "pictures": [[name, torch.as_tensor(picture), iteration] for name, picture, iteration in storage._vis_data],
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._measured = state_dict["measured"]
        self._pictures = state_dict.get("pictures", [])  # checkpoints of before there were any have none


def put_picture(storage: EventStorage, name: str, picture: torch.Tensor, iteration: int) -> None:
    """Put a picture (3, H, W) into the storage as of another iteration than the present one."""
    now = storage.iter
    storage.iter = iteration
    storage.put_image(name, picture)
    storage.iter = now
