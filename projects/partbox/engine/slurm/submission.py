"""Submitting the cells of a plan as jobs of Slurm, through submitit."""

from __future__ import annotations

import json
import os
import re
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from submitit.core.utils import FailedJobError, FailedSubmissionError
from submitit.slurm.slurm import SlurmExecutor, _make_sbatch_string

from partbox.evaluation.record_files import read_object
from partbox.files import write_text

from .job import SlurmError
from .plan import Cell
from .site import Site
from .task import run_tool

REPOSITORY = Path(__file__).resolve().parents[4]
SUBMISSIONS = "submissions.json"
LOGS = "logs"
SIGNAL = "B:USR1@120"


@dataclass(frozen=True)
class Resources:
    """What each job of a submission gets.

    Attributes:
        site: of the cluster; its options count where ``options`` has none.
        options: of sbatch by their long names, such as ``{"partition": "gpu", "nodes": "2"}``.
        parallel: tasks of an array that run at once; 0 is all.
    """

    site: Site
    options: Mapping[str, str] = field(default_factory=dict)
    parallel: int = 0

    @property
    def all(self) -> dict[str, str]:
        """The options of sbatch altogether."""
        return {"signal": SIGNAL, **self.site.options, **self.options}


class Executor(SlurmExecutor):
    """submitit's executor, whose batch script calls ours, and whose text can be read where there is no Slurm.

    Args:
        folder: of the submission.
        resources: of each job.
        name: of the jobs.
        apart: the tasks of a job need nothing of each other: when one dies, the others go on.
        after: number of the job that must have ended before; empty for none.
    """

    def __init__(self, folder: Path, resources: Resources, name: str, *, apart: bool, after: str = "") -> None:
        step = "--kill-on-bad-exit=0 --wait=0" if apart else "--kill-on-bad-exit=1"
        command = f'run_step srun {step} "${{TASKS[@]}}" "${{TASK[@]}}"'
        super().__init__(folder / "submitit", max_num_timeout=0, python=command)
        options: dict[str, Any] = {option: value or True for option, value in resources.all.items()}
        options |= {"requeue": True, "open-mode": "append", "output": str(folder / LOGS / "%j.log")}
        if after:
            options["dependency"] = f"afterany:{after}"
        self.update_parameters(
            job_name=options.pop("job-name", name),
            setup=_setup(folder, resources.site),
            use_srun=False,
            stderr_to_stdout=True,
            array_parallelism=resources.parallel or 1_000_000,
            additional_parameters=options,
            # of these submitit has ideas of its own: no time limit of 5 minutes, and no accounting key
            time=None,
            wckey=None,
        )

    @classmethod
    def affinity(cls) -> int:
        return 2

    def array_of(self, count: int) -> None:
        """Have the batch script describe an array of as many tasks; a single one is a plain job."""
        if count > 1:
            options = dict(self.parameters["additional_parameters"])
            options["output"] = options["output"].replace("%j", "%A_%a")
            self.parameters["additional_parameters"] = options

    def text(self, count: int) -> str:
        """The batch script, as sbatch gets it for that many cells."""
        self.array_of(count)
        array: dict[str, Any] = {"map_count": count} if count > 1 else {}
        return _make_sbatch_string(self._submitit_command_str, self.folder, **self.parameters, **array)


def _setup(folder: Path, site: Site) -> list[str]:
    values = {
        "PARTBOX_REPO": str(REPOSITORY),
        "PARTBOX_PYTHON": os.environ.get("PARTBOX_PYTHON") or sys.executable,
        "PARTBOX_SITE": str(site.file.resolve()),
        "PARTBOX_SUBMISSION": str(folder),
    }
    exports = [f"export {name}={shlex.quote(value)}" for name, value in values.items()]
    return [*exports, 'REPO="$PARTBOX_REPO"', 'source "$REPO/scripts/slurm/batch.sh" || exit 2']


def arrays_of(cells: Sequence[Cell]) -> dict[str, list[Cell]]:
    """The cells by kind, trainings first; each kind is a job array."""
    arrays = {kind: [cell for cell in cells if cell.kind == kind] for kind in ("train", "evaluate")}
    return {kind: chosen for kind, chosen in arrays.items() if chosen}


