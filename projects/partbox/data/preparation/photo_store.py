"""The photographs of a preparation, on disk while it runs: what is known of each, and what is cut out of it.

It is a temporary database where ``TMPDIR`` says. It vanishes with the process, so nothing has to be cleaned up after a
kill, and it keeps memory the same for any number of photographs.
"""

from __future__ import annotations

import hashlib
import pickle
import re
import sqlite3
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any

import orjson

from partbox.data.label_budget import budget_draw
from partbox.data.part_json_types import PartDatasetError
from partbox.data.splits import source_draw, split_shares

from .object_crops import Crop, CropTask, Photo
from .photo_reader import PhotoLabels

TABLES = """
CREATE TABLE photos (place INTEGER PRIMARY KEY, name, bytes INTEGER, first, source, own_split, split, value BLOB);
CREATE TABLE objects (number INTEGER PRIMARY KEY, photo INTEGER, class, labelled INTEGER, keep INTEGER);
CREATE TABLE dropped (photo INTEGER, class, what, reason, count INTEGER);
CREATE TABLE split_of (source PRIMARY KEY, split);
CREATE TABLE crops (place INTEGER PRIMARY KEY, photo INTEGER, split, class, value BLOB);
CREATE INDEX crops_of_split ON crops (split, place);
CREATE INDEX objects_of_photo ON objects (photo);
CREATE INDEX photos_by_name ON photos (name, place, split);
CREATE INDEX photos_by_source ON photos (source);
"""


