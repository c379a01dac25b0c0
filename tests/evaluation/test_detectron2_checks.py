"""Self-checks of detectors and segmenters: honest models pass, planted masking is flagged, odd images end nothing."""

from __future__ import annotations

import pytest
import torch
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn

from partbox.attacks import attack_mode
from partbox.evaluation import DetectorSubject, build_perturbations, evaluate
from partbox.evaluation.detectron2_checks import check_detectron2


class OneObject(nn.Module):
    """Finds one object, the left half, while the image's mean there is above 0.45.

    Like some detectors it has no losses for images without objects.
    """

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, batch: list[dict]) -> list[dict] | dict[str, Tensor]:
        marks = [self.weight * (40 * (one["image"][..., :4].mean() / 255 - 0.45)) for one in batch]
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


def test_fabricated_objects_are_not_judged_by_the_objects_that_are_still_found():
    class Fabricating(DetectorSubject):
        def perturb(self, sample, clean, perturbation, seed):
            record, _ = super().perturb(sample, clean, perturbation, seed)
            return record, clean  # every labelled object is still found, whatever stands beside it

    class Always(OneObject):
        """Has losses for images without objects too."""

        def forward(self, batch: list[dict]) -> list[dict] | dict[str, Tensor]:
            return {"loss_cls": self.weight * batch[0]["image"].mean()} if self.training else super().forward(batch)

    subject = Fabricating(Always().eval(), 3)
    specs = [{"name": "detector-pgd", "eps": "4/255", "steps": 2, "goal": goal} for goal in ("fabricate", "vanish")]
    attacks = build_perturbations(specs)[1:]
    with attack_mode(subject.module):
        alone = check_detectron2(subject, [sample(0, 1)], attacks[:1])
        both = check_detectron2(subject, [sample(0, 1)], attacks)
    assert [(one.name, one.passed) for one in alone] == [("deterministic", True), ("gradients", True)]
    assert "large eps" in {one.name for one in both if not one.passed}, "vanish is judged by them"
