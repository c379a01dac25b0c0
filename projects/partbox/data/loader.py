"""Data loaders whose every draw follows from the seed and the position in the stream of samples.

Nothing depends on the number of workers or on what was loaded before, so a run continues from an iteration number.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, Sampler

from .part_json_types import PartDatasetError

Sample = dict[str, Any]
FAILURE = "failure"  # key of a sample that could not be read; its only one
# What reading, checking and changing an image raises: Pillow (any of these), detectron2's size check, corruptions.
UNREADABLE = (OSError, ValueError, SyntaxError, EOFError, struct.error, Image.DecompressionBombError)
Key = tuple[int, int]  # (index of the record, position in the stream)


class ImageError(RuntimeError):
    """An image of a dataset that a mapper cannot read, or that is not what its record says.

    Attributes:
        file_name: of the image.
        image_id: of its record.
        reason: what the mapper said.
    """

    def __init__(self, file_name: str, image_id: int | str, reason: str) -> None:
        super().__init__(file_name, image_id, reason)  # in args, so that the error survives pickling
        self.file_name, self.image_id, self.reason = file_name, image_id, reason

    def __str__(self) -> str:
        return f"image {self.image_id} of the dataset, {self.file_name}, cannot be used: {self.reason}"


def epoch_order(size: int, *, seed: int, epoch: int) -> np.ndarray:
    """The order of the records in one epoch: a permutation of range(size) that depends on (seed, epoch) only."""
    return np.random.default_rng([seed, epoch]).permutation(size)


class TrainingStream(Sampler[list[Key]]):
    """Endless batches: epoch after epoch, each a permutation; a batch may span two epochs, no sample is dropped.

    Args:
        size: number of records.
        batch_size: of one iteration.
        seed: of the order.
        start: iteration to begin with.
        repeats: iterations in a row that get the same batch, samples and augmentations alike.
        share: (i, n): yield the i-th of n equal pieces of each batch, as one of n processes.

    Raises:
        ValueError: the dataset is empty, or a batch cannot be divided among the processes.
    """

    def __init__(
        self,
        size: int,
        batch_size: int,
        *,
        seed: int,
        start: int = 0,
        repeats: int = 1,
        share: tuple[int, int] = (0, 1),
    ) -> None:
        if size < 1:
            raise ValueError("the training dataset is empty")
        if batch_size % share[1]:
            raise ValueError(f"a batch of {batch_size} images cannot be divided among {share[1]} processes")
        self.share = share
        self.size, self.batch_size, self.seed, self.start, self.repeats = size, batch_size, seed, start, repeats

    def __iter__(self) -> Iterator[list[Key]]:
        position = self.start // self.repeats * self.batch_size
        given = self.start % self.repeats
        epoch, order = -1, np.empty(0, dtype=np.int64)
        while True:
            batch = []
            for _ in range(self.batch_size):
                if position // self.size != epoch:
                    epoch = position // self.size
                    order = epoch_order(self.size, seed=self.seed, epoch=epoch)
                batch.append((int(order[position % self.size]), position))
                position += 1
            images = self.batch_size // self.share[1]
            for _ in range(given, self.repeats):
                yield batch[self.share[0] * images : (self.share[0] + 1) * images]
            given = 0


class MappedRecords(Dataset[Sample]):
    """Records seen through a mapper; the mapper's random numbers depend on (seed, position) only."""

    def __init__(self, records: Sequence[Sample], mapper: Callable[[Sample], Sample], *, seed: int) -> None:
        self.records, self.mapper, self.seed = records, mapper, seed

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, key: Key) -> Sample:
        index, position = key
        numpy_state, python_state = np.random.get_state(), random.getstate()
        try:
            # detectron2's augmentations draw from the global generators.
            np.random.seed(np.random.SeedSequence([self.seed, position]).generate_state(4))
            random.seed(f"{self.seed}|{position}")
            return self.mapper(self.records[index])
        except (PartDatasetError, ImageError) as error:
            return {FAILURE: error}
        except UNREADABLE as error:
            record = self.records[index]
            named = ImageError(
                str(record.get("file_name", "")), record.get("image_id", index), f"{type(error).__name__}: {error}"
            )
            named.__cause__ = error  # where no process lies between, the traceback is kept
            return {FAILURE: named}
        finally:
            np.random.set_state(numpy_state)
            random.setstate(python_state)


class SampleLoader(DataLoader[Sample]):
    """Batches as lists of samples; an image that cannot be read raises its own PartDatasetError or ImageError.

    From a worker process torch would raise another error, whose text is the worker's traceback.
    """

    def __iter__(self) -> Any:
        for batch in super().__iter__():
            for sample in batch:
                if FAILURE in sample:
                    raise sample[FAILURE]
            yield batch


def _as_list(samples: list[Sample]) -> list[Sample]:
    return samples


def _one_thread(_: int) -> None:
    torch.set_num_threads(1)


def build_training_loader(
    records: Sequence[Sample],
    mapper: Callable[[Sample], Sample],
    *,
    batch_size: int,
    seed: int,
    start: int = 0,
    workers: int = 0,
    repeats: int = 1,
    share: tuple[int, int] = (0, 1),
) -> SampleLoader:
    """Endless batches (lists of samples) from iteration ``start`` on, each ``repeats`` times in a row.

    With ``share`` (i, n) the i-th of n equal pieces of each batch of ``batch_size``.
    """
    return SampleLoader(
        MappedRecords(records, mapper, seed=seed),
        batch_sampler=TrainingStream(len(records), batch_size, seed=seed, start=start, repeats=repeats, share=share),
        num_workers=workers,
        collate_fn=_as_list,
        worker_init_fn=_one_thread,
    )


def build_test_loader(
    records: Sequence[Sample],
    mapper: Callable[[Sample], Sample],
    *,
    batch_size: int,
    workers: int = 0,
    batches: Sequence[int] | None = None,
) -> SampleLoader:
    """Each record once, in order; or only the batches of these numbers, which hold the same images as ever."""
    keys = [(index, index) for index in range(len(records))]
    every = [keys[start : start + batch_size] for start in range(0, len(keys), batch_size)]
    return SampleLoader(
        MappedRecords(records, mapper, seed=0),
        batch_sampler=every if batches is None else [every[number] for number in batches],
        num_workers=workers,
        collate_fn=_as_list,
        worker_init_fn=_one_thread,
    )


def subset(records: Sequence[Sample], count: int, *, seed: int) -> list[Sample]:
    """At most ``count`` records (0 = all), drawn with ``seed``, in their order in the file."""
    if not count or count >= len(records):
        return list(records)
    chosen = np.random.default_rng([seed, len(records)]).permutation(len(records))[:count]
    return [records[index] for index in sorted(chosen.tolist())]
