"""Whether an interrupted job goes back to the queue, and the step that puts it there.

A run that was interrupted asks itself; the batch script asks in its place when a signal came before the run could
listen (:mod:`partbox.engine.slurm.ended`). Standard library alone, so that this takes no time.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass

from .job import SlurmError, ask, own_job, show_jobs

logger = logging.getLogger(__name__)

REQUEUED = "goes back to the queue"  # in the log, from which the batch script knows
MAX_STARTS = 100  # of one job, where PARTBOX_MAX_STARTS does not say otherwise
# Slurm ended these at their time limit or is about to; their processes may still be there.
OUT_OF_TIME = ("TimeLimit", "Timeout")


@dataclass(frozen=True)
class Decision:
    """Attributes: whether the job is to be requeued, and why or why not, as a sentence."""

    requeue: bool
    reason: str


def max_starts(environment: Mapping[str, str]) -> int:
    """``PARTBOX_MAX_STARTS`` (the site file sets it), or 100.

    Raises:
        ValueError: not a whole number above 0.
    """
    text = environment.get("PARTBOX_MAX_STARTS") or str(MAX_STARTS)
    if not text.isdigit() or int(text) < 1:
        raise ValueError(f"PARTBOX_MAX_STARTS must be a whole number of at least 1, not {text!r}")
    return int(text)


def decide(fields: Mapping[str, str], *, advanced: bool, most: int = MAX_STARTS) -> Decision:
    """Whether an interrupted job is requeued.

    Args:
        fields: of ``scontrol show job``.
        advanced: the job finished at least one iteration or batch since its last start.
        most: starts of the job in all.
    """
    state, why = fields.get("JobState", "UNKNOWN"), fields.get("Reason", "None")
    starts = int(fields.get("Restarts", "0")) + 1
    if fields.get("Requeue", "1") != "1":
        return Decision(False, "it was submitted with --no-requeue")
    if not (state in ("RUNNING", "TIMEOUT") or (state == "COMPLETING" and why in OUT_OF_TIME)):
        return Decision(False, f"its state is {state}: it was cancelled, or Slurm itself decides what becomes of it")
    if starts >= most:
        return Decision(False, f"it was started {starts} times, and {most} is the limit (PARTBOX_MAX_STARTS)")
    if starts > 1 and not advanced:
        return Decision(
            False,
            "it did not finish one iteration or batch since its last start: give it more time (--time), or a signal "
            "that comes later (--signal)",
        )
    return Decision(True, f"start {starts + 1} of at most {most} follows")


def requeue(*, advanced: bool, environment: Mapping[str, str] = os.environ) -> Decision | None:
    """Put this process's job back into the queue if that is right; None outside of Slurm.

    Slurm ends the job's processes as soon as it is requeued, so everything must be on the disk before, the log too.
    """
    job = own_job(environment)
    if job is None:
        return None
    try:
        found = show_jobs(job)
        if len(found) != 1:
            return Decision(False, f"Slurm knows {len(found)} jobs {job}")
        decision = decide(found[0], advanced=advanced, most=max_starts(environment))
        if decision.requeue:
            announce(f"Job {job} {REQUEUED}: {decision.reason}")
            ask("scontrol", "requeue", job)
    except (SlurmError, ValueError) as error:
        return Decision(False, str(error))
    return decision


def announce(sentence: str) -> None:
    """Log what the batch script has to find in the job's log, also in a process that logs to a file of its own."""
    logger.warning("%s", sentence)
    if logger.hasHandlers() and not _shown():
        print(sentence, file=sys.stderr, flush=True)  # noqa: T201  # the log of a job is what its tasks print


def _shown() -> bool:
    """Whether what is logged here is printed, too."""
    at: logging.Logger | None = logger
    while at is not None:
        if any(getattr(handler, "stream", None) in (sys.stdout, sys.stderr) for handler in at.handlers):
            return True
        at = at.parent if at.propagate else None
    return False
