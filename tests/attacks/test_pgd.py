"""PGD: verdicts, best iterates, independence of the batch, and what it must not leave behind."""

from __future__ import annotations

import pytest
import torch
from attack_networks import NORMS, arrays, reference_images, reference_network
from torch import Tensor, nn

from partbox.attacks import PGD, AttackError, AttackResult, ThreatModel, attack_mode


class Linear(nn.Module):
    """logits = W x: the worst case of a ball is known in closed form."""

    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.flatten(1) @ self.weight.T


@pytest.fixture
def linear() -> Linear:
    return Linear(torch.randn(2, 12, generator=torch.Generator().manual_seed(0)))


def images_and_labels(model: nn.Module, count: int = 40) -> tuple[torch.Tensor, torch.Tensor]:
    images = torch.rand(count, 3, 2, 2, generator=torch.Generator().manual_seed(1)) * 0.4 + 0.3
    with torch.no_grad():
        return images, model(images).argmax(dim=1)


def small_net(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(8 * 36, 4)
    ).eval()


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("eps", [0.02, 0.05, 0.1, 0.2])
def test_linear_model_is_fooled_exactly_where_theory_says(linear, norm, eps):
    """A linear two-class model falls iff its margin is below eps times the dual norm (away from the [0, 1] walls)."""
    images, labels = images_and_labels(linear)
    with torch.no_grad():
        logits = linear(images)
        difference = linear.weight[0] - linear.weight[1]
        gap = (logits[:, 0] - logits[:, 1]).abs()
        dual = difference.abs().sum() if norm == "linf" else difference.norm()
    result = PGD(ThreatModel(norm, eps), steps=40)(linear, images, labels, seed=0)
    clear = (gap - eps * dual).abs() > 0.02 * eps * dual  # a finite number of steps stops just short of the border
    assert torch.equal(result.fooled[clear], (gap < eps * dual)[clear])


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_results_are_allowed_and_fooled_means_misclassified(norm):
    model = small_net()
    images = torch.rand(32, 3, 8, 8)
    labels = model(images).argmax(dim=1)
    labels[:4] = (labels[:4] + 1) % 4  # wrong from the start
    threat = ThreatModel(norm, 0.01 if norm == "linf" else 0.08)
    result = PGD(threat, 10, restarts=2)(model, images, labels, seed=0)
    assert float(threat.distance(images, result.images).max()) <= threat.eps * (1 + 1e-5) + 1e-6
    assert 0 <= float(result.images.min()) <= float(result.images.max()) <= 1
    assert torch.equal(model(result.images).argmax(dim=1) != labels, result.fooled)
    assert bool(result.fooled[:4].all())
    assert torch.equal(result.images[:4], images[:4])
    assert result.queries[:4].tolist() == [1, 1, 1, 1]
    robust = ~result.fooled
    assert 0 < int(robust.sum()) < 28
    assert set(result.queries[robust].tolist()) == {1 + 2 * 11}  # clean + 2 restarts x (10 steps + the last iterate)


def test_the_best_iterate_counts_not_the_last():
    """With a step so long that the last iterate is harmless, an earlier one must still be found."""

    class Narrow(nn.Module):
        """Misclassifies in a narrow band only, which the search crosses in the middle of its way."""

        def forward(self, images):
            value = images.flatten(1).mean(dim=1)
            return torch.stack([torch.zeros_like(value), 0.02 - (value - 0.55).abs() + 0 * value], dim=1)

    images = torch.full((1, 1, 2, 2), 0.5)
    labels = torch.tensor([0])
    attack = PGD(ThreatModel("linf", 0.3), steps=3, step_size=0.05, random_start=False)
    assert bool(attack(Narrow(), images, labels).fooled[0])
    assert int(attack(Narrow(), images, labels).queries[0]) == 3  # clean, start, first step; then it stops


def test_verdicts_do_not_depend_on_batch_or_order():
    model = small_net()
    images = torch.rand(64, 3, 8, 8)
    labels = model(images).argmax(dim=1)
    ids = [f"image{i}" for i in range(64)]
    attack = PGD(ThreatModel("linf", 0.03), 5)
    whole = attack(model, images, labels, image_ids=ids, seed=5)
    order = torch.randperm(64)
    for size in (1, 7, 64):
        fooled = torch.empty(64, dtype=torch.bool)
        for rows in order.split(size):
            part = attack(model, images[rows], labels[rows], image_ids=[ids[i] for i in rows], seed=5)
            fooled[rows] = part.fooled
        assert torch.equal(fooled, whole.fooled)
    assert 0 < int(whole.fooled.sum()) < 64


