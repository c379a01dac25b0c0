"""Whether the folder of a run explains itself: what is there is named in its README.txt, and what is named is there."""

from __future__ import annotations

import fnmatch
import re
from pathlib import Path

ALWAYS, SOMETIMES = "Files of a finished run:", "Not always there:"


def named(readme: str) -> dict[str, list[str]]:
    """The patterns under each of the two headings."""
    found: dict[str, list[str]] = {ALWAYS: [], SOMETIMES: []}
    heading = ""
    for line in readme.splitlines():
        if line in found:
            heading = line
        elif line and not line.startswith("  "):
            heading = ""
        elif line and heading:
            found[heading].append(line.split()[0])
    return found


def matches(name: str, pattern: str) -> bool:
    """Whether a file of the folder is what a pattern names; ``runs/`` is all that is in it."""
    if pattern.endswith("/"):
        return fnmatch.fnmatch(name.split("/")[0], pattern[:-1]) and "/" in name
    return fnmatch.fnmatch(name, pattern) and name.count("/") == pattern.count("/")


def files_of(folder: Path) -> list[str]:
    """All files and links of a folder, those with a README.txt of their own as one name."""
    names = []
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() or not path.is_dir():
            names.append(str(path.relative_to(folder)))
    return names


def check_explained(folder: Path) -> None:
    """Every file is named, every name is there or said to be optional, every named run explains itself."""
    patterns = named((folder / "README.txt").read_text())
    assert patterns[ALWAYS], "the README names nothing"
    names = files_of(folder)
    both = patterns[ALWAYS] + patterns[SOMETIMES]
    unnamed = [name for name in names if not any(matches(name, pattern) for pattern in both)]
    assert not unnamed, f"{folder}/README.txt does not name {unnamed}"
    missing = [pattern for pattern in patterns[ALWAYS] if not any(matches(name, pattern) for name in names)]
    assert not missing, f"{folder}/README.txt names {missing}, which are not there"


def commands_in(readme: str) -> list[str]:
    """The commands that it tells."""
    return re.findall(r"(?m)^    ((?:python|tensorboard) .*)$", readme)
