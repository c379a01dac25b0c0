"""Why a job failed, in one sentence, from what Slurm says of it and from its log. Standard library alone."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

TAIL = 200_000  # bytes of a log that are looked at
FAILED = "FAILED: "
START = re.compile(r"(?m)^--- start \d+ of job ")
OUT_OF_MEMORY = re.compile(
    r"exceeded (?:job )?memory limit|oom[-_ ]kill|OOM Killed|out-of-memory handler", re.IGNORECASE
)
DEVICE_MEMORY = re.compile(r"OutOfMemoryError|CUDA out of memory")
# One line, as Python ends a traceback and as the tools say what is wrong; before it the number of srun's task.
ERROR = re.compile(
    r"(?m)^(?:\s*\d+: )?((?:[A-Za-z_]\w*\.)*[A-Z]\w*(?:Error|Exception|Failed|Diverged|Interrupt)): (\S.*)$"
)
USAGE = re.compile(r"(?m)^(?:\s*\d+: )?\S+\.py: error: (.+)$")
NOT_REQUEUED = re.compile(r"Not requeued: (.+?)(?:\x1b\[0m)?$", re.MULTILINE)
# What Slurm writes into the log of a job that it ends: why, where it is not its owner's wish.
ENDED = re.compile(r"\*\*\* JOB \S+ ON \S+ CANCELLED AT \S+(?: DUE TO (.+?))? \*\*\*")
ENDED_BY = {"TIME LIMIT": "TIMEOUT", "PREEMPTION": "PREEMPTED", "NODE FAILURE": "NODE_FAIL", "": "CANCELLED"}
# What processes say when another one of the same run has died.
CONSEQUENCE = re.compile(
    r"Connection (?:closed|reset|refused)|DistBackendError|Broken pipe|ProcessExitedException|gloo"
)
SENTENCES = {
    "NODE_FAIL": "a node failed",
    "BOOT_FAIL": "a node did not boot",
    "CANCELLED": "it was cancelled",
    "PREEMPTED": "a job of higher priority took its place",
    "DEADLINE": "its deadline passed",
}
TELLING = {"OUT_OF_MEMORY", "TIMEOUT", *SENTENCES}


def tail_of(log: str | Path, size: int = TAIL) -> str:
    """The end of a log, of the job's last start alone; empty where there is none."""
    try:
        with open(log, "rb") as file:
            file.seek(max(os.fstat(file.fileno()).st_size - size, 0))
            text = file.read().decode(errors="replace")
    except OSError:
        return ""
    starts = list(START.finditer(text))
    return text[starts[-1].start() :] if starts else text


def error_in(text: str) -> str | None:
    """What the tool said was wrong: the last error that is not the consequence of another process's."""
    usage = USAGE.findall(text)
    if usage:
        return f"wrong command line: {usage[-1]}"
    errors = [f"{name}: {words}" for name, words in ERROR.findall(text)]
    causes = [error for error in errors if not CONSEQUENCE.search(error)]
    return (causes or errors)[-1] if errors else None


def reason_of(fields: Mapping[str, str], code: int, text: str) -> str:
    """Why a job failed.

    Args:
        fields: of ``scontrol show job``; may be empty.
        code: exit code of its step; 128 + n for signal n.
        text: end of its log.
    """
    state = fields.get("JobState", "")
    ended = ENDED.findall(text)
    if ended and state not in TELLING:  # COMPLETING while its processes end, FAILED where they had an exit code
        state = ENDED_BY.get(ended[-1], state)
    if state == "OUT_OF_MEMORY" or OUT_OF_MEMORY.search(text):
        return f"out of memory: it used more than it asked for{_asked(fields)}; ask for more with --mem"
    if state == "TIMEOUT":
        limit = fields.get("TimeLimit", "?")
        return f"time limit: {limit} passed before it could stop; ask for more with --time, or an earlier --signal"
    if state in SENTENCES:
        return SENTENCES[state]
    declined = NOT_REQUEUED.findall(text)
    if code == 75 and declined:
        return f"it was stopped by a signal and not requeued: {declined[-1].strip()}"
    error = error_in(text)
    if error and DEVICE_MEMORY.search(error):
        return f"out of memory on the GPU: {error}"
    if error:
        return error
    if declined:
        return f"it was stopped by a signal and not requeued: {declined[-1].strip()}"
    said = [line for line in text.splitlines() if line.startswith(FAILED)]
    if said:
        return said[-1].removeprefix(FAILED)
    if code == 128 + 9:
        return "killed by signal 9, which the kernel sends when memory runs out; ask for more with --mem"
    if code > 128:
        return f"killed by signal {code - 128}"
    return f"exit code {code}, and no error in the log"


def _asked(fields: Mapping[str, str]) -> str:
    asked = fields.get("MinMemoryNode") or fields.get("MinMemoryCPU")
    return f" ({asked})" if asked else ""
