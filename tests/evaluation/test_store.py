"""Records of one evaluation are never taken for those of another, whatever the caller forgets to say."""

from __future__ import annotations

import multiprocessing
import resource
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetMapper
from detectron2.data import transforms as T
from detectron2.structures import Boxes, Instances
from example_images import assert_same, example

from partbox.evaluation import build_perturbations, evaluate
from partbox.evaluation.batches import RecordBatches
from partbox.evaluation.examples import Example
from partbox.evaluation.image_evaluator import ImageEvaluator
from partbox.evaluation.records import Record
from partbox.evaluation.run import conclude
from partbox.evaluation.stamp import records_digest, stamp_of
from partbox.evaluation.store import RecordsError, RecordStore
from partbox.evaluation.subject import Seen

ATTACK = {"name": "detector-pgd", "eps": "8/255", "steps": 2, "goal": "all", "step_size": "4/255"}


class Counting(ImageEvaluator):
    """Keeps nothing worth keeping."""

    def measure(self, sample, output) -> int:
        return 1

    def combine(self, measurements) -> dict:
        return {"count": {"images": sum(measurements)}}


class Brightest:
    """A model under test that answers with the sum of the pixels and its one weight."""

    kind = "detector"

    def __init__(self, weight: float = 1.0, **settings) -> None:
        self.module = torch.nn.Linear(1, 1, bias=False)
        torch.nn.init.constant_(self.module.weight, weight)
        self.settings = settings

    def check(self, perturbations) -> None:
        pass

    def mapper(self, mapper, perturbation, seed):
        return mapper

    def see(self, batch, perturbation, seed) -> Seen:
        record = Record(0, perturbation.name, None, None, False, float(seed), 1, 0.0, False, objects=1, found=1)
        records = [replace(record, image_id=sample["image_id"]) for sample in batch]

        def examples(rows: Sequence[int]) -> list[Example]:
            return [example(batch[row]["image_id"], size=(100, 100)) for row in rows]  # 30 kB each, of noise

        return Seen(records, [{} for _ in batch], examples)


def images(count: int = 8, value: float = 0.0) -> list[dict]:
    return [{"image_id": number, "image": torch.full((3, 4, 4), value + number)} for number in range(count)]


def in_batches(size: int, samples: list[dict]) -> list[list[dict]]:
    return [samples[start : start + size] for start in range(0, len(samples), size)]


def run(
    store: RecordStore,
    *,
    weight: float = 1.0,
    size: int = 4,
    samples=None,
    seed: int = 0,
    evaluators=(),
    pictures=0,
    **attack,
):
    batches = in_batches(size, images() if samples is None else samples)
    options = {"store": store, "seed": seed, "progress": False, "keep_examples": pictures}
    return evaluate(Brightest(weight), batches, build_perturbations([{**ATTACK, **attack}]), evaluators, **options)


CHANGES = {
    "batch size was 4, is 2": {"size": 2},
    "seed was 0, is 5": {"seed": 5},
    "step_size was": {"step_size": "1/255"},
    "weights was": {"weight": 1.5},
    "image ids was": {"samples": images()[::-1]},
    "image count was 8, is 6": {"samples": images(6)},
    "image records was": {"samples": images(value=1.0)},
    "evaluators was": {"evaluators": [Counting()]},
}


@pytest.mark.parametrize("kept", ["folder", "memory"])
def test_records_of_another_evaluation_are_refused_without_a_fingerprint(tmp_path, kept):
    store = RecordStore(tmp_path if kept == "folder" else None)
    first = run(store)
    assert first.results["images"] == 8
    for words, change in CHANGES.items():
        with pytest.raises(RecordsError, match=words):
            run(store, **change)
    store.close()
    if kept == "folder":
        with RecordStore(tmp_path) as again:
            assert run(again).records == first.records
            with pytest.raises(RecordsError, match="seed was 0, is 5"):
                run(again, seed=5)
        (tmp_path / "evaluation.json").unlink()
        with RecordStore(tmp_path) as again, pytest.raises(RecordsError, match=r"no evaluation\.json"):
            run(again)


