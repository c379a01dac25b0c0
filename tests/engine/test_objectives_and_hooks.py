"""Training objectives, warm-up, averaging and validation, each on its own."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import pytest
import torch
from small_models import MODELS, small_config

from partbox.attacks import ThreatModel
from partbox.data.mapper import PartDatasetMapper
from partbox.engine.build import build_classifier, build_objective
from partbox.engine.checks import ConfigError
from partbox.engine.hooks.best_checkpoint import BEST, BestWeights
from partbox.engine.hooks.ema import WeightAveraging
from partbox.engine.hooks.eps_warmup import EpsWarmup
from partbox.engine.hooks.validation import ValidationUnderAttack
from partbox.engine.objectives import CleanObjective, PGDObjective
from partbox.evaluation.validate import ValidationResult, validate


@pytest.fixture
def model_and_batch(example_dataset):
    cfg = small_config(example_dataset, *MODELS["part_box"])
    model = build_classifier(cfg).train()
    mapper = PartDatasetMapper.from_config(cfg, is_train=False)
    return model, [mapper(record) for record in example_dataset.records[:8]]


def objective(**options) -> PGDObjective:
    defaults = {"steps": 3, "step_size": None, "random_start": True, "seed": 0}
    return PGDObjective(ThreatModel("linf", "8/255"), **{**defaults, **options})


def seen_images(model, batch, training_objective, iteration: int = 0) -> torch.Tensor:
    """The images that the training step's losses are computed on."""
    seen = []
    original = model.losses
    model.losses = lambda images, targets: seen.append((images.clone(), model.training)) or original(images, targets)
    training_objective(model, batch, iteration)
    model.losses = original
    assert seen[0][1], "the update must see the model in training mode"
    return seen[0][0]


def test_the_update_sees_adversarial_images_within_eps(model_and_batch):
    model, batch = model_and_batch
    clean = model.images_of(batch)
    attacked = seen_images(model, batch, objective())
    change = (attacked - clean).abs().amax(dim=(1, 2, 3))
    assert float(change.max()) <= 8 / 255 + 1e-6
    assert float(change.min()) > 0.5 * 8 / 255
    assert torch.equal(seen_images(model, batch, CleanObjective()), clean)


def test_the_attack_raises_the_loss(model_and_batch):
    model, batch = model_and_batch
    model.eval()
    targets = model.targets_of(batch)
    attack = objective(steps=10).attack_at(1.0)
    clean = model.images_of(batch)
    attacked = attack.perturb(model.logits, clean, targets.labels, image_ids=range(8), seed=0)
    before = float(torch.nn.functional.cross_entropy(model.logits(clean), targets.labels))
    after = float(torch.nn.functional.cross_entropy(model.logits(attacked), targets.labels))
    assert after > before


