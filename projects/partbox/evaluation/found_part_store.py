"""Where found parts are kept while a model looks at a dataset: a kill loses none."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from partbox.locks import lock

from .found_parts import FoundPart
from .record_files import RecordsError, writing

Key = tuple[str, int | str]  # (dataset, image id)


class FoundPartStore:
    """The parts found in each image, one JSON line an image, after a line that says what decides them.

    Args:
        path: of the file; made if absent.
        stamp: what decides the parts, as plain JSON values. A file made under another one is refused, never mixed.

    Raises:
        RecordsError: parts found under another stamp, a damaged file, one that cannot be written, or one that another
            process writes to.
    """

    def __init__(self, path: str | Path, stamp: Mapping[str, Any]) -> None:
        self.path = Path(path)
        self.found: dict[Key, list[FoundPart]] = {}
        with writing(self.path, "found parts"):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = open(self.path, "ab", buffering=0)  # noqa: SIM115 closed by close()
        if not lock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB):
            self._file.close()
            raise RecordsError(f"another process is writing to {self.path}: wait for it, or choose another folder")
        try:
            self._read(json.loads(json.dumps(stamp, default=str)))
        except BaseException:
            self._file.close()
            raise

    def _read(self, stamp: dict[str, Any]) -> None:
        data = self.path.read_bytes()
        whole = data.rfind(b"\n") + 1
        os.truncate(self.path, whole)  # the line that a kill left half-written
        lines = data[:whole].splitlines()
        if not lines:
            self._append(stamp)
            return
        try:
            before = json.loads(lines[0])
            for line in lines[1:]:
                dataset, image_id, parts = json.loads(line)
                self.found[dataset, image_id] = [FoundPart.from_json(part) for part in parts]
        except (ValueError, TypeError, IndexError) as error:
            raise RecordsError(f"{self.path} is damaged ({error}): delete it to predict anew") from error
        changed = [key for key in sorted(before.keys() | stamp.keys()) if before.get(key) != stamp.get(key)]
        if changed:
            was, now = (_short(values.get(changed[0])) for values in (before, stamp))
            raise RecordsError(
                f"{self.path} holds parts that were found otherwise ({changed[0]} was {was}, is {now}): choose another "
                "folder, or delete that file"
            )

    def _append(self, values: Any) -> None:
        with writing(self.path, "found parts"):
            self._file.write(json.dumps(values).encode() + b"\n")

    def add(self, key: Key, parts: Sequence[FoundPart]) -> None:
        """Keep the parts of one image."""
        self._append([*key, [part.to_json() for part in parts]])
        self.found[key] = list(parts)

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()

    def __enter__(self) -> FoundPartStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
