"""detectron2's own detectors and segmenter under test: losses without a trace, verdicts, and the run."""

from __future__ import annotations

import random
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetMapper
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from finite_differences import assert_whole_gradient
from part_dataset_files import forget_builtin_datasets
from small_detectors import DETECTORS, SEGMENTER, SMALL_TRANSFORMER, TRANSFORMERS, detector_config

from partbox.attacks import AttackError, attack_mode
from partbox.engine.checks import ConfigError
from partbox.engine.detectors import (
    build_detector,
    check_classes,
    evaluators_of,
    mapper_of,
    records_of,
    subject_of,
)
from partbox.evaluation import build_perturbations, evaluate
from partbox.evaluation.batches import RecordBatches
from partbox.evaluation.detectron2_checks import check_detectron2
from partbox.evaluation.detectron2_subject import labelled_test_mapper
from partbox.evaluation.found_objects import match_objects
from partbox.evaluation.image_evaluator import image_evaluators
from partbox.evaluation.records import Record
from partbox.evaluation.summary import performance_under_corruptions
from partbox.evaluation.training_losses import TrainingLosses


@pytest.fixture(scope="module")
def registered(example_root):
    """The example data under its built-in names."""

    forget_builtin_datasets()
    yield example_root
    forget_builtin_datasets()


class Case:
    """A small random model, its samples, its subject."""

    def __init__(self, name: str, root, *options: str) -> None:
        self.cfg = detector_config(name, *options, root=root)
        self.records = records_of(self.cfg.DATASETS.TEST, "DATASETS.TEST")
        self.mapper = mapper_of(self.cfg, is_train=False)
        check_classes(self.cfg, self.cfg.DATASETS.TEST[0])
        self.model = build_detector(self.cfg).eval()

    def losses(self, index: int = 0, seed: int = 0) -> TrainingLosses:
        return TrainingLosses(self.model, self.mapper(self.records[index]), 40, seed=seed)

    def image(self, index: int = 0) -> torch.Tensor:
        return self.mapper(self.records[index])["image"].float() / 255


def state(model) -> tuple:
    """Everything of a model that a later answer could depend on."""
    numbers = {
        (name, key): value
        for name, module in model.named_modules()
        for key, value in vars(module).items()
        if isinstance(value, bool | int | float)
    }
    tensors = {name: value.clone() for name, value in model.state_dict().items()}
    return numbers, tensors, [module.training for module in model.modules()]


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_attacks_on_transformers_follow_the_gradient_of_the_whole_network(registered, name):
    """Training cuts the path through chosen tokens and boxes; an attack's losses must not."""
    case = Case(name, registered, *SMALL_TRANSFORMER, "MODEL.MaskDINO.INITIALIZE_BOX_TYPE", "no")
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in case.model.parameters():
            parameter.add_(0.03 * torch.randn(parameter.shape, generator=generator))
    case.model.double()
    losses, image = case.losses(), case.image().double() * 0.8 + 0.1

    def total(at: torch.Tensor) -> torch.Tensor:
        return sum(value for key, value in losses(at, "truth", 0).items() if "_dn" not in key)

    with attack_mode(case.model):
        assert_whole_gradient(total, image, directions=2)


def test_ap_counts_the_evaluated_images_alone(registered):
    """Perfect answers on 3 of the images are an AP of 100, whatever the other images show."""
    case = Case(DETECTORS[0], registered)
    records = case.records[:3]
    (ready,) = image_evaluators(evaluators_of(case.cfg), records)
    measurements = []
    for record in records:
        boxes = torch.tensor([a["bbox"] for a in record["annotations"]], dtype=torch.float32)
        found = Instances((record["height"], record["width"]))
        found.pred_boxes = Boxes(torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], dim=1))
        found.scores = torch.ones(len(boxes))
        found.pred_classes = torch.tensor([a["category_id"] for a in record["annotations"]])
        measurements.append(ready.measure(record, {"instances": found}))
    assert ready.combine(measurements)["bbox"]["AP50"] == pytest.approx(100)
    # an evaluated image on which nothing is found is missed
    nothing = Instances((records[0]["height"], records[0]["width"]))
    nothing.pred_boxes, nothing.scores = Boxes(torch.zeros(0, 4)), torch.zeros(0)
    nothing.pred_classes = torch.zeros(0, dtype=torch.int64)
    missed = [ready.measure(records[0], {"instances": nothing}), *measurements[1:]]
    assert ready.combine(missed)["bbox"]["AP50"] < 99


