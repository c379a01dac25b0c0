"""Planted gradient masking is flagged, with its reason; an honest model is not."""

from __future__ import annotations

import json

import pytest
import torch
from attack_networks import labelled_images, small_network
from masking_problem import COUNT, THREAT, Problem
from small_models import MODELS, small_config
from torch import Tensor
from torch.nn import functional

from partbox.attacks import Square, ThreatModel
from partbox.data.mapper import PartDatasetMapper
from partbox.engine.build import build_classifier
from partbox.evaluation import build_perturbations, evaluate
from partbox.evaluation.batches import RecordBatches
from partbox.evaluation.black_box import compare_black_box, is_black_box, without_black_box
from partbox.evaluation.records import Record
from partbox.evaluation.run import as_subject, self_checks
from partbox.evaluation.self_checks import check_classifier, most_passes, tolerated


@pytest.fixture(scope="module")
def problem() -> Problem:
    return Problem()


def failed(checks: dict) -> set[str]:
    assert all(bool(one.reason) != one.passed for one in checks.values())
    return {name for name, one in checks.items() if not one.passed}


@pytest.mark.parametrize("threat", [ThreatModel("linf", 0.034), THREAT, ThreatModel("l2", 0.5)])
def test_an_honest_model_is_not_flagged(problem, threat):
    checks = problem.checks(problem.model, threat, surrogate=problem.model)
    assert failed(checks) == set()
    assert list(checks) == [
        *("deterministic", "gradients", "large eps", "more steps", "monotone", "black box", "noise", "transfer")
    ]
    assert 0 < checks["black box"].values["images"] < COUNT, "some images are robust here and some are not"
    assert json.dumps([one.to_json() for one in checks.values()])


def test_rounded_input_is_flagged(problem):
    checks = problem.checks(lambda x: problem.model((x * 16).round() / 16))
    assert "gradients" in failed(checks)
    assert "such as rounding" in checks["gradients"].reason
    assert "black box" in failed(checks), "an attack without gradients is not held up"


def test_saturated_logits_are_flagged(problem):
    checks = problem.checks(lambda x: problem.model(x) * 1e4)
    assert failed(checks) == {"gradients"}
    assert "saturated" in checks["gradients"].reason


def test_random_resizing_is_flagged(problem):
    def predict(x: Tensor) -> Tensor:
        size = int(torch.randint(9, 16, ()))
        resized = functional.interpolate(x, size=size, mode="bilinear")
        return problem.model(functional.interpolate(resized, size=12, mode="bilinear"))

    checks = problem.checks(predict)
    assert "deterministic" in failed(checks)
    assert "each time" in checks["deterministic"].reason


def test_preprocessing_without_a_gradient_is_flagged(problem):
    checks = problem.checks(lambda x: problem.model(torch.from_numpy(x.detach().numpy().copy())))
    assert "no gradient" in checks["gradients"].reason
    assert "attack" in failed(checks), "the attack itself refuses, and that is said too"


