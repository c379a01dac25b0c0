"""How far the cells of a submission are, and why those that failed did."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from partbox.evaluation.record_files import RecordsError, read_object
from partbox.files import write_text

from .failures import reason_of, tail_of
from .job import SlurmError, UnknownJob, ask, show_jobs
from .plan import Cell
from .submission import LOGS, load_submissions

KNOWN = "jobs.json"  # what Slurm said of jobs that have ended; it forgets them
WAITING = ("PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "SUSPENDED", "RESIZING", "SPECIAL_EXIT")
ACTIVE = ("RUNNING", "COMPLETING", "STAGE_OUT", "SIGNALING", *WAITING)
NO_ANSWER = "NO ANSWER"
FIELDS = ("JobState", "Reason", "ExitCode", "Restarts", "TimeLimit", "MinMemoryNode", "MinMemoryCPU")
ANOTHER_PROCESS = re.compile(r" part=(?!0/)\d+/\d+( |$)")  # of an evaluation, in command.txt


@dataclass(frozen=True)
class CellStatus:
    """One cell.

    Attributes:
        name: of the cell.
        state: FINISHED, FAILED, NOT SUBMITTED, UNKNOWN (Slurm has forgotten its job), NO ANSWER (Slurm says nothing:
            it may run), or what Slurm says of a job that has not ended.
        job: number; empty where it was never submitted.
        starts: how often its command has begun.
        progress: in words.
        reason: why it failed, or what it waits for; empty otherwise.
        log: of its job.
    """

    name: str
    state: str
    job: str
    starts: int
    progress: str
    reason: str
    log: str

    @property
    def failed(self) -> bool:
        return self.state == "FAILED"

    @property
    def active(self) -> bool:
        """Whether Slurm still has it."""
        return self.state in ACTIVE


def status_of(folder: Path, cells: Sequence[Cell]) -> list[CellStatus]:
    """The status of every cell; what Slurm says of ended jobs is kept in the folder, since it forgets them."""
    job_of: dict[str, str] = {}
    logs_of: dict[str, Path] = {}
    for entry in load_submissions(folder):
        job_of.update({name: job for job, name in entry["cells"].items()})
        logs_of.update({job: Path(entry["folder"]) / LOGS for job in entry["cells"] if "folder" in entry})
    known = _known(folder)
    fresh, silence = _ask_slurm([job for job in job_of.values() if not _ended(known.get(job, {}))], logs_of)
    kept = {**known, **{job: fields for job, fields in fresh.items() if _ended(fields)}}
    if kept != known:
        with suppress(OSError):  # somebody who may look, and not write here
            write_text(folder / KNOWN, json.dumps(kept, indent=2) + "\n")
    return [_status(folder, cell, job_of.get(cell.name, ""), {**fresh, **kept}, silence) for cell in cells]


def _known(folder: Path) -> dict[str, dict[str, str]]:
    try:
        return read_object(folder / KNOWN, "delete it") if (folder / KNOWN).is_file() else {}
    except RecordsError:
        return {}


def _ended(fields: Mapping[str, str]) -> bool:
    return bool(fields) and fields.get("JobState", "") not in ACTIVE


def _ask_slurm(jobs: Sequence[str], logs_of: Mapping[str, Path]) -> tuple[dict[str, dict[str, str]], str]:
    """What Slurm knows of jobs: the controller, and where it has forgotten one, the accounting if there is one.

    Args:
        jobs: numbers.
        logs_of: folder of a job's log; a job that writes elsewhere is another one, of a Slurm that began anew.

    Returns:
        Fields by job, and why the controller did not answer; empty where it did.
    """
    found: dict[str, dict[str, str]] = {}
    silence = ""
    for number in sorted({job.split("_")[0] for job in jobs}):
        try:
            described = show_jobs(number)
        except UnknownJob:
            continue
        except SlurmError as error:
            silence = str(error)
            break
        for fields in described:
            chosen = {name: fields[name] for name in FIELDS if name in fields}
            for job in _numbers(fields):
                if job not in logs_of or Path(fields.get("StdOut", "")).parent == logs_of[job]:
                    found[job] = chosen
    missing = [job for job in jobs if job not in found]
    if missing:
        found.update(_ask_accounting(missing))
    return {job: fields for job, fields in found.items() if job in jobs}, silence


def _numbers(fields: Mapping[str, str]) -> list[str]:
    """The jobs that one entry of ``scontrol show job`` is about: the waiting tasks of an array share one."""
    array = fields.get("ArrayJobId")
    if array is None:
        return [fields["JobId"]]
    numbers = []
    for piece in fields.get("ArrayTaskId", "").split("%")[0].split(","):
        range_of, _, step = piece.partition(":")
        first, _, last = range_of.partition("-")
        if first.isdigit():
            numbers += [f"{array}_{task}" for task in range(int(first), int(last or first) + 1, int(step or 1))]
    return numbers


def _ask_accounting(jobs: Sequence[str]) -> dict[str, dict[str, str]]:
    numbers = ",".join(sorted({job.split("_")[0] for job in jobs}))
    columns = "JobID,State,ExitCode,Timelimit,ReqMem"
    try:
        text = ask("sacct", "--allocations", "--noheader", "--parsable2", f"--jobs={numbers}", f"--format={columns}")
    except SlurmError:
        return {}
    found = {}
    for line in text.splitlines():
        job, state, code, limit, memory = line.split("|")
        # "CANCELLED by 1000"
        fields = {"JobState": state.split()[0], "ExitCode": code, "TimeLimit": limit, "MinMemoryNode": memory}
        found[job] = fields
    return found


def _status(folder: Path, cell: Cell, job: str, jobs: Mapping[str, Mapping[str, str]], silence: str) -> CellStatus:
    fields = jobs.get(job, {})
    log = folder / LOGS / f"{job}.log"
    state, reason = fields.get("JobState", "UNKNOWN"), ""
    if cell.finished and state not in ACTIVE:
        state = "FINISHED"
    elif not job:
        state = "NOT SUBMITTED"
    elif not fields and silence and not _note(folder, job).is_file():
        state, reason = NO_ANSWER, f"whether it still runs is not known ({silence})"
    elif state in WAITING:
        reason = "" if fields.get("Reason") in (None, "None") else f"waits: {fields['Reason']}"
    elif state not in ACTIVE:
        reason = _failure(folder, job, fields, log)
        state = "FAILED" if reason else "UNKNOWN"
        reason = reason or "Slurm knows nothing of this job any more, and its log says nothing"
    starts = _starts(Path(cell.output))
    return CellStatus(cell.name, state, job, starts, progress_of_run(cell), reason, str(log) if job else "")


def _note(folder: Path, job: str) -> Path:
    """Where a job itself has noted why it failed."""
    return folder / "failures" / f"{job}.txt"


def _failure(folder: Path, job: str, fields: Mapping[str, str], log: Path) -> str:
    """Why a job without results ended; empty where nothing tells."""
    noted = _note(folder, job)
    if fields.get("JobState") in (None, "FAILED") and noted.is_file():
        return noted.read_text(encoding="utf-8").splitlines()[0]
    text = tail_of(log)
    if not fields and not text:
        return ""
    code, _, number = fields.get("ExitCode", "0:0").partition(":")
    signal = int(number or 0)
    reason = reason_of(fields, 128 + signal if signal else int(code), text)
    ended_well = fields.get("JobState") == "COMPLETED" and reason.startswith("exit code 0")
    return "it ended without results and without an error" if ended_well else reason


def _starts(output: Path) -> int:
    """How often a run was started; each process of an evaluation has a line of its own, and the first one's counts."""
    try:
        lines = (output / "command.txt").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0
    return sum(not ANOTHER_PROCESS.search(line.split("  ")[0]) for line in lines)


def progress_of_run(cell: Cell) -> str:
    """How far a run is, from its folder."""
    output = Path(cell.output)
    if cell.finished:
        return "done"
    if cell.kind == "train":
        try:
            last = (output / "metrics.json").read_text(encoding="utf-8").splitlines()[-1]
            iterations = yaml.safe_load((output / "config.yaml").read_text(encoding="utf-8"))["SOLVER"]["MAX_ITER"]
            if json.loads(last)["iteration"] + 1 < iterations:
                return f"iteration {json.loads(last)['iteration'] + 1} of {iterations}"
        except (OSError, ValueError, KeyError, IndexError, TypeError, yaml.YAMLError):
            return ""
    records = 0
    for path in output.glob("records/process-*.jsonl"):
        records += path.read_bytes().count(b"\n")
    return f"{records} images seen" if records else ""


def to_json(statuses: Sequence[CellStatus]) -> list[dict[str, Any]]:
    """Plain values of all fields."""
    return [asdict(status) for status in statuses]
