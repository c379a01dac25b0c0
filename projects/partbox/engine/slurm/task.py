"""``python -m partbox.engine.slurm.task FILE|-m MODULE [ARGUMENT...]``: run it as Python would, signals held back.

Slurm may send its signal while a run is still importing, and would kill it. Here signals wait until the run listens
(:func:`partbox.engine.interruption.interruptible`). Standard library alone, so that this begins at once.
"""

from __future__ import annotations

import runpy
import signal
import sys
from pathlib import Path
from types import FrameType

HELD = (signal.SIGUSR1, signal.SIGTERM)


class Held:
    """A handler that keeps signals for the one who listens next."""

    def __init__(self) -> None:
        self.numbers: list[int] = []

    def __call__(self, number: int, _frame: FrameType | None) -> None:
        self.numbers.append(number)


def hold_signals() -> None:
    """Block the signals in this thread and those that it makes, and keep what another thread takes all the same."""
    held = Held()
    for number in HELD:
        signal.signal(number, held)
    signal.pthread_sigmask(signal.SIG_BLOCK, HELD)


def main(arguments: list[str]) -> None:
    """Run a file or a module with its arguments, as ``__main__``; what it raises is raised."""
    hold_signals()
    arguments = arguments[1:] if arguments[:1] == ["-u"] else arguments  # the batch script sets PYTHONUNBUFFERED
    if arguments[:1] == ["-m"] and len(arguments) > 1:
        sys.argv = arguments[1:]
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    elif arguments and not arguments[0].startswith("-"):
        sys.argv = arguments
        sys.path[0] = str(Path(arguments[0]).resolve().parent)
        runpy.run_path(arguments[0], run_name="__main__")
    else:
        sys.exit(f"task: a file or -m and a module, not {' '.join(arguments) or 'nothing'}")


def run_tool(tool: str, arguments: list[str], needs: str = "") -> None:
    """A tool of the repository in this process, if the file that it needs is there; what submitit calls."""
    if needs and not Path(needs).is_file():
        sys.exit(f"SlurmError: the training has not finished, {needs} is missing: submit both again")
    main([tool, *arguments])


if __name__ == "__main__":
    main(sys.argv[1:])
