"""Where an evaluation keeps its finished batches: a kill loses none, and several processes can share the work."""

from __future__ import annotations

import fcntl
import hashlib
import io
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from partbox.files import write_text
from partbox.locks import lock

from .example_files import from_arrays, to_arrays
from .examples import Example
from .record_files import RecordsError, locked, read_arrays, read_object, write_arrays, writing
from .records import Record

Unit = tuple[str, int]  # perturbation, number of the batch
FINGERPRINT = "fingerprint.json"  # what the one who made the store said of the evaluation
STAMP = "evaluation.json"  # what the evaluation said of itself
RECORDS = "process-*.jsonl"


class RecordStore:
    """Records by (perturbation, batch): in memory, and in a folder if one is given.

    The unit of work is a batch under a perturbation. It counts as finished when all its records are there; what a kill
    left of a batch is ignored, and the batch done again with the same images, so that results do not depend on when a
    run was interrupted.

    Args:
        folder: None keeps everything in memory. Each process appends to a file of its own in it, so several processes,
            on one machine or on many with a common file system, can work on one evaluation.
        fingerprint: what decides the numbers beside what :func:`partbox.evaluation.stamp.stamp_of` knows, such as a
            configuration, as plain JSON values. Records made under another one are refused, never mixed.
        process: name of this process's file.

    Raises:
        RecordsError: the folder holds records of another evaluation, cannot be written or has damaged files, or another
            process writes to the same file.
    """

    def __init__(
        self, folder: str | Path | None = None, fingerprint: Mapping[str, Any] | None = None, *, process: str = "0-of-1"
    ) -> None:
        self._memory: dict[Unit, list[Record]] = {}
        self._stamp: dict[str, Any] = {}
        self._examples: dict[Unit, list[Example]] = {}
        self.folder = Path(folder) if folder is not None else None
        self._file: io.FileIO | None = None
        if self.folder is not None:
            with writing(self.folder):
                self.folder.mkdir(parents=True, exist_ok=True)
            self._check_same(self.folder, FINGERPRINT, _as_stored(fingerprint or {}), begun=lambda path: True)
            self._path = self.folder / f"process-{process}.jsonl"
            self._file = self._open(self._path)

    def close(self) -> None:
        """Let go of this process's file."""
        if self._file is not None:
            lock(self._file, fcntl.LOCK_UN)  # data workers that are about to end hold the file, too
            self._file.close()
            self._file = None

    def __enter__(self) -> RecordStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def claim(self, stamp: Mapping[str, Any]) -> None:
        """Say which evaluation the records belong to; :func:`partbox.evaluation.run.work` does, before the first one.

        Args:
            stamp: what decides the records, from :func:`partbox.evaluation.stamp.stamp_of`.

        Raises:
            RecordsError: there are records of another evaluation, or the file that says which is damaged or cannot be
                written.
        """
        now = _as_stored(stamp)
        if self.folder is None:
            self._stamp = self._stamp or now
            _check_equal("this store", self._stamp, now, "give each evaluation its own")
            return
        self._check_same(self.folder, STAMP, now, begun=lambda path: path.stat().st_size > 0)

    @staticmethod
    def _check_same(folder: Path, name: str, now: dict[str, Any], begun: Callable[[Path], bool]) -> None:
        """Write the file, or compare with it; ``begun`` says which files of records cannot be there before it is."""
        path = folder / name
        advice = f"it says which evaluation the records beside it belong to; delete {folder} to start anew"
        with locked(folder):  # two processes that start at once: one writes, the other compares
            if not path.exists():
                if any(begun(one) for one in folder.glob(RECORDS)):
                    raise RecordsError(f"{folder} holds records and no {name}: delete the folder to start anew")
                with writing(path):
                    write_text(path, json.dumps(now, indent=2, sort_keys=True))
            before = read_object(path, advice)
        _check_equal(str(folder), before, now, "choose another folder (OUTPUT_DIR), or delete that one to start anew")

    def _open(self, path: Path) -> io.FileIO:
        """Open for appending, after cutting off the line that a kill left half-written."""
        with writing(path):
            file = io.FileIO(path, "ab")  # without a buffer: what is written has left this process
        if not lock(file, fcntl.LOCK_EX | fcntl.LOCK_NB):
            file.close()
            raise RecordsError(f"another process is writing to {path}: wait for it, or give each its own part")
        whole = path.read_bytes().rfind(b"\n") + 1
        os.truncate(path, whole)
        return file

    def append(self, unit: Unit, records: Sequence[Record]) -> None:
        """Keep the records of one finished batch, in the order of its images.

        Raises:
            RecordsError: they cannot be written (disk full, folder gone). What was finished before stays readable.
        """
        if self._file is None:
            self._memory[unit] = list(records)
            return
        lines = [
            {"batch": unit[1], "place": i, "of": len(records), **record.to_json()} for i, record in enumerate(records)
        ]
        data = "".join(f"{json.dumps(line)}\n" for line in lines).encode()
        start = os.fstat(self._file.fileno()).st_size
        with writing(self._path):
            try:
                while data:
                    data = data[self._file.write(data) :]
            except OSError:
                os.ftruncate(self._file.fileno(), start)
                raise

    def finished(self) -> dict[Unit, list[Record]]:
        """All finished batches of all processes."""
        self._sync()
        found = dict(self._memory)
        if self.folder is not None:
            for path in sorted(self.folder.glob(RECORDS)):
                for unit, records in _batches_of(path).items():
                    found.setdefault(unit, records)
        return found

    def _sync(self) -> None:
        """Put this process's records where others see them: a file system of a network waits with that.

        Of two processes that end at once and then look at each other's, one must see everything: it writes the results.
        """
        if self._file is not None:
            with writing(self._path):
                os.fsync(self._file.fileno())

    def save_examples(self, unit: Unit, examples: Sequence[Example]) -> None:
        """Keep the examples of one batch for pictures, whole or not at all.

        Raises:
            RecordsError: they cannot be written.
        """
        if self.folder is None:
            self._examples[unit] = list(examples)
        else:
            write_arrays(self._examples_path(unit), to_arrays(examples))

    def load_examples(self, unit: Unit) -> list[Example]:
        """What :meth:`save_examples` was given; empty if nothing, or if its file was damaged, which is then dropped."""
        if self.folder is None:
            return self._examples.get(unit, [])
        return read_arrays(self._examples_path(unit), from_arrays) or []

    def _examples_path(self, unit: Unit) -> Path:
        assert self.folder is not None
        digest = hashlib.sha256(unit[0].encode()).hexdigest()[:16]
        return self.folder / f"examples-{digest}-{unit[1]}.npz"


