"""Processes that read images: what they give, what they share, and what is said when one dies."""

from __future__ import annotations

import pickle
import time
from itertools import islice
from pathlib import Path

import pytest
import torch
from detectron2.data import DatasetFromList
from loader_mappers import Dies, draw_from_all, touch_everything

from partbox.data.image_errors import ImageError, WorkerDied
from partbox.data.loader import build_loader, build_test_loader, build_training_loader, share_records
from partbox.evaluation.batches import RecordBatches

RECORDS = [{"file_name": f"photos/{number}.jpg", "image_id": number} for number in range(40)]


@pytest.mark.parametrize("start", [0, 7])
def test_any_number_of_workers_gives_the_same_bytes(start):
    def batches(workers: int) -> list[bytes]:
        torch.manual_seed(workers)  # what was drawn before must not matter
        loader = build_training_loader(
            RECORDS, draw_from_all, batch_size=3, seed=5, start=start, workers=workers, repeats=2
        )
        return [pickle.dumps([list(map(repr, sample.values())) for sample in batch]) for batch in islice(loader, 12)]

    whole = batches(0)
    assert batches(1) == whole
    assert batches(3) == whole
    assert len(set(whole)) in (6, 7), "repeats are the same, all others differ"


def test_loading_leaves_torchs_generator_where_it_was():
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    first = next(iter(build_training_loader(RECORDS, draw_from_all, batch_size=2, seed=5)))
    assert torch.equal(torch.rand(4), expected)
    other = next(iter(build_training_loader(RECORDS, draw_from_all, batch_size=2, seed=6)))
    assert not torch.equal(first[0]["torch"], first[1]["torch"])
    assert not torch.equal(first[0]["torch"], other[0]["torch"])

    def failing(record: dict) -> dict:
        torch.rand(9)
        raise OSError("no such file")

    torch.manual_seed(3)
    with pytest.raises(ImageError, match="no such file"):
        next(iter(build_training_loader(RECORDS, failing, batch_size=2, seed=5)))
    assert torch.equal(torch.rand(4), expected)


def read_all(loader, given: list) -> None:
    for batch in loader:
        given.extend(sample["image_id"] for sample in batch)


@pytest.mark.parametrize(
    ("how", "workers", "method"),
    [
        ("killed", 3, "fork"),
        pytest.param("killed", 1, "spawn", marks=pytest.mark.slow),
        # after such an end torch waits up to 5 s for each process that the dead one may have kept from its work
        *(pytest.param(how, 1, "fork", marks=pytest.mark.slow) for how in ("crashed", "exited")),
    ],
)
def test_a_worker_that_dies_names_its_image(how, workers, method):
    loader = build_test_loader(RECORDS, Dies(13, how), batch_size=1, workers=workers)
    loader.multiprocessing_context = method
    given: list[int] = []
    with pytest.raises(WorkerDied) as caught:
        read_all(loader, given)
    assert given == list(range(len(given))), "batches before it come in their order"
    assert len(given) <= 13
    assert caught.value.image_id == 13
    assert "while it read image 13 of the dataset, photos/13.jpg: " in str(caught.value)
    assert "DATALOADER.NUM_WORKERS" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, ImageError), "the tools say such errors in one sentence"


@pytest.mark.slow
def test_a_worker_that_dies_while_it_sends_names_the_image_that_it_had_read():
    loader = build_test_loader(RECORDS[:14], Dies(13, "while it sent"), batch_size=1, workers=1)
    with pytest.raises(WorkerDied, match=r"after it had read image 13 of the dataset, photos/13\.jpg"):
        read_all(loader, [])


def train_a_step() -> None:
    for _ in range(2000):
        time.sleep(0.005)


