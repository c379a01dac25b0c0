"""APGD in l1: the projection, the steps of the reference, theory on linear models, and the official attack."""

from __future__ import annotations

import pytest
import torch
from attack_networks import arrays, labelled_images, reference_images, reference_network, small_network
from torch import Tensor

from partbox.attacks import APGD, ThreatModel
from partbox.attacks.base import Search
from partbox.attacks.draws import boundary_starts, random_starts
from partbox.attacks.l1 import onto_l1_ball, sparse_direction
from partbox.evaluation import build_perturbation
from partbox.evaluation.self_checks import check_classifier


def by_bisection(clean: Tensor, change: Tensor, eps: float) -> Tensor:
    """The projected change of one image in double precision: halves the length by which every change is shortened."""
    clean, change = clean.double(), change.double()
    room = torch.where(change > 0, 1 - clean, clean)
    low, high = 0.0, float(change.abs().max())
    if float(torch.minimum(change.abs(), room).sum()) <= eps:
        high = 0.0
    for _ in range(200):
        middle = (low + high) / 2
        total = float(torch.minimum((change.abs() - middle).clamp_min(0), room).sum())
        low, high = (middle, high) if total > eps else (low, middle)
    return change.sign() * torch.minimum((change.abs() - high).clamp_min(0), room)


@pytest.mark.parametrize("eps", ["0.5", "3.0", "12.0"])
def test_projection_equals_the_reference(shared, eps):
    stored = arrays(shared / "fixtures" / "attacks" / "projections.npz")
    clean, change = stored["l1ball_center"], stored["l1ball_y"]
    found = onto_l1_ball(clean, clean + change, float(eps))
    torch.testing.assert_close(found, clean + change + stored[f"l1ball_delta_{eps}"], atol=1e-5, rtol=0)


@pytest.mark.parametrize("scale", [1e-3, 0.3, 100.0])
@pytest.mark.parametrize("eps", [0.0, 1e-3, 2.0, 1e4])
def test_projection_is_the_nearest_allowed_image(scale, eps):
    generator = torch.Generator().manual_seed(0)
    clean = torch.rand(20, 3, 5, 6, generator=generator)
    clean[:5] = (clean[:5] > 0.5).float()  # no room on one side
    change = torch.randn(clean.shape, generator=generator) * scale
    change[3] = 0
    change[4] = 0.25 * scale  # many changes of the same size
    found = onto_l1_ball(clean, clean + change, eps)
    assert 0 <= float(found.min()) <= float(found.max()) <= 1
    assert float(ThreatModel("l1", eps).distance(clean, found).max()) <= eps * (1 + 1e-5) + 1e-6
    for one, candidate, projected in zip(clean.flatten(1), (clean + change).flatten(1), found.flatten(1), strict=True):
        expected = by_bisection(one, candidate - one, eps)
        torch.testing.assert_close((projected - one).double(), expected, atol=3e-6 * max(1.0, scale), rtol=0)
    last = clean.contiguous(memory_format=torch.channels_last)
    assert onto_l1_ball(last, last + change, eps).is_contiguous(memory_format=torch.channels_last)
    alone = onto_l1_ball(clean[7:8], clean[7:8] + change[7:8], eps)
    assert torch.equal(alone[0], found[7])


def test_steps_are_sparse_and_of_unit_length():
    gradient = torch.tensor([[0.0, -4.0, 3.0, 1.0, 2.0], [0.0, 0.0, 0.0, 0.0, 0.0]])
    step = sparse_direction(gradient, torch.tensor([0.4, 1.0]))
    torch.testing.assert_close(step, torch.tensor([[0.0, -0.5, 0.5, 0.0, 0.0], [0.0] * 5]))
    one = sparse_direction(gradient[:1], torch.tensor([0.0]))
    torch.testing.assert_close(one, torch.tensor([[0.0, -1.0, 0.0, 0.0, 0.0]]))