def dry_run(cells: Sequence[Cell], folder: Path, resources: Resources, name: str) -> str:
    """What would be submitted: the batch script and the commands of each array."""
    parts = []
    trained_here = {cell.name for cell in cells if cell.kind == "train"}
    for kind, chosen in arrays_of(cells).items():
        after = "JOB_OF_THE_TRAININGS" if any(cell.training in trained_here for cell in chosen) else ""
        executor = Executor(folder, resources, f"{name}-{kind}", apart=kind == "evaluate", after=after)
        what = f"an array of {len(chosen)} jobs" if len(chosen) > 1 else "one job"
        parts.append(f"=== {what}, as sbatch would get it\n{executor.text(len(chosen))}")
        parts.append("=== what they do\n" + "\n".join(f"{i}: {cell.line}" for i, cell in enumerate(chosen)) + "\n")
    return "\n".join(parts)


def submit(
    cells: Sequence[Cell], folder: Path, resources: Resources, name: str, active: Mapping[str, str]
) -> list[dict[str, Any]]:
    """Submit cells; what was submitted is noted in the folder at once, array by array.

    Args:
        cells: to submit.
        folder: of the submission.
        resources: of each job.
        name: of the jobs; their kind is added.
        active: jobs of trainings that were submitted before and have not ended, by the name of their cell.

    Raises:
        SlurmError: sbatch is missing, or refuses.
    """
    (folder / LOGS).mkdir(parents=True, exist_ok=True)
    entries = load_submissions(folder)
    jobs_of_trainings, new = dict(active), []
    for kind, chosen in arrays_of(cells).items():
        needed = {jobs_of_trainings[cell.training] for cell in chosen if cell.training in jobs_of_trainings}
        after = ":".join(sorted(needed))
        executor = Executor(folder, resources, f"{name}-{kind}", apart=kind == "evaluate", after=after)
        executor.array_of(len(chosen))
        jobs = _submit_array(executor, chosen)
        if kind == "train":
            jobs_of_trainings.update({cell: job for job, cell in jobs.items()})
        now = datetime.now(UTC).isoformat(timespec="seconds")
        new.append({"job": next(iter(jobs)).split("_")[0], "submitted": now, "cells": jobs})
        document = {"schema_version": 1, "submissions": [*entries, *new]}
        write_text(folder / SUBMISSIONS, json.dumps(document, indent=2) + "\n")
    return new


def _submit_array(executor: Executor, cells: Sequence[Cell]) -> dict[str, str]:
    """Submit the cells as one array; cell by job."""
    tools = [str(REPOSITORY / cell.command[0]) for cell in cells]
    try:
        with _without_defaults():
            jobs = executor.map_array(run_tool, tools, [list(cell.command[1:]) for cell in cells])
    except (FailedJobError, FailedSubmissionError) as error:
        raise SlurmError(f"sbatch refuses: {_refusal(error)}") from error
    except (FileNotFoundError, RuntimeError) as error:  # submitit looks for srun
        raise SlurmError(f"nothing was submitted: {error}") from None
    return {job.job_id: cell.name for job, cell in zip(jobs, cells, strict=True)}


def load_submissions(folder: Path) -> list[dict[str, Any]]:
    """What was submitted from a folder so far.

    Raises:
        RecordsError: the file is damaged.
    """
    path = folder / SUBMISSIONS
    if not path.is_file():
        return []
    found: list[dict[str, Any]] = read_object(path, "squeue and sacct know the jobs")["submissions"]
    return found


def _refusal(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if "sbatch: error" in line] or str(error).splitlines()[-1:]
    return re.sub(r"^.*sbatch: error: ", "", lines[-1].strip())


@contextmanager
def _without_defaults() -> Iterator[None]:
    """Call sbatch without its variables, which would count more than the batch script that was shown."""
    names = [name for name in os.environ if name.startswith("SBATCH_")]
    kept = {name: os.environ.pop(name) for name in names}
    try:
        yield
    finally:
        os.environ.update(kept)