def test_how_images_are_read_and_judged_is_part_of_the_stamp():
    records = [{"image_id": 1, "file_name": "a.png"}]
    clean = build_perturbations([])

    def stamp(side: int, size: int = 1, **settings) -> dict:
        mapper = DatasetMapper(is_train=False, augmentations=[T.ResizeShortestEdge(side)], image_format="BGR")
        batches = RecordBatches(records * size, mapper, batch_size=2)
        return stamp_of(Brightest(**settings), batches, clean, [], 0)

    assert stamp(800) == stamp(800)
    changed = {key for key, value in stamp(800).items() if stamp(640)[key] != value}
    assert changed == {"reading of images"}
    assert {key for key, value in stamp(800).items() if stamp(800, iou=0.7)[key] != value} == {"model"}
    with pytest.raises(ValueError, match="the first is 1"):
        stamp(800, size=2)


def test_the_digest_of_samples_in_memory_sees_every_value_and_no_address():
    def sample(corner: float) -> dict:
        truth = Instances((4, 4), gt_boxes=Boxes(torch.tensor([[0.0, 0.0, 1.0, corner]])))
        return {"image_id": 1, "instances": truth, "other": object()}

    assert records_digest([sample(2.0)]) == records_digest([sample(2.0)])
    assert records_digest([sample(2.0)]) != records_digest([sample(3.0)])


def test_an_image_id_that_occurs_twice_is_refused(tmp_path):
    with pytest.raises(ValueError, match="1 image ids occur more than once, the first is 0"):
        run(RecordStore(), samples=[*images(), images()[0]])
    (clean,) = build_perturbations([])
    record = Record(3, "clean", None, None, False, None, 1, 0.0, False)
    store = RecordStore()
    store.append(("clean", 0), [record])
    store.append(("clean", 1), [record])
    with pytest.raises(ValueError, match="the first is 3"):
        conclude(2, [clean], [], store)


def test_parts_that_start_at_once_do_not_refuse_each_other(tmp_path, monkeypatch):
    """The second part starts while the first one is about to look for records: it must not get in between."""
    opened, glob = [], Path.glob

    def second() -> None:
        opened.append(RecordStore(tmp_path, {"a": 1}, process="1-of-2"))

    other = threading.Thread(target=second)

    def glob_late(path: Path, pattern: str):
        if other.ident is None:
            other.start()
            other.join(timeout=0.5)
        return glob(path, pattern)

    monkeypatch.setattr(Path, "glob", glob_late)
    with RecordStore(tmp_path, {"a": 1}, process="0-of-2"):
        other.join()
        assert len(opened) == 1
        opened[0].close()


def message_under_limit(size: int, work: Callable[[], object]) -> str:
    """The RecordsError of ``work`` in a process that may write files of ``size`` bytes only: a real limit."""

    def child(results) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
        try:
            work()
        except RecordsError as error:
            results.put(str(error))

    context = multiprocessing.get_context("fork")
    results = context.Queue()
    process = context.Process(target=child, args=(results,))
    process.start()
    message: str = results.get(timeout=120)
    process.join()
    return message


def test_a_full_disk_loses_pictures_and_no_batch_and_a_rerun_makes_them(tmp_path):
    """The pictures exceed the limit, and the records do not."""

    def work() -> None:
        with RecordStore(tmp_path) as store:
            run(store, pictures=100)

    message = message_under_limit(20_000, work)
    assert "cannot write example pictures" in message
    assert "examples-" in message
    assert "make room" in message
    with RecordStore(tmp_path) as store:
        assert list(store.finished()) == [("clean", 0)], "the batch that the pictures are of is kept"
        outcome = run(store, pictures=100)
        lines = (tmp_path / "process-0-of-1.jsonl").read_text().splitlines()
        assert len(lines) == len(outcome.records) == 16, "nothing twice"
    assert sorted(one.image_id for one in outcome.examples["clean"]) == list(range(8))