@pytest.mark.parametrize("name", DETECTORS)
def test_losses_leave_no_trace_and_have_a_gradient(registered, name):
    """Also not in RetinaNet's running number of objects, BatchNorm's statistics, or anybody's random numbers."""
    case = Case(name, registered)
    of_image = case.losses()
    image = case.image().requires_grad_()
    with attack_mode(case.model):
        before = state(case.model)
        torch.manual_seed(7), random.seed(7), np.random.seed(7)
        generators = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
        losses = of_image(image, "truth", 0)
        (gradient,) = torch.autograd.grad(sum(losses.values()), image)
        after = state(case.model)
        assert torch.equal(torch.get_rng_state(), generators[0])
        assert random.getstate() == generators[1]
        assert np.array_equal(np.random.get_state()[1], generators[2])
    assert before[0] == after[0]
    assert before[2] == after[2]
    assert all(torch.equal(before[1][key], after[1][key]) for key in before[1])
    assert bool(torch.isfinite(gradient).all())
    assert float((gradient != 0).float().mean()) > 0.5
    expected = {"loss_cls", "loss_box_reg"} | ({"loss_rpn_cls", "loss_rpn_loc"} if name != "retinanet" else set())
    assert set(losses) == expected | ({"loss_mask"} if name == "mask_rcnn" else set())


def test_training_for_real_does_change_retinanets_number(registered):
    """Else the test above would notice nothing."""
    case = Case("retinanet", registered)
    before = state(case.model)[0]
    with EventStorage(0):
        case.model.train()([case.mapper(case.records[0])])
    case.model.eval()
    new = state(case.model)[0].keys() - before.keys()
    assert new == {("", "loss_normalizer")}


def test_the_draw_decides_the_sample_of_proposals(registered):
    case = Case("faster_rcnn", registered, "MODEL.RPN.BATCH_SIZE_PER_IMAGE", "8")
    with attack_mode(case.model), torch.no_grad():

        def total(draw: int, seed: int = 0, index: int = 0) -> float:
            return float(sum(case.losses(index, seed)(case.image(index), "truth", draw).values()))

        assert total(0) == total(0)
        assert len({total(draw) for draw in range(4)}) > 1
        assert len({total(0, seed) for seed in range(4)}) > 1


def test_wrong_labels_are_all_wrong_and_always_the_same(registered):
    case = Case("faster_rcnn", registered)
    losses = case.losses(3)
    truth, wrong = losses.targets("truth"), losses.targets("mislabelled")
    assert len(truth) > 2
    assert bool((truth.gt_classes != wrong.gt_classes).all())
    assert 0 <= int(wrong.gt_classes.min()) <= int(wrong.gt_classes.max()) < 40
    assert torch.equal(wrong.gt_boxes.tensor, truth.gt_boxes.tensor)
    assert torch.equal(wrong.gt_classes, case.losses(3).targets("mislabelled").gt_classes)
    assert not torch.equal(wrong.gt_classes, case.losses(3, seed=1).targets("mislabelled").gt_classes)
    assert len(losses.targets("nothing")) == 0


def test_detectron2s_test_mapper_is_refused_with_the_fix(registered):
    case = Case("faster_rcnn", registered)
    sample = DatasetMapper(case.cfg, is_train=False)(dict(case.records[0]))
    with pytest.raises(AttackError, match="labelled_test_mapper"):
        TrainingLosses(case.model, sample, 40)
    assert torch.equal(sample["image"], labelled_test_mapper(case.cfg)(dict(case.records[0]))["image"])


def test_the_number_of_classes_must_be_the_datasets(registered):
    for name, key in (("faster_rcnn", "ROI_HEADS"), ("retinanet", "RETINANET"), (SEGMENTER, "SEM_SEG_HEAD")):
        cfg = detector_config(name, f"MODEL.{key}.NUM_CLASSES", "7", root=registered)
        records_of(cfg.DATASETS.TEST, "DATASETS.TEST")
        with pytest.raises(ConfigError, match=rf"MODEL\.{key}\.NUM_CLASSES is 7, and example_test has 4"):
            check_classes(cfg, "example_test")


def boxes(*rows: list[float], size: tuple[int, int] = (100, 100), **fields) -> Instances:
    found = Instances(size)
    found.set("pred_boxes" if "scores" in fields else "gt_boxes", Boxes(torch.tensor(rows).reshape(-1, 4).float()))
    for key, value in fields.items():
        found.set(key, torch.tensor(value))
    return found


