"""Which image each process of a loader reads, so that one that dies does not do so without a name.

A process that is killed (by the system when memory runs out) or crashes (in a decoder) says nothing itself, and torch
knows its process id alone.
"""

from __future__ import annotations

import os
import re
import signal
import threading
import weakref
from collections.abc import Sequence
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from .image_errors import WorkerDied

# torch says "DataLoader worker (pid 7) is killed by signal: Killed." or "... (pid(s) 7, 8) exited unexpectedly"
DEATH = re.compile(r"DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\) (is killed by signal: [^.]+|exited unexpectedly)")
PROCESS, BUSY = 0, 2  # columns of the table
_watches: weakref.WeakSet[WorkerWatch] = weakref.WeakSet()


class WorkerWatch:
    """A table in memory that a loader shares with its worker processes.

    Args:
        workers: number of processes.
        records: of the dataset.

    Attributes:
        table: int64 (workers, 3): process id (0 before its first image), index of the record that it reads or read
            last, whether it is still at it.
    """

    def __init__(self, workers: int, records: Sequence[dict[str, Any]]) -> None:
        self.table = torch.zeros(workers, 3, dtype=torch.int64).share_memory_()
        self.records = records
        _watches.add(self)

    def named(self, process: int, ending: str) -> WorkerDied | None:
        """The error of a process that has ended; None for one that has read nothing here."""
        rows = self.table[self.table[:, PROCESS] == process].tolist()
        if not rows:
            return None
        (_, index, busy) = rows[0]
        record = self.records[index]
        doing = "while it read" if busy else "after it had read"
        return WorkerDied(str(record.get("file_name", "")), record.get("image_id", index), f"{ending} {doing}")


def begin(table: Tensor | None, index: int) -> None:
    """Note, in a worker process, that it reads the record of this index."""
    worker = get_worker_info()
    if table is not None and worker is not None:
        table[worker.id] = torch.tensor([os.getpid(), index, 1])


def end(table: Tensor | None) -> None:
    """Note, in a worker process, that it is done with that record."""
    worker = get_worker_info()
    if table is not None and worker is not None:
        table[worker.id, BUSY] = 0


def named_death(error: RuntimeError) -> WorkerDied | None:
    """What torch says of a dead process, with the image that it was reading; None where it tells of something else."""
    found = None if isinstance(error, WorkerDied) else DEATH.search(str(error))
    if found is None:
        return None
    ending = found[2].replace("is killed by signal", "was killed by signal")
    for process in found[1].split(","):
        for watch in list(_watches):
            named = watch.named(int(process), ending)
            if named is not None:
                return named
    return None


def name_deaths_anywhere() -> None:
    """Let the signal of a worker's death raise the named error, too.

    torch handles it wherever the main thread is at that moment, which is in a training step more often than in the
    loader. To be called after torch has made its processes; does nothing outside the main thread, as torch does.
    """
    handler = signal.getsignal(signal.SIGCHLD)
    if threading.current_thread() is not threading.main_thread() or not callable(handler):
        return
    if isinstance(handler, _NamingHandler):
        return
    signal.signal(signal.SIGCHLD, _NamingHandler(handler))


class _NamingHandler:
    def __init__(self, handler: Any) -> None:
        self.handler = handler

    def __call__(self, number: int, frame: FrameType | None) -> None:
        try:
            self.handler(number, frame)
        except RuntimeError as error:
            if (death := named_death(error)) is not None:
                raise death from error
            raise