class Scrambled(torch.autograd.Function):
    """The identity with a gradient that has nothing to do with it."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        return torch.randn(gradient.shape, generator=torch.Generator().manual_seed(0)) * gradient.abs().mean()


def test_wrong_gradients_are_flagged(problem):
    checks = problem.checks(lambda x: problem.model(Scrambled.apply(x)), surrogate=problem.model)
    assert {"black box", "transfer"} <= failed(checks)


def test_a_short_attack_is_flagged(problem):
    """Gradients of a rippled image point the right way only nearby: one large step goes astray."""
    checks = problem.checks(lambda x: problem.model(x + 0.04 * torch.sin(150 * x)), steps=1)
    assert "more steps" in failed(checks)


def test_answers_that_depend_on_the_batch_are_flagged(problem):
    checks = problem.checks(lambda x: problem.model(x - x.mean(dim=0) + 0.5))
    assert "other images of its batch" in checks["deterministic"].reason


def test_a_floor_under_the_model_is_flagged(problem):
    """Answers that no change of the image can alter: nothing falls at any eps."""
    checks = problem.checks(lambda x: functional.one_hot(problem.labels[: len(x)], 4) + 1e-9 * problem.model(x))
    assert "large eps" in failed(checks)


def test_infinite_gradients_are_flagged(problem):
    checks = problem.checks(lambda x: problem.model(x) + ((x - x).abs() ** 0.5).sum(dim=(1, 2, 3))[:, None])
    assert "not finite" in checks["gradients"].reason


def test_few_images_tolerate_one():
    assert [tolerated(count) for count in (1, 8, 32, 100, 400)] == [1, 1, 1, 5, 20]


def test_the_run_marks_the_result_unreliable(example_dataset, monkeypatch):
    cfg = small_config(example_dataset, *MODELS["normal"])
    model = build_classifier(cfg)
    mapper = PartDatasetMapper.from_config(cfg, is_train=False)
    batches = RecordBatches(example_dataset.records[:11], mapper, batch_size=6)
    labels = [record["label"] for record in example_dataset.records[:11]]
    optimizer = torch.optim.AdamW(model.train().parameters(), lr=3e-3)
    samples = [mapper(record) for record in example_dataset.records[:11]]
    for _ in range(40):
        optimizer.zero_grad()
        model.losses(model.images_of(samples), model.targets_of(samples))["loss_class"].backward()
        optimizer.step()
    model.eval()
    assert len(set(labels)) > 1
    perturbations = build_perturbations([{"name": "noise", "eps": "1/255"}, {"name": "pgd", "eps": "2/255"}])

    def results() -> dict:
        outcome = evaluate(model, batches, perturbations, progress=False)
        self_checks(as_subject(model), batches, perturbations, outcome, images=2, seed=1)
        return outcome.results

    honest = results()
    assert list(honest["self_checks"]) == ["linf 2/255"], "noise is no attack to check"
    assert honest["unreliable"] == [check["reason"] for check in honest["self_checks"]["linf 2/255"] if check["reason"]]
    assert not any("gradients" in reason or "deterministic" in reason for reason in honest["unreliable"])
    plain = model.logits
    monkeypatch.setattr(model, "logits", lambda images: plain((images * 8).round() / 8))
    masked = results()
    assert any(reason.startswith("linf 2/255: the gradient") for reason in masked["unreliable"])
    assert any(warning.startswith("unreliable, linf 2/255") for warning in masked["warnings"])


def record(image_id: int, perturbation: str, fooled: bool, fooled_by: str = "") -> Record:
    return Record(image_id, perturbation, 0, int(fooled), fooled, None, 1, 0.0, False, fooled_by)


def test_attacks_without_gradients_are_told_apart():
    boundary = {"attack": "BoundaryAttack", "options": {"steps": 2}}
    gradient = {"attack": "LinfPGD"}
    specs = [{"name": one} for one in ("pgd", "square", "rays", "autoattack")]
    specs += [{"name": "foolbox", **boundary, "norm": "l2"}, {"name": "foolbox", **gradient}]
    specs += [{"name": "square", "precision": "bfloat16"}]
    attacks = build_perturbations([{"eps": "8/255", **spec} for spec in specs])[1:]
    assert [is_black_box(one) for one in attacks] == [False, True, True, False, True, False, True]


def test_what_only_square_fools_is_robust_to_the_checks_and_counted_against_the_gradients():
    attacks = build_perturbations([{"name": one, "eps": "8/255"} for one in ("pgd", "square", "autoattack")])[1:]
    pgd, square, ensemble = [one.name for one in attacks]
    records = [record(i, "clean", i == 0, "clean" if i == 0 else "") for i in range(6)]
    records += [record(i, pgd, i < 2, "clean" if i == 0 else "pgd-20") for i in range(6)]
    records += [record(i, square, i < 4) for i in range(6)]
    records += [record(i, ensemble, i < 5, "apgd-ce" if i < 2 else "square") for i in range(6)]
    assert without_black_box(records, attacks) == {0: False, 1: False, 2: True, 3: True, 4: True, 5: True}
    (check,) = compare_black_box(records, attacks)
    assert (check.passed, check.values) == (False, {"images": 4, "fooled": 3})
    assert check.reason.startswith("3 of 4 images that the attacks with gradients leave fall to")
    (check,) = compare_black_box(records, [attacks[0], attacks[2]])
    assert check.values == {"images": 4, "fooled": 3}, "AutoAttack's Square counts too"
    assert compare_black_box(records, attacks[:1]) == [], "nothing to compare"
    assert compare_black_box(records, [attacks[1]]) == []
    assert sum(without_black_box(records, [attacks[1]]).values()) == 2, "Square alone: its own verdict"


class Patterns:
    """The problem's network as a model under test of an evaluation."""

    attackable, extractor, reads_masks = True, None, False

    def __init__(self, problem: Problem, logits) -> None:
        self.module, self.logits = problem.model, logits

    def __getattr__(self, name: str):
        return getattr(self.module, name)

    def logits_for(self, batch):
        return self.logits

    def images_of(self, batch) -> Tensor:
        return torch.stack([sample["image"] for sample in batch])

    def predict_batch(self, images: Tensor, batch) -> list[dict]:
        return [{"label": int(one)} for one in self.logits(images).argmax(dim=1)]


