"""Facts about a cluster: the site file, and what a submission asks for."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from partbox.suggestions import did_you_mean, nearest_files, sentence

from ..checks import ConfigError
from .requeue import max_starts

# Slurm's own variables -> long option of sbatch.
VARIABLES = {
    "SBATCH_ACCOUNT": "account",
    "SBATCH_CONSTRAINT": "constraint",
    "SBATCH_GPUS_PER_NODE": "gpus-per-node",
    "SBATCH_MEM_PER_CPU": "mem-per-cpu",
    "SBATCH_MEM_PER_NODE": "mem",
    "SBATCH_PARTITION": "partition",
    "SBATCH_QOS": "qos",
    "SBATCH_RESERVATION": "reservation",
    "SBATCH_SIGNAL": "signal",
    "SBATCH_TIMELIMIT": "time",
}
EXTRA = "PARTBOX_SBATCH_EXTRA"
# Read by the batch scripts, in the job.
PYTHON, STARTS = "PARTBOX_PYTHON", "PARTBOX_MAX_STARTS"
IN_THE_JOB = ("PARTBOX_SETUP", PYTHON, STARTS)
ASSIGNMENT = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)=(.*)")
# What a submission decides for each job; configurations are named relative to the folder that it is submitted from.
OURS = ("array", "chdir", "error", "open-mode", "output", "parsable", "test-only", "wrap")
# Slurm refuses two of a group, or takes the one that happens to be written last.
ONE_OF = (("mem", "mem-per-cpu", "mem-per-gpu"), ("requeue", "no-requeue"))
SIGNAL = re.compile(r"(?:[RB]+:)?(?:SIG)?(?:USR1|TERM|10|15)(?:@(\d+))?")
EARLIER = 60  # seconds by which Slurm may send a signal before its time
LEAD = 60  # seconds before the time limit, where the option does not say


@dataclass(frozen=True)
class Site:
    """Attributes: file it was read from; options of sbatch by long name, a flag without value is empty; its Python."""

    file: Path
    options: Mapping[str, str] = field(default_factory=dict)
    python: str = ""


def load_site(path: str | Path) -> Site:
    """Read a site file.

    Raises:
        ConfigError: it does not exist, a line is no ``NAME="value"``, or a name means nothing.
    """
    path = Path(path)
    if not path.is_file():
        raise ConfigError(f"site file {path} does not exist{sentence(nearest_files(path))}")
    options: dict[str, str] = {}
    extra: dict[str, str] = {}
    python = ""
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        where = f"{path}, line {number}"
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        name, value = _assignment(line, where)
        if name in IN_THE_JOB:
            python = value if name == PYTHON else python
            _check_starts(name, value, where)
        elif "$" in value:
            raise ConfigError(f"{where}: variables are not replaced here, write out what {value!r} means")
        elif name == EXTRA:
            extra = parse_options(value, where)
        elif name not in VARIABLES:
            known = ", ".join([*VARIABLES, EXTRA, *IN_THE_JOB])
            hint = did_you_mean(name, (*VARIABLES, EXTRA, *IN_THE_JOB))
            raise ConfigError(
                f"{where}: {name} is not known; known: {known}. Other options of sbatch go into {EXTRA}{hint}"
            )
        elif value:
            options[VARIABLES[name]] = value
    return Site(path, over(options, extra), python)


def _assignment(line: str, where: str) -> tuple[str, str]:
    words = _words(line, where, comments=True)
    match = ASSIGNMENT.fullmatch(words[0]) if len(words) == 1 else None
    if match is None:
        raise ConfigError(f'{where}: write NAME="value", not {line.strip()!r}')
    return match[1], match[2]


def _words(text: str, where: str, *, comments: bool = False) -> list[str]:
    try:
        return shlex.split(text, comments=comments)
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from None


def _check_starts(name: str, value: str, where: str) -> None:
    if name != STARTS:
        return
    try:
        max_starts({STARTS: value})
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from None


def parse_options(text: str, where: str) -> dict[str, str]:
    """``--mail-type=FAIL --exclusive`` as options by long name.

    Raises:
        ConfigError: something else, or an option that the submission itself gives.
    """
    options = {}
    for word in _words(text, where):
        match = re.fullmatch(r"--([a-z][a-z-]*)(?:=(.+))?", word)
        if not match:
            raise ConfigError(f"{where}: options of sbatch are written --name=value, not {word!r}")
        if match[1] in OURS:
            raise ConfigError(f"{where}: --{match[1]} is what a submission gives each job itself: leave it")
        options[match[1]] = match[2] or ""
    return options


def over(options: Mapping[str, str], stronger: Mapping[str, str]) -> dict[str, str]:
    """The options and the stronger ones, which also displace those that Slurm does not take beside them."""
    displaced = {name for group in ONE_OF if set(group) & stronger.keys() for name in group}
    return {**{name: value for name, value in options.items() if name not in displaced}, **stronger}


def check_time(options: Mapping[str, str]) -> None:
    """Refuse a signal that nobody hears, and one that comes as soon as the job begins.

    Raises:
        ConfigError: naming them.
    """
    signal, limit = options.get("signal", ""), options.get("time", "")
    match = SIGNAL.fullmatch(signal)
    if signal and match is None:
        raise ConfigError(f"a run stops at USR1 or TERM, such as B:USR1@120: --signal={signal} would kill it")
    seconds = seconds_of(limit)
    lead = int((match[1] if match else None) or LEAD)
    if seconds is not None and seconds <= lead + EARLIER:
        raise ConfigError(
            f"--time={limit} is {seconds} s, and the signal to stop comes {lead} s before its end or up to {EARLIER} s "
            "earlier, which leaves no time to run: ask for more --time (1:00:00 is an hour, 1:00 and 1 are a minute), "
            "or for a later signal (--signal-seconds)"
        )


def seconds_of(limit: str) -> int | None:
    """A time limit as Slurm writes it: MINUTES, MINUTES:SECONDS, HOURS:MINUTES:SECONDS, DAYS-HOURS[:MINUTES[:SECONDS]].

    None where it is something else, such as ``UNLIMITED``: sbatch knows.
    """
    match = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", limit)
    if match is None:
        return None
    days, *rest = match.groups()
    parts = [int(part) for part in rest if part is not None]
    if days is not None:  # from the hours down
        hours, minutes, seconds = (*parts, 0, 0)[:3]
    elif len(parts) == 3:
        hours, minutes, seconds = parts
    else:  # from the minutes down
        hours, (minutes, seconds) = 0, (*parts, 0)[:2]
    return ((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + seconds


def gpus_on_a_node(options: Mapping[str, str]) -> int:
    """GPUs of each node that options of sbatch ask for: ``4``, ``a100:4``, ``gpu:a100:4``; 0 for none."""
    asked = options.get("gpus-per-node") or ",".join(
        item.removeprefix("gpu").removeprefix(":") or "1"
        for item in options.get("gres", "").split(",")
        if re.match(r"gpu\b", item)
    )
    counts = [item.rpartition(":")[2] for item in asked.split(",") if item]
    return sum(int(count) if count.isdigit() else 1 for count in counts)
