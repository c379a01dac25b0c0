"""Self-checks of detectors and segmenters: honest models pass, planted masking is flagged, odd images end nothing."""

from __future__ import annotations

import re

import pytest
import torch
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn

from partbox.attacks import attack_mode
from partbox.engine.evaluation_cost import cost_lines, self_check_lines
from partbox.evaluation import DetectorSubject, SegmenterSubject, build_perturbations, evaluate
from partbox.evaluation.detectron2_checks import check_detectron2, most_passes


def resized(image: Tensor) -> Tensor:
    """Through a random size and back."""
    size = int(torch.randint(7, 16, ()))
    there = nn.functional.interpolate(image[None], size=size, mode="bilinear")
    return nn.functional.interpolate(there, size=image.shape[-2:], mode="bilinear")[0]


class Nonsense(torch.autograd.Function):
    """The identity, with a gradient of the right size that has nothing to do with it."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        noise = torch.randn(gradient.shape, generator=torch.Generator().manual_seed(0))
        return noise * gradient.abs().mean()


MASKINGS = {
    "": lambda image: image,
    "input quantisation": lambda image: (image * 16).round() / 16,
    "saturated logits": lambda image: image,
    "random resizing": resized,
    "non-differentiable preprocessing": lambda image: torch.from_numpy(image.detach().numpy().copy()),
    "straight through nonsense": Nonsense.apply,
}


class OneObject(nn.Module):
    """Finds one object, the left half, while the image's mean there is above 0.45.

    Like some detectors it has no losses for images without objects.
    """

    def __init__(self, masking: str = "") -> None:
        super().__init__()
        self.masking = masking
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, batch: list[dict]) -> list[dict] | dict[str, Tensor]:
        images = [MASKINGS[self.masking](one["image"] / 255) for one in batch]
        steep = 1e6 if self.masking == "saturated logits" else 40
        marks = [self.weight * (steep * (image[..., :4].mean() - 0.45)) for image in images]
        if self.training:
            wanted = [mark for mark, one in zip(marks, batch, strict=True) if len(one["instances"])]
            zero = torch.zeros(())
            losses = sum((nn.functional.softplus(-mark) for mark in wanted), zero)
            return {"loss_cls": losses, "loss_box_reg": sum((-0.1 * mark for mark in wanted), zero)}
        answers = []
        for mark in marks:
            found = Instances((8, 8))
            found.pred_boxes, found.scores = Boxes(torch.tensor([[0.0, 0.0, 4.0, 8.0]])), mark.sigmoid()[None]
            found.pred_classes = torch.zeros(1, dtype=torch.int64)
            answers.append({"instances": found})
        return answers


def sample(image_id: int, objects: int) -> dict:
    truth = Instances((8, 8))
    truth.gt_boxes = Boxes(torch.tensor([[0.0, 0.0, 4.0, 8.0]]).repeat(objects, 1))
    truth.gt_classes = torch.zeros(objects, dtype=torch.int64)
    image = torch.full((3, 8, 8), 122, dtype=torch.uint8)
    return {"image": image, "image_id": image_id, "instances": truth, "height": 8, "width": 8}


def run(goal: str, samples: list[dict]):
    """The evaluation's outcome, and the reasons of the checks that failed, by name."""
    perturbations = build_perturbations([{"name": "detector-pgd", "eps": "20/255", "steps": 4, "goal": goal}])
    subject = DetectorSubject(OneObject().eval(), 3)
    outcome = evaluate(subject, [samples], perturbations, progress=False)
    with attack_mode(subject.module):
        checks = check_detectron2(subject, samples, perturbations[1:])
    return outcome, {one.name: one.reason for one in checks if not one.passed}


