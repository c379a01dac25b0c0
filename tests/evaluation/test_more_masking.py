"""Maskings beside the four of ``test_self_checks.py``: flagged; and hard honest cases, which are not."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from masking_problem import COUNT, Problem
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from partbox.attacks import PGD, ThreatModel
from partbox.evaluation.self_checks import check_classifier

THREAT = ThreatModel("linf", 0.04)


@pytest.fixture(scope="module")
def problem() -> Problem:
    return Problem()


def failed(checks: dict) -> dict[str, str]:
    return {name: one.reason for name, one in checks.items() if not one.passed}


def jpeg(images: Tensor) -> Tensor:
    """Each image through JPEG, as preprocessing does it."""
    found = []
    for image in images.detach():
        buffer = io.BytesIO()
        pixels = (image.permute(1, 2, 0) * 255).round().byte().numpy()
        Image.fromarray(pixels).save(buffer, "JPEG", quality=60)
        found.append(np.asarray(Image.open(buffer).convert("RGB"), dtype=np.float32) / 255)
    return torch.from_numpy(np.stack(found)).permute(0, 3, 1, 2)


MASKINGS = {
    "JPEG without a gradient": (lambda p, x: p.model(jpeg(x)), "gradients", "no gradient"),
    "one-hot answers": (lambda p, x: functional.one_hot(p.model(x).argmax(1), 4).float(), "gradients", "no gradient"),
    "detached features": (lambda p, x: p.model[5](p.model[:5](x.detach())), "gradients", "no gradient"),
    "detached but for a trickle": (
        lambda p, x: p.model(x.detach()) + 1e-3 * x.mean(dim=(2, 3)) @ torch.ones(3, 4),
        "black box",
        "mislead",
    ),
    "dropout when tested": (
        lambda p, x: p.model[5](functional.dropout(p.model[:5](x), 0.5, training=True)),
        "deterministic",
        "each time",
    ),
    "a high temperature": (lambda p, x: 1e-6 * p.model(x), "black box", "mislead"),
    "a low temperature": (lambda p, x: 30 * p.model(x), "gradients", "saturated"),
    "saturated sigmoids": (lambda p, x: torch.sigmoid(1e3 * p.model(x)), "gradients", "exactly zero"),
    "a ripple of high frequency": (
        lambda p, x: p.model(x + 0.01 * torch.sin(5000 * x)),
        "black box",
        "mislead",
    ),
    "noise on the image": (lambda p, x: p.model(x + 0.05 * torch.randn_like(x)), "deterministic", "each time"),
    "steps in the features": (
        lambda p, x: p.model[5]((p.model[:5](x) * 4).round() / 4),
        "gradients",
        "exactly zero",
    ),
}


@pytest.mark.parametrize("masking", MASKINGS)
def test_it_is_flagged(problem, masking):
    predict, name, words = MASKINGS[masking]
    found = failed(problem.checks(lambda x: predict(problem, x)))
    assert words in found[name]


def test_a_gradient_that_only_the_parameters_have_is_none(problem):
    """Of a network that nobody froze."""
    layer = nn.Linear(144, 4)
    model = lambda x: layer(problem.model[:5](x.detach()))  # noqa: E731
    robust = torch.zeros(COUNT, dtype=torch.bool)
    checks = check_classifier(model, problem.images, problem.labels, robust, THREAT, image_ids=range(COUNT))
    assert "no gradient" in {one.name: one.reason for one in checks}["gradients"]


def test_a_milder_temperature_is_honest(problem):
    assert failed(problem.checks(lambda x: 0.1 * problem.model(x))) == {}


def at_chance(problem: Problem) -> nn.Module:
    torch.manual_seed(5)
    return nn.Sequential(nn.Flatten(), nn.Linear(432, 4)).requires_grad_(False)


def test_a_model_at_chance_is_not_flagged(problem):
    assert failed(problem.checks(at_chance(problem))) == {}


def test_a_model_that_is_always_wrong_is_not_flagged(problem):
    checks = problem.checks(lambda x: -problem.model(x))
    right = checks["large eps"].values["images"]
    assert right <= 3
    assert failed(checks) == {}


def test_a_constant_classifier_is_as_robust_as_can_be_and_flagged(problem):
    """Nobody can attack it, and nothing shows that the attack would have worked."""
    constant = torch.tensor([5.0, 0, 0, 0])
    found = failed(problem.checks(lambda x: constant + 0 * x.mean(dim=(1, 2, 3))[:, None]))
    assert "something in the model has none" in found["gradients"]
    assert "stay right where every change is allowed" in found["large eps"]
    found = failed(problem.checks(lambda x: constant.repeat(len(x), 1)))
    assert "no gradient" in found["gradients"]


def test_two_classes(problem):
    def model(x: Tensor) -> Tensor:
        logits = problem.model(x)
        return torch.stack([logits[:, :2].amax(dim=1), logits[:, 2:].amax(dim=1)], dim=1)

    labels = problem.labels // 2
    result = PGD(THREAT, 20)(model, problem.images, labels, image_ids=range(COUNT))
    arguments = (problem.images, labels, ~result.fooled, THREAT)
    checks = check_classifier(model, *arguments, image_ids=range(COUNT))
    assert [one.name for one in checks if not one.passed] == []
    masked = lambda x: model((x * 16).round() / 16)  # noqa: E731
    checks = check_classifier(masked, *arguments, image_ids=range(COUNT))
    assert not {one.name: one for one in checks}["gradients"].passed


@pytest.mark.parametrize("index", range(4))
def test_a_single_image_is_enough_to_notice_and_honesty_passes(problem, index):
    right = (problem.model(problem.images).argmax(dim=1) == problem.labels).nonzero()[:, 0]
    row = right[index : index + 1]
    image, label = problem.images[row], problem.labels[row]

    def checks(predict) -> dict[str, str]:
        robust = torch.ones(1, dtype=torch.bool)
        result = PGD(THREAT, 20)(problem.model, image, label, image_ids=[0])
        found = check_classifier(predict, image, label, robust & ~result.fooled, THREAT, image_ids=[0])
        return {one.name: one.reason for one in found if not one.passed}

    assert checks(problem.model) == {}
    assert "1 of 1 images" in checks(lambda x: problem.model((x * 16).round() / 16))["gradients"]
    floor = lambda x: functional.one_hot(label, 4) + 1e-9 * problem.model(x)  # noqa: E731
    assert "large eps" in checks(floor)
