"""Which image gives its background, or the texture of its object, to another one.

A donor is drawn by (seed, shift, image id) from the images of a class, in the order of their ids: neither the order of
the file nor the number of processes matters. It never comes from the photograph that the image itself was cut from.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from .foreground import Rectangle
from .kinds import Donor, Shift

Record = Mapping[str, Any]

MIN_TEXTURE_SIDE = 48
"""Pixels of the shorter side of an object's bounding box from which on it is a good texture."""


def image_generator(seed: int, purpose: str, image_id: int | str) -> np.random.Generator:
    """The random numbers of one image for one purpose."""
    digest = hashlib.blake2b(f"{seed}|{purpose}|{image_id}".encode(), digest_size=16).digest()
    return np.random.default_rng(int.from_bytes(digest, "big"))


def photograph(record: Record) -> str:
    """What tells photographs apart: images cut from one photograph have the same ``source_image``."""
    source = record.get("source_image")
    return f"photograph {source}" if source is not None else f"image {record['image_id']}"


class Donors:
    """The images that may give their background or texture.

    Backgrounds come from photographs of which only one image was cut, because the others may show a second labelled
    object beside the first; textures from objects of at least MIN_TEXTURE_SIDE. A class in which fewer than two
    photographs are that good gives all it has.
    """

    def __init__(self, records: Sequence[Record], boxes: Sequence[Rectangle], all_records: Sequence[Record]) -> None:
        """Args:
        records: images with a foreground and a background.
        boxes: the bounding box of the foreground of each.
        all_records: all images of the data set, which tell how many were cut from one photograph.
        """
        cut = Counter(photograph(record) for record in all_records)
        box_of = {record["image_id"]: box for record, box in zip(records, boxes, strict=True)}

        def is_large(record: Record) -> bool:
            box = box_of[record["image_id"]]
            return min(box.bottom - box.top, box.right - box.left) >= MIN_TEXTURE_SIDE

        self._backgrounds = _Pools(records, lambda record: cut[photograph(record)] == 1)
        self._textures = _Pools(records, is_large)

    def labels(self) -> list[int]:
        """The classes (indices) that have a donor, in ascending order."""
        return self._backgrounds.labels

    def has(self, kind: Donor, record: Record) -> bool:
        """Whether there is a donor of a kind for an image."""
        return kind == "none" or bool(self._backgrounds.classes(kind, record))

    def draw(self, shift: Shift, record: Record, seed: int) -> Record | None:
        """The donor of an image under a shift; None if the shift takes nothing of another.

        The class is drawn first, each with the same chance, then the image.
        """
        if shift.donor == "none":
            return None
        pools = self._textures if shift.name == "stylized" else self._backgrounds
        generator = image_generator(seed, shift.name, record["image_id"])
        labels = pools.classes(shift.donor, record)
        pool = pools.records[labels[generator.integers(len(labels))]]
        own = photograph(record)
        others = [donor for donor in pool if photograph(donor) != own]
        return others[generator.integers(len(others))]


class _Pools:
    """The donors of each class.

    Attributes:
        records: class (index) -> its donors in the order of their ids: the good ones, or all if these are of fewer than
            two photographs.
        labels: the classes with a donor, in ascending order.
    """

    def __init__(self, records: Sequence[Record], is_good: Callable[[Record], bool]) -> None:
        self.records: dict[int, list[Record]] = defaultdict(list)
        for record in sorted(records, key=lambda record: str(record["image_id"])):
            self.records[record["label"]].append(record)
        self.labels = sorted(self.records)
        self._only: dict[int, str] = {}  # class -> its photograph, where there is one only
        for label, pool in self.records.items():
            good = [record for record in pool if is_good(record)]
            if len(set(map(photograph, good))) > 1:
                self.records[label] = good
            elif len(set(map(photograph, pool))) == 1:
                self._only[label] = photograph(pool[0])

    def classes(self, kind: Donor, record: Record) -> list[int]:
        """The classes that a donor may be of: those with an image of another photograph."""
        own, label = photograph(record), record["label"]
        if kind == "same":
            return [label] if label in self.records and self._only.get(label) != own else []
        others = [other for other in self.labels if other != label and self._only.get(other) != own]
        if kind == "next":
            return ([other for other in others if other > label] or others)[:1]
        return others
