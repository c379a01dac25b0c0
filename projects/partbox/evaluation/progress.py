"""How far an evaluation is: a bar on a terminal, a line every half minute in a log."""

from __future__ import annotations

import logging
import sys
import time
from datetime import timedelta
from types import TracebackType

from tqdm import tqdm

logger = logging.getLogger(__name__)

SECONDS_BETWEEN_LINES = 30.0


class Progress:
    """Counts batches and tells the time left.

    Args:
        total: batches of the whole work.
        done: of them finished before.
        shown: False tells nothing.
    """

    def __init__(self, total: int, done: int, *, shown: bool) -> None:
        self.total, self.done, self.shown = total, done, shown
        self._first, self._start = done, time.monotonic()
        self._last_line = self._start
        self._bar = tqdm(total=total, initial=done, unit="batch", disable=not (shown and sys.stderr.isatty()))

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()

    def step(self, name: str) -> None:
        """One more batch of a perturbation is finished."""
        self.done += 1
        self._bar.set_description(name, refresh=False)
        self._bar.update()
        now = time.monotonic()
        if self.shown and self._bar.disable and now - self._last_line >= SECONDS_BETWEEN_LINES:
            self._last_line = now
            left = (now - self._start) / (self.done - self._first) * (self.total - self.done)
            eta = timedelta(seconds=round(left))
            logger.info("Evaluation: %d of %d batches, now %s, about %s left", self.done, self.total, name, eta)
