"""One function over many items, in several processes, with the results in the order of the items."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import chain, islice, repeat
from typing import TypeVar

_PENDING = 4  # tasks a worker may have waiting; bounds memory
_TASK = 8  # items a task, after the first ones of one item each: sending takes longer than some items do

Item = TypeVar("Item")
Result = TypeVar("Result")


def ordered_map(work: Callable[[Item], Result], items: Iterable[Item], *, workers: int) -> Iterator[Result]:
    """``work`` of each item, in the order of the items, whatever the number of processes; one works in this process.

    Items are drawn as results are taken: neither is held for longer than that. An error of ``work`` is raised here.
    Ctrl+C interrupts this process only, which then lets its workers end what they are at.

    Raises:
        ChildProcessError: a worker was killed.
    """
    if workers <= 1:
        yield from map(work, items)
        return
    with ProcessPoolExecutor(workers, initializer=_end_with, initargs=(os.getpid(),)) as pool:
        pending: deque[Future[list[Result]]] = deque()
        remaining = iter(items)
        sizes = chain(repeat(1, workers * _PENDING), repeat(_TASK))
        try:
            while some := list(islice(remaining, next(sizes))):
                with _interrupts_blocked():  # submit starts the workers, which inherit that
                    future = pool.submit(_work_on, work, some)
                pending.append(future)
                if len(pending) >= workers * _PENDING:
                    yield from pending.popleft().result()
            while pending:
                yield from pending.popleft().result()
        except BrokenProcessPool as error:
            reason = "a worker process was killed, perhaps because memory ran out: take fewer workers"
            raise ChildProcessError(reason) from error
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _work_on(work: Callable[[Item], Result], items: list[Item]) -> list[Result]:
    return [work(item) for item in items]


@contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """A terminal sends Ctrl+C to all its processes; a worker that dies of it may take the lock of the queue along."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end_with(parent: int) -> None:
    """Let this worker end when its parent is killed; else it would wait for tasks for ever."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
