"""The ``README.txt`` of a folder that a tool writes: what is there, what may be there, how to go on."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

README = "README.txt"
_MEANS_SOMETHING = set('"$`\\!')  # to a shell, between double quotes


@dataclass(frozen=True)
class Entry:
    """A file, or a folder with all that is in it (``name/``), of a folder.

    Attributes:
        name: a pattern, relative to the folder.
        meaning: one sentence.
        always: whether it is there whenever the run is finished.
    """

    name: str
    meaning: str
    always: bool = True


Entries = tuple[Entry, ...]
Steps = Sequence[tuple[str, str]]  # what one may want to do -> the command

SELF = Entry(README, "this text")


def text_of(title: str, entries: Sequence[Entry], steps: Steps, *, datasets: str | None = None) -> str:
    """The text: title, what is there, what may be there, how to go on.

    Args:
        title: one sentence or two.
        entries: of the folder.
        steps: what one may want to do.
        datasets: $DETECTRON2_DATASETS that the commands need; None is what it is now.
    """
    root = os.environ.get("DETECTRON2_DATASETS", "") if datasets is None else datasets
    width = max(len(entry.name) for entry in entries)
    listed = {
        always: [f"  {one.name:{width}}  {one.meaning}" for one in entries if one.always == always]
        for always in (True, False)
    }
    parts = [title, "", "Files of a finished run:", "", *listed[True]]
    if listed[False]:
        parts += ["", "Not always there:", "", *listed[False]]
    if steps:
        needed = f", with DETECTRON2_DATASETS={quoted(root)}" if root else ""
        parts += ["", f"What to do, in the folder in which the run was started{needed}:", ""]
    for what, command in steps:
        parts += [f"  {what}:", f"    {command}"]
    return "\n".join(parts) + "\n"


def shell_line(command: Sequence[str]) -> str:
    """A command line, as ``sys.argv`` has it, for a shell; that of a Python script begins with ``python``."""
    return f"{'python ' if command and command[0].endswith('.py') else ''}{shlex.join(command)}"


def quoted(path: str | os.PathLike[str]) -> str:
    """A path for a shell."""
    return shlex.quote(os.fspath(path))


def datasets_option(*files: Path) -> str:
    """Part-dataset files as the value of a key such as ``DATASETS.TRAIN``, for a shell."""
    text = f"({', '.join(repr(str(file)) for file in files)},)"
    return shlex.quote(text) if set(text) & _MEANS_SOMETHING else f'"{text}"'
