"""Pictures of a validation under attack and curves of an evaluation, through detectron2's event storage."""

from __future__ import annotations

import fcntl
import random
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from detectron2.utils.events import EventStorage
from part_dataset_files import forget_builtin_datasets
from small_models import DETECTOR_MODELS, MODELS, ORACLES, SMALL, small_config
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from partbox.attacks import PGD, ThreatModel
from partbox.data.loader import build_test_loader
from partbox.data.mapper import PartDatasetMapper
from partbox.engine import build
from partbox.engine.build import build_classifier, build_validation
from partbox.engine.hooks import metric_writers
from partbox.engine.hooks.metric_writers import MetricWriters, put_picture
from partbox.engine.tracking import adversarial_pictures, evaluation_tracking
from partbox.engine.tracking.adversarial_pictures import AdversarialPictures
from partbox.engine.tracking.evaluation_tracking import EXAMPLES, FOLDER, PICTURE
from partbox.evaluation.validate import validate

QUICK = [
    *[*SMALL, *MODELS["part_box"], "SOLVER.MAX_ITER", "6", "TEST.EVAL_PERIOD", "2", "ADVERSARY.VALIDATION_STEPS", "2"],
    *["ADVERSARY.OBJECTIVE", "pgd", "ADVERSARY.STEPS", "1", "ADVERSARY.VALIDATION_IMAGES", "6"],
    *["ROBUST_EVAL.NUM_IMAGES", "22"],
    *[
        "ROBUST_EVAL.PERTURBATIONS",
        "[{'name': 'clean'}, {'name': 'pgd', 'eps': '2/255', 'steps': 3}, {'name': 'pgd', 'eps': '8/255', 'steps': 3}]",
    ],
]


