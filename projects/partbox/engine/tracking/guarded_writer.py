"""A writer of detectron2's events that may fail without a training failing with it."""

from __future__ import annotations

import logging
from collections.abc import Callable

from detectron2.utils.events import EventWriter, get_event_storage

logger = logging.getLogger(__name__)


class GuardedWriter(EventWriter):
    """Passes on what it is asked. An error ends the writer, with a line in the log, and never the run.

    Pictures, which only TensorBoard's writer takes out of the storage, do not gather there afterwards.

    Args:
        writer: of what a run can do without.
        name: in the log.
    """

    def __init__(self, writer: EventWriter, name: str) -> None:
        self.name = name
        self._writer: EventWriter | None = writer

    def write(self) -> None:
        if self._writer is not None:
            self._try(self._writer.write)
        if self._writer is None:
            get_event_storage().clear_images()

    def close(self) -> None:
        if self._writer is not None:
            self._try(self._writer.close)

    def _try(self, call: Callable[[], object]) -> None:
        try:
            call()
        except Exception as error:  # noqa: BLE001 whatever tracking does must not cost a run of days
            logger.error("%s does not go on (%s: %s); the run does", self.name, type(error).__name__, error)
            self._writer = None
