"""Errors that a user can mend are shown as one sentence, without a traceback."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

PATIENCE = 15.0  # seconds in which the first process finds and says what all of them find, and ends them

Errors = tuple[type[Exception], ...]


def sentence_of(problem: Exception) -> str:
    """The error as a user sees it."""
    return f"{type(problem).__name__}: {problem}"


@contextmanager
def errors_as_sentences(errors: Errors, rank: int = 0) -> Iterator[None]:
    """End the process with a sentence on stderr and exit code 1 where one of the errors is raised.

    Args:
        errors: that a user can mend.
        rank: of this process among those that train together. Others than the first wait a moment: what is wrong for
            all of them is said once, because the end of one ends the others.

    Raises:
        SystemExit: one of the errors was raised.
    """
    try:
        yield
    except errors as problem:
        if rank == 0:
            sys.exit(sentence_of(problem))
        # whoever started the processes ends this one with SIGTERM, which may have been held back
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
        time.sleep(PATIENCE)
        sys.exit(f"process {rank}: {sentence_of(problem)}")
