"""Ending a run on a signal so that it can go on: a training after its step, an evaluation at once."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from partbox import processes

from .slurm.requeue import Decision, announce, requeue
from .slurm.task import Held

logger = logging.getLogger(__name__)

# Slurm sends the first before the time limit, where it is asked to; the second when it takes the machine away.
SIGNALS = (signal.SIGUSR1, signal.SIGTERM)
TRY_AGAIN = 75  # exit code of a run that is to be started again (EX_TEMPFAIL)

_listening = False  # in this process, or in the one that it was forked from


class Interrupted(BaseException):
    """A signal ends the run. No Exception, so that nothing on the way takes it for a failure that it may handle.

    Args:
        reached: how far the run is, for the message.
        together: every process of the run raises it at the same place.
    """

    def __init__(self, reached: str, *, together: bool) -> None:
        super().__init__(reached)
        self.reached, self.together = reached, together


class Interruption:
    """Whether a signal asked the run to end.

    Attributes:
        received: name of the first signal, such as ``SIGUSR1``; empty while there is none.
    """

    def __init__(self) -> None:
        self.received = ""
        self._at_once = False

    def receive(self, number: int, _frame: FrameType | None) -> None:
        """The handler of the signals; a second signal changes nothing."""
        self.received = self.received or signal.Signals(number).name
        self._stop_if_due()

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Within, a signal raises :class:`Interrupted` wherever the program is; one that came before, at the start.

        For work that keeps what it has finished, and writes its files whole or not at all.
        """
        self._at_once = True
        try:
            self._stop_if_due()
            yield
        finally:
            self._at_once = False

    def _stop_if_due(self) -> None:
        if self.received and self._at_once:
            self._at_once = False  # a second signal must not disturb what is cleaned up on the way out
            raise Interrupted("finished batches are kept, and the same command goes on", together=False)


@contextmanager
def interruptible(folder: str | Path, *, more_follows: bool = False) -> Iterator[Interruption]:
    """Around a run: SIGUSR1 and SIGTERM no longer kill it; where it stops is the business of what is inside.

    An :class:`Interrupted` that leaves the run ends the process with exit code 75. A job of Slurm goes back to the
    queue before, unless it was cancelled or gets nowhere. Processes that are forked inside (data workers) do not hear
    signals that are sent to everybody. For the main thread; the handlers of before are there again afterwards.

    Args:
        folder: of the run, from which one sees whether it got on.
        more_follows: another part of the run comes after this one, in every process: a signal that came too late to
            stop this part ends the run before that one.
    """
    global _listening
    interruption = Interruption()
    before = progress_of(folder)
    handlers = {number: signal.signal(number, interruption.receive) for number in SIGNALS}
    _listening, listened = True, _listening
    # a launcher holds signals back that come while the run is importing: now they arrive
    mask = signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    try:
        for handler in handlers.values():
            while isinstance(handler, Held) and handler.numbers:
                interruption.receive(handler.numbers.pop(0), None)
        yield interruption
        if more_follows and processes.any_of(bool(interruption.received)):
            raise Interrupted("at the end of this part; the same command (--resume) does the rest", together=True)
    except Interrupted as interrupted:
        logger.warning("Stopped by %s: %s", interruption.received or "a signal of another process", interrupted.reached)

        def again() -> Decision | None:
            return requeue(advanced=progress_of(folder) != before)

        decision = processes.on_main(again) if interrupted.together else again()
        if decision is not None and not decision.requeue:
            announce(f"Not requeued: {decision.reason}")
        raise SystemExit(TRY_AGAIN) from None
    finally:
        _listening = listened
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for number, handler in handlers.items():
            signal.signal(number, handler)


def progress_of(folder: str | Path) -> tuple[str, dict[str, int]]:
    """How far the run in a folder is: its last checkpoint, and the size of the records of its evaluation."""
    last = Path(folder) / "last_checkpoint"
    records = Path(folder, "records").glob("process-*.jsonl")
    checkpoint = last.read_text(encoding="utf-8") if last.is_file() else ""
    return checkpoint, {path.name: path.stat().st_size for path in sorted(records)}


def _before_fork() -> None:
    """Hold signals back while a process is made, so that the new one gets none before it is deaf."""
    if _listening:
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)


def _after_fork() -> None:
    if _listening:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def _deaf_after_fork() -> None:
    """Let a forked process hear a SIGTERM of its parent alone.

    Slurm signals every process of a job. A data worker that dies of it makes its parent fail in the middle of a step.
    """
    if not _listening:
        return

    def obey_parent() -> None:
        while True:
            got = signal.sigwaitinfo(SIGNALS)
            if got.si_signo == signal.SIGTERM and got.si_pid == os.getppid():
                os._exit(0)

    threading.Thread(target=obey_parent, name="signals", daemon=True).start()


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_deaf_after_fork)