def test_robust_accuracy_falls_with_eps_to_zero():
    model = small_net()
    images = torch.rand(64, 3, 8, 8)
    labels = model(images).argmax(dim=1)
    shares = [
        1 - float(PGD(ThreatModel("linf", eps), 20)(model, images, labels).fooled.float().mean())
        for eps in (0.0, 0.01, 0.03, 0.1, 0.5)
    ]
    assert shares[0] == 1.0
    assert shares[-1] == 0.0
    assert shares == sorted(shares, reverse=True)
    assert 0 < shares[2] < 1


def test_more_restarts_are_never_weaker():
    model = small_net()
    images = torch.rand(64, 3, 8, 8)
    labels = model(images).argmax(dim=1)
    one = PGD(ThreatModel("linf", 0.03), 2)(model, images, labels, seed=0).fooled
    five = PGD(ThreatModel("linf", 0.03), 2, restarts=5)(model, images, labels, seed=0).fooled
    assert bool((five | ~one).all())


def test_attack_mode_restores_every_mode_and_every_flag():
    model = small_net().train()
    model[1].eval()
    model[0].weight.requires_grad_(False)
    modes = [module.training for module in model.modules()]
    flags = [parameter.requires_grad for parameter in model.parameters()]
    statistics = model[1].running_mean.clone()

    def interrupted_attack() -> None:
        with attack_mode(model):
            assert not any(module.training for module in model.modules())
            assert not any(parameter.requires_grad for parameter in model.parameters())
            PGD(ThreatModel("linf", 0.1), 2)(model, torch.rand(4, 3, 8, 8), torch.zeros(4, dtype=torch.int64))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted_attack()
    assert [module.training for module in model.modules()] == modes
    assert [parameter.requires_grad for parameter in model.parameters()] == flags
    assert torch.equal(model[1].running_mean, statistics)
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("break_gradient", [lambda x: x.detach(), lambda x: (x > 0.5).float()])
def test_a_model_without_gradient_is_an_error_not_a_robust_model(linear, break_gradient):
    images, labels = images_and_labels(linear)
    with pytest.raises(AttackError, match="differentiable"), attack_mode(linear):
        PGD(ThreatModel("linf", 0.1))(lambda x: linear(break_gradient(x)), images, labels)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_confidence_does_not_look_like_robustness(norm):
    """Logits times 100 make the cross-entropy's gradient underflow to zero; the decisions stay as they were."""
    model = small_net()
    images = torch.rand(64, 3, 8, 8)
    labels = model(images).argmax(dim=1)
    attack = PGD(ThreatModel(norm, 0.02 if norm == "linf" else 0.2), 10)
    honest = attack(model, images, labels)
    confident = attack(lambda x: 100 * model(x), images, labels)
    assert 0 < int(honest.fooled.sum()) < 64
    assert int(confident.fooled.sum()) >= int(honest.fooled.sum()) - 2
    assert not bool(confident.zero_gradient.any())


def test_training_on_a_blind_attack_is_an_error(linear):
    images, labels = images_and_labels(linear)
    with pytest.raises(AttackError, match="blind"):
        PGD(ThreatModel("linf", 0.1), 2).perturb(
            lambda x: linear(x * 0), images, labels, image_ids=range(len(images)), seed=0
        )


def test_a_result_needs_only_what_every_attack_has():
    result = AttackResult(torch.rand(1, 3, 2, 2), torch.tensor([True]), torch.tensor([3]))
    assert result.loss is None
    assert result.zero_gradient is None


def test_zero_gradients_are_reported(linear):
    images, labels = images_and_labels(linear)

    def flat(x):
        return linear(x * 0 + images.mean(dim=0)) * torch.tensor([1.0, 1.0])

    with torch.no_grad():
        constant = flat(images).argmax(dim=1)
    result = PGD(ThreatModel("linf", 0.1), 3)(flat, images, constant)
    assert bool(result.zero_gradient.all())
    assert not bool(PGD(ThreatModel("linf", 1e-4), 3)(linear, images, labels).zero_gradient.any())


