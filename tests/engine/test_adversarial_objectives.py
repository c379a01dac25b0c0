"""TRADES, MART, mixed and single-step training: values of the reference, and what reaches the update."""

from __future__ import annotations

import json

import pytest
import torch
from attack_networks import arrays, reference_network
from small_models import MODELS, small_config
from torch import Tensor, nn
from torch.nn import functional

from partbox.attacks import PGD, ThreatModel
from partbox.attacks.draws import random_starts
from partbox.data.mapper import PartDatasetMapper
from partbox.engine.build import build_classifier, build_objective, check_attackable
from partbox.engine.checks import ConfigError
from partbox.engine.objectives.losses import (
    boosted_cross_entropy,
    divergence,
    mart_robust_loss,
    trades_robust_loss,
)
from partbox.engine.objectives.weight_perturbation import WeightPerturbation

NAMES = ("pgd", "trades", "mart", "mat", "fgsm-rs", "n-fgsm")


@pytest.fixture(params=["normal", "part_box"])
def model_and_batch(request, example_dataset):
    model = build_classifier(small_config(example_dataset, *MODELS[request.param])).train()
    mapper = PartDatasetMapper.from_config(small_config(example_dataset, *MODELS["part_box"]), is_train=False)
    return model, [mapper(record) for record in example_dataset.records[:8]]


def objective(dataset, name: str, *options: str):
    beta = "0.5" if name == "mat" else "6.0"
    steps = {"fgsm-rs": "1", "n-fgsm": "1", "free": "10"}.get(name, "3")
    chosen = ["ADVERSARY.OBJECTIVE", name, "ADVERSARY.BETA", beta, "ADVERSARY.STEPS", steps, *options]
    return build_objective(small_config(dataset, *chosen))


@pytest.mark.parametrize("name", ["trades", "mart"])
def test_losses_and_gradients_equal_the_reference(shared, name):
    folder = shared / "fixtures" / "attacks"
    stored = arrays(folder / "at_losses.npz")
    model = reference_network(folder).requires_grad_(True)
    images, labels = stored["images"], stored["labels"]
    clean, adversarial = model(images), model(stored[f"{name}/adversarial"])
    if name == "trades":
        loss = torch.nn.functional.cross_entropy(clean, labels) + 6 * trades_robust_loss(clean, adversarial)
    else:
        loss = boosted_cross_entropy(adversarial, labels) + 6 * mart_robust_loss(clean, adversarial, labels)
    torch.testing.assert_close(loss.detach(), stored[f"{name}/loss"], rtol=1e-5, atol=1e-5)
    loss.backward()
    for parameter, value in model.named_parameters():
        if f"{name}/grad/{parameter}" in stored:
            torch.testing.assert_close(value.grad, stored[f"{name}/grad/{parameter}"], rtol=1e-4, atol=1e-5)


def published_trades(model: nn.Module, images: Tensor, start: Tensor, eps: float, step: float) -> Tensor:
    """The inner loop of TRADES' published code, which asks for the clean logits in every step."""
    found = start
    for _ in range(10):
        leaf = found.detach().requires_grad_(True)
        shares = functional.softmax(model(images), dim=1)
        loss = functional.kl_div(functional.log_softmax(model(leaf), dim=1), shares, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, leaf)
        moved = found + step * gradient.sign()
        found = torch.min(torch.max(moved, images - eps), images + eps).clamp(0, 1)
    return found


def test_inner_maximisation_of_trades_equals_the_reference(shared):
    folder = shared / "fixtures" / "attacks"
    stored, facts = arrays(folder / "trades.npz"), json.loads((folder / "trades.json").read_text())
    for name in ("std", "at"):
        model = reference_network(folder, name)
        settings = facts[f"{name}|l_inf|beta6|"]
        clean = model(stored["x"])
        attack = PGD(ThreatModel("linf", settings["eps"]), 10, settings["step"])
        found = attack.perturb(
            model,
            stored["x"],
            stored["y"],
            image_ids=range(32),
            seed=0,
            objective=lambda logits, _, clean=clean: divergence(clean, logits),
            starts=stored["x"] + stored[f"{name}|l_inf|noise"],
        )
        # The published loop on this processor; the sign of a gradient near zero may differ for single pixels.
        start = stored["x"] + stored[f"{name}|l_inf|noise"]
        published = published_trades(model, stored["x"], start, settings["eps"], settings["step"])
        assert float(((found - published).abs() > 1e-4).float().mean()) < 1e-3
        expected = stored[f"{name}|l_inf|x_adv"]
        # The sign of a gradient near zero may differ, for more pixels on another processor than the reference's; the
        # undefended network amplifies it.
        assert float(((found - expected).abs() > 1e-4).float().mean()) < 0.15
        robust = float(trades_robust_loss(clean, model(found)))
        assert robust == pytest.approx(settings["robust"], rel=0.1 if name == "std" else 5e-3)


