"""An output folder that appears complete or not at all, and never takes the place of somebody else's."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from partbox import files

RECORD = "visualization.json"
"""The file that says what a folder of pictures shows; only a folder with one is replaced."""


class OutputError(ValueError):
    """The output folder is somebody else's, or cannot be written."""


def check_output(output: Path, *, overwrite: bool) -> None:
    """Refuse a folder with something in it, unless it may be replaced and is one of ours.

    Raises:
        OutputError: saying what to do.
    """
    if not os.path.lexists(output):
        return
    if not output.is_dir() or output.is_symlink():
        raise OutputError(f"--output {output} exists and is no folder: choose another name")
    if not any(output.iterdir()):
        return
    if not overwrite:
        raise OutputError(f"--output {output} exists: choose another folder, or add --overwrite to replace it")
    if not (output / RECORD).is_file():
        raise OutputError(f"--output {output} was not made by this tool (no {RECORD} in it): choose another folder")


@contextmanager
def whole_folder(output: Path, *, overwrite: bool) -> Iterator[Path]:
    """A folder to fill, which takes its place when the block has ended without an error.

    The caller writes its record with :func:`write_record`.

    Args:
        output: where it shall be.
        overwrite: replace a folder that an earlier call made, whole.

    Raises:
        OutputError: see :func:`check_output`; or the system refuses.
    """
    check_output(output, overwrite=overwrite)
    try:
        with files.whole_folder(output) as folder:
            yield folder
            check_output(output, overwrite=overwrite)  # somebody may have put something there meanwhile
    except OSError as error:
        raise OutputError(f"--output {output} cannot be written: {error.strerror or error}") from error


def write_record(folder: Path, content: dict[str, Any]) -> None:
    """Write what the folder shows."""
    files.write_text(folder / RECORD, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
