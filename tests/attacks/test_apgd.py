"""APGD: step by step equal to the reference, and what few classes and averaging do."""

from __future__ import annotations

import pytest
import torch
from attack_networks import NORMS, arrays, labelled_images, reference_network, small_network

from partbox.attacks import APGD, ThreatModel
from partbox.attacks.apgd import checkpoint_windows
from partbox.attacks.base import Search


def test_windows_of_100_steps_are_the_published_ones():
    ends = [sum(checkpoint_windows(100)[: i + 1]) for i in range(len(checkpoint_windows(100)))]
    assert ends == [22, 41, 57, 70, 80, 87, 93, 99]
    assert checkpoint_windows(1) == [1]


FIRST_STEPS = 6


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize(("loss", "steps"), [("ce", 100), ("ce", 20), ("ce", 10), ("dlr", 100), ("dlr-targeted", 100)])
def test_equals_the_reference_at_every_step(shared, norm, loss, steps):
    """From the same start: the same logits at every step until the image is fooled, and the same verdict."""
    folder = shared / "fixtures" / "attacks"
    stored = arrays(folder / "trace_apgd.npz")
    model = reference_network(folder)
    images, labels = stored["x"], stored["y"]
    key, start = f"{NORMS[norm]}|{loss}", stored[f"{NORMS[norm]}|x_init"]
    expected, right = stored[f"{key}|{steps}|logits"], stored[f"{key}|{steps}|acc"]
    attack = APGD(ThreatModel(norm, float(stored[f"{NORMS[norm]}|eps"])), steps, loss)
    differences, first_differences = [], []
    for i in range(len(images)):
        seen: list[torch.Tensor] = []

        def predict(batch: torch.Tensor, seen: list[torch.Tensor] = seen) -> torch.Tensor:
            seen.append(model(batch))
            return seen[-1]

        image, label = images[i : i + 1], labels[i : i + 1]
        search = Search(image, label, model(image))
        search.fooled[:] = False  # the reference runs on images that are wrong from the start, too
        targets = stored[f"{key}|y_target"][i : i + 1] if loss == "dlr-targeted" else None
        attack._run(predict, search, torch.arange(1), start[i : i + 1], targets)
        assert bool(search.fooled[0]) == (not bool(right[i]))
        logits = torch.cat(seen).detach()
        apart = (logits - expected[: len(logits), i]).abs().amax(dim=1)
        differences.append(float(apart.max()))
        first_differences.append(float(apart[:FIRST_STEPS].max()))
        assert len(logits) == (steps + 1 if right[i] else int((expected[:, i].argmax(1) != label).int().argmax()) + 1)
    # A sign that flips on a gradient of 1e-9, or a loss that is larger by 1e-7, sends single images elsewhere: in the
    # reference's own repeats, and more of them on another processor, which rounds differently. A step that is wrong
    # sends all of them elsewhere.
    assert sum(difference < 1e-3 for difference in first_differences) >= len(images) - 2
    assert sum(difference < 1e-3 for difference in differences) >= len(images) // 2


@pytest.mark.parametrize("classes", [2, 3, 4, 5])
def test_few_classes_give_fewer_targets_and_a_note(classes):
    model = small_network(classes=classes)
    images, labels = labelled_images(model, 16)
    result = APGD(ThreatModel("linf", 0.02), 10, "dlr-targeted")(model, images, labels)
    robust = ~result.fooled
    assert bool(robust.any())
    assert set(result.queries[robust].tolist()) == {1 + 11 * (classes - 1)}
    assert len(result.notes) == (1 if classes < 4 else 0)
    assert len(APGD(ThreatModel("linf", 0.02), 10, "dlr")(model, images, labels).notes) == (1 if classes < 3 else 0)
    assert APGD(ThreatModel("linf", 0.02), 10)(model, images, labels).notes == ()


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("loss", ["ce", "dlr", "margin", "dlr-targeted"])
def test_results_stay_in_the_ball_and_fool_the_model(norm, loss):
    model = small_network()
    images, labels = labelled_images(model)
    threat = ThreatModel(norm, 0.03 if norm == "linf" else 0.3)
    result = APGD(threat, 20, loss)(model, images, labels)
    assert 0 < int(result.fooled.sum()) < len(images)
    assert torch.equal(model(result.images).argmax(1) != labels, result.fooled)
    assert float(threat.distance(images, result.images).max()) <= threat.eps * (1 + 1e-5)
    assert 0 <= float(result.images.min()) <= float(result.images.max()) <= 1