class PhotoStore:
    """Photographs in the order in which they were added.

    Args:
        numbered: objects bring numbers that are unique among all; otherwise they are numbered from 1 on.
        labels: what the numbers come from, for messages.
    """

    def __init__(self, *, numbered: bool, labels: str) -> None:
        self.numbered, self.labels = numbered, labels
        self._next = 1
        self._database = sqlite3.connect("", isolation_level=None)  # a file of its own, deleted when it is closed
        self._database.executescript("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;" + TABLES)

    def close(self) -> None:
        """Forget everything."""
        self._database.close()

    # ------------------------------------------------------------ photographs

    def add(self, labels: PhotoLabels, size: int) -> None:
        """Add a photograph of ``size`` bytes. One without an object only counts for what was left out of it.

        Raises:
            PartDatasetError: an object's number is used twice.
        """
        photo = labels.photo
        if not self.numbered:
            numbers = range(self._next, self._next + len(photo.objects))
            objects = (replace(target, number=n) for target, n in zip(photo.objects, numbers, strict=True))
            photo = replace(photo, objects=tuple(objects))
            self._next += len(photo.objects)
        place = self._database.execute(
            "INSERT INTO photos (name, bytes, first, source, own_split, value) VALUES (?, ?, ?, ?, ?, ?)",
            (photo.name, size, photo.name, photo.source or photo.name, photo.split, pickle.dumps(photo)),
        ).lastrowid
        rows = [(target.number, place, target.class_name, target.part_labels != "none") for target in photo.objects]
        try:
            self._database.executemany("INSERT INTO objects VALUES (?, ?, ?, ?, 1)", rows)
        except sqlite3.IntegrityError:
            reason = "two objects have the same number, one of them here"
            raise PartDatasetError(self.labels, f"image {photo.name}", reason, "give each its own id") from None
        dropped = [(place, *reason, count) for reason, count in labels.dropped.items() if count]
        self._database.executemany("INSERT INTO dropped VALUES (?, ?, ?, ?, ?)", dropped)

    def count_objects(self) -> int:
        """Number of objects."""
        return int(self._one("SELECT COUNT(*) FROM objects"))

    def digest(self) -> str:
        """Of the names and sizes of the photographs with objects."""
        digest = hashlib.sha256()
        for name, size in self._database.execute(
            "SELECT name, bytes FROM photos WHERE place IN (SELECT photo FROM objects) ORDER BY place"
        ):
            digest.update(f"{name}\0{size}\0".encode())
        return digest.hexdigest()

    def same_size(self) -> Iterator[str]:
        """Names of the photographs whose number of bytes is not unique, in their order."""
        query = """SELECT DISTINCT name FROM photos WHERE place IN (SELECT photo FROM objects) AND bytes IN
            (SELECT bytes FROM (SELECT DISTINCT name, bytes FROM photos) GROUP BY bytes HAVING COUNT(*) > 1)
            ORDER BY place"""
        for (name,) in self._rows(query):
            yield name

    def set_copy(self, name: str, first: str) -> None:
        """Say that a photograph has the same bytes as an earlier one.

        It goes where that one goes, and with it all that must stay together with it (the other frames of its video).
        """
        (source,) = self._database.execute("SELECT source FROM photos WHERE name = ?", (first,)).fetchone()
        (own,) = self._database.execute("SELECT source FROM photos WHERE name = ?", (name,)).fetchone()
        self._database.execute("UPDATE photos SET first = ? WHERE name = ?", (first, name))
        self._database.execute("UPDATE photos SET source = ? WHERE source = ?", (source, own))

    # ------------------------------------------------------------ splits

    def take_own_splits(self) -> int:
        """Put each photograph into its owner's split. What an earlier photograph of another split shows is left out.

        Returns:
            Number of photographs left out.
        """
        self._database.execute("UPDATE photos SET split = own_split")
        first_split = "(SELECT split FROM photos AS other WHERE other.name = photos.first ORDER BY place LIMIT 1)"
        crossing = f"SELECT place FROM photos WHERE split != {first_split}"
        places = [place for (place,) in self._database.execute(crossing)]
        for place in places:
            reason = "its photograph is in another split, too"
            self._database.execute(
                """INSERT INTO dropped SELECT photo, class, 'object', ?, COUNT(*) FROM objects
                WHERE photo = ? GROUP BY class""",
                (reason, place),
            )
            self._database.execute("DELETE FROM objects WHERE photo = ?", (place,))
        return len(places)

    def split_by_source(self, fractions: Mapping[str, float], seed: int) -> None:
        """Split as :func:`partbox.data.splits.split_by_source` does, balanced over classes; no copy leaves its first.

        Raises:
            ValueError: fractions that are no shares of a whole.
        """
        votes = """SELECT source, class FROM photos JOIN objects ON photo = place
            GROUP BY source, class ORDER BY source, COUNT(*) DESC, class"""
        self._database.execute("CREATE TEMP TABLE drawn (source PRIMARY KEY, stratum, draw BLOB)")
        last = None
        for source, stratum in self._rows(votes):
            if source != last:
                row = (source, stratum, source_draw(seed, source))
                self._database.execute("INSERT INTO drawn VALUES (?, ?, ?)", row)
            last = source
        counts = dict(self._database.execute("SELECT stratum, COUNT(*) FROM drawn GROUP BY stratum"))
        for stratum, shares in split_shares(counts, fractions).items():
            names = (name for name in fractions for _ in range(shares[name]))
            ordered = self._rows("SELECT source FROM drawn WHERE stratum = ? ORDER BY draw, source", (stratum,))
            pairs = ((source, name) for (source,), name in zip(ordered, names, strict=True))
            self._database.executemany("INSERT INTO split_of VALUES (?, ?)", pairs)
        self._database.execute("UPDATE photos SET split = (SELECT split FROM split_of WHERE source = photos.source)")

    def count_by_split(self) -> Counter[str]:
        """Number of photographs with objects in each split."""
        query = "SELECT split, COUNT(DISTINCT place) FROM photos JOIN objects ON photo = place GROUP BY split"
        return Counter(dict(self._database.execute(query)))

    def keep_labels(self, split: str, share: float, seed: int) -> None:
        """Leave a share of a split's labelled objects their part labels, class by class; larger ones hold smaller."""
        self._database.execute("CREATE TEMP TABLE shared (number PRIMARY KEY, class, draw BLOB)")
        labelled = """SELECT number, class, first FROM objects JOIN photos ON photo = place
            WHERE labelled AND split = ?"""
        for number, class_name, first in self._rows(labelled, (split,)):
            photograph = PurePosixPath(first).name  # not its folder: labels alone are drawn as with photographs
            row = (number, class_name, budget_draw(seed, f"{photograph}|{number}"))
            self._database.execute("INSERT INTO shared VALUES (?, ?, ?)", row)
        for class_name, count in self._rows("SELECT class, COUNT(*) FROM shared GROUP BY class"):
            without = """UPDATE objects SET keep = 0 WHERE number IN
                (SELECT number FROM shared WHERE class = ? ORDER BY draw LIMIT -1 OFFSET ?)"""
            self._database.execute(without, (class_name, round(share * count)))

    # ------------------------------------------------------------ crops

    def tasks(self, image_format: str) -> Iterator[CropTask]:
        """What is to be cut: one task a photograph with objects, in their order."""
        query = """SELECT place, name, split, value FROM photos
            WHERE place IN (SELECT photo FROM objects) ORDER BY place"""
        for place, name, split, value in self._rows(query):
            kept = dict(self._database.execute("SELECT number, keep FROM objects WHERE photo = ?", (place,)))
            photo: Photo = pickle.loads(value)
            objects = tuple(
                target if kept[target.number] else replace(target, part_labels="none")
                for target in photo.objects
                if target.number in kept
            )
            photo = replace(photo, objects=objects)
            yield CropTask(photo, tuple(_crop_file(name, target.number, split, image_format) for target in objects))

    def add_crops(self, crops: list[Crop]) -> None:
        """Keep the crops of a photograph."""
        query = "SELECT photo, split FROM objects JOIN photos ON photo = place WHERE number = ?"
        for crop in crops:
            place, split = self._database.execute(query, (crop.number,)).fetchone()
            value = {
                "image": {
                    "id": crop.number,
                    "file_name": crop.file_name,
                    "width": crop.width,
                    "height": crop.height,
                    "part_labels": crop.part_labels,
                },
                "parts": crop.parts,
                "clipped": crop.clipped,
                "dropped": dict(crop.dropped),
            }
            insert = "INSERT INTO crops (photo, split, class, value) VALUES (?, ?, ?, ?)"
            self._database.execute(insert, (place, split, crop.class_name, orjson.dumps(value)))

    def crops(self, split: str) -> Iterator[tuple[str, str, dict[str, Any]]]:
        """(class, name of the photograph, crop) of each crop of a split, in the order of the photographs.

        The crop has ``image`` (keys of a part-dataset file but the class and the photograph), ``parts`` (as
        :class:`Crop` has them), ``clipped`` and ``dropped``.
        """
        query = """SELECT class, first, crops.value FROM crops JOIN photos ON photo = photos.place
            WHERE crops.split = ? ORDER BY crops.place"""
        for class_name, source, value in self._rows(query, (split,)):
            yield class_name, source, orjson.loads(value)

    def photographs_of_classes(self) -> Iterator[tuple[str, str, int]]:
        """(split, class, number of photographs that show it)."""
        yield from self._rows("SELECT split, class, COUNT(DISTINCT photo) FROM crops GROUP BY split, class")

    def dropped(self) -> Iterator[tuple[str | None, str, str, str, int]]:
        """(split or None, class, what, reason, count) of what was left out before anything was cut."""
        yield from self._rows(
            """SELECT CASE WHEN dropped.photo IN (SELECT photo FROM objects) THEN split END, class, what, reason,
            SUM(count) FROM dropped JOIN photos ON photo = place GROUP BY 1, 2, 3, 4"""
        )

    def _rows(self, query: str, values: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
        yield from self._database.execute(query, values)

    def _one(self, query: str) -> Any:
        return self._database.execute(query).fetchone()[0]


def _crop_file(photo: str, number: int, split: str, image_format: str) -> str:
    stem = re.sub(r"[^A-Za-z0-9._-]", "_", PurePosixPath(photo).stem)[:100]
    return f"{split}/{stem}_{number}.{image_format}"