@pytest.mark.parametrize("name", NAMES)
def test_update_learns_from_images_within_reach(model_and_batch, example_dataset, name):
    """Parameters get finite gradients; what the last forward pass sees lies within eps (n-fgsm: 3 eps)."""
    model, batch = model_and_batch
    seen: list[tuple[torch.Tensor, bool]] = []
    original = model.run
    model.run = lambda images, *args, **kwargs: (
        seen.append((images.detach().clone(), model.training)) or original(images, *args, **kwargs)
    )
    training = objective(example_dataset, name)
    losses = training(model, batch, 0)
    assert len(seen) == training.passes  # what --dry-run promises is what is spent
    clean = model.images_of(batch)
    eps = training.threat.eps * (3 if name == "n-fgsm" else 1)
    change = (seen[-1][0] - clean).abs().amax(dim=(1, 2, 3))
    assert seen[-1][1]
    assert 0.5 * training.threat.eps < float(change.min()) <= float(change.max()) <= eps + 1e-6
    if name == "n-fgsm":
        assert float(change.max()) > 1.5 * training.threat.eps
    assert ("loss_robust" in losses) == (name in ("trades", "mart", "mat"))
    assert ("loss_part" in losses) == (model.extractor is not None)
    sum(losses.values()).backward()
    gradients = [parameter.grad for parameter in model.parameters()]
    assert all(gradient is not None and bool(torch.isfinite(gradient).all()) for gradient in gradients)


@pytest.mark.parametrize("goal", ["parts", "both", "two-stage"])
@pytest.mark.parametrize("region", ["all", "object"])
def test_the_attack_can_aim_at_the_parts(example_dataset, goal, region):
    """It raises the part loss more than the attack on the class does, and changes nothing but its region."""
    model = build_classifier(small_config(example_dataset, *MODELS["part_box"])).train()
    mapper = PartDatasetMapper.from_config(small_config(example_dataset, *MODELS["part_box"]), is_train=False)
    batch = [mapper(record) for record in example_dataset.records[:8]]
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    for _ in range(40):
        optimizer.zero_grad()
        sum(model.losses(model.images_of(batch), model.targets_of(batch)).values()).backward()
        optimizer.step()
    del batch[7]["part_map"]  # not labelled: attacked on its class, everywhere

    def attacked(*options: str) -> torch.Tensor:
        seen = []
        losses, model.losses = model.losses, lambda images, targets: seen.append(images) or losses(images, targets)
        objective(example_dataset, "pgd", *options)(model, batch, 0)
        model.losses = losses
        return seen[0]

    clean, targets = model.images_of(batch), model.targets_of(batch)
    found = attacked("ADVERSARY.GOAL", goal, "ADVERSARY.REGION", region)
    change = (found - clean).abs()
    assert float(change.max()) <= 8 / 255 + 1e-6
    assert float(change.amax(dim=(1, 2, 3)).min()) > 4 / 255
    if region == "object":
        background = (targets.part_maps[:7] <= 0)[:, None].expand_as(clean[:7])
        assert float(change[:7][background].max()) == 0
        assert float(change[7].amin(dim=0).gt(0).float().mean()) > 0.5
    model.eval()

    def part_loss(images: torch.Tensor) -> float:
        return float(model.losses(images, targets)["loss_part"])

    assert part_loss(found) > 1.01 * part_loss(clean)
    if region == "all" and goal == "parts":
        assert part_loss(found) > part_loss(attacked()) + 0.01


def test_aiming_at_parts_needs_parts(example_dataset):
    cfg = small_config(example_dataset, *MODELS["normal"], "ADVERSARY.OBJECTIVE", "pgd", "ADVERSARY.GOAL", "parts")
    with pytest.raises(ConfigError, match="model with part masks"):
        check_attackable(cfg, build_classifier(cfg), training=True)