@pytest.fixture(autouse=True)
def datasets(example_root, monkeypatch):
    """The built-in names stand for the example data of these tests."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(example_root))
    forget_builtin_datasets()
    yield
    forget_builtin_datasets()


def events(folder: Path) -> EventAccumulator:
    found = EventAccumulator(str(folder), size_guidance={"images": 0, "scalars": 0})
    found.Reload()
    return found


def test_tensorboard_gets_pictures_and_curves(run_tool, tmp_path):
    run_tool("train_net", *QUICK, "TRACKING.IMAGES", "3", "OUTPUT_DIR", tmp_path)
    training = events(tmp_path)
    assert training.Tags()["images"] == ["validation/adversarial_images"]
    pictures = training.Images("validation/adversarial_images")
    assert [one.step for one in pictures] == [1, 3, 5]  # every validation
    assert len({(one.width, one.height) for one in pictures}) == 1
    assert pictures[0].width > 3 * 200
    curves = events(tmp_path / FOLDER)
    assert curves.Tags()["images"] == [PICTURE, EXAMPLES]
    (attacked,) = curves.Images(EXAMPLES)
    assert attacked.width == pytest.approx(3 * 240, abs=20)  # TRACKING.IMAGES
    results = build_results(tmp_path)
    assert results["clean_accuracy"] > 0
    by_eps = curves.Scalars("robust_accuracy_by_eps_times_10000/pgd-3 linf")
    names = ["clean", "pgd-3 linf 2/255", "pgd-3 linf 8/255"]
    expected = [results["by_perturbation"][name]["accuracy"] for name in names]
    assert [point.step for point in by_eps] == [0, 78, 314]
    assert [point.value for point in by_eps] == pytest.approx(expected)
    assert "loss_by_eps_times_10000/pgd-3 linf" in curves.Tags()["scalars"]
    for name in names[1:]:
        by_passes = curves.Scalars(f"robust_accuracy_by_forward_passes/{name}")
        assert by_passes[0].step == 0
        assert by_passes[0].value == pytest.approx(results["clean_accuracy"])
        assert by_passes[-1].value == pytest.approx(results["by_perturbation"][name]["accuracy"])
    before = sorted(path.name for path in (tmp_path / FOLDER).iterdir())
    assert len(before) == 2  # a file an axis


def build_results(folder: Path) -> dict:
    import json

    return json.loads((folder / "results.json").read_text())["results"]


def test_an_evaluation_without_attacks_has_no_curves(run_tool, tmp_path):
    clean = ["ROBUST_EVAL.PERTURBATIONS", "[{'name': 'clean'}]", "SOLVER.MAX_ITER", "1", "DATASETS.VALIDATION", "()"]
    (tmp_path / FOLDER).mkdir()
    (tmp_path / FOLDER / "events.of.an.older.evaluation").write_text("")
    run_tool("train_net", *QUICK, *clean, "OUTPUT_DIR", tmp_path)
    assert not (tmp_path / FOLDER).exists()


def test_nothing_is_computed_when_off(run_tool, tmp_path, monkeypatch):
    def never(*_):
        raise AssertionError("drawn although TRACKING.IMAGES is 0")

    monkeypatch.setattr(adversarial_pictures, "AdversarialPictures", never)
    run_tool("train_net", *QUICK, "TRACKING.IMAGES", "0", "OUTPUT_DIR", tmp_path)
    assert events(tmp_path).Tags()["images"] == []


def test_only_the_main_process_draws(example_dataset, monkeypatch):
    cfg = small_config(example_dataset, *QUICK, "TRACKING.IMAGES", "3")
    model = build_classifier(cfg)
    assert build_validation(cfg, model)().picture is not None
    monkeypatch.setattr(build, "is_main", lambda: False)
    assert build_validation(cfg, model)().picture is None


def test_parts_of_an_evaluation_that_end_at_once_write_their_curves_in_turn(example_dataset, tmp_path, monkeypatch):
    """Each removes the folder of the curves and makes it anew."""
    (tmp_path / "records").mkdir()
    alone = []

    def look(*_: object) -> None:
        with open(tmp_path / "records/.lock", "ab") as other, pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        alone.append(True)

    monkeypatch.setattr(evaluation_tracking, "_track", look)
    cfg = small_config(example_dataset, *QUICK, "OUTPUT_DIR", str(tmp_path))
    evaluation_tracking.track_evaluation(cfg, SimpleNamespace(), class_names=(), part_names=())
    assert alone == [True]


def batches_of(cfg, dataset, count=6):
    mapper = PartDatasetMapper.from_config(cfg, is_train=False)
    return list(build_test_loader(dataset.records[:count], mapper, batch_size=4))


def test_what_is_drawn_is_what_the_attack_found(example_dataset):
    cfg = small_config(example_dataset, *MODELS["part_box"])
    model, attack = build_classifier(cfg), PGD(ThreatModel("linf", "8/255"), 2)
    seen = []
    batches = batches_of(cfg, example_dataset)
    model.eval()
    for batch in batches:  # a model that has learned nothing: every second image gets the label that it answers
        for sample in batch[::2]:
            sample["label"] = int(model.logits(model.images_of([sample])).argmax())
    result = validate(model, batches, attack, look=lambda *shown: seen.append(shown))
    plain = validate(model, batches, attack)
    assert result == plain
    robust = right = 0
    for (batch, images, attacked), given in zip(seen, batches, strict=True):
        clean = model.images_of(given)
        labels = torch.tensor([sample["label"] for sample in given])
        correct = model.logits(clean).argmax(dim=1) == labels
        assert torch.equal(attacked, correct)
        assert [sample["image_id"] for sample in batch] == [sample["image_id"] for sample in given]
        moved = (images - clean).abs().flatten(1).amax(dim=1)
        assert (moved <= 8 / 255 + 1e-6).all()
        assert torch.equal(moved > 0, correct)
        right += int(correct.sum())
        robust += int(((model.logits(images).argmax(dim=1) == labels) & correct).sum())
    assert 0 < right < 6
    assert robust / 6 == pytest.approx(result.robust_accuracy)


def test_without_attack_the_pictures_are_clean(example_dataset):
    cfg = small_config(example_dataset, *MODELS["part_box"])
    model, seen = build_classifier(cfg), []
    batches = batches_of(cfg, example_dataset)
    validate(model, batches, None, look=lambda *shown: seen.append(shown))
    for (_, images, attacked), given in zip(seen, batches, strict=True):
        assert torch.equal(images, model.images_of(given))
        assert not attacked.any()


@pytest.mark.parametrize(
    "name", ["normal", "part_box", "part_auxiliary", "part_box_object", "dino_part_box", "oracle_masks"]
)
def test_drawing_leaves_the_model_and_all_generators_alone(example_dataset, name):
    cfg = small_config(example_dataset, *{**MODELS, **DETECTOR_MODELS, **ORACLES}[name])
    model = build_classifier(cfg).eval()
    (batch, *_) = batches_of(cfg, example_dataset)
    images = model.images_of(batch)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    pictures = AdversarialPictures(model, 3)
    pictures(batch, images, torch.ones(len(batch), dtype=torch.bool))
    pictures(batch, images, torch.ones(len(batch), dtype=torch.bool))  # has enough
    drawn = pictures.picture()
    assert drawn.dtype == torch.uint8
    assert drawn.shape[0] == 3
    assert drawn.shape[2] == pytest.approx(3 * 240, abs=20)
    assert (drawn.shape[1] > drawn.shape[2] / 2) == (name not in ("normal", "part_auxiliary"))  # a row of parts
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.array_equal(np.random.get_state()[1], states[1])
    assert random.getstate() == states[2]
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not model.training
    assert AdversarialPictures(model, 3).picture() is None


class FakeTrainer(SimpleNamespace):
    """What MetricWriters asks of a trainer."""


def hook(cfg, storage, *, start_iter):
    found = MetricWriters(cfg)
    found.trainer = FakeTrainer(storage=storage, start_iter=start_iter, iter=start_iter, max_iter=100)
    return found


def test_pictures_between_two_lines_survive_an_interruption(tmp_path, monkeypatch):
    monkeypatch.setattr(metric_writers, "writers", lambda *_, **__: [])
    picture = torch.arange(12, dtype=torch.uint8).reshape(3, 2, 2)
    with EventStorage(30) as storage:
        put_picture(storage, "old", picture, 18)
        put_picture(storage, "new", picture, 25)
        assert storage.iter == 30
        state = hook(None, storage, start_iter=30).state_dict()
    torch.save(state, tmp_path / "state.pth")
    with EventStorage(30) as storage:
        resumed = hook(None, storage, start_iter=30)
        resumed.load_state_dict(torch.load(tmp_path / "state.pth", weights_only=True))
        resumed.before_train()
        ((name, found, iteration),) = storage._vis_data  # "old" is in a line already
        assert (name, iteration, storage.iter) == ("new", 25, 30)
        assert torch.equal(found, picture)
    with EventStorage(30) as storage:
        older = hook(None, storage, start_iter=30)
        older.load_state_dict({"measured": {}})  # of a checkpoint of before there were pictures
        older.before_train()
        assert storage._vis_data == []


def test_every_point_of_a_curve_reaches_every_writer():
    class Writer:
        def __init__(self) -> None:
            self.lines: list = []

        def write(self) -> None:
            from detectron2.utils.events import get_event_storage

            storage = get_event_storage()
            self.lines.append({name: value for name, (value, x) in storage.latest().items() if x == storage.iter})

    curves = [
        SimpleNamespace(attack="a", quantity="loss", points=((0.0, 1.0), (0.5, 2.0))),
        SimpleNamespace(attack="b", quantity="loss", points=((0.0, 3.0), (0.25, 4.0))),
    ]
    writer = Writer()
    evaluation_tracking.write_curves(curves, "eps", 100, [writer])
    assert writer.lines == [
        {"loss_by_eps/a": 1.0, "loss_by_eps/b": 3.0},
        {"loss_by_eps/b": 4.0},
        {"loss_by_eps/a": 2.0},
    ]