@pytest.mark.parametrize("eps", [0.5, 4.0])
def test_starts_are_allowed_and_belong_to_the_image(eps):
    threat, images = ThreatModel("l1", eps), torch.rand(30, 3, 6, 6, generator=torch.Generator().manual_seed(2))
    for starts in (random_starts, boundary_starts):
        whole = starts(threat, images, range(30), seed=1, restart=0)
        distance = threat.distance(images, whole)
        assert float(distance.max()) <= eps * (1 + 1e-5)
        assert 0 <= float(whole.min()) <= float(whole.max()) <= 1
        assert float(distance.mean()) > (0.99 if starts is boundary_starts else 0.7) * eps
        assert torch.equal(starts(threat, images[4:6], [4, 5], seed=1, restart=0), whole[4:6])
        assert not torch.equal(starts(threat, images, range(30), seed=1, restart=1), whole)


def test_random_starts_fill_the_ball():
    """In two dimensions a quarter of the ball lies within half its radius; each quadrant has as much."""
    images = torch.full((4000, 1, 1, 2), 0.5)
    delta = random_starts(ThreatModel("l1", 0.4), images, range(4000), seed=0, restart=0) - images
    inner = (delta.flatten(1).abs().sum(1) < 0.2).float().mean()
    assert float(inner) == pytest.approx(0.25, abs=0.03)
    assert float((delta.flatten(1) > 0).all(1).float().mean()) == pytest.approx(0.25, abs=0.03)


def test_equals_the_reference_at_the_first_steps_and_in_the_end(shared):
    """From the same start: the same logits at first, the same step sizes for most, and the losses reached agree."""
    folder = shared / "fixtures" / "attacks"
    stored = arrays(folder / "trace_apgd.npz")
    model = reference_network(folder)
    images, labels, start = stored["x"], stored["y"], stored["L1|x_init"]
    expected, right = stored["L1|ce|100|logits"], stored["L1|ce|100|acc"]
    threat = ThreatModel("l1", float(stored["L1|eps"]))
    attack = APGD(threat, 100)
    seen: list[Tensor] = []

    def predict(batch: Tensor) -> Tensor:
        seen.append(model(batch))
        return seen[-1]

    search = Search(images, labels, model(images))
    search.fooled[:] = False
    run = attack._run(predict, search, torch.arange(len(images)), start, None, leave=False)
    logits = torch.stack(seen).detach()
    apart = (logits - expected).abs().amax(dim=2)  # (steps + 1, images)
    assert int((apart[:6].amax(dim=0) < 1e-3).sum()) >= len(images) - 2
    assert int((apart.amax(dim=0) < 1e-2).sum()) >= len(images) // 2
    assert int((search.fooled == ~right.bool()).sum()) >= len(images) - 1
    torch.testing.assert_close(run.best_loss.mean(), stored["L1|ce|100|loss_best"].mean(), rtol=0.02, atol=0)
    assert float(threat.distance(images, run.best).max()) <= threat.eps * (1 + 1e-5)


