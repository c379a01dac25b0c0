"""PGD on a detector's losses: which losses, in which direction, from which draw, and what it refuses."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from partbox.attacks import AttackError, DetectorPGD, ThreatModel
from partbox.attacks.detector import GOALS, loss_kind

EPS = ThreatModel("linf", 0.1)


CORNERS = {"loss_cls": (0, 0), "loss_rpn_cls": (0, 4), "loss_box_reg": (4, 0), "loss_mask": (4, 4)}


class Losses:
    """Four named losses, each the mean of one corner of the image; notes what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, int]] = []

    def __call__(self, image: Tensor, targets: str, draw: int) -> dict[str, Tensor]:
        self.asked.append((targets, draw))
        return {name: image[:, y : y + 4, x : x + 4].mean() for name, (y, x) in CORNERS.items()}


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *[(name, "classification") for name in ("loss_cls", "loss_rpn_cls", "loss_ce_3", "loss_cls_stage2")],
        *[(name, "classification") for name in ("loss_objectness", "loss_focal", "loss_ce_interm")],
        *[(name, "localisation") for name in ("loss_box_reg", "loss_rpn_loc", "loss_mask", "loss_bbox_4", "loss_giou")],
        *[(name, "localisation") for name in ("loss_dice_8", "loss_box_reg_stage1", "loss_fcos_ctrness")],
        *[(name, "localisation") for name in ("loss_fcos_ctr", "loss_fcos_loc", "loss_centerness")],
        *[(name, "denoising") for name in ("loss_ce_dn_0", "loss_dice_dn_8", "loss_bbox_dn")],
        *[(name, "other") for name in ("loss_sem_seg", "loss_contrast", "total_loss")],
    ],
)
def test_losses_are_told_apart_by_their_words(name, kind):
    assert loss_kind(name) == kind


@pytest.mark.parametrize("goal", GOALS)
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_each_goal_moves_its_losses_in_its_direction(goal, norm):
    targets, kind, sign = GOALS[goal]
    losses, threat = Losses(), ThreatModel(norm, 0.1)
    image = torch.full((3, 8, 8), 0.5)
    result = DetectorPGD(threat, goal, steps=6)(losses, image, image_id=1)
    assert {asked for asked, _ in losses.asked} == {targets}
    for name, (y, x) in CORNERS.items():
        moved = (result.image - image)[:, y : y + 4, x : x + 4]
        if kind in ("all", loss_kind(name)):
            assert bool((moved * sign > 0).all())
        elif norm == "linf":  # a corner without gradient keeps its random start
            assert moved.abs().max() <= 0.1
    assert float(threat.distance(image[None], result.image[None])) == pytest.approx(0.1, rel=1e-4)
    assert result.queries == 7 == DetectorPGD(threat, goal, steps=6).passes
    assert not result.zero_gradient


@pytest.mark.parametrize("goal", GOALS)
def test_losses_of_denoising_queries_are_no_goal(goal):
    """They judge queries made from the labels, which do not exist when the detector is used."""

    def losses(image: Tensor, targets: str, draw: int) -> dict[str, Tensor]:
        small = image[:, :4].sum()
        return {"loss_cls": small, "loss_bbox": small, "loss_ce_dn_0": 1e3 * image[:, 4:].sum() * -1}

    image = torch.full((3, 8, 8), 0.5)
    attack = DetectorPGD(EPS, goal, steps=2, random_start=False)
    moved = attack(losses, image, image_id=1).image - image
    assert (moved[:, :4].abs() > 0).all()
    assert (moved[:, 4:] == 0).all()


def test_the_best_iterate_is_kept_not_the_last():
    """Losses that fall again once the image has moved far."""

    def hill(image: Tensor, targets: str, draw: int) -> dict[str, Tensor]:
        return {"loss_cls": -((image.mean() - 0.53) ** 2)}

    attack = DetectorPGD(EPS, steps=5, step_size=0.05, random_start=False)
    result = attack(hill, torch.full((3, 8, 8), 0.5), image_id=1)
    assert result.objective == pytest.approx(-(0.02**2), rel=1e-3)
    assert float(result.image.mean()) == pytest.approx(0.55)


def test_draws_depend_on_seed_image_restart_and_step_only():
    def found(image_id: int, seed: int) -> tuple[Tensor, list[int]]:
        losses = Losses()
        attack = DetectorPGD(EPS, steps=3, step_size=0.001, restarts=2)
        image = torch.full((3, 8, 8), 0.5)
        return attack(losses, image, image_id=image_id, seed=seed).image, [draw for _, draw in losses.asked]

    first, draws = found(1, 0)
    assert torch.equal(first, found(1, 0)[0])
    assert not torch.equal(first, found(2, 0)[0])
    assert not torch.equal(first, found(1, 1)[0])
    assert draws == list(range(8)), "a sample of proposals of its own in every step of every restart"


def test_more_restarts_are_never_weaker():
    def bumps(image: Tensor, targets: str, draw: int) -> dict[str, Tensor]:
        return {"loss_cls": torch.sin(60 * image).mean()}

    image = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(0)) * 0.8 + 0.1
    objectives = [DetectorPGD(EPS, steps=2, restarts=n)(bumps, image, image_id=1).objective for n in (1, 2, 5)]
    assert objectives == sorted(objectives)


def test_what_cannot_be_attacked_is_said():
    image = torch.full((3, 8, 8), 0.5)
    with pytest.raises(AttackError, match="needs localisation losses, and this detector's are loss_cls"):
        DetectorPGD(EPS, "localisation")(lambda x, *_: {"loss_cls": x.mean()}, image, image_id=1)
    with pytest.raises(AttackError, match="do not depend on the image"):
        DetectorPGD(EPS)(lambda x, *_: {"loss_cls": torch.tensor(1.0)}, image, image_id=1)
    with pytest.raises(AttackError, match="not finite"):
        DetectorPGD(EPS)(lambda x, *_: {"loss_cls": x.mean() * torch.nan}, image, image_id=1)
    with pytest.raises(AttackError, match=r"in \[0, 1\]"):
        DetectorPGD(EPS)(Losses(), image * 255, image_id=1)
    with pytest.raises(AttackError, match="float"):
        DetectorPGD(EPS)(Losses(), image[None], image_id=1)
    blind = DetectorPGD(EPS)(lambda x, *_: {"loss_cls": (x * 0).sum()}, image, image_id=1)
    assert blind.zero_gradient


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"goal": "vanishing"}, "unknown goal of DetectorPGD 'vanishing'; .*did you mean vanish"),
        ({"steps": 0}, "steps"),
        ({"restarts": 2, "random_start": False}, "random_start"),
    ],
)
def test_wrong_settings_are_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        DetectorPGD(EPS, **settings)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *[(name, "classification") for name in ("loss_classifier", "classification", "loss_box_cls", "loss_obj")],
        *[(name, "classification") for name in ("loss_centernet_agn_pos", "loss_centernet_agn_neg", "loss_hm")],
        *[(name, "localisation") for name in ("bbox_regression", "loss_centernet_loc", "loss_wh", "loss_dfl")],
        *[
            (name, "localisation")
            for name in ("loss_rpn_box_reg", "bbox_ctrness", "loss_mask_point", "loss_cls_box_reg")
        ],
    ],
)
def test_losses_of_other_detectors_are_told_apart(name, kind):
    """torchvision's, CenterNet's, CenterNet2's, those of the YOLO family, PointRend's."""
    assert loss_kind(name) == kind