def _as_stored(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values as they come back from their file."""
    stored: dict[str, Any] = json.loads(json.dumps(values, default=str))
    return stored


def _check_equal(where: str, before: Mapping[str, Any], now: Mapping[str, Any], advice: str) -> None:
    before, now = _flat(before), _flat(now)
    changed = [key for key in sorted(before.keys() | now.keys()) if before.get(key) != now.get(key)]
    if changed:
        shown = "; ".join(f"{key} was {_short(before.get(key))}, is {_short(now.get(key))}" for key in changed[:3])
        raise RecordsError(f"{where} holds records of another evaluation ({shown}): {advice}")


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """One level, so that the message names the setting that changed and not the group around it."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat.update(_flat(value, f"{prefix}{key}: ") if isinstance(value, dict) else {f"{prefix}{key}": value})
    return flat


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 120 else f"{text[:117]}..."


def _batches_of(path: Path) -> dict[Unit, list[Record]]:
    """The finished batches of one file; a line that is being written right now is not yet there."""
    pieces: dict[Unit, dict[int, Record]] = {}
    sizes: dict[Unit, int] = {}
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                break
            try:
                values = json.loads(line)
                unit = (values["perturbation"], values.pop("batch"))
                place, sizes[unit] = values.pop("place"), values.pop("of")
                pieces.setdefault(unit, {})[place] = Record.from_json(values)
            except (ValueError, KeyError, TypeError) as error:
                raise RecordsError(
                    f"{path}, line {number} is damaged ({error}): delete the file to redo its part"
                ) from error
    whole = {unit: batch for unit, batch in pieces.items() if len(batch) == sizes[unit]}
    return {unit: [batch[place] for place in sorted(batch)] for unit, batch in whole.items()}
