"""Data loaders whose every draw follows from the seed and the position in the stream of samples.

Nothing depends on the number of workers or on what was loaded before, so a run continues from an iteration number.
Worker processes share the records with the main process, and one that dies is reported with the image that it read.
"""

from __future__ import annotations

import gc
import random
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from detectron2.data import DatasetFromList
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from .image_errors import ImageError
from .part_json_types import PartDatasetError
from .worker_watch import WorkerWatch, begin, end, name_deaths_anywhere, named_death

Sample = dict[str, Any]
FAILURE = "failure"  # key of a sample that could not be read; its only one
# What reading, checking and changing an image raises: Pillow (any of these), detectron2's size check, corruptions.
UNREADABLE = (OSError, ValueError, SyntaxError, EOFError, struct.error, Image.DecompressionBombError)
Key = tuple[int, int]  # (index of the record, position in the stream)


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


@contextmanager
def drawn_at(seed: int, position: int) -> Iterator[None]:
    """Let what draws from a global generator (Python's, numpy's, torch's on the CPU) depend on these numbers only.

    Afterwards the generators go on where they were.
    """
    numpy_state, python_state = np.random.get_state(), random.getstate()
    torch_state = torch.default_generator.get_state()
    words = np.random.SeedSequence([seed, position]).generate_state(6)
    try:
        np.random.seed(words[:4])
        random.seed(f"{seed}|{position}")
        # not torch.manual_seed, which would reset the generators of GPUs as well
        torch.default_generator.manual_seed(int(words[4]) << 31 ^ int(words[5]))
        yield
    finally:
        np.random.set_state(numpy_state)
        random.setstate(python_state)
        torch.default_generator.set_state(torch_state)


class MappedRecords(Dataset[Sample]):
    """Records seen through a mapper; the mapper's random numbers depend on (seed, position) only.

    Attributes:
        reading: what worker processes tell of the record that they read, see
            :class:`partbox.data.worker_watch.WorkerWatch`.
    """

    def __init__(self, records: Sequence[Sample], mapper: Callable[[Sample], Sample], *, seed: int) -> None:
        self.records, self.mapper, self.seed = records, mapper, seed
        self.reading: Tensor | None = None

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, key: Key) -> Sample:
        index, position = key
        begin(self.reading, index)
        try:
            with drawn_at(self.seed, position):
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
            end(self.reading)


class SampleLoader(DataLoader[Sample]):
    """Batches as lists of samples; an image that cannot be read raises its own PartDatasetError or ImageError.

    From a worker process torch would raise another error, whose text is the worker's traceback. A worker process that
    dies raises a :class:`partbox.data.image_errors.WorkerDied` with the image that it was reading.
    """

    dataset: MappedRecords

    def __iter__(self) -> Any:
        watch = WorkerWatch(self.num_workers, self.dataset.records) if self.num_workers else None
        self.dataset.reading = None if watch is None else watch.table
        try:
            batches = super().__iter__()
            if watch is not None:
                name_deaths_anywhere()
            while (batch := next(batches, None)) is not None:
                for sample in batch:
                    if FAILURE in sample:
                        raise sample[FAILURE]
                yield batch
        except RuntimeError as error:
            if (death := named_death(error)) is not None:
                raise death from error
            raise


def share_records(records: Sequence[Sample], workers: int) -> Sequence[Sample]:
    """The records as loaders with worker processes want them: serialised into one block of memory.

    Python objects cannot be shared: to read one is to count a reference, that is, to write, and each process would end
    with a copy of the whole dataset. Without workers the records stay as they are. A loader does this by itself; who
    builds several for the same records does it before, once.
    """
    if not workers or not len(records) or isinstance(records, DatasetFromList):
        return records
    shared: Sequence[Sample] = DatasetFromList(list(records), copy=False)
    return shared


def build_loader(
    records: Sequence[Sample],
    mapper: Callable[[Sample], Sample],
    batches: Sampler[list[Key]] | Sequence[list[Key]],
    *,
    seed: int,
    workers: int = 0,
) -> SampleLoader:
    """Batches (lists of samples) of these keys, in this order."""
    return SampleLoader(
        MappedRecords(share_records(records, workers), mapper, seed=seed),
        batch_sampler=batches,
        num_workers=workers,
        collate_fn=_as_list,
        worker_init_fn=_start_worker,
        generator=torch.Generator(),  # else each pass over a loader would draw from torch's global one
    )


def _as_list(samples: list[Sample]) -> list[Sample]:
    return samples


def _start_worker(_: int) -> None:
    torch.set_num_threads(1)
    # The garbage collector would mark, that is, write to and so copy, every object inherited from the main process.
    gc.freeze()


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
    stream = TrainingStream(len(records), batch_size, seed=seed, start=start, repeats=repeats, share=share)
    return build_loader(records, mapper, stream, seed=seed, workers=workers)


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
    wanted = every if batches is None else [every[number] for number in batches]
    return build_loader(records, mapper, wanted, seed=0, workers=workers)


def subset(records: Sequence[Sample], count: int, *, seed: int) -> list[Sample]:
    """At most ``count`` records (0 = all), drawn with ``seed``, in their order in the file."""
    if not count or count >= len(records):
        return list(records)
    chosen = np.random.default_rng([seed, len(records)]).permutation(len(records))[:count]
    return [records[index] for index in sorted(chosen.tolist())]