@pytest.mark.parametrize("name", ["trades", "mart", "mat"])
def test_clean_phase_is_clean_training(model_and_batch, example_dataset, name):
    model, batch = model_and_batch
    training = objective(example_dataset, name)
    training.strength = 0.0
    assert training.passes == 1
    model.eval()
    losses = training(model, batch, 0)
    expected = model.losses(model.images_of(batch), model.targets_of(batch))
    assert losses.keys() == expected.keys()
    for key, value in losses.items():
        torch.testing.assert_close(value, expected[key])


def test_mixed_loss_is_a_mixture(model_and_batch, example_dataset):
    model, batch = model_and_batch
    model.eval()
    only_adversarial = objective(example_dataset, "mat", "ADVERSARY.BETA", "1.0")(model, batch, 0)
    plain = objective(example_dataset, "pgd")(model, batch, 0)
    assert float(only_adversarial["loss_class"]) == 0
    torch.testing.assert_close(only_adversarial["loss_robust"], plain["loss_class"])
    only_clean = objective(example_dataset, "mat", "ADVERSARY.BETA", "0.0")(model, batch, 0)
    clean = model.losses(model.images_of(batch), model.targets_of(batch))
    torch.testing.assert_close(only_clean["loss_class"], clean["loss_class"])


@pytest.mark.parametrize("name", ["pgd", "trades"])
def test_moved_weights_hurt_and_leave_no_trace(model_and_batch, example_dataset, name):
    """At the moved weights the loss is higher; weights stay, statistics move once, gradients are those of the copy."""
    model, batch = model_and_batch
    plain = objective(example_dataset, name)
    moved = objective(example_dataset, name, "ADVERSARY.AWP_GAMMA", "0.01")
    before = {key: value.clone() for key, value in model.state_dict().items()}
    model.eval()
    lower, higher = (float(sum(one(model, batch, 0).values()).detach()) for one in (plain, moved))
    assert higher > lower
    model.train()
    steps = moved.passes - plain.passes
    assert steps == plain.update_passes
    losses = moved(model, batch, 0)
    for key, value in model.state_dict().items():
        if "running" in key or "tracked" in key:
            if key.endswith("num_batches_tracked"):
                assert int(value - before[key]) == plain.update_passes
        else:
            assert torch.equal(value, before[key])
    sum(losses.values()).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_gradient_at_moved_weights_is_the_gradient_there():
    """On loss = |w|^2 / 2 the gradient is w: at weights moved by gamma |w| along it, (1 + gamma) w."""
    layer = torch.nn.Linear(3, 2, bias=False)
    loss = WeightPerturbation(0.1)(lambda model: {"loss": model.weight.square().sum() / 2}, layer)
    loss["loss"].backward()
    torch.testing.assert_close(layer.weight.grad, 1.1 * layer.weight.detach())
    with pytest.raises(ValueError, match="positive"):
        WeightPerturbation(0.0)


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("mat", ["ADVERSARY.BETA", "6.0"], "share"),
        ("trades", ["ADVERSARY.BETA", "-1.0"], "negative"),
        ("trades", ["ADVERSARY.RANDOM_START", "False"], "RANDOM_START"),
        ("n-fgsm", ["ADVERSARY.NORM", "l2"], "linf"),
        ("n-fgsm", ["ADVERSARY.STEP_SIZE", "1/255"], "STEP_SIZE"),
        ("fgsm-rs", ["ADVERSARY.STEPS", "10"], "set STEPS 1"),
        ("clean", ["ADVERSARY.AWP_GAMMA", "0.01"], "adversarial OBJECTIVE"),
        ("clean", ["ADVERSARY.GOAL", "parts"], "adversarial OBJECTIVE"),
        ("trades", ["ADVERSARY.GOAL", "both"], "attack of its own"),
        ("pgd", ["ADVERSARY.BETA", "3.0"], "pgd does not read it"),
        ("pgd", ["ADVERSARY.GOAL", "parts", "ADVERSARY.GOAL_PART_WEIGHT", "0.9"], "GOAL parts does not read it"),
        ("n-fgsm", ["ADVERSARY.REGION", "object"], "attack of its own"),
        ("fgsm", [], "one of clean, pgd"),
    ],
)
def test_settings_that_make_no_sense_are_refused(example_dataset, name, options, words):
    with pytest.raises(ConfigError, match=words):
        objective(example_dataset, name, *options)


