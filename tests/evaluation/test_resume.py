"""An evaluation that is killed, shared between processes or stopped by a full disk gives the same numbers."""

from __future__ import annotations

import errno
import json
import logging
import multiprocessing
import os
import random
import re
import resource
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from example_images import assert_same
from PIL import Image
from small_models import MODELS, small_config

from partbox.data import PartDatasetError, load_part_dataset
from partbox.data.example import generate_example_dataset
from partbox.data.mapper import PartDatasetMapper
from partbox.engine.build import build_classifier
from partbox.evaluation import build_perturbations, evaluate
from partbox.evaluation.batches import RecordBatches
from partbox.evaluation.examples import choose_examples
from partbox.evaluation.image_evaluator import image_evaluators
from partbox.evaluation.part_boxes import PartBoxEvaluator
from partbox.evaluation.part_segmentation import PartSegmentationEvaluator
from partbox.evaluation.records import Record
from partbox.evaluation.run import as_subject, conclude, missing_units, work
from partbox.evaluation.stamp import records_digest, weights_digest
from partbox.evaluation.store import RecordsError, RecordStore

EXAMPLES = 9  # in several batches
FORK = multiprocessing.get_context("fork")
SPECS = [
    {"name": "corruption", "kind": "glass_blur", "severity": 2},
    {"name": "pgd", "eps": "8/255", "steps": 4},
    {"name": "square", "eps": "8/255", "queries": 15},
]


class Job:
    """A small evaluation that can be run anywhere, again and again."""

    def __init__(self, dataset, *, batch_size: int = 6, workers: int = 0, specs: list[dict] = SPECS) -> None:
        cfg = small_config(dataset, *MODELS["part_box"])
        self.model = build_classifier(cfg)
        self.records = dataset.records[:36]
        mapper = PartDatasetMapper.from_config(cfg, is_train=False)
        self.batches = RecordBatches(self.records, mapper, batch_size=batch_size, workers=workers)
        self.perturbations = build_perturbations(specs)
        count = len(self.perturbations)
        self.chosen = choose_examples(self.records, EXAMPLES, seed=3, perturbations=count)
        names = self.model.part_names
        self.evaluators = [PartSegmentationEvaluator(names), PartBoxEvaluator(self.records, names)]

    def run(self, folder: Path | None = None):
        with RecordStore(folder, {"weights": 1}) as store:
            return self.evaluate(store, EXAMPLES)

    def evaluate(self, store: RecordStore, pictures: int):
        options = {"seed": 3, "keep_examples": pictures, "progress": False, "store": store}
        return evaluate(self.model, self.batches, self.perturbations, self.evaluators, **options)

    def part(self, folder: Path, index: int, count: int) -> None:
        with RecordStore(folder, {"weights": 1}, process=f"{index}-of-{count}") as store:
            ready = image_evaluators(self.evaluators, self.records)
            options = {"seed": 3, "examples": self.chosen, "progress": False, "part": (index, count)}
            work(as_subject(self.model), self.batches, self.perturbations, ready, store, **options)

    def conclude(self, store: RecordStore):
        count = len(self.batches)
        return conclude(count, self.perturbations, self.evaluators, store, examples=self.chosen)


def same(one, other) -> None:
    assert json.dumps(one.results) == json.dumps(other.results)
    assert one.records == other.records
    assert {len(its) for its in one.examples.values()} <= {EXAMPLES}
    assert_same(one.examples, other.examples)


@pytest.fixture(scope="module")
def job(example_dataset) -> Job:
    return Job(example_dataset)


@pytest.fixture(scope="module")
def uninterrupted(job):
    job.run()  # compiles glass blur, so that children need not
    return job.run()


def test_a_store_in_a_folder_changes_nothing(job, uninterrupted, tmp_path):
    same(job.run(tmp_path), uninterrupted)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir() if path.suffix != ".jsonl"}
    sizes = {path: path.stat().st_size for path in tmp_path.iterdir()}
    same(job.run(tmp_path), uninterrupted)
    assert sizes == {path: path.stat().st_size for path in tmp_path.iterdir()}, "nothing was left to do"
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_twenty_kills_at_random_moments_change_nothing(job, uninterrupted, tmp_path):
    units = len(job.batches) * len(job.perturbations)
    start = time.perf_counter()
    job.run()
    whole = time.perf_counter() - start
    generator = random.Random(0)
    finished = []
    for _ in range(20):
        child = FORK.Process(target=job.run, args=(tmp_path,))
        child.start()
        # Long enough that the work is not over after a few kills, short enough that most kills find it running.
        time.sleep(generator.uniform(0.02, 0.12) * whole)
        os.kill(child.pid, signal.SIGKILL)
        child.join()
        with RecordStore(tmp_path, {"weights": 1}) as store:
            finished.append(units - missing_units(len(job.batches), job.perturbations, store))
    assert finished == sorted(finished), "a kill lost a finished batch"
    assert len(set(finished)) > 4, "the kills did not fall into the work"
    same(job.run(tmp_path), uninterrupted)


