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

from partbox.evaluation.record_files import read_object, writing
from partbox.files import write_text

from .job import SlurmError, ask
from .plan import Cell
from .site import Site, gpus_on_a_node, over
from .task import run_tool

REPOSITORY = Path(__file__).resolve().parents[4]
SUBMISSIONS = "submissions.json"
LOGS = "logs"
SIGNAL = "B:USR1@120"
LARGEST_ARRAY = 1001  # tasks, where Slurm does not say otherwise
# Options that say how many tasks there are.
TASKS = ("ntasks", "ntasks-per-node", "ntasks-per-gpu", "ntasks-per-socket", "gpus-per-task")
OF_THE_CLUSTER = ("SLURM_CONF", "SLURM_CLUSTERS", "SLURM_JWT")  # not of a job


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
        """The options of sbatch altogether; one task for each GPU of a node, unless they say how many."""
        options = over({"signal": SIGNAL, **self.site.options}, self.options)
        gpus = gpus_on_a_node(options)
        if gpus > 1 and not options.keys() & set(TASKS):
            # said here and not left to the batch script, so that the job gets the CPUs of all tasks
            options["ntasks-per-node"] = str(gpus)
        return options


class Executor(SlurmExecutor):
    """submitit's executor, whose batch script calls ours, and whose text can be read where there is no Slurm.

    Args:
        folder: of the submission.
        resources: of each job.
        name: of the jobs.
        apart: the tasks of a job need nothing of each other: when one dies, the others go on.
        after: numbers of the jobs that must have ended before, with colons between; empty for none.
    """

    def __init__(self, folder: Path, resources: Resources, name: str, *, apart: bool, after: str = "") -> None:
        step = "--kill-on-bad-exit=0 --wait=0" if apart else "--kill-on-bad-exit=1"
        command = f'run_step srun {step} "${{TASKS[@]}}" "${{TASK[@]}}"'
        super().__init__(folder / "submitit", max_num_timeout=0, python=command)
        options: dict[str, Any] = {option: value or True for option, value in resources.all.items()}
        options |= {"open-mode": "append", "output": f"{_literally(folder / LOGS)}/%j.log"}
        if "no-requeue" not in options:
            options["requeue"] = True
        if after:
            given = options.get("dependency")
            options["dependency"] = f"afterany:{after}" + (f",{given}" if given else "")
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
            options["output"] = options["output"].removesuffix("%j.log") + "%A_%a.log"
            self.parameters["additional_parameters"] = options

    def text(self, count: int) -> str:
        """The batch script, as sbatch gets it for that many cells."""
        self.array_of(count)
        array: dict[str, Any] = {"map_count": count} if count > 1 else {}
        return _make_sbatch_string(self._submitit_command_str, self.folder, **self.parameters, **array)


def _literally(folder: Path) -> str:
    """A folder in which Slurm replaces nothing by the number of the job."""
    return str(folder).replace("%", "%%")


def _setup(folder: Path, site: Site) -> list[str]:
    values = {
        "PARTBOX_REPO": str(REPOSITORY),
        "PARTBOX_SITE": str(site.file.resolve()),
        "PARTBOX_SUBMISSION": str(folder),
    }
    python = os.environ.get("PARTBOX_PYTHON") or ("" if site.python else sys.executable)
    if python:  # else that of the site file
        values["PARTBOX_PYTHON"] = python
    exports = [f"export {name}={shlex.quote(value)}" for name, value in values.items()]
    return [*exports, 'REPO="$PARTBOX_REPO"', 'source "$REPO/scripts/slurm/batch.sh" || exit 2']


def largest_array() -> int:
    """The most tasks of an array that the cluster takes, or 1001 where nobody can be asked."""
    try:
        text = ask("scontrol", "show", "config")
    except SlurmError:
        return LARGEST_ARRAY
    limits = re.findall(r"(?m)^MaxArraySize\s*=\s*(\d+)|\bmax_array_tasks=(\d+)", text)
    return max(1, min((int(size or tasks) for size, tasks in limits), default=LARGEST_ARRAY))


@dataclass(frozen=True)
class Array:
    """Cells that are submitted together.

    Attributes:
        kind: of the cells.
        cells: at most as many as an array may have.
        follows: it begins after the array before it, because no more jobs may run at once.
    """

    kind: str
    cells: list[Cell]
    follows: bool