def test_found_needs_class_score_overlap_and_each_object_counts_once():
    truth = boxes([0, 0, 10, 10], [50, 50, 70, 70], [0, 0, 10, 10], gt_classes=[0, 1, 0])

    def found(rows, scores, classes, size=(100, 100)) -> tuple[int, int]:
        return match_objects(truth, boxes(*rows, size=size, scores=scores, pred_classes=classes))

    assert found([[0, 0, 10, 10]], [0.9], [0]) == (1, 0)
    assert found([[0, 0, 10, 10]], [0.4], [0]) == (0, 0), "not sure enough to be a false object either"
    assert found([[0, 0, 10, 10]], [0.9], [1]) == (0, 1), "another class"
    assert found([[0, 0, 10, 4]], [0.9], [0]) == (0, 1), "too little overlap"
    assert found([[0, 0, 10, 10]] * 3, [0.9, 0.8, 0.7], [0, 0, 0]) == (2, 1), "a third on two objects"
    assert found([[100, 100, 140, 140]], [0.9], [1], size=(200, 200)) == (1, 0), "sizes are shares of the image"
    assert found([], [], []) == (0, 0)


def test_an_attack_on_another_kind_of_model_is_refused(registered):
    detector, segmenter = Case("retinanet", registered), Case(SEGMENTER, registered)
    for case, name, words in (
        (detector, "segmentation-pgd", "attacks a segmenter, and this model is a detector"),
        (segmenter, "detector-pgd", "attacks a detector, and this model is a segmenter"),
        (segmenter, "apgd", "attacks a classifier, and this model is a segmenter"),
    ):
        with pytest.raises(ValueError, match=words):
            subject_of(case.cfg, case.model).check(build_perturbations([{"name": name, "eps": "8/255"}]))


def overfit(case: Case, records: list[dict], steps: int) -> None:
    """Let a model learn a few images by heart."""
    samples = [case.mapper(record) for record in records]
    optimizer = torch.optim.AdamW(case.model.parameters(), 2e-3)
    case.model.train()
    with EventStorage(0):
        for _ in range(steps):
            losses = case.model(samples)
            optimizer.zero_grad()
            sum(losses.values()).backward()
            optimizer.step()
    case.model.eval()


@pytest.fixture(scope="module", params=["faster_rcnn", "retinanet"])
def learned(request, registered) -> Case:
    """A detector that knows the first four test images."""
    case = Case(request.param, registered)
    case.records = case.records[:4]
    overfit(case, case.records, 220)
    return case


def test_a_detector_that_knows_its_images_loses_them_under_attack_and_not_under_noise(learned):
    specs = [{"name": "noise", "eps": "4/255"}, {"name": "corruption", "kind": "contrast", "severity": 1}]
    attack = {"name": "detector-pgd", "eps": "12/255", "steps": 8}
    specs += [{**attack, "goal": goal} for goal in ("all", "vanish", "mislabel")]
    perturbations = build_perturbations(specs)
    subject = subject_of(learned.cfg, learned.model)
    outcomes = [
        evaluate(
            subject, RecordBatches(learned.records, learned.mapper, batch_size=size), perturbations, progress=False
        )
        for size in (4, 1)
    ]
    recall = {name: entry["object_recall"] for name, entry in outcomes[0].results["by_perturbation"].items()}
    assert recall["clean"] > 0.5
    assert recall["noise linf 4/255"] > 0.6 * recall["clean"]
    for goal in ("all", "vanish", "mislabel"):
        assert recall[f"detector-pgd-8-{goal} linf 12/255"] < 0.5 * recall["clean"]
    by_id = [{(r.image_id, r.perturbation): (r.found, r.fooled) for r in outcome.records} for outcome in outcomes]
    assert by_id[0] == by_id[1], "batches of another size"
    distances = [r.distance for r in outcomes[0].records if "pgd" in r.perturbation]
    assert 0.9 * 12 / 255 < min(distances) <= max(distances) <= 12 / 255 + 1e-6
    assert "clean_accuracy" not in outcomes[0].results, "a detector has no accuracy"


