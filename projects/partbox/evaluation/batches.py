"""The images of an evaluation in numbered batches, any of which can be loaded alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol

from partbox.data.loader import build_test_loader, share_records

from .subject import Batch, Mapper


class Batches(Protocol):
    """Numbered batches; batch i holds the same images whatever else is loaded."""

    @property
    def records(self) -> Sequence[dict[str, Any]]:
        """The dataset's records, one an image."""

    def __len__(self) -> int:
        """Number of batches."""

    @property
    def sizes(self) -> Sequence[int]:
        """Images of each batch."""

    @property
    def mapper(self) -> Mapper:
        """From a record to a sample."""

    def load(self, numbers: Sequence[int], mapper: Mapper) -> Iterable[Batch]:
        """The batches of these numbers, in this order, read through the mapper."""


class RecordBatches:
    """Records of a dataset, read from files when their batch is wanted.

    Args:
        records: in the order of evaluation.
        mapper: from a record to a sample.
        batch_size: images a batch.
        workers: processes that read images.
    """

    def __init__(self, records: Sequence[dict[str, Any]], mapper: Mapper, *, batch_size: int, workers: int = 0) -> None:
        if batch_size < 1:
            raise ValueError(f"a batch has at least one image, not {batch_size}")
        self.records, self.mapper, self.batch_size, self.workers = records, mapper, batch_size, workers
        self._shared = share_records(records, workers)  # once, not for each perturbation

    def __len__(self) -> int:
        return -(-len(self.records) // self.batch_size)

    @property
    def sizes(self) -> Sequence[int]:
        starts = range(0, len(self.records), self.batch_size)
        return [min(self.batch_size, len(self.records) - start) for start in starts]

    def load(self, numbers: Sequence[int], mapper: Mapper) -> Iterable[Batch]:
        return build_test_loader(
            self._shared, mapper, batch_size=self.batch_size, workers=self.workers, batches=numbers
        )


class LoadedBatches:
    """Batches whose samples are in memory already.

    Args:
        batches: lists of samples, all of which fit in memory.
    """

    def __init__(self, batches: Iterable[Batch]) -> None:
        self._batches = [list(batch) for batch in batches]
        self.records = [sample for batch in self._batches for sample in batch]

    @staticmethod
    def mapper(record: dict[str, Any]) -> dict[str, Any]:
        """The samples as they are."""
        return record

    def __len__(self) -> int:
        return len(self._batches)

    @property
    def sizes(self) -> Sequence[int]:
        return [len(batch) for batch in self._batches]

    def load(self, numbers: Sequence[int], mapper: Mapper) -> Iterator[Batch]:
        for number in numbers:
            yield [mapper(sample) for sample in self._batches[number]]