@pytest.mark.parametrize("goal", ["localisation", "mislabel"])
def test_images_without_objects_are_no_zero_gradient_where_the_goal_needs_objects(goal):
    outcome, failed = run(goal, [sample(i, int(i > 1)) for i in range(4)])
    entry = outcome.results["by_perturbation"][f"detector-pgd-4-{goal} linf 20/255"]
    assert entry["zero_gradient_images"] == 0
    assert any("nothing to attack" in note for note in entry["notes"])
    assert outcome.results["warnings"] == []
    assert "gradients" not in failed


def test_an_image_with_constant_losses_is_counted_and_the_evaluation_goes_on():
    outcome, failed = run("all", [sample(0, 0), *[sample(i, 1) for i in range(1, 4)]])
    entry = outcome.results["by_perturbation"]["detector-pgd-4-all linf 20/255"]
    assert entry["zero_gradient_images"] == 1
    assert any("do not depend on the image" in note for note in entry["notes"])
    assert entry["objects_found"] == 0, "the others are attacked all the same"
    assert "exactly zero on 1 of 4 images" in failed["gradients"]


class TwoPlaces(nn.Module):
    """Always finds the left half, and sees a second object on the right while that half's mean is above 0.7.

    With ``blind`` the losses look at the left half alone: attacks on them have gradients and change nothing.
    """

    def __init__(self, blind: bool = False) -> None:
        super().__init__()
        self.blind, self.weight = blind, nn.Parameter(torch.ones(()))

    def forward(self, batch: list[dict]) -> list[dict] | dict[str, Tensor]:
        image = batch[0]["image"] / 255
        left, right = image[..., :4].mean(), image[..., 4:].mean()
        if self.training:
            return {"loss_cls": self.weight * (left if self.blind else right)}
        found = Instances((8, 8))
        found.pred_boxes = Boxes(torch.tensor([[0.0, 0.0, 4.0, 8.0], [4.0, 0.0, 8.0, 8.0]]))
        found.scores = torch.stack([torch.tensor(0.9), (self.weight * 40 * (right - 0.7)).sigmoid()])
        found.pred_classes = torch.zeros(2, dtype=torch.int64)
        return [{"instances": found}]


def fabricate(model: nn.Module) -> tuple[dict, dict[str, str]]:
    """Of one image: the entry under attack, and the reasons of the checks that failed."""
    specs = [{"name": "detector-pgd", "eps": "80/255", "steps": 4, "goal": "fabricate"}]
    attacks = build_perturbations(specs)
    subject = DetectorSubject(model.eval(), 3)
    outcome = evaluate(subject, [[sample(0, 1)]], attacks, progress=False)
    with attack_mode(subject.module):
        checks = check_detectron2(subject, [sample(0, 1)], attacks[1:])
    assert {"fabricated: noise", "fabricated: large eps"} <= {one.name for one in checks}
    return outcome.results["by_perturbation"], {one.name: one.reason for one in checks if not one.passed}


def test_fabricated_objects_are_counted_and_judged_by_the_false_objects():
    entries, failed = fabricate(TwoPlaces())
    attacked = entries["detector-pgd-4-fabricate linf 80/255"]
    assert (entries["clean"]["false_objects"], attacked["false_objects"]) == (0, 1)
    assert attacked["object_recall"] == 1, "the labelled object is still found, which is no fault of the attack"
    assert failed == {}


def test_an_attack_that_fabricates_nothing_is_flagged():
    entries, failed = fabricate(TwoPlaces(blind=True))
    assert entries["detector-pgd-4-fabricate linf 80/255"]["false_objects"] == 0
    assert set(failed) == {"fabricated: large eps"}
    assert "0 false objects where every change is allowed and 0 on the clean images" in failed["fabricated: large eps"]


def test_noise_that_fabricates_more_than_the_attack_is_flagged(monkeypatch):
    bright = torch.ones(3, 8, 8)
    monkeypatch.setattr("partbox.evaluation.fabrication_checks.noisy", lambda threat, image, image_id, seed: bright)
    _, failed = fabricate(TwoPlaces(blind=True))
    assert "noise of the same size fabricates more objects (1) than the attack (0)" in failed["fabricated: noise"]


