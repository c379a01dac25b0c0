"""``python -m partbox.engine.slurm.ended CODE``: what is done when the step of a job has ended with an exit code.

A run that stopped by itself has done what there is to do. One that a signal killed before it could listen is requeued.
Otherwise the reason is said, in the job's log and in the folder of its submission. Standard library alone.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path

from partbox.files import write_text

from .failures import FAILED, reason_of, tail_of
from .job import SlurmError, own_job, show_jobs
from .requeue import REQUEUED, requeue

logger = logging.getLogger(__name__)

UNHEARD = (128 + signal.SIGUSR1, 128 + signal.SIGTERM)


def main(code: int, environment: Mapping[str, str] = os.environ) -> bool:
    """Requeue or explain; whether the job was requeued, here or by the run itself.

    Args:
        code: of the step, not 0.
        environment: of the batch script. ``PARTBOX_SUBMISSION`` is the folder of the submission: the reason is also
            written to ``failures/<job>.txt`` in it.
    """
    job = own_job(environment)
    fields: dict[str, str] = {}
    try:
        fields = show_jobs(job)[0] if job else {}
    except (SlurmError, IndexError) as error:
        logger.warning("%s", error)
    text = tail_of(fields.get("StdOut", ""))
    if REQUEUED in text and fields.get("JobState") != "RUNNING":  # else Slurm refused, which the log says
        return True
    if code in UNHEARD:
        decision = requeue(advanced=True, environment=environment)  # it had no time to get anywhere
        if decision is not None and decision.requeue:
            return True
        if decision is not None:
            text += f"\nNot requeued: {decision.reason}\n"
    reason = reason_of(fields, code, text)
    logger.warning("%s%s", FAILED, reason)
    folder = environment.get("PARTBOX_SUBMISSION")
    if folder and job:
        write_text(Path(folder) / "failures" / f"{job}.txt", f"{reason}\nlog: {fields.get('StdOut', '?')}\n")
    return False


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    main(int(sys.argv[1]))