@pytest.mark.parametrize("attack", [{"name": "square", "queries": 1000}, {"name": "autoattack"}])
def test_a_black_box_attack_in_the_evaluation_does_not_hide_wrong_gradients(problem, attack, monkeypatch):
    """The worst case over both kinds leaves what nothing fools: the checks must not look at that."""
    from partbox.attacks import APGD, autoattack

    short = lambda threat: [APGD(threat, 10), Square(threat, 1000)]  # noqa: E731
    monkeypatch.setitem(autoattack.VERSIONS, "standard", short)
    specs = [{"eps": 0.04, **attack}] + ([{"name": "pgd", "eps": 0.04}] if attack["name"] == "square" else [])
    perturbations = build_perturbations(specs)
    records = [{"image_id": i} for i in range(COUNT)]

    def mapper(one: dict) -> dict:
        i = one["image_id"]
        return {"image_id": i, "image": problem.images[i], "label": int(problem.labels[i])}

    def failures(logits) -> dict[str, str]:
        model = Patterns(problem, logits)
        batches = RecordBatches(records, mapper, batch_size=COUNT)
        outcome = evaluate(model, batches, perturbations, progress=False)
        self_checks(as_subject(model), batches, perturbations, outcome, images=COUNT)
        (checks,) = outcome.results["self_checks"].values()
        assert "own black box" in {one["name"] for one in checks}
        return {one["name"]: one["reason"] for one in checks if not one["passed"]}

    assert "own black box" not in failures(problem.model)
    found = failures(lambda x: problem.model(Scrambled.apply(x)))
    assert {"black box", "own black box"} <= set(found)


@pytest.mark.parametrize("with_surrogate", [False, True])
def test_the_plan_knows_what_the_checks_cost_at_most(with_surrogate):
    """On images that nothing fools every check goes to its end."""
    model = small_network()
    images, labels = labelled_images(model, 6)
    seen = 0

    def counted(batch):
        nonlocal seen
        seen += len(batch)
        return model(batch)

    threat = ThreatModel("linf", 1e-6)
    surrogate = counted if with_surrogate else None
    ids = range(len(images))
    robust = torch.ones(len(images), dtype=torch.bool)
    check_classifier(counted, images, labels, robust, threat, image_ids=ids, steps=8, surrogate=surrogate)
    most = most_passes(len(images), 8, surrogate=with_surrogate)
    assert 0.8 * most < seen <= most