def test_the_stamp_on_a_full_disk_is_a_message(tmp_path):
    message = message_under_limit(0, lambda: RecordStore(tmp_path / "records", {"a": 1}))
    assert "fingerprint.json" in message
    (tmp_path / "file").write_text("")
    with pytest.raises(RecordsError, match="cannot write records"):
        RecordStore(tmp_path / "file" / "records")


@pytest.mark.parametrize("content", [b"", b'{"a": ', b"[]", b"null", b"\xff\xfe"])
@pytest.mark.parametrize("name", ["fingerprint.json", "evaluation.json"])
def test_a_damaged_stamp_is_named_with_what_to_do(tmp_path, name, content):
    with RecordStore(tmp_path) as store:
        run(store)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(RecordsError, match=rf"{name}.*delete .*{tmp_path.name}"), RecordStore(tmp_path) as store:
        run(store)


@pytest.mark.parametrize("damage", ["empty", "truncated", "foreign", "array", "other", "flipped"])
def test_damaged_pictures_are_made_again(tmp_path, caplog, damage):
    with RecordStore(tmp_path) as store:
        first = run(store, pictures=2)
    before = (tmp_path / "process-0-of-1.jsonl").read_bytes()
    for path in tmp_path.glob("examples-*.npz"):
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 255
        whole = path.read_bytes()
        path.write_bytes(
            {"empty": b"", "truncated": whole[:99], "foreign": b"text", "flipped": bytes(data)}.get(damage, b"")
        )
        if damage == "array":
            with open(path, "wb") as file:
                np.save(file, np.ones(3))
        if damage == "other":
            np.savez(path, images=np.ones(3))
    with caplog.at_level("WARNING"), RecordStore(tmp_path) as store:
        again = run(store, pictures=2)
    assert "left out" in caplog.text
    assert (tmp_path / "process-0-of-1.jsonl").read_bytes() == before
    assert_same(again.examples, first.examples)


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="needs processes that are forked")
def test_a_data_worker_that_outlives_the_store_does_not_hold_its_file(tmp_path):
    store = RecordStore(tmp_path)
    worker = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
    worker.start()
    try:
        with pytest.raises(RecordsError, match="another process"):
            RecordStore(tmp_path)
        store.close()
        RecordStore(tmp_path).close()
    finally:
        worker.kill()
        worker.join()


class Thresholded(torch.nn.Module):
    """Settings that no checkpoint holds, as in detectron2's models: a threshold, one in a child, a pixel mean."""

    def __init__(self, score: float = 0.05, most: int = 100, mean: float = 103.5) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))
        self.head = torch.nn.Module()
        self.head.__class__ = type("Head", (torch.nn.Module,), {})
        self.head.topk, self.test_score_thresh = {True: 2000, False: most}, score
        self.undefined = float("nan")
        self.register_buffer("pixel_mean", torch.tensor(mean), persistent=False)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"score": 0.5}, r"test_score_thresh was 0\.05, is 0\.5"),
        ({"most": 10}, "head.topk: false was 100, is 10"),
        ({"mean": 0.0}, "weights was"),
    ],
)
def test_settings_of_a_model_that_no_checkpoint_holds_are_part_of_the_stamp(tmp_path, change, words):
    """Those of the ten lines of the documentation, where there is no configuration to compare."""
    clean = build_perturbations([])

    def evaluation(**settings):
        subject = Brightest()
        subject.module = Thresholded(**settings)
        with RecordStore(tmp_path) as store:
            return evaluate(subject, in_batches(4, images()), clean, store=store, progress=False)

    first = evaluation()
    assert evaluation().records == first.records
    with pytest.raises(RecordsError, match=words):
        evaluation(**change)


def test_images_without_an_id_and_no_images_are_refused():
    with pytest.raises(ValueError, match=r"1 records of the dataset have no image_id, the first is of b\.png"):
        run(RecordStore(), samples=[*images(), {"file_name": "b.png"}])
    with pytest.raises(ValueError, match="no images to evaluate"):
        run(RecordStore(), samples=[])