def test_a_half_written_batch_is_done_again(job, uninterrupted, tmp_path):
    job.run(tmp_path)
    path = tmp_path / "process-0-of-1.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    for kept in (len(lines) - 1, len(lines) // 2, 3, 1):  # whole lines of an unfinished batch, and a torn line
        path.write_bytes(b"".join(lines[:kept]) + lines[kept][:40])
        same(job.run(tmp_path), uninterrupted)


def test_parts_of_several_processes_make_the_whole(job, uninterrupted, tmp_path):
    children = [FORK.Process(target=job.part, args=(tmp_path, index, 3)) for index in range(3)]
    for child in children:
        child.start()
    for child in children:
        child.join()
        assert child.exitcode == 0
    assert len(list(tmp_path.glob("process-*-of-3.jsonl"))) == 3
    with RecordStore(tmp_path, {"weights": 1}) as store:
        found = store.finished()
        assert missing_units(len(job.batches), job.perturbations, store) == 0
        same(job.conclude(store), uninterrupted)
    assert len(found) == len(job.batches) * len(job.perturbations)


def test_what_a_dead_process_left_is_done_by_the_next(job, uninterrupted, tmp_path):
    job.part(tmp_path, 1, 2)
    with RecordStore(tmp_path, {"weights": 1}) as store:
        assert missing_units(len(job.batches), job.perturbations, store) > 0
        with pytest.raises(ValueError, match="not finished"):
            conclude(len(job.batches), job.perturbations, job.evaluators, store)
    same(job.run(tmp_path), uninterrupted)


def test_a_file_that_cannot_grow_stops_with_a_message_and_loses_nothing(job, uninterrupted, tmp_path):
    """A limit on the file's size in a child: the system writes a part of a batch and then refuses."""

    def child(results) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, resource.RLIM_INFINITY))
        try:
            job.run(tmp_path)
        except RecordsError as error:
            results.put(str(error))

    results = FORK.Queue()
    process = FORK.Process(target=child, args=(results,))
    process.start()
    message = results.get(timeout=120)
    process.join()
    assert "cannot write records" in message
    assert "kept" in message
    data = (tmp_path / "process-0-of-1.jsonl").read_bytes()
    assert 0 < len(data) <= 60_000
    assert data.endswith(b"\n")
    with RecordStore(tmp_path, {"weights": 1}) as store:
        assert sum(map(len, store.finished().values())) == data.count(b"\n"), "only whole batches"
    same(job.run(tmp_path), uninterrupted)