def test_averaging_sees_through_random_answers():
    """Each answer has noise far larger than the gradient; averaged over 20 answers the attack still finds its way."""
    model = small_network()
    images, labels = labelled_images(model, 32)
    threat = ThreatModel("linf", 0.03)
    honest = APGD(threat, 20)(model, images, labels).fooled
    generator = torch.Generator().manual_seed(0)

    def noisy(batch: torch.Tensor) -> torch.Tensor:
        return model(batch + 0.3 * torch.randn(batch.shape, generator=generator))

    def truly_fooled(average: int) -> int:
        result = APGD(threat, 20, average=average)(noisy, images, labels)
        return int((model(result.images).argmax(1) != labels).sum())

    assert truly_fooled(20) > truly_fooled(1)
    assert truly_fooled(20) >= 0.5 * int(honest.sum())


@pytest.mark.parametrize(
    "options", [{"steps": 0}, {"restarts": 0}, {"targets": 0}, {"average": 0}, {"steps": 2.5}, {"loss": "hinge"}]
)
def test_settings_that_make_no_sense_are_refused(options):
    with pytest.raises(ValueError, match="APGD"):
        APGD(ThreatModel("linf", 0.1), **options)


class Lucky:
    """Answers as the network does, but the opposite in one of ten answers, by chance."""

    def __init__(self, model, seed: int = 0) -> None:
        self.model, self.generator = model, torch.Generator().manual_seed(seed)

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        turned = torch.rand(len(images), 1, generator=self.generator) < 0.1
        logits = self.model(images)
        return torch.where(turned, -logits, logits)


@pytest.mark.parametrize("loss", ["ce", "dlr"])
def test_a_random_models_verdict_is_that_of_a_fresh_answer(loss):
    """In 20 answers one is wrong by luck almost for sure; as the official code does, none of those decides."""
    model = small_network()
    images, labels = labelled_images(model, 64)
    attack = APGD(ThreatModel("linf", 1e-4), 6, loss, average=3)
    result = attack(Lucky(model), images, labels)
    assert 0 < int(result.fooled.sum()) <= 24  # a tenth when clean, another tenth in the end
    assert set(result.queries[~result.fooled].tolist()) == {attack.passes}
    strong = APGD(ThreatModel("linf", 0.03), 20, loss, average=3)(Lucky(model), images, labels)
    truly = model(strong.images).argmax(1) != labels
    attacked = torch.tensor([name != "clean" for name in strong.fooled_by])
    assert int((strong.fooled & attacked).sum()) > 15
    assert float(truly[strong.fooled & attacked].float().mean()) > 0.75
    assert torch.equal(strong.loss > 0, strong.fooled)


def test_random_models_are_as_robust_as_the_official_attack_says():
    official = pytest.importorskip("pyautoattack.autopgd_base")
    model = small_network()
    images, labels = labelled_images(model, 64)
    generator = torch.Generator().manual_seed(0)

    def noisy(batch: torch.Tensor) -> torch.Tensor:
        return model(batch + 0.02 * torch.randn(batch.shape, generator=generator))

    def right(found: torch.Tensor) -> float:
        return sum(float((noisy(found).argmax(1) == labels).float().mean()) for _ in range(20)) / 20

    for eps in (0.005, 0.015):
        peer = official.APGDAttack(
            noisy, n_iter=20, n_restarts=1, eps=eps, norm="Linf", seed=0, eot_iter=5, device="cpu", verbose=False
        )
        theirs = right(peer.perturb(images, labels))
        result = APGD(ThreatModel("linf", eps), 20, average=5)(noisy, images, labels)
        ours = float((~result.fooled).float().mean())
        assert abs(ours - theirs) < 0.1, (eps, ours, theirs)
        assert right(result.images) < theirs + 0.1, eps