@pytest.mark.parametrize(
    ("images", "labels", "ids", "words"),
    [
        (torch.zeros(2, 3, 2, 2, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64), None, "divide uint8"),
        (torch.full((2, 3, 2, 2), 200.0), torch.zeros(2, dtype=torch.int64), None, "within"),
        (torch.full((2, 3, 2, 2), float("nan")), torch.zeros(2, dtype=torch.int64), None, "finite"),
        (torch.rand(2, 3, 2, 2), torch.zeros(3, dtype=torch.int64), None, "labels"),
        (torch.rand(2, 3, 2, 2), torch.zeros(2), None, "integers"),
        (torch.rand(2, 3, 2, 2), torch.zeros(2, dtype=torch.int64), ["a"], "1 image ids"),
        (torch.rand(2, 3, 2, 2), torch.full((2,), 9), None, r"\[0, 2\)"),
    ],
)
def test_bad_inputs_are_refused(linear, images, labels, ids, words):
    with pytest.raises(AttackError, match=words):
        PGD(ThreatModel("linf", 0.1))(linear, images, labels, image_ids=ids)


def test_non_finite_logits_are_refused(linear):
    images, labels = images_and_labels(linear)
    with pytest.raises(AttackError, match="not finite"):
        PGD(ThreatModel("linf", 0.1))(lambda x: linear(x) / 0, images, labels)


def test_empty_batch_gives_an_empty_result(linear):
    result = PGD(ThreatModel("linf", 0.1))(linear, torch.rand(0, 3, 2, 2), torch.zeros(0, dtype=torch.int64))
    assert len(result.images) == len(result.fooled) == 0


@pytest.mark.parametrize(
    "options", [{"steps": 0}, {"restarts": 0}, {"restarts": 2, "random_start": False}, {"step_size": 0}]
)
def test_settings_that_make_no_sense_are_refused(options):
    with pytest.raises(ValueError, match=r"PGD|restarts|step size"):
        PGD(ThreatModel("linf", 0.1), **options)


def published_pgd(model: nn.Module, images: Tensor, labels: Tensor, norm: str, eps: float) -> Tensor:
    """PGD-20 (Madry et al. 2018) as papers write it: step eps / 10, the last iterate."""
    found = images
    for _ in range(20):
        leaf = found.detach().requires_grad_(True)
        (gradient,) = torch.autograd.grad(nn.functional.cross_entropy(model(leaf), labels, reduction="sum"), leaf)
        if norm == "linf":
            found = images + (found + eps / 10 * gradient.sign() - images).clamp(-eps, eps)
        else:
            length = gradient.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
            change = found + eps / 10 * gradient / length - images
            size = change.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
            found = images + change * (eps / size).clamp(max=1)
        found = found.clamp(0, 1)
    return found


@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.1), ("linf", 0.15), ("linf", 0.2), ("l2", 0.8), ("l2", 2.0)])
def test_equals_the_reference_runs_of_torchattacks(shared, norm, eps):
    """PGD-20 without random start, step eps / 10, on the reference network: the same last iterate."""
    folder = shared / "fixtures" / "attacks"
    model = reference_network(folder)
    images, labels = reference_images(folder)
    file = folder / "adv" / f"at_{NORMS[norm]}_{eps:.4f}_torchattacks_pgd-20_nostart_a=eps_over_10.npz"
    (expected,) = arrays(file).values()
    attack = PGD(ThreatModel(norm, eps), 20, eps / 10, random_start=False)
    with attack_mode(model):
        found = attack.perturb(model, images, labels, image_ids=list(range(100)), seed=0)
    # The published loop on this processor; l2 steps are divided by lengths that round differently.
    published = published_pgd(model, images, labels, norm, eps)
    torch.testing.assert_close(found, published, atol=1e-6 if norm == "linf" else 1e-4, rtol=0)
    # On another processor than the reference's the sign of a gradient of 1e-9 is another: single pixels go elsewhere.
    apart = (found - expected).abs() > (1e-5 if norm == "linf" else 1e-2)
    assert apart.float().mean() < 0.03
    assert (~apart.flatten(1).any(dim=1)).sum() >= 60
    robust = int((model(found).argmax(1) == labels).sum())
    assert abs(robust - int((model(expected).argmax(1) == labels).sum())) <= 1
