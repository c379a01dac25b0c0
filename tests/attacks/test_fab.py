"""FAB: distances equal to the reference and, on linear models, to theory."""

from __future__ import annotations

import pytest
import torch
from attack_networks import NORMS, arrays, labelled_images, reference_network, small_network

from partbox.attacks import FAB, AttackError, ThreatModel


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("kind", ["untargeted", "rank2", "rank3", "rank4", "rank5"])
def test_distances_equal_the_reference(shared, norm, kind):
    folder = shared / "fixtures" / "attacks"
    stored = arrays(folder / "trace_fab.npz")
    images, labels = (arrays(folder / "trace_apgd.npz")[name] for name in ("x", "y"))
    model = reference_network(folder)
    for steps in (100, 10):
        key = f"{NORMS[norm]}|{kind}|{steps}"
        if f"{key}|norm" not in stored:
            continue
        expected = torch.where(stored[f"{key}|fooled"], stored[f"{key}|norm"], torch.inf)
        attack = FAB(ThreatModel(norm, 0.1), steps, targeted=kind != "untargeted")
        if kind == "untargeted":
            _, distances = attack.nearest(model, images, labels)
        else:
            logits = model(images)
            targets = logits.argsort(dim=1, descending=True)[:, int(kind[4:]) - 1]
            chase = attack._chase(model, images, labels, targets, images, stop_within=-1.0)
            distances = torch.where(logits.argmax(1) != labels, 0.0, chase.distance)
        same = (distances == expected) | ((distances - expected).abs() < 1e-3 * expected.clamp(min=0.1))
        # Where boundaries cross, a rounding error decides which one a step follows.
        assert int(same.sum()) >= len(images) - 4


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("targeted", [False, True])
def test_linear_models_give_the_distance_to_the_nearest_boundary(norm, targeted):
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(4, 48, generator=generator)
    images = torch.rand(30, 3, 4, 4, generator=generator) * 0.2 + 0.4
    model = lambda batch: batch.flatten(1) @ weight.T  # noqa: E731
    labels = model(images).argmax(1)
    logits = model(images)
    gaps = logits.gather(1, labels[:, None]) - logits
    difference = weight[labels][:, None] - weight[None]
    dual = difference.abs().sum(-1) if norm == "linf" else difference.norm(dim=-1)
    exact = torch.where(dual > 0, gaps / dual.clamp_min(1e-9), torch.inf).amin(dim=1)
    found, distances = FAB(ThreatModel(norm, 0.1), 30, targeted=targeted).nearest(model, images, labels)
    assert bool((model(found).argmax(1) != labels).all())
    torch.testing.assert_close(ThreatModel(norm, 0.1).distance(images, found), distances)
    assert bool((distances >= exact * (1 - 1e-4)).all())
    assert float((distances / exact).max()) < 1.02


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("targeted", [False, True])
def test_only_what_lies_within_eps_counts(norm, targeted):
    model = small_network()
    images, labels = labelled_images(model)
    labels[0] = (labels[0] + 1) % 4
    _, distances = FAB(ThreatModel(norm, 1.0), 20, targeted=targeted).nearest(model, images, labels)
    assert distances[0] == 0
    eps = float(distances[1:].median())
    threat = ThreatModel(norm, eps)
    result = FAB(threat, 20, targeted=targeted)(model, images, labels)
    assert torch.equal(result.fooled, distances <= eps)
    assert torch.equal(model(result.images).argmax(1) != labels, result.fooled)
    assert float(threat.distance(images, result.images).max()) <= eps
    assert torch.equal(result.images[~result.fooled], images[~result.fooled])


def test_restarts_help_and_start_at_random():
    model = small_network()
    images, labels = labelled_images(model)
    threat = ThreatModel("linf", 0.02)
    one = FAB(threat, 3)(model, images, labels)
    many = FAB(threat, 3, restarts=6)(model, images, labels)
    assert bool((many.fooled | ~one.fooled).all())
    assert int(many.queries.max()) == 1 + 2 * 3 * 6


@pytest.mark.parametrize("options", [{"steps": 0}, {"restarts": 0}, {"targets": True}])
def test_settings_that_make_no_sense_are_refused(options):
    with pytest.raises(ValueError, match="FAB"):
        FAB(ThreatModel("linf", 0.1), **options)


@pytest.mark.parametrize("targeted", [False, True])
def test_gradients_that_mean_nothing_are_errors(targeted):
    model = small_network()
    images, labels = labelled_images(model, 8)
    attack = FAB(ThreatModel("linf", 0.1), 3, targeted=targeted)
    bias = torch.nn.Parameter(torch.zeros(4))
    with pytest.raises(AttackError, match="do not depend"):
        attack(lambda batch: model(batch.detach()) + bias, images, labels)
    with pytest.raises(AttackError, match="not finite"):
        attack(lambda batch: model(batch) + (batch.flatten(1)[:, :1] * 0).sqrt(), images, labels)