def test_attacks_without_gradients_ask_whether_an_object_is_still_found(learned):
    """With an eps that allows anything they lose the surest object; every query is counted."""
    options = {"steps": 1, "initial_gradient_eval_steps": 4}
    specs = [
        {"name": "square", "eps": "128/255", "queries": 30},
        {"name": "rays", "eps": "200/255", "queries": 30},
        {"name": "foolbox", "eps": "255/255", "attack": "HopSkipJumpAttack", "options": options},
    ]
    perturbations = build_perturbations(specs)
    batches = RecordBatches(learned.records, learned.mapper, batch_size=2)
    outcome = evaluate(subject_of(learned.cfg, learned.model), batches, perturbations, progress=False)
    by_name = {one.name: [r for r in outcome.records if r.perturbation == one.name] for one in perturbations}
    for name, records in by_name.items():
        if name != "clean":
            assert sum(r.loss is not None and r.loss > 0 for r in records) >= 2, name
            assert all(r.queries > 1 for r in records if r.loss is not None)
            found, clean = sum(r.found for r in records), sum(r.found for r in by_name["clean"])
            assert found < clean
    assert all(r.queries <= 32 for name in by_name if name[0] in "sr" for r in by_name[name])


def test_an_object_that_nothing_finds_cannot_be_attacked(registered):
    case = Case("faster_rcnn", registered)
    perturbations = build_perturbations([{"name": "rays", "eps": "8/255", "queries": 5}])
    batches = RecordBatches(case.records[:1], case.mapper, batch_size=1)
    outcome = evaluate(subject_of(case.cfg, case.model), batches, perturbations, progress=False)
    assert "nothing to attack" in outcome.results["by_perturbation"]["rays linf 8/255"]["notes"][0]


def test_self_checks_of_a_detector(learned, monkeypatch):
    """An honest one passes; rounding of its input, and answers that change each time, are flagged."""
    specs = [{"name": "detector-pgd", "eps": "12/255", "steps": 8, "goal": goal} for goal in ("vanish", "mislabel")]
    attacks = build_perturbations(specs)[1:]
    subject = subject_of(learned.cfg, learned.model)
    samples = [learned.mapper(record) for record in learned.records[:2]]

    def failed() -> dict[str, str]:
        with attack_mode(learned.model):
            found = subject.self_checks(samples, attacks, [False] * 2, 0)
        return {check.name: check.reason for check in found if not check.passed}

    assert failed() == {}
    plain = learned.model.preprocess_image
    masked = lambda batch: plain([{**one, "image": (one["image"] / 32).round() * 32} for one in batch])  # noqa: E731
    monkeypatch.setattr(learned.model, "preprocess_image", masked)
    assert "gradient" in failed()["gradients"]
    noisy = lambda batch: plain([{**one, "image": one["image"] + 9 * torch.randn(())} for one in batch])  # noqa: E731
    monkeypatch.setattr(learned.model, "preprocess_image", noisy)
    assert "each time" in failed()["deterministic"]


def test_a_segmenter_that_knows_its_images_loses_them_under_attack_and_not_under_noise(registered):
    case = Case(SEGMENTER, registered)
    records = case.records[:4]
    overfit(case, records, 400)
    specs = [{"name": "noise", "eps": "4/255"}]
    specs += [
        {"name": "segmentation-pgd", "eps": "12/255", "steps": 8, "loss": one} for one in ("ce", "segpgd", "cospgd")
    ]
    perturbations = build_perturbations(specs)
    batches = RecordBatches(records, case.mapper, batch_size=2)
    outcome = evaluate(
        subject_of(case.cfg, case.model), batches, perturbations, evaluators_of(case.cfg), progress=False
    )
    found = {name: entry["sem_seg"]["mIoU"] for name, entry in outcome.results["by_perturbation"].items()}
    clean = found.pop("clean")
    noise = found.pop("noise linf 4/255")
    assert clean > 0.3
    assert noise > 0.8 * clean
    assert max(found.values()) < 0.5 * clean
    assert set(found) == {"segmentation-pgd-8 linf 12/255", "segpgd-8 linf 12/255", "cospgd-8 linf 12/255"}
    # an honest segmenter, whose pixels cross-entropy alone does not all take even where every change is allowed
    with attack_mode(case.model):
        samples = [case.mapper(record) for record in records[:2]]
        checks = check_detectron2(subject_of(case.cfg, case.model), samples, perturbations[2:3])
    assert {check.name: check.reason for check in checks if not check.passed} == {}
    assert "large eps" in {check.name for check in checks}


