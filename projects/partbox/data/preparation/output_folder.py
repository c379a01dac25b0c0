"""A folder that a run fills: never somebody else's, gone on with after an interruption, replaced only when asked.

A *record* in it, a JSON file, says what it is made from. It is written first, so that a later run knows whether it may
go on with what it finds.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from partbox.data.part_json_types import PartDatasetError
from partbox.files import write_atomically
from partbox.folder_readme import README


@dataclass(frozen=True)
class OutputLayout:
    """What a run makes in its folder.

    Attributes:
        record: name of the record.
        files: names of the files that say that all is there; removed first.
        folders: names of the folders of images.
        changeable: keys of the record that may differ when a run goes on.
    """

    record: str
    files: tuple[str, ...]
    folders: tuple[str, ...]
    changeable: tuple[str, ...] = ()


def check_folder(output: Path, layout: OutputLayout) -> None:
    """Refuse an output folder that holds what no such run has made, or that cannot be written.

    Raises:
        PartDatasetError: saying so.
    """
    above = output
    while not os.path.lexists(above):
        above = above.parent
    if not above.is_dir():
        raise PartDatasetError(
            str(output), "--output", "is not a folder" if above == output else f"{above} is no folder"
        )
    if not os.access(above, os.W_OK | os.X_OK):
        raise PartDatasetError(str(output), "--output", f"nothing can be written into {above}", "choose another folder")
    if not output.is_dir() or (output / layout.record).is_file():
        return
    if {*output.iterdir()} - {*_temporaries(output, layout)}:
        reason = "is neither empty nor the output of an earlier run"
        raise PartDatasetError(str(output), "--output", reason, "choose another folder")


def changes(output: Path, made_from: Mapping[str, Any], layout: OutputLayout) -> list[str]:
    """The keys in which what an earlier run has left was made from something else; none where there is nothing."""
    record = output / layout.record
    if not record.is_file():
        return []
    earlier, wanted = orjson.loads(record.read_bytes()), orjson.loads(orjson.dumps(made_from))
    return [key for key in wanted if earlier.get(key) != wanted[key] and key not in layout.changeable]


def check_changes(output: Path, made_from: Mapping[str, Any], layout: OutputLayout) -> None:
    """Refuse to go on where something else was made.

    Raises:
        PartDatasetError: saying what differs.
    """
    changed = changes(output, made_from, layout)
    if changed:
        reason = f"was made by an earlier run with other {', '.join(changed)}"
        raise PartDatasetError(str(output), "--output", reason, "choose another folder, or add --overwrite")


def open_folder(output: Path, made_from: Mapping[str, Any], layout: OutputLayout, *, overwrite: bool) -> None:
    """Make the output folder, or go on in one that an earlier run with the same input has left.

    Args:
        output: the folder, which :func:`check_folder` has passed.
        made_from: all that the output depends on.
        layout: of the folder.
        overwrite: remove what an earlier run with other input has left, instead of refusing.

    Raises:
        PartDatasetError: if the folder holds what an earlier run has made from other input.
    """
    if not overwrite:
        check_changes(output, made_from, layout)
    elif changes(output, made_from, layout):
        _remove(output, layout)
    for leftover in _temporaries(output, layout):
        leftover.unlink()
    for folder in layout.folders:
        for leftover in (output / folder).rglob(".*.tmp"):
            leftover.unlink()
    if not (output / layout.record).is_file():
        write_record(output, layout, {**made_from, "complete": False})


def _temporaries(output: Path, layout: OutputLayout) -> Iterator[Path]:
    """What a run that was killed while it wrote its files has left of them."""
    for name in (layout.record, README, *layout.files):
        yield from output.glob(f".{name}.*.tmp")


def write_record(output: Path, layout: OutputLayout, value: Mapping[str, Any]) -> None:
    """Write the record whole or not at all."""
    data = orjson.dumps(value, option=orjson.OPT_INDENT_2) + b"\n"
    write_atomically(output / layout.record, lambda file: file.write(data))


def _remove(output: Path, layout: OutputLayout) -> None:
    """Remove what a run has made, the files that say that all is there first."""
    for name in layout.files:
        (output / name).unlink(missing_ok=True)
    (output / layout.record).unlink()
    for folder in layout.folders:
        if (output / folder).is_dir():
            shutil.rmtree(output / folder)
