"""Files of an evaluation: whatever is wrong with one is a RecordsError that names it and says what to do."""

from __future__ import annotations

import errno
import fcntl
import io
import json
import logging
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from partbox.files import write_atomically
from partbox.locks import lock

logger = logging.getLogger(__name__)
T = TypeVar("T")


class RecordsError(RuntimeError):
    """Records or results cannot be written or read, or belong to another evaluation."""


@contextmanager
def writing(path: Path, what: str = "records") -> Iterator[None]:
    """Around code that writes a file or makes a folder.

    Args:
        path: of the file, for the message.
        what: that is written, for the message.

    Raises:
        RecordsError: the system refuses.
    """
    try:
        yield
    except OSError as error:
        why = "the disk is full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else str(error)
        raise RecordsError(
            f"cannot write {what} to {path}: {why}. Every batch finished before is kept: make room and start again "
            "with the same command"
        ) from error


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """One process at a time; the system lets go of the lock of one that dies."""
    with writing(folder):
        file = open(folder / ".lock", "ab")  # noqa: SIM115 closed below; only opening it is "writing"
    with file:
        lock(file, fcntl.LOCK_EX)
        yield


def read_object(path: Path, advice: str) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        RecordsError: the file is not that, or cannot be read; with the advice on what to do.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:  # ValueError: neither JSON nor UTF-8
        raise RecordsError(f"{path} is damaged or cannot be read ({error}): {advice}") from error
    if not isinstance(values, dict):
        raise RecordsError(f"{path} holds no JSON object: {advice}")
    return values


def write_arrays(path: Path, arrays: Mapping[str, Any]) -> None:
    """Write arrays as ``.npz``, whole or not at all.

    Raises:
        RecordsError: they cannot be written.
    """
    buffer = io.BytesIO()  # in memory first: a zip file that cannot be written raises more than OSError
    np.savez_compressed(buffer, **arrays)
    with writing(path, "example pictures"):
        write_atomically(path, lambda file: file.write(buffer.getvalue()))


def read_arrays(path: Path, decode: Callable[[dict[str, np.ndarray]], T]) -> T | None:
    """What ``decode`` makes of the arrays of an ``.npz`` file; None without one.

    A damaged one is deleted with a warning: pictures are no result.
    """
    if not path.exists():
        return None
    try:
        with np.load(path, allow_pickle=False) as stored:
            return decode({key: stored[key] for key in stored.files})
    # A single array has no files and is no context (TypeError, AttributeError); a damaged zip raises nearly anything.
    except (
        *(OSError, ValueError, EOFError, KeyError, TypeError, AttributeError, RuntimeError),
        *(zipfile.BadZipFile, zlib.error),
    ) as error:
        logger.warning("%s is damaged (%s: %s) and left out", path, type(error).__name__, error)
        path.unlink(missing_ok=True)
        return None