@pytest.mark.parametrize("eps", [1.0, 2.0, 3.0])
@pytest.mark.parametrize("loss", ["ce", "dlr"])
def test_linear_models_fall_exactly_where_theory_says(eps, loss):
    """The best l1 change spends eps on the largest weights, each up to the wall of its pixel."""
    generator = torch.Generator().manual_seed(3)
    weight = torch.randn(2, 48, generator=generator)
    images = torch.rand(60, 3, 4, 4, generator=generator)
    model = lambda batch: batch.flatten(1) @ weight.T  # noqa: E731
    labels = model(images).argmax(dim=1)
    gap = (model(images)[:, 0] - model(images)[:, 1]).abs()
    towards = torch.where(labels[:, None] == 0, weight[1] - weight[0], weight[0] - weight[1])
    room = torch.where(towards > 0, 1 - images.flatten(1), images.flatten(1))
    order = towards.abs().argsort(dim=1, descending=True)
    spent = (eps - (room.gather(1, order).cumsum(1) - room.gather(1, order))).clamp_min(0)
    gain = (towards.abs().gather(1, order) * torch.minimum(spent, room.gather(1, order))).sum(1)
    result = APGD(ThreatModel("l1", eps), 60, loss)(model, images, labels)
    clear = (gap - gain).abs() > 0.02 * gain
    assert torch.equal(result.fooled[clear], (gap < gain)[clear])
    assert 0 < int(result.fooled.sum()) < 60


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["ce", "dlr-targeted"])
def test_as_strong_as_the_official_attack(shared, loss):
    official = pytest.importorskip("pyautoattack.autopgd_base")
    folder = shared / "fixtures" / "attacks"
    model = reference_network(folder)
    images, labels = reference_images(folder, count=60)
    for eps in (5.0, 9.0):  # three seeds differ by up to 5 images, and the means of both attacks by less than one
        if loss == "ce":
            peer = official.APGDAttack(
                model, norm="L1", eps=eps, n_restarts=1, seed=0, device="cpu", use_largereps=True, verbose=False
            )
        else:
            peer = official.APGDAttack_targeted(
                model, norm="L1", eps=eps, n_target_classes=5, seed=0, device="cpu", use_largereps=True, verbose=False
            )
        theirs = int((model(peer.perturb(images, labels)).argmax(1) == labels).sum())
        result = APGD(ThreatModel("l1", eps), loss=loss, targets=5)(model, images, labels, image_ids=range(60))
        ours = int((~result.fooled).sum())
        assert 3 < theirs < 57
        assert abs(ours - theirs) <= 5, (eps, ours, theirs)


def test_a_run_narrows_the_ball_and_counts_its_passes():
    attack = APGD(ThreatModel("l1", 1.0), 100)
    assert attack.stages == [(3.0, 30), (2.0, 30), (1.0, 40)]
    assert APGD(ThreatModel("l1", 1.0), 2).stages == [(1.0, 2)]
    assert APGD(ThreatModel("l1", 1.0), 4).stages == [(3.0, 1), (2.0, 1), (1.0, 2)]
    assert APGD(ThreatModel("l2", 1.0), 100).stages == [(1.0, 100)]
    model = small_network()
    images, labels = labelled_images(model, 16)
    for steps in (1, 3, 4, 12):
        few = APGD(ThreatModel("l1", 0.5), steps, restarts=2)
        result = few(model, images, labels)
        robust = ~result.fooled
        assert bool(robust.any())
        assert set(result.queries[robust].tolist()) == {few.passes}


def test_an_evaluation_in_l1_has_its_perturbations_and_self_checks():
    attack = build_perturbation({"name": "apgd", "norm": "l1", "eps": 1.5, "steps": 100})
    assert attack.name == "apgd-ce l1 1.5"
    noise = build_perturbation({"name": "noise", "norm": "l1", "eps": 1.5})
    model = small_network()
    images, labels = labelled_images(model, 24)
    found = attack.apply(model, images, labels, image_ids=range(24), seed=0)
    noisy = noise.apply(model, images, labels, image_ids=range(24), seed=0)
    assert 3 < int(found.fooled.sum()) < 24
    assert int(noisy.fooled.sum()) <= 1
    checks = check_classifier(
        model, images, labels, ~found.fooled, attack.threat, image_ids=range(24), steps=20, surrogate=model
    )
    names = ["deterministic", "gradients", "large eps", "more steps", "monotone", "noise", "transfer"]
    assert [check.name for check in checks] == names
    assert [check for check in checks if not check.passed] == []
    nothing = torch.ones_like(found.fooled)
    blind = check_classifier(model, images, labels, nothing, attack.threat, image_ids=range(24), steps=20)
    assert not next(check for check in blind if check.name == "more steps").passed
    with pytest.raises(ValueError, match="PGD knows linf and l2, not l1"):
        build_perturbation({"name": "pgd", "norm": "l1", "eps": 2.0})