def test_coco_ap_is_computed_from_the_records_and_is_0_where_nothing_is_found(registered):
    """An untrained detector finds nothing; detectron2 would say NaN, which is no JSON."""
    case = Case("mask_rcnn", registered, "MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.99")
    batches = RecordBatches(case.records[:3], case.mapper, batch_size=2)
    subject = subject_of(case.cfg, case.model)
    outcome = evaluate(subject, batches, build_perturbations([]), evaluators_of(case.cfg), progress=False)
    clean = outcome.results["by_perturbation"]["clean"]
    assert clean["bbox"]["AP"] == clean["segm"]["AP"] == 0.0
    assert clean["objects_found"] == 0 < clean["objects"]


def test_the_ten_lines_of_the_documentation_work(registered, tmp_path, monkeypatch, capsys):
    """As written, for any cfg and model."""
    text = (Path(__file__).resolve().parents[2] / "docs/robust_evaluation.md").read_text()
    (code,) = re.findall(r"Given `cfg` and `model`:\n\n```python\n(.*?)```", text, re.DOTALL)
    case = Case("retinanet", registered, "DATASETS.TEST", "('example_val',)")
    from detectron2.data import DatasetCatalog

    records = DatasetCatalog.get("example_val")[:2]
    monkeypatch.setattr(DatasetCatalog, "get", lambda name: records)
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "documentation", "exec"), {"cfg": case.cfg, "model": case.model})
    assert "detector-pgd-5-mislabel linf 8/255" in capsys.readouterr().out
    assert (tmp_path / "records" / "process-0-of-1.jsonl").exists()


def test_mean_performance_under_corruptions():
    perturbations = build_perturbations([{"name": "corruptions"}])
    entries = {one.name: {"bbox": {"AP": 20.0}} for one in perturbations}
    entries["clean"] = {"bbox": {"AP": 40.0}}
    entries["fog 5"] = {"bbox": {"AP": 0.0}}
    found = performance_under_corruptions(entries, perturbations)["bbox AP"]
    assert found["mPC"] == pytest.approx(0.2 * 74 / 75)
    assert found["rPC"] == pytest.approx(0.5 * 74 / 75)
    assert found["by_kind"]["fog"]["5"] == 0
    some = performance_under_corruptions(entries, perturbations[:20])["bbox AP"]
    assert set(some) == {"by_kind"}


class Scripted:
    """A detector of one object that is found while the image is bright; attacks do what they are told.

    Args:
        darker: (perturbation) -> how much an attack takes from the brightness 0.5.
        noise_hurts: random noise, too, loses the object.
    """

    kind, surrogate = "detector", None
    device = torch.device("cpu")

    def __init__(self, darker, *, noise_hurts: bool = False) -> None:
        self.darker, self.noise_hurts = darker, noise_hurts

    def perturb(self, sample, clean, perturbation, seed):
        record = Record(sample["image_id"], perturbation.name, None, None, False, None, 1, 0.0, False)
        return record, (clean - self.darker(perturbation)).clamp(0, 1)

    def output(self, sample, image):
        return image

    def same_output(self, one, other) -> bool:
        return torch.equal(one, other)

    def count_right(self, sample, image) -> tuple[int, int]:
        noisy = self.noise_hurts and float(image.std()) > 1e-6
        return int(float(image.mean()) > 0.4 and not noisy), 1


def everything(perturbation) -> bool:
    return perturbation.threat.eps >= 1


@pytest.mark.parametrize(
    ("darker", "options", "wrong"),
    [
        (lambda one: 0.3, {}, set()),
        (lambda one: 0.3 if everything(one) else 0.0, {}, set()),
        (lambda one: 0.3 if everything(one) else 0.0, {"noise_hurts": True}, {"noise"}),
        (lambda one: 0.0, {}, {"large eps"}),
        (lambda one: 0.3 if everything(one) or one.settings.get("queries") else 0.0, {}, {"black box"}),
        (lambda one: 0.3 if everything(one) or getattr(one.apply, "steps", 0) > 20 else 0.0, {}, {"more steps"}),
    ],
)
def test_each_check_of_a_detector_notices_its_own_failure(darker, options, wrong):
    samples = [{"image_id": i, "image": torch.full((3, 8, 8), 128, dtype=torch.uint8)} for i in range(4)]
    attacks = build_perturbations([{"name": "detector-pgd", "eps": "8/255", "steps": 10, "goal": "vanish"}])[1:]
    found = check_detectron2(Scripted(darker, **options), samples, attacks)
    assert {check.name for check in found if not check.passed} == wrong
    names = ["deterministic", "gradients", "noise", "large eps", "more steps", "black box"]
    assert [check.name for check in found] == names
