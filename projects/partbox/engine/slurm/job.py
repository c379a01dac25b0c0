"""What Slurm says of a job. Standard library alone: the batch script calls it, and must not wait for imports."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping

PATIENCE = 30.0  # seconds for one answer of a busy controller
# Without it Slurm writes 64 characters of a list of array tasks, and three dots for the others.
WHOLE = {"SLURM_BITSTR_LEN": "0"}
PATHS = ("Command", "WorkDir", "StdErr", "StdIn", "StdOut")  # fields that have a line for themselves, blanks and all


class SlurmError(RuntimeError):
    """A program of Slurm is not there, does not answer or refuses."""


class UnknownJob(SlurmError):
    """Slurm answers, and has no such job: it never had, or has forgotten it."""


def ask(*command: str, timeout: float = PATIENCE) -> str:
    """What one of Slurm's programs prints.

    Raises:
        SlurmError: it is missing, fails or takes longer than ``timeout`` seconds.
        UnknownJob: it knows no such job.
    """
    try:
        ended = subprocess.run(
            command, env={**os.environ, **WHOLE}, capture_output=True, text=True, timeout=timeout, check=False
        )
    except FileNotFoundError:
        raise SlurmError(f"{command[0]} is not on PATH: this machine has no Slurm") from None
    except subprocess.TimeoutExpired:
        raise SlurmError(f"{command[0]} did not answer within {timeout:.0f} seconds: is slurmctld running?") from None
    if ended.returncode:
        lines = ended.stderr.strip().splitlines() or [f"exit code {ended.returncode}"]
        kind = UnknownJob if "Invalid job id" in ended.stderr else SlurmError
        raise kind(f"{' '.join(command[:3])}: {lines[-1]}")
    return ended.stdout


def own_job(environment: Mapping[str, str]) -> str | None:
    """The job that this process belongs to, ``12`` or ``12_3`` for a task of an array; None outside of Slurm.

    A task of an array is named by the array: the number of its own is, for the last one, the array's.
    """
    array, task = environment.get("SLURM_ARRAY_JOB_ID"), environment.get("SLURM_ARRAY_TASK_ID")
    if array and task:
        return f"{array}_{task}"
    return environment.get("SLURM_JOB_ID") or None


def parse_jobs(text: str) -> list[dict[str, str]]:
    """The jobs that ``scontrol show job`` describes, each as its fields by name."""
    jobs: list[dict[str, str]] = []
    for block in re.split(r"(?m)^(?=JobId=)", text):
        fields: dict[str, str] = {}
        for line in block.splitlines():
            name, _, value = line.strip().partition("=")
            fields.update({name: value} if name in PATHS else re.findall(r"(?:^|\s)([A-Z][A-Za-z/:]*)=(\S*)", line))
        if "JobId" in fields:
            jobs.append(fields)
    return jobs


def show_jobs(job: str) -> list[dict[str, str]]:
    """The fields of a job, or of all tasks of an array, as Slurm remembers them (``MinJobAge`` after their end).

    Raises:
        SlurmError: Slurm does not answer.
        UnknownJob: it has forgotten the job.
    """
    return parse_jobs(ask("scontrol", "show", "job", job))