@pytest.mark.parametrize("masking", ["", "saturated logits", "non-differentiable preprocessing"])
def test_masking_of_a_detector_is_flagged(masking):
    """Quantisation and random answers: see the tests of detectron2's own detectors."""
    subject = DetectorSubject(OneObject(masking).eval(), 3)
    spec = {"name": "detector-pgd", "eps": "20/255", "steps": 10, "goal": "classification"}
    with attack_mode(subject.module):
        checks = check_detectron2(subject, [sample(i, 1) for i in range(3)], build_perturbations([spec])[1:])
    failed = {one.name: one.reason for one in checks if not one.passed}
    assert set(failed) == ({"gradients"} if masking else set())
    assert not masking or "exactly zero on 3 of 3 images" in failed["gradients"]


class Pixels(nn.Module):
    """A random network that calls each pixel one of four classes; its own answers are the labels."""

    def __init__(self, masking: str = "") -> None:
        super().__init__()
        torch.manual_seed(0)
        self.masking = masking
        self.layers = nn.Sequential(nn.Conv2d(3, 12, 3, 1, 1), nn.Tanh(), nn.Conv2d(12, 4, 3, 1, 1))
        for parameter in self.parameters():
            parameter.data *= 3

    def forward(self, batch: list[dict]) -> list[dict]:
        scale = 1e4 if self.masking == "saturated logits" else 1
        return [{"sem_seg": self.layers(MASKINGS[self.masking](one["image"] / 255)[None])[0] * scale} for one in batch]


@pytest.mark.parametrize("loss", ["ce", "segpgd", "cospgd"])
@pytest.mark.parametrize("masking", list(MASKINGS)[:5])
def test_masking_of_a_segmenter_is_flagged_and_an_honest_one_is_not(masking, loss):
    honest = Pixels().eval()
    images = (torch.rand(3, 3, 12, 12, generator=torch.Generator().manual_seed(1)) * 255).to(torch.uint8)
    samples = [{"image_id": i, "image": image, "height": 12, "width": 12} for i, image in enumerate(images)]
    with torch.no_grad():
        answers = honest([{**one, "image": one["image"].float()} for one in samples])
    samples = [{**a, "sem_seg": b["sem_seg"].argmax(dim=0)} for a, b in zip(samples, answers, strict=True)]
    subject = SegmenterSubject(Pixels(masking).eval())
    attacks = build_perturbations([{"name": "segmentation-pgd", "eps": "8/255", "steps": 20, "loss": loss}])[1:]
    with attack_mode(subject.module):
        checks = check_detectron2(subject, samples, attacks)
    failed = {one.name: one.reason for one in checks if not one.passed}
    words = {
        "": {},
        "input quantisation": {"gradients": "exactly zero on 3 of 3 images"},
        "saturated logits": {"gradients": "saturated logits"},
        "random resizing": {"deterministic": "each time"},
        "non-differentiable preprocessing": {"gradients": "cannot be attacked"},
    }[masking]
    assert set(words) <= set(failed)
    assert masking or not failed
    assert all(text in failed[name] for name, text in words.items())


class Counted(nn.Module):
    """A model that counts the images it is asked about."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.images = model, []  # a number would be as before after each look at the losses

    def forward(self, batch: list[dict]):
        self.images += batch
        return self.model(batch)


SPECS = [{"name": "detector-pgd", "eps": "1e-6", "steps": 4, "goal": goal} for goal in ("all", "fabricate", "vanish")]
PIXEL_SPECS = [{"name": "segmentation-pgd", "eps": "1e-6", "steps": 4, "loss": loss} for loss in ("ce", "segpgd")]


def labelled_pixels(count: int) -> list[dict]:
    """Images with a random network's own answers as labels."""
    images = (torch.rand(count, 3, 12, 12, generator=torch.Generator().manual_seed(1)) * 255).to(torch.uint8)
    samples = [{"image_id": i, "image": image, "height": 12, "width": 12} for i, image in enumerate(images)]
    with torch.no_grad():
        answers = Pixels().eval()([{**one, "image": one["image"].float()} for one in samples])
    return [{**a, "sem_seg": b["sem_seg"].argmax(dim=0)} for a, b in zip(samples, answers, strict=True)]