def test_nothing_of_the_attack_leaks_into_the_step(model_and_batch):
    """Parameters learn again, BatchNorm is in training mode again, statistics moved once, by the update alone."""
    model, batch = model_and_batch
    norms = [m for m in model.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
    before = [int(norm.num_batches_tracked) for norm in norms]
    losses = objective()(model, batch, 0)
    assert all(module.training for module in model.modules())
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert [int(norm.num_batches_tracked) for norm in norms] == [count + 1 for count in before]
    sum(losses.values()).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_random_starts_follow_seed_and_iteration_not_the_batch(model_and_batch):
    model, batch = model_and_batch
    model.eval()
    model.training = True  # so that the mode check of the helper holds while BatchNorm is independent of the batch
    one = objective(steps=1)
    first = seen_images(model, batch, one, 5)
    assert torch.equal(first, seen_images(model, batch, one, 5))
    torch.testing.assert_close(first[2:4], seen_images(model, batch[2:4], one, 5), atol=2e-2, rtol=0)
    assert not torch.equal(first, seen_images(model, batch, one, 6))
    assert not torch.equal(first, seen_images(model, batch, objective(steps=1, seed=1), 5))


def test_default_step_size_is_the_originals():
    assert objective(steps=10).step_size == pytest.approx(1 / 255, rel=1e-9)  # eps / steps * 1.25 at 8/255


def test_eps_warm_up():
    warmed = objective()
    hook = EpsWarmup(warmed, clean_iters=10, warmup_iters=4)
    assert [hook.strength(i) for i in (0, 9)] == [0.0, 0.0]
    assert [hook.strength(i) for i in (10, 11, 13, 14, 1000)] == pytest.approx([0.2, 0.4, 0.8, 1.0, 1.0])
    assert EpsWarmup(warmed, clean_iters=0, warmup_iters=0).strength(0) == 1.0
    scalars = {}
    hook.trainer = SimpleNamespace(
        iter=11, storage=SimpleNamespace(put_scalar=lambda name, value, **_: scalars.update({name: value}))
    )
    hook.before_step()
    assert warmed.attack_at(warmed.strength).threat.eps == pytest.approx(0.4 * 8 / 255)
    assert scalars["eps"] == pytest.approx(0.4 * 8 / 255)
    with pytest.raises(ValueError, match="negative"):
        EpsWarmup(warmed, clean_iters=-1, warmup_iters=0)


def test_clean_iterations_cost_one_pass_and_leave_images_alone(model_and_batch):
    model, batch = model_and_batch
    resting = objective()
    resting.strength = 0.0
    assert resting.passes == 1
    assert torch.equal(seen_images(model, batch, resting), model.images_of(batch))
    assert objective().passes == 4


def test_averaging_follows_the_weights_and_their_statistics():
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
    hook = WeightAveraging(model, decay=0.5)
    hook.trainer = SimpleNamespace(model=model, iter=10_000)
    start = model[0].weight.detach().clone()
    with torch.no_grad():
        model[0].weight += 1
        model[1].running_mean += 4
    hook.after_step()
    torch.testing.assert_close(hook.module[0].weight, start + 0.5)
    torch.testing.assert_close(hook.module[1].running_mean, torch.full((2,), 2.0))
    torch.testing.assert_close(model[0].weight, start + 1)
    restored = WeightAveraging(model, decay=0.5)
    restored.load_state_dict(hook.state_dict())
    torch.testing.assert_close(restored.module[0].weight, start + 0.5)
    with pytest.raises(ValueError, match="DECAY"):
        WeightAveraging(model, decay=1.0)


def trainer_at(iteration: int, max_iter: int = 100) -> SimpleNamespace:
    return SimpleNamespace(
        iter=iteration, max_iter=max_iter, storage=SimpleNamespace(put_scalars=lambda **_: None, put_scalar=print)
    )


@pytest.mark.parametrize(("robust", "settled", "warned"), [(0.1, 0, True), (0.5, 0, False), (0.1, 50, False)])
def test_a_run_below_the_majority_class_is_called_broken(caplog, robust, settled, warned):
    result = ValidationResult(0.6, robust, 0.38, 100, attacked=True)
    hook = ValidationUnderAttack(lambda: result, period=10, settled=settled)
    hook.trainer = trainer_at(9)
    with caplog.at_level(logging.WARNING):
        hook.after_step()
    assert ("BROKEN RUN" in caplog.text) == warned


def test_validation_is_due_every_period_and_at_the_end():
    hook = ValidationUnderAttack(lambda: None, period=10)
    due = []
    for iteration in range(25):
        hook.trainer = trainer_at(iteration, 25)
        if hook.is_due():
            due.append(iteration)
    assert due == [9, 19, 24]


def test_best_weights_prefer_robust_then_clean_accuracy(tmp_path):
    model = torch.nn.Linear(1, 1)
    validation = SimpleNamespace(latest=None)
    hook = BestWeights(tmp_path, model, validation)
    history = [(0.5, 0.2), (0.9, 0.1), (0.4, 0.3), (0.6, 0.3), (0.2, 0.35)]
    for step, (clean, robust) in enumerate(history):
        hook.trainer = trainer_at(step)
        validation.latest = ValidationResult(clean, robust, 0.1, 10, attacked=True)
        with torch.no_grad():
            model.weight.fill_(step)
        hook.after_step()
    stored = torch.load(tmp_path / BEST, weights_only=True)
    assert float(stored["model"]["weight"]) == 3
    assert stored["robust_accuracy"] == 0.3
    again = BestWeights(tmp_path, model, validation)
    again.load_state_dict(hook.state_dict())
    assert again.best == [0.3, 0.6]


def test_validate_counts_robust_images_only_where_clean_is_right(model_and_batch):
    model, batch = model_and_batch
    model.eval()
    right = (model.logits(model.images_of(batch)).argmax(1).cpu() == torch.tensor([s["label"] for s in batch])).sum()
    model.train()
    clean = validate(model, [batch[:3], batch[3:]], None)
    assert clean.clean_accuracy == clean.robust_accuracy == float(right) / 8
    attacked = validate(model, [batch], objective().attack_at(1.0))
    assert attacked.robust_accuracy <= attacked.clean_accuracy == clean.clean_accuracy
    assert model.training
    with pytest.raises(ValueError, match="no images"):
        validate(model, [], None)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["ADVERSARY.OBJECTIVE", "fgsm"], "one of clean, pgd"),
        (["ADVERSARY.EPS", "eight"], "8/255"),
        (["ADVERSARY.NORM", "l7"], "unknown norm"),
        (["ADVERSARY.STEPS", "0"], "steps"),
        (["ADVERSARY.STEP_SIZE", "-1/255"], "negative"),
    ],
)
def test_bad_adversaries_are_refused(example_dataset, options, words):
    with pytest.raises(ConfigError, match=words):
        build_objective(small_config(example_dataset, "ADVERSARY.OBJECTIVE", "pgd", *options))
