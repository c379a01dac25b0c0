"""RayS and foolbox's attacks: verdicts, query counts, draws of their own, refusals."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from attack_networks import labelled_images, small_network
from torch import Tensor

from partbox.attacks import PGD, FoolboxAttack, RayS, ThreatModel
from partbox.attacks.foolbox_attack import follows_gradients


class Counting:
    """A network that counts the images that it is asked about and refuses gradients."""

    def __init__(self, model) -> None:
        self.model, self.images = model, 0

    def __call__(self, images: Tensor) -> Tensor:
        assert not images.requires_grad
        self.images += len(images)
        return self.model(images)


@pytest.fixture(scope="module")
def case():
    model = small_network(3)
    images, labels = labelled_images(model, 12)
    return model, images, labels


ATTACKS = {
    "rays": lambda eps: RayS(ThreatModel("linf", eps), queries=400),
    "hop-skip-jump linf": lambda eps: FoolboxAttack(
        ThreatModel("linf", eps), "HopSkipJumpAttack", {"steps": 4, "initial_gradient_eval_steps": 20}
    ),
    "hop-skip-jump l2": lambda eps: FoolboxAttack(
        ThreatModel("l2", 5 * eps), "HopSkipJumpAttack", {"steps": 4, "initial_gradient_eval_steps": 20}
    ),
    "boundary": lambda eps: FoolboxAttack(ThreatModel("l2", 14 * eps), "BoundaryAttack", {"steps": 150}),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_verdicts_are_true_and_queries_are_counted(case, name):
    model, images, labels = case
    attack = ATTACKS[name](0.25)
    counting = Counting(model)
    result = attack(counting, images, labels, image_ids=range(12))
    assert bool((model(result.images).argmax(dim=1) != labels).eq(result.fooled).all())
    assert float(result.fooled.float().mean()) > 0.3
    distance = attack.threat.distance(images, result.images)
    assert float(distance.max()) <= attack.threat.eps * (1 + 1e-5)
    # of every image the clean pass; foolbox's result is looked at once more
    looks = 0 if name == "rays" else 12
    assert int(result.queries.sum()) == counting.images - looks
    assert bool((result.loss > 0).eq(result.fooled).all())


@pytest.mark.parametrize("name", ATTACKS)
def test_batch_and_neighbours_do_not_matter(case, name):
    model, images, labels = case
    attack = ATTACKS[name](0.2)
    whole = attack(model, images[:5], labels[:5], image_ids=range(5), seed=2)
    for i in (3, 0):
        alone = attack(model, images[i : i + 1], labels[i : i + 1], image_ids=[i], seed=2)
        torch.testing.assert_close(alone.images[0], whole.images[i])
        assert int(alone.queries[0]) == int(whole.queries[i])


@pytest.mark.parametrize("name", ATTACKS)
def test_global_generators_are_left_alone(case, name):
    model, images, labels = case
    torch.manual_seed(1), np.random.seed(1)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    ATTACKS[name](0.2)(model, images[:2], labels[:2], image_ids=range(2))
    assert torch.equal(before[0], torch.get_rng_state())
    assert np.array_equal(before[1], np.random.get_state()[1])


def test_rays_keeps_to_its_queries_and_more_are_never_weaker(case):
    model, images, labels = case
    fooled = []
    for queries in (1, 20, 100, 600):
        result = RayS(ThreatModel("linf", 0.15), queries)(model, images, labels)
        assert int(result.queries.max()) <= 1 + queries
        fooled.append(int(result.fooled.sum()))
    assert fooled == sorted(fooled)
    assert fooled[-1] > fooled[0]
    white = int(PGD(ThreatModel("linf", 0.15), 50)(model, images, labels).fooled.sum())
    assert fooled[-1] <= white + 1, "an attack that sees only labels is not stronger"


def test_rays_flips_the_blocks_that_matter():
    """A model that looks at the second half of the pixels only: the first flip of that half finds it."""

    def predict(images: Tensor) -> Tensor:
        left = images.flatten(1)[:, 96:].mean(dim=1)
        return torch.stack([left - 0.45, torch.zeros_like(left)], dim=1)

    images = torch.full((1, 3, 8, 8), 0.5)
    result = RayS(ThreatModel("linf", 0.06), queries=40)(predict, images, torch.zeros(1, dtype=torch.int64))
    assert bool(result.fooled[0])
    assert bool((result.images.flatten()[96:] < 0.5).all())


def test_nothing_to_find_costs_the_whole_budget():
    def constant(images: Tensor) -> Tensor:
        return torch.tensor([1.0, 0.0]).repeat(len(images), 1)

    images, labels = torch.rand(2, 3, 8, 8), torch.zeros(2, dtype=torch.int64)
    result = RayS(ThreatModel("linf", 0.5), queries=30)(constant, images, labels)
    assert not bool(result.fooled.any())
    assert result.queries.tolist() == [31, 31]
    assert torch.equal(result.images, images)
    attack = FoolboxAttack(ThreatModel("linf", 0.5), "HopSkipJumpAttack", {"steps": 1})
    result = attack(constant, images, labels)
    assert not bool(result.fooled.any()), "no start is found: the image stays right"


@pytest.mark.parametrize(
    ("threat", "attack", "options", "words"),
    [
        ("linf", "HopSkipJump", {}, "no attack 'HopSkipJump'"),
        ("linf", "FlexibleDistanceMinimizationAttack", {"x": 1}, "no (attack|option)"),
        ("linf", "HopSkipJumpAttack", {"step": 3}, "no option step"),
        ("linf", "HopSkipJumpAttack", {"constraint": "l2"}, "not the threat's norm linf"),
        ("linf", "BoundaryAttack", {}, "not in linf"),
        ("l2", "LinfPGD", {}, "not in l2"),
        ("linf", "GenAttack", {}, "targeted misclassification only"),
        ("l2", "DatasetAttack", {}, "fed to it first"),
        ("l2", "BinarizationRefinementAttack", {}, "another attack has found"),
        ("linf", "InversionAttack", {"distance": "l2"}, "the distance is the threat's"),
    ],
)
def test_wrong_foolbox_attacks_are_refused(threat, attack, options, words):
    with pytest.raises(ValueError, match=words):
        FoolboxAttack(ThreatModel(threat, 0.1), attack, options)


@pytest.mark.parametrize(
    "attack",
    [
        *["GaussianBlurAttack", "InversionAttack", "LinearSearchBlendedUniformNoiseAttack"],
        *["BinarySearchContrastReductionAttack", "PointwiseAttack"],
    ],
)
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_attacks_of_any_distance_get_that_of_the_threat(norm, attack):
    model = small_network()
    images, labels = labelled_images(model, 4)
    found = FoolboxAttack(ThreatModel(norm, 0.7 if norm == "linf" else 6.0), attack)(model, images, labels)
    assert ThreatModel(norm, 1.0).distance(images, found.images).max() <= (0.7 if norm == "linf" else 6.0) + 1e-4
    assert (model(found.images).argmax(1) != labels).equal(found.fooled)
    nowhere = FoolboxAttack(ThreatModel(norm, 1e-6), attack)(model, images, labels)
    assert not nowhere.fooled.any()


def test_rays_is_linf_only():
    with pytest.raises(ValueError, match="linf"):
        RayS(ThreatModel("l2", 1.0))
    with pytest.raises(ValueError, match="queries"):
        RayS(ThreatModel("linf", 1.0), 0)


@pytest.mark.parametrize(
    ("attack", "norm"),
    [
        *[("HopSkipJumpAttack", "linf"), ("PointwiseAttack", "linf"), ("GaussianBlurAttack", "linf")],
        *[("LinfAdditiveUniformNoiseAttack", "linf"), ("L2ContrastReductionAttack", "l2"), ("InversionAttack", "l2")],
        *[("LinfPGD", "linf"), ("LinfDeepFoolAttack", "linf"), ("L2PGD", "l2"), ("FGSM", "linf")],
    ],
)
def test_which_of_foolbox_follow_gradients(attack, norm):
    """Those that do have nothing to follow where the answer has none."""
    model = small_network()
    images, labels = labelled_images(model, 2)
    options = {"steps": 2} if attack in ("HopSkipJumpAttack", "LinfDeepFoolAttack") else {}
    box = FoolboxAttack(ThreatModel(norm, 0.2), attack, options)

    def without_gradient(batch):
        return model(batch).detach()

    if follows_gradients(attack):
        with pytest.raises(RuntimeError, match="grad"):
            box(without_gradient, images, labels)
    else:
        assert box(without_gradient, images, labels).fooled.shape == (2,)