def test_a_full_disk_is_named(tmp_path, monkeypatch):
    class Full:
        def __init__(self, file) -> None:
            self.file = file

        def write(self, data: bytes) -> int:
            self.file.write(data[:10])
            raise OSError(errno.ENOSPC, "No space left on device")

        def __getattr__(self, name: str):
            return getattr(self.file, name)

    record = Record(1, "clean", 0, 0, False, 0.5, 1, 0.0, False)
    with RecordStore(tmp_path, {}) as store:
        store.append(("clean", 0), [record])
        monkeypatch.setattr(store, "_file", Full(store._file))
        with pytest.raises(RecordsError, match="the disk is full"):
            store.append(("clean", 1), [record])
        assert store.finished() == {("clean", 0): [record]}
        assert (tmp_path / "process-0-of-1.jsonl").read_bytes().endswith(b"}\n"), "nothing of the unfinished batch"
        monkeypatch.undo()  # there is room again
        store.append(("clean", 1), [record])
        assert store.finished() == {("clean", 0): [record], ("clean", 1): [record]}


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_image_stops_and_keeps_what_is_finished(tmp_path, workers):
    generate_example_dataset(tmp_path / "data", num_images={"train": 33, "val": 11, "test": 11}, size=(32, 32))
    dataset = load_part_dataset(tmp_path / "data" / "train.json", tmp_path / "data" / "images")
    broken = Job(dataset, workers=workers, specs=[{"name": "clean"}])
    path = Path(dataset.records[20]["file_name"])  # in batch 3 of 0 to 5
    good = path.read_bytes()
    path.write_bytes(good[: len(good) // 2])
    with pytest.raises(PartDatasetError, match=path.name):
        broken.run(tmp_path / "records")
    with RecordStore(tmp_path / "records", {"weights": 1}) as store:
        assert sorted(store.finished()) == [("clean", 0), ("clean", 1), ("clean", 2)]
    path.write_bytes(good)
    same(broken.run(tmp_path / "records"), broken.run())


def test_records_of_another_evaluation_are_refused_and_named(tmp_path):
    with RecordStore(tmp_path, {"weights": "a", "config EPS": 8, "kept": [1]}):
        pass
    with pytest.raises(RecordsError, match=r'weights was "a", is "b"'):
        RecordStore(tmp_path, {"weights": "b", "config EPS": 8, "kept": [1]})
    with pytest.raises(RecordsError, match="config EPS was 8, is null"):
        RecordStore(tmp_path, {"weights": "a", "kept": [1]})
    (tmp_path / "fingerprint.json").unlink()
    with pytest.raises(RecordsError, match=r"no fingerprint\.json"):
        RecordStore(tmp_path, {"weights": "a"})


def test_two_processes_do_not_write_to_one_file(tmp_path):
    with RecordStore(tmp_path, {}), pytest.raises(RecordsError, match="another process is writing"):
        RecordStore(tmp_path, {})
    with RecordStore(tmp_path, {}, process="0-of-2"), RecordStore(tmp_path, {}, process="1-of-2"):
        pass


def test_damaged_records_are_named(tmp_path):
    record = Record("a", "clean", 0, 0, False, 0.5, 1, 0.0, False, measurements={"x": [1.5]})
    with RecordStore(tmp_path, {}) as store:
        store.append(("clean", 0), [record])
        assert store.finished() == {("clean", 0): [record]}
    path = tmp_path / "process-0-of-1.jsonl"
    path.write_text("{}\n" + path.read_text())
    with RecordStore(tmp_path, {}) as store, pytest.raises(RecordsError, match="line 1 is damaged"):
        store.finished()


def test_digests_notice_what_changes_and_not_where_it_lies(example_dataset):
    model = build_classifier(small_config(example_dataset, *MODELS["part_box"]))
    before = weights_digest(model)
    assert weights_digest(model) == before
    statistics = next(buffer for name, buffer in model.named_buffers() if name.endswith("running_mean"))
    statistics.view(-1)[0] += 1e-3
    assert weights_digest(model) != before
    records = [dict(record) for record in example_dataset.records]
    moved = [{**record, "file_name": f"/elsewhere/{Path(record['file_name']).name}"} for record in records]
    assert records_digest(moved) == records_digest(records)
    moved[3]["label"] += 1
    assert records_digest(moved) != records_digest(records)


def test_the_kept_pictures_are_those_that_were_chosen(job, uninterrupted):
    kept = uninterrupted.examples["clean"]
    assert [one.image_id for one in kept] == job.chosen
    files = {record["image_id"]: record["file_name"] for record in job.records}
    for one in kept:
        np.testing.assert_array_equal(one.image, np.asarray(Image.open(files[one.image_id]).convert("RGB")))


def test_pictures_that_are_lost_are_made_again_and_their_batches_alone(job, uninterrupted, tmp_path, caplog):
    job.run(tmp_path)
    paths = sorted(tmp_path.glob("examples-*.npz"))
    records = (tmp_path / "process-0-of-1.jsonl").read_bytes()
    kept = {path: path.stat().st_mtime_ns for path in paths[2:]}
    for path in paths[:2]:
        path.unlink()
    with caplog.at_level("INFO"):
        same(job.run(tmp_path), uninterrupted)
    seen_again = [one.args[1] for one in caplog.records if "seen again" in one.getMessage()]
    assert sum(seen_again) == 2
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert (tmp_path / "process-0-of-1.jsonl").read_bytes() == records


def test_more_pictures_may_be_wanted_afterwards(job, uninterrupted, tmp_path):
    with RecordStore(tmp_path) as store:
        first = job.evaluate(store, 4)
        before = (tmp_path / "process-0-of-1.jsonl").read_bytes()
        more = job.evaluate(store, EXAMPLES)
        fewer = job.evaluate(store, 4)
    same(more, uninterrupted)
    assert_same(fewer.examples, first.examples)
    assert (tmp_path / "process-0-of-1.jsonl").read_bytes() == before


def test_an_evaluation_says_how_far_it_is(job, tmp_path, capsys, monkeypatch):
    """Batches by what they cost, those of an earlier start included."""
    monkeypatch.setattr("partbox.progress.SECONDS_BETWEEN_LINES", 0.0)
    monkeypatch.setattr(logging.getLogger("partbox"), "handlers", [])
    units = len(job.batches) * len(job.perturbations)
    for first in (0, 1):  # the second start finds all but one part of the work
        with RecordStore(tmp_path, {"weights": 1}, process=f"{first}-of-2") as store:
            ready = image_evaluators(job.evaluators, job.records)
            work(as_subject(job.model), job.batches, job.perturbations, ready, store, seed=3, part=(first, 2))
    with RecordStore(tmp_path, {"weights": 1}) as store:
        work(as_subject(job.model), job.batches, job.perturbations, ready, store, seed=3)
    said = capsys.readouterr().err.splitlines()
    assert any(re.search(r"evaluation: \d+ of \d+ batches, now pgd.* of at most [\d,]+ passes", one) for one in said)
    mine = -(-units // 2)
    assert f"evaluation: {mine} of {mine} batches" in "\n".join(said)
    assert not any(f" of {units} batches" in one for one in said), "nothing was left to do at the third start"
