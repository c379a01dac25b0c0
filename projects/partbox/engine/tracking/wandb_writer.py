"""detectron2's events for Weights & Biases."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from detectron2.utils.events import EventWriter, get_event_storage

logger = logging.getLogger(__name__)


class WandbWriter(EventWriter):
    """Sends scalars and pictures: of each line what ``metrics.json`` has, at the same iteration.

    Must stand before detectron2's TensorBoard writer, which takes the pictures out of the storage. An error of wandb
    ends the tracking, with a line in the log, and never the run that it tracks.

    Args:
        run: from :func:`partbox.engine.tracking.wandb_run.open_run`.
        window: iterations of the median of what is smoothed.
        axis: name of what stands for the iteration, where it is none; lines then are counted from ``first`` on.
        first: see ``axis``.
    """

    def __init__(self, run: Any, *, window: int, axis: str = "", first: int = 0) -> None:
        self.window, self.axis = window, axis
        self.run: Any = run
        self.complete = False  # whether the run has ended as it should, which wandb shows
        self._last = -1
        self._base, self._sent = max(first, run.step), 0
        self._axes: set[str] = set()

    def write(self) -> None:
        storage = get_event_storage()
        lines: dict[int, dict[str, Any]] = defaultdict(dict)
        for name, (value, iteration) in storage.latest_with_smoothing_hint(self.window).items():
            if iteration > self._last:
                lines[iteration][name] = value
        self._last = max([self._last, *lines])
        for name, picture, iteration in storage._vis_data:  # as detectron2's own writers read it
            lines[iteration][name] = _pixels(picture)
        for iteration in sorted(lines):
            self._try(self._send, iteration, lines[iteration])

    def summarize(self, values: Mapping[str, float]) -> None:
        """Put numbers into the run's summary, beside its curves."""
        self._try(lambda: self.run.summary.update(dict(values)))

    def close(self) -> None:
        self._try(lambda: self.run.finish(exit_code=0 if self.complete else 1))
        self.run = None

    def _send(self, iteration: int, line: dict[str, Any]) -> None:
        import wandb

        values = {name: wandb.Image(value) if isinstance(value, np.ndarray) else value for name, value in line.items()}
        if not self.axis:
            if iteration >= self.run.starting_step:  # what an earlier start of the run has sent is there
                self.run.log(values, step=iteration)
            return
        for name in values.keys() - self._axes:
            self.run.define_metric(name, step_metric=self.axis)
            self._axes.add(name)
        self._sent += 1
        self.run.log({self.axis: iteration, **values}, step=self._base + self._sent)

    def _try(self, call: Callable[..., Any], *arguments: Any) -> None:
        if self.run is None:
            return
        try:
            call(*arguments)
        except Exception as error:  # noqa: BLE001 whatever tracking does must not cost a run of days
            logger.error("wandb does not go on (%s: %s); the run does, untracked by it", type(error).__name__, error)
            self.run = None


def _pixels(picture: Any) -> np.ndarray:
    """(3, H, W), uint8 or float in [0, 1] -> (H, W, 3) uint8."""
    array = picture.detach().cpu().numpy() if isinstance(picture, torch.Tensor) else np.asarray(picture)
    if array.dtype != np.uint8:
        array = np.rint(array * 255).astype(np.uint8)
    return np.ascontiguousarray(array.transpose(1, 2, 0))