def arrays_of(cells: Sequence[Cell], resources: Resources) -> list[Array]:
    """The cells by kind, trainings first; each kind is a job array, or several where it has too many tasks for one."""
    most = largest_array()
    arrays = []
    for kind in ("train", "evaluate"):
        chosen = [cell for cell in cells if cell.kind == kind]
        for first in range(0, len(chosen), most):
            arrays.append(Array(kind, chosen[first : first + most], bool(first and resources.parallel)))
    return arrays


def dry_run(cells: Sequence[Cell], folder: Path, resources: Resources, name: str) -> str:
    """What would be submitted: the batch script and the commands of each array."""
    parts = []
    trained_here = {cell.name for cell in cells if cell.kind == "train"}
    for array in arrays_of(cells, resources):
        after = ["JOB_OF_THE_TRAININGS"] if any(cell.training in trained_here for cell in array.cells) else []
        after += ["JOB_OF_THE_ARRAY_BEFORE"] if array.follows else []
        executor = _executor(array, folder, resources, name, after)
        count = len(array.cells)
        what = f"an array of {count} jobs" if count > 1 else "one job"
        parts.append(f"=== {what}, as sbatch would get it\n{executor.text(count)}")
        parts.append("=== what they do\n" + "\n".join(f"{i}: {cell.line}" for i, cell in enumerate(array.cells)) + "\n")
    return "\n".join(parts)


def _executor(array: Array, folder: Path, resources: Resources, name: str, after: Sequence[str]) -> Executor:
    apart = array.kind == "evaluate"
    return Executor(folder, resources, f"{name}-{array.kind}", apart=apart, after=":".join(after))


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
        SlurmError: sbatch is missing, or refuses; what was submitted before that is named.
        RecordsError: the folder cannot be written.
    """
    with writing(folder / LOGS, "the logs of a submission"):
        (folder / LOGS).mkdir(parents=True, exist_ok=True)
    entries = load_submissions(folder)
    jobs_of_trainings = dict(active)
    new: list[dict[str, Any]] = []
    for array in arrays_of(cells, resources):
        needed = {jobs_of_trainings[cell.training] for cell in array.cells if cell.training in jobs_of_trainings}
        after = [*sorted(needed), *([new[-1]["job"]] if array.follows else [])]
        executor = _executor(array, folder, resources, name, after)
        executor.array_of(len(array.cells))
        try:
            jobs = _submit_array(executor, array.cells)
        except SlurmError as error:
            done = ", ".join(f"job {entry['job']}" for entry in new)
            rest = f" ({done} was submitted before; the same command again submits the rest)" if done else ""
            raise SlurmError(f"{error}{rest}") from error
        if array.kind == "train":
            jobs_of_trainings.update({cell: job for job, cell in jobs.items()})
        now = datetime.now(UTC).isoformat(timespec="seconds")
        new.append({"job": next(iter(jobs)).split("_")[0], "submitted": now, "folder": str(folder), "cells": jobs})
        document = {"schema_version": 1, "submissions": [*entries, *new]}
        with writing(folder / SUBMISSIONS, f"the number of job {new[-1]['job']}"):
            write_text(folder / SUBMISSIONS, json.dumps(document, indent=2) + "\n")
    return new


def _submit_array(executor: Executor, cells: Sequence[Cell]) -> dict[str, str]:
    """Submit the cells as one array; cell by job."""
    tools = [str(REPOSITORY / cell.command[0]) for cell in cells]
    arguments = [list(cell.command[1:]) for cell in cells]
    try:
        with _without_defaults():
            jobs = executor.map_array(run_tool, tools, arguments, [cell.needs for cell in cells])
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
    """Call sbatch without its variables, which would count more than the batch script that was shown.

    Also without those of a job that the tool runs in: the new job would find them, such as a number of tasks.
    """
    names = [
        name for name in os.environ if name.startswith(("SBATCH_", "SLURM_", "SRUN_")) and name not in OF_THE_CLUSTER
    ]
    kept = {name: os.environ.pop(name) for name in names}
    try:
        yield
    finally:
        os.environ.update(kept)
