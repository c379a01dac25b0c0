"""What a data set's reader gives to the preparation: the labelled photographs, one after the other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from .object_crops import Photo

Reason = tuple[str, str, str]
"""(class or "", "photograph" | "object" | "part", why it was left out)."""


@dataclass(frozen=True)
class PhotoLabels:
    """The labels of one photograph.

    Attributes:
        photo: with the objects to be cut out; it may have none, and is then only counted.
        dropped: what was left out of it, and how often.
    """

    photo: Photo
    dropped: Counter[Reason] = field(default_factory=Counter)


class PhotoReader(Protocol):
    """Reads labels in the layout that their owner publishes.

    ``entries`` runs once, in the main process, and must not keep what it has given; ``read`` runs in worker processes
    and does what takes long. A reader is pickled to the workers, so it holds paths and tables, no labels.

    Attributes:
        image_root: folder that the names of photographs start from.
        part_names: (class, part) of each ``SourcePart.category``, complete and in a fixed order whatever the data show.
        class_names: classes of the data set whatever the data show; empty takes those of which an object was kept.
        numbered: whether ``SourceObject.number`` is unique among all objects. If not, objects are numbered in their
            order, and ``number`` need only be unique in its photograph.
    """

    @property
    def image_root(self) -> Path: ...

    @property
    def part_names(self) -> Sequence[tuple[str, str]]: ...

    @property
    def class_names(self) -> Sequence[str]: ...

    @property
    def numbered(self) -> bool: ...

    def describe(self) -> dict[str, Any]:
        """All that the labels depend on, as JSON: digests of the files, and what they were taken to mean."""

    def count(self) -> int | None:
        """Number of entries, for a progress bar; None where that is not known before."""

    def entries(self) -> Iterator[Any]:
        """One picklable value a photograph, in a fixed order.

        Raises:
            PartDatasetError: a file is missing or malformed; names file and entry.
        """

    def read(self, entry: Any) -> PhotoLabels:
        """The labels of one photograph. Touches no image of photographs.

        Raises:
            PartDatasetError: the entry is malformed.
        """