@pytest.mark.parametrize("kind", ["detector", "segmenter"])
@pytest.mark.parametrize("with_surrogate", [False, True])
def test_the_plan_knows_the_passes_of_evaluation_and_checks(kind, with_surrogate):
    """On images that nothing fools; the plan of ``--dry-run`` is an upper bound, and not far above."""
    count = 6
    counted = Counted(Certain(0.9) if kind == "detector" else Pixels()).eval()
    if kind == "detector":
        samples, specs = [sample(i, 1) for i in range(count)], [*SPECS, {"name": "square", "eps": "1e-6", "queries": 9}]
        surrogate = DetectorSubject(counted, 3) if with_surrogate else None
        subject: DetectorSubject | SegmenterSubject = DetectorSubject(counted, 3, surrogate=surrogate)
    else:
        samples, specs = labelled_pixels(count), PIXEL_SPECS
        surrogate = SegmenterSubject(counted) if with_surrogate else None
        subject = SegmenterSubject(counted, surrogate=surrogate)
    perturbations = build_perturbations([{"name": "noise", "eps": "1e-6"}, *specs])
    evaluate(subject, [samples], perturbations, progress=False)
    lines = cost_lines(perturbations, count, kind)
    told = sum(int(re.search(r"at most ([\d,]+)", line)[1].replace(",", "")) for line in lines)
    assert told - 2 * count <= len(counted.images) <= told, "clean and noise count two passes each, as of a classifier"
    counted.images.clear()
    with attack_mode(counted):
        checks = check_detectron2(subject, samples, perturbations[2:])
    assert ("transfer" in {one.name for one in checks}) == with_surrogate
    attacks = perturbations[2:]
    (line,) = self_check_lines(perturbations, count, surrogate=with_surrogate, kind=kind)
    most = most_passes(attacks, count, kind, surrogate=with_surrogate)
    assert f"at most {most:,} passes" in line
    assert 0.9 * most < len(counted.images) <= most


class Cut(nn.Module):
    """Draws anew each time it is asked, or cuts the gradient off, before any model."""

    def __init__(self, model: nn.Module, masking: str) -> None:
        super().__init__()
        self.model, self.masking = model, masking

    def forward(self, batch: list[dict]):
        change = {
            "noise on the image": lambda x: x + 20 * torch.randn_like(x),
            "detached features": lambda x: x.detach(),
            "a ripple of high frequency": lambda x: x + 3 * torch.sin(19.7 * x),
        }[self.masking]
        return self.model([{**one, "image": change(one["image"])} for one in batch])


@pytest.mark.parametrize("masking", ["noise on the image", "detached features", "a ripple of high frequency"])
@pytest.mark.parametrize("kind", ["detector", "segmenter"])
def test_other_maskings_are_flagged(kind, masking):
    model = Cut(OneObject() if kind == "detector" else Pixels(), masking).eval()
    if kind == "detector":
        samples, subject = [sample(i, 1) for i in range(3)], DetectorSubject(model, 3)
        spec = {"name": "detector-pgd", "eps": "20/255", "steps": 10, "goal": "classification"}
    else:
        samples, subject = labelled_pixels(3), SegmenterSubject(model)
        spec = {"name": "segmentation-pgd", "eps": "8/255", "steps": 20}
    with attack_mode(model):
        checks = check_detectron2(subject, samples, build_perturbations([spec])[1:])
    failed = {one.name for one in checks if not one.passed}
    expected = {"noise on the image": {"deterministic"}, "detached features": {"gradients"}}
    assert failed & expected.get(masking, {"large eps", "black box"})


