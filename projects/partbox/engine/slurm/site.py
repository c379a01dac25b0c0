"""Facts about a cluster: the site file, and what a submission asks for."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from partbox.suggestions import did_you_mean, nearest_files, sentence

from ..checks import ConfigError

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
IN_THE_JOB = ("PARTBOX_SETUP", "PARTBOX_PYTHON", "PARTBOX_MAX_STARTS")
ASSIGNMENT = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)=(.*)")


@dataclass(frozen=True)
class Site:
    """Attributes: file it was read from; options of sbatch by long name, a flag without value is empty."""

    file: Path
    options: Mapping[str, str] = field(default_factory=dict)


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
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        where = f"{path}, line {number}"
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        try:
            words = shlex.split(line, comments=True)
        except ValueError as error:
            raise ConfigError(f"{where}: {error}") from None
        match = ASSIGNMENT.fullmatch(words[0]) if len(words) == 1 else None
        if match is None:
            raise ConfigError(f'{where}: write NAME="value", not {line.strip()!r}')
        name, value = match.groups()
        if name in IN_THE_JOB:
            continue
        if "$" in value:
            raise ConfigError(f"{where}: variables are not replaced here, write out what {value!r} means")
        if name == EXTRA:
            extra = parse_options(value, where)
        elif name not in VARIABLES:
            known = ", ".join([*VARIABLES, EXTRA, *IN_THE_JOB])
            hint = did_you_mean(name, (*VARIABLES, EXTRA, *IN_THE_JOB))
            raise ConfigError(
                f"{where}: {name} is not known; known: {known}. Other options of sbatch go into {EXTRA}{hint}"
            )
        elif value:
            options[VARIABLES[name]] = value
    return Site(path, {**options, **extra})


def parse_options(text: str, where: str) -> dict[str, str]:
    """``--mail-type=FAIL --exclusive`` as options by long name.

    Raises:
        ConfigError: something else.
    """
    options = {}
    for word in shlex.split(text):
        match = re.fullmatch(r"--([a-z][a-z-]*)(?:=(.+))?", word)
        if not match:
            raise ConfigError(f"{where}: options of sbatch are written --name=value, not {word!r}")
        options[match.group(1)] = match.group(2) or ""
    return options