def test_a_death_in_the_middle_of_a_training_step_names_the_image():
    """torch raises it where the main thread is at that moment."""
    batches = iter(build_test_loader(RECORDS, Dies(1, "killed", after=0.3), batch_size=1, workers=1))
    assert next(batches)[0]["image_id"] == 0
    with pytest.raises(WorkerDied, match=r"Killed while it read image 1 of the dataset, photos/1\.jpg") as caught:
        train_a_step()
    assert "train_a_step" in [entry.name for entry in caught.traceback]
    assert list(build_test_loader(RECORDS[:1], draw_from_all, batch_size=1, workers=1)), "another loader still works"


def test_what_a_mapper_raises_stays_what_it_is():
    for workers in (0, 1):
        with pytest.raises(RuntimeError, match="no such colour") as caught:
            list(build_test_loader(RECORDS, Dies(3, "raised"), batch_size=1, workers=workers))
        assert not isinstance(caught.value, ImageError)


def test_the_error_survives_pickling():
    error = WorkerDied("a.jpg", 7, "was killed while it read")
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_records_are_serialised_once_and_for_workers_only(monkeypatch):
    made = []
    original = DatasetFromList.__init__
    monkeypatch.setattr(DatasetFromList, "__init__", lambda *a, **k: made.append(1) or original(*a, **k))
    assert share_records(RECORDS, 0) is RECORDS
    assert share_records([], 2) == []
    shared = share_records(RECORDS, 2)
    assert share_records(shared, 2) is shared
    assert [shared[index] for index in range(len(shared))] == RECORDS
    assert len(made) == 1
    batches = RecordBatches(RECORDS, draw_from_all, batch_size=7, workers=1)
    assert batches.records is RECORDS
    for numbers in ([0], [1, 2]):
        found = [sample["image_id"] for batch in batches.load(numbers, draw_from_all) for sample in batch]
        assert found == [record["image_id"] for number in numbers for record in RECORDS[number * 7 : number * 7 + 7]]
    assert len(made) == 2
    list(RecordBatches(RECORDS, draw_from_all, batch_size=7).load([0], draw_from_all))
    assert len(made) == 2


def test_a_mapper_that_changes_its_record_does_not_change_the_dataset():
    def careless(record: dict) -> dict:
        return {"image_id": record.pop("image_id")}

    shared = share_records(RECORDS[:3], 1)
    for _ in range(2):
        assert [s["image_id"] for b in build_test_loader(shared, careless, batch_size=1, workers=1) for s in b] == [
            0,
            1,
            2,
        ]
    assert "image_id" in RECORDS[0]


def own_megabytes(process: int) -> float:
    """Memory that a process shares with no other, in MiB."""
    lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) / 1024


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="needs Linux's /proc/*/smaps_rollup")
def test_workers_do_not_copy_the_records():
    """The memory of a worker's own after it has read all records, and once more with no records to speak of."""

    def make(count: int) -> list[dict]:
        return [
            {
                "file_name": f"{n}.jpg",
                "image_id": n,
                "annotations": [
                    {"bbox": [n + 0.5] * 4, "segmentation": {"size": [9, 9], "counts": f"{n}|{k}" * 30}}
                    for k in range(4)
                ],
            }
            for n in range(count)
        ]

    def own(given: list[dict]) -> float:
        keys = [[(index % len(given), index) for index in range(start, start + 100)] for start in range(0, 20_000, 100)]
        last: dict[int, float] = {}
        for number, batch in enumerate(build_loader(given, touch_everything, keys, seed=0, workers=2)):
            if number >= len(keys) - 2:
                last[batch[0]["process"]] = own_megabytes(batch[0]["process"])
        assert len(last) == 2
        return max(last.values())

    few = own(make(10))  # before the others exist: a garbage collection in a worker would copy them as well
    records = make(20_000)
    all_of_them = own(records)
    size = sum(len(pickle.dumps(record)) for record in records) / 2**20
    assert size > 10
    assert all_of_them - few < size / 4, f"{few:.0f} MiB with 10 records, {all_of_them:.0f} with {size:.0f} MiB of them"