class Certain(nn.Module):
    """A detector that always finds one object, or never any, whatever it sees."""

    def __init__(self, score: float) -> None:
        super().__init__()
        self.weight, self.score = nn.Parameter(torch.ones(())), score

    def forward(self, batch: list[dict]):
        mean = self.weight * (batch[0]["image"] / 255).mean()
        if self.training:
            return {"loss_cls": mean, "loss_box_reg": mean}
        found = Instances((8, 8))
        found.pred_boxes, found.scores = Boxes(torch.tensor([[0.0, 0.0, 4.0, 8.0]])), torch.tensor([self.score])
        found.pred_classes = torch.zeros(1, dtype=torch.int64)
        return [{"instances": found}]


@pytest.mark.parametrize(
    ("score", "objects", "name", "words"),
    [
        (0.9, 1, "large eps", "100% stay right where every change is allowed"),
        (0.3, 1, "something to lose", "no labelled object is found on the 2 clean images"),
        (0.9, 0, "something to lose", "no labelled object is found"),
    ],
)
def test_a_detector_on_which_no_attack_could_be_seen_to_work_is_flagged(score, objects, name, words):
    subject = DetectorSubject(Certain(score).eval(), 3)
    attacks = build_perturbations([{"name": "detector-pgd", "eps": "20/255", "steps": 2, "goal": "vanish"}])[1:]
    with attack_mode(subject.module):
        checks = check_detectron2(subject, [sample(i, objects) for i in range(2)], attacks)
    assert words in {one.name: one.reason for one in checks}[name]


def test_a_segmenter_that_is_right_nowhere_is_flagged():
    samples = [{**one, "sem_seg": (one["sem_seg"] + 1) % 4} for one in labelled_pixels(2)]
    subject = SegmenterSubject(Pixels().eval())
    attacks = build_perturbations([{"name": "segmentation-pgd", "eps": "8/255", "steps": 2}])[1:]
    with attack_mode(subject.module):
        checks = check_detectron2(subject, samples, attacks)
    assert {one.name for one in checks if not one.passed} == {"something to lose"}


def test_unlabelled_images_of_a_segmenter_are_no_zero_gradients():
    """A part dataset may have many of them: they are read as pixels that do not count."""
    samples = labelled_pixels(4)
    for one in samples[:3]:
        one["sem_seg"] = torch.full((12, 12), 255)
    subject = SegmenterSubject(Pixels().eval())
    attacks = build_perturbations([{"name": "segmentation-pgd", "eps": "8/255", "steps": 20}])[1:]
    with attack_mode(subject.module):
        checks = check_detectron2(subject, samples, attacks)
    assert {one.name: one.reason for one in checks if not one.passed} == {}


def test_a_surrogate_with_honest_gradients_shows_that_the_own_ones_mislead():
    honest = DetectorSubject(OneObject().eval(), 3)
    masked = OneObject("straight through nonsense").eval()
    attacks = build_perturbations([{"name": "detector-pgd", "eps": "20/255", "steps": 4, "goal": "classification"}])[1:]
    for model, passed in ((masked, False), (OneObject().eval(), True)):
        subject = DetectorSubject(model, 3, surrogate=honest)
        with attack_mode(model), attack_mode(honest.model):
            checks = {one.name: one for one in check_detectron2(subject, [sample(i, 1) for i in range(3)], attacks)}
        assert checks["transfer"].passed == passed
        assert passed or "images made on another model leave 0% right" in checks["transfer"].reason


def test_a_surrogate_shows_it_for_a_segmenter():
    honest, samples = SegmenterSubject(Pixels().eval()), labelled_pixels(3)
    attacks = build_perturbations([{"name": "segmentation-pgd", "eps": "8/255", "steps": 20}])[1:]
    for masking, passed in (("straight through nonsense", False), ("", True)):
        subject = SegmenterSubject(Pixels(masking).eval(), surrogate=honest)
        with attack_mode(subject.module), attack_mode(honest.model):
            checks = {one.name: one for one in check_detectron2(subject, samples, attacks)}
        assert checks["transfer"].passed == passed