def test_free_training_moves_the_batch_by_the_updates_own_gradient(model_and_batch, example_dataset):
    model, batch = model_and_batch
    free = objective(example_dataset, "free", "ADVERSARY.EPS", "8/255", "ADVERSARY.REPLAYS", "3")
    images, eps = model.images_of(batch), 8 / 255
    seen, gradients = [], []
    for iteration in range(4):
        losses = free(model, batch, iteration)
        seen.append(free._leaf.detach().clone())
        sum(losses.values()).backward()
        gradients.append(free._leaf.grad.clone())
        assert model.training, "the update's own pass, in training mode"
        assert free.passes == 1
    deltas = [one - images for one in seen]
    assert all(float(delta.abs().max()) <= eps + 1e-6 for delta in deltas)
    for i in (0, 1):
        inside = (seen[i] > 0) & (seen[i] < 1)
        wanted = (deltas[i] + eps * gradients[i].sign()).clamp(-eps, eps)
        got = (images + wanted).clamp(0, 1)
        torch.testing.assert_close(seen[i + 1][inside], got[inside], atol=1e-6, rtol=0)
        assert float((gradients[i] != 0).float().mean()) > 0.3
    assert float((deltas[3] - deltas[2]).abs().mean()) > 0.2 * eps, "the fourth iteration starts anew"
    assert float((deltas[3].abs() < 0.9 * eps).float().mean()) > 0.5, "from uniform noise"


def test_free_training_is_continued_in_the_middle_of_its_replays(model_and_batch, example_dataset):
    model, batch = model_and_batch
    settings = ("free", "ADVERSARY.REPLAYS", "4")
    whole, first = objective(example_dataset, *settings), objective(example_dataset, *settings)
    for one in (whole, first):
        for iteration in (0, 1):
            torch.manual_seed(iteration)  # of dropout
            sum(one(model, batch, iteration).values()).backward()
    resumed = objective(example_dataset, *settings)
    resumed.load_state_dict(first.state_dict())
    whole(model, batch, 2), resumed(model, batch, 2)
    assert torch.equal(whole._leaf, resumed._leaf)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["ADVERSARY.REPLAYS", "1"], "at least 2"),
        (["ADVERSARY.NORM", "l2"], "linf"),
        (["ADVERSARY.AWP_GAMMA", "0.01"], "do not apply"),
        (["ADVERSARY.STEPS", "2"], "leave STEPS 10"),
        (["ADVERSARY.STEP_SIZE", "1/255"], "leave STEP_SIZE ''"),
        (["ADVERSARY.RANDOM_START", "False"], "leave RANDOM_START True"),
        (["ADVERSARY.OBJECTIVE", "pgd", "ADVERSARY.REPLAYS", "3"], "REPLAYS belongs to free"),
    ],
)
def test_what_free_training_does_not_know_is_refused(example_dataset, options, words):
    with pytest.raises(ConfigError, match=words):
        objective(example_dataset, "free", *options)


@pytest.mark.parametrize(
    ("name", "noise", "step", "projected"), [("fgsm-rs", 1.0, 1.25, True), ("n-fgsm", 2.0, 1.0, False)]
)
def test_single_steps_are_the_published_ones(model_and_batch, example_dataset, name, noise, step, projected):
    """Wong et al. 2020: noise of eps, step of 1.25 eps, projected. De Jorge et al. 2022: 2 eps, eps, not projected."""
    model, batch = model_and_batch
    model.eval()
    training = objective(example_dataset, name, "ADVERSARY.EPS", "12/255")
    images, labels, eps = model.images_of(batch), model.targets_of(batch).labels, 12 / 255
    ids = [f"4|{sample['image_id']}" for sample in batch]
    found = training.perturb(model.logits_for(batch), images, labels, ids)
    start = random_starts(ThreatModel("linf", noise * eps), images, ids, seed=training.seed, restart=0)
    assert float((start - images).abs().max()) > 0.95 * noise * eps
    leaf = start.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(functional.cross_entropy(model.logits(leaf), labels), leaf)
    expected = start + step * eps * gradient.sign()
    if projected:
        expected = torch.minimum(torch.maximum(expected, images - eps), images + eps)
    assert float(((found - expected.clamp(0, 1)).abs() > 1e-5).float().mean()) < 1e-3
