"""A COCO file read in memory that does not grow with its length: images one by one, each with its annotations.

Annotations stand in any order in such files, so they are put into a temporary database on disk, which vanishes with the
process. It takes about as much room as the file, where ``TMPDIR`` says.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from functools import cached_property
from pathlib import Path
from typing import Any

import ijson
import orjson

from partbox.data.part_json_entry import Entry, describe
from partbox.data.part_json_types import PartDatasetError
from partbox.progress import Progress

_BATCH = 1000  # rows given to the database at once
_TOLD_FROM = 100_000_000  # bytes of a file that takes long enough to say how far it is
_LOOK = 1000  # entries read between two looks at the place in the file
_MEGABYTE = 1_000_000


class CocoStream:
    """One COCO file.

    Args:
        file: the JSON file.
    """

    def __init__(self, file: Path) -> None:
        self.file = Path(file)

    @cached_property
    def sha256(self) -> str:
        """Of the file's bytes."""
        with self._open() as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()

    def table(self, key: str) -> list[dict[str, Any]]:
        """A small top-level list, such as the categories, read whole.

        Raises:
            PartDatasetError: the file is no JSON, the list is absent or empty, or an entry is no object.
        """
        return [entry.value for entry in self.entries(key)]

    def count(self) -> int:
        """Number of images."""
        return sum(1 for _ in self.entries("images"))

    def entries(self, key: str, *, told: bool = True) -> Iterator[Entry]:
        """The entries of a top-level list, in the order of the file.

        Args:
            key: of the list.
            told: whether a large file says how far it is read; not where somebody else counts what becomes of it.

        Raises:
            PartDatasetError: the file is no JSON, the list is absent or empty, or an entry is no object.
        """
        index = -1
        with self._open() as stream, self._progress(stream, key, told) as bar:
            try:
                for index, value in enumerate(ijson.items(stream, f"{key}.item", use_float=True)):
                    if index % _LOOK == 0:
                        bar.step(stream.tell() // _MEGABYTE - bar.done)
                    yield Entry(str(self.file), key, index, value)
            except (ijson.JSONError, UnicodeDecodeError) as error:
                reason = f"is not JSON, or ends too early: {' '.join(str(error).split())[:200]}"
                raise PartDatasetError(str(self.file), f"after {key}[{index}]", reason, "get it again") from error
        if index < 0:
            fix = "give a COCO file of instances"
            raise PartDatasetError(str(self.file), "top level", f'required list "{key}" is missing or empty', fix)

    def photographs(self) -> Iterator[tuple[Entry, list[Entry]]]:
        """Each image with its annotations, both in the order of the file.

        Raises:
            PartDatasetError: malformed JSON, an image id that is used twice, or an annotation without an image of its
                own.
        """
        with closing(sqlite3.connect("")) as database:  # a file of its own, deleted when it is closed
            database.execute("PRAGMA journal_mode = OFF")
            database.execute("PRAGMA synchronous = OFF")
            database.execute("CREATE TABLE images (id PRIMARY KEY, place INTEGER)")
            database.execute("CREATE TABLE annotations (image_id, place INTEGER, value BLOB)")
            self._spill_images(database)
            self._spill_annotations(database)
            database.execute("CREATE INDEX by_image ON annotations (image_id, place)")
            self._refuse_orphans(database)
            query = "SELECT place, value FROM annotations WHERE image_id = ? ORDER BY place"
            for image in self.entries("images", told=False):
                rows = database.execute(query, (image.identifier("id"),)).fetchall()
                found = [Entry(str(self.file), "annotations", place, orjson.loads(value)) for place, value in rows]
                yield image, found

    def _open(self) -> Any:
        try:
            return open(self.file, "rb")
        except OSError as error:
            raise PartDatasetError(str(self.file), "file", f"cannot be read: {error.strerror}") from error

    def _progress(self, stream: Any, key: str, told: bool) -> Progress:
        size = os.fstat(stream.fileno()).st_size
        shown = told and size >= _TOLD_FROM
        return Progress(size // _MEGABYTE, f"reading {key} of {self.file.name}", "megabyte", shown=shown)

    def _spill_images(self, database: sqlite3.Connection) -> None:
        for image in self.entries("images"):
            key = image.identifier("id")
            try:
                database.execute("INSERT INTO images VALUES (?, ?)", (key, image.index))
            except sqlite3.IntegrityError:
                (first,) = database.execute("SELECT place FROM images WHERE id = ?", (key,)).fetchone()
                raise image.error(f"id {describe(key)} is already used by images[{first}]") from None

    def _spill_annotations(self, database: sqlite3.Connection) -> None:
        rows: list[tuple[int | str, int, bytes]] = []
        insert = "INSERT INTO annotations VALUES (?, ?, ?)"
        for entry in self.entries("annotations"):
            rows.append((entry.identifier("image_id"), entry.index, orjson.dumps(entry.value)))
            if len(rows) == _BATCH:
                database.executemany(insert, rows)
                rows.clear()
        database.executemany(insert, rows)

    def _refuse_orphans(self, database: sqlite3.Connection) -> None:
        query = "SELECT place, value FROM annotations WHERE image_id NOT IN (SELECT id FROM images) ORDER BY place"
        found = database.execute(f"{query} LIMIT 1").fetchone()
        if found:
            entry = Entry(str(self.file), "annotations", found[0], orjson.loads(found[1]))
            raise entry.error(f"no image has the id {describe(entry.value['image_id'])}")
