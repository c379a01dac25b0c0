"""Attacks on parts: each moves the parts, the way it says, within what it may change."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from partbox.attacks import AttackError, ThreatModel
from partbox.attacks.parts import NOT_LABELLED, PartPGD, PartPrediction, part_cross_entropy, region_mask

SIZE, PARTS, CLASSES = 16, 3, 4


class PartNet(nn.Module):
    """Random part masks at half resolution, and a linear head on their mean over 2 x 2 cells."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.masks = nn.Sequential(nn.Conv2d(3, 12, 3, 2, 1), nn.Tanh(), nn.Conv2d(12, 1 + PARTS, 3, 1, 1))
        self.head = nn.Linear((1 + PARTS) * 4, CLASSES)
        for parameter in self.parameters():
            parameter.data *= 3
        self.requires_grad_(False)

    def forward(self, images: Tensor) -> PartPrediction:
        mask_logits = self.masks(images)
        pooled = nn.functional.adaptive_avg_pool2d(mask_logits.softmax(dim=1), 2)
        return PartPrediction(self.head(pooled.flatten(1)) * 4, mask_logits)


@pytest.fixture
def case() -> tuple[PartNet, Tensor, Tensor, Tensor]:
    """A network, images, its own classes as labels, and its own parts as part maps."""
    model = PartNet().eval()
    images = torch.rand(12, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    model.head.bias -= model(images).logits.mean(dim=0) / 4  # so that the answers differ
    found = model(images)
    maps = nn.functional.interpolate(found.mask_logits, size=(SIZE, SIZE), mode="nearest").argmax(1)
    return model, images, found.logits.argmax(1), maps


def agreement(model: PartNet, images: Tensor, maps: Tensor) -> float:
    """Share of pixels whose part is that of ``maps``."""
    found = nn.functional.interpolate(model(images).mask_logits, size=(SIZE, SIZE), mode="nearest").argmax(1)
    return float((found == maps).float().mean())


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("goal", ["parts", "both", "two-stage"])
def test_every_goal_moves_the_parts_away(case, goal, norm):
    model, images, labels, maps = case
    threat = ThreatModel(norm, 0.03 if norm == "linf" else 0.5)
    result = PartPGD(threat, goal, 10)(model, images, labels, maps)
    noise = images + threat.eps * (torch.rand_like(images) * 2 - 1) if norm == "linf" else images
    assert agreement(model, images, maps) == 1.0
    assert agreement(model, result.images, maps) < agreement(model, noise.clamp(0, 1), maps) - 0.02
    assert float(threat.distance(images, result.images).max()) <= threat.eps * (1 + 1e-5)
    assert torch.equal(model(result.images).logits.argmax(1) != labels, result.fooled)


def test_pure_part_attack_moves_parts_most_and_the_mixed_one_fools_more(case):
    model, images, labels, maps = case
    threat = ThreatModel("linf", 0.02)
    results = {goal: PartPGD(threat, goal, 20)(model, images, labels, maps) for goal in ("parts", "both", "two-stage")}
    left = {goal: agreement(model, result.images, maps) for goal, result in results.items()}
    assert left["parts"] == min(left.values())
    fooled = {goal: int(result.fooled.sum()) for goal, result in results.items()}
    assert fooled["both"] >= fooled["parts"]
    assert fooled["two-stage"] >= fooled["parts"]
    assert fooled["both"] > 0


def test_guided_attack_moves_towards_the_other_images_parts(case):
    model, images, labels, maps = case
    guides = maps.roll(1, 0)
    result = PartPGD(ThreatModel("linf", 0.1), "guided", 20)(model, images, labels, maps, guides=guides)
    assert agreement(model, result.images, guides) > agreement(model, images, guides) + 0.1
    away = PartPGD(ThreatModel("linf", 0.1), "parts", 20)(model, images, labels, maps)
    assert agreement(model, result.images, guides) > agreement(model, away.images, guides)


def test_two_stage_can_start_towards_a_guide(case):
    model, images, labels, maps = case
    attack = PartPGD(ThreatModel("linf", 0.05), "two-stage", 10)
    plain = attack(model, images, labels, maps)
    guided = attack(model, images, labels, maps, guides=maps.roll(1, 0))
    assert not torch.equal(plain.images, guided.images)
    assert int(guided.fooled.sum()) > 0


@pytest.mark.parametrize("region", ["object", "background"])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_region_is_all_that_changes_and_still_moves_parts(case, region, norm):
    model, images, labels, maps = case
    threat = ThreatModel(norm, 0.1 if norm == "linf" else 1.0)
    result = PartPGD(threat, "parts", 10, region=region)(model, images, labels, maps)
    allowed = region_mask(maps, region).bool().expand_as(images)
    change = result.images - images
    assert bool((change[~allowed] == 0).all())
    assert float(change[allowed].abs().max()) > 0
    assert agreement(model, result.images, maps) < 1.0
    assert float(threat.distance(images, result.images).max()) <= threat.eps * (1 + 1e-5)
    assert torch.equal(region_mask(maps, "object") + region_mask(maps, "background"), region_mask(maps, "all"))


def test_draws_belong_to_the_image(case):
    model, images, labels, maps = case
    attack = PartPGD(ThreatModel("linf", 0.02), "both", 5)
    whole = attack(model, images, labels, maps, image_ids=range(12), seed=4)
    part = attack(model, images[5:7], labels[5:7], maps[5:7], image_ids=[5, 6], seed=4)
    torch.testing.assert_close(part.images, whole.images[5:7], atol=1e-4, rtol=0)
    assert torch.equal(part.fooled, whole.fooled[5:7])


def test_part_loss_ignores_what_is_not_labelled(case):
    model, images, _, maps = case
    logits = model(images).mask_logits
    partly = maps.clone()
    partly[:, : SIZE // 2] = -1
    alone = nn.functional.cross_entropy(logits[:1], partly[:1, 1::2, 1::2], ignore_index=-1)
    torch.testing.assert_close(part_cross_entropy(logits, partly)[0], alone)
    assert float(part_cross_entropy(logits, torch.full_like(maps, -1)).abs().max()) == 0


def test_unlabelled_pixels_and_the_loss_are_those_of_the_training(case):
    """Attacks stand apart from data and modeling; what they write a second time must stay the same."""
    from partbox.data.part_map import IGNORE
    from partbox.modeling.losses import part_loss

    model, images, _, maps = case
    assert IGNORE == NOT_LABELLED
    partly = maps.clone()
    partly[:, : SIZE // 2] = IGNORE
    logits = model(images).mask_logits
    for i in range(len(images)):
        expected = part_loss(logits[i : i + 1], partly[i : i + 1], at_image_size=False)
        torch.testing.assert_close(part_cross_entropy(logits, partly)[i], expected)


def test_an_image_without_anything_to_change_is_reported(case):
    model, images, labels, maps = case
    maps = maps.clone()
    maps[3] = 0
    result = PartPGD(ThreatModel("linf", 0.05), "parts", 3, region="object")(model, images, labels, maps)
    assert result.zero_gradient.tolist() == [i == 3 for i in range(len(images))]
    assert torch.equal(result.images[3], images[3])


def test_saturated_masks_of_an_image_are_noted_alone_as_in_a_batch(case):
    """One image without a gradient must not end an evaluation because it stands alone in its batch."""
    model, images, labels, maps = case

    def predict(batch: Tensor) -> PartPrediction:
        bright = (batch.detach().mean(dim=(1, 2, 3), keepdim=True) > 0.8).float()
        found = model(batch)
        return PartPrediction(found.logits, found.mask_logits * (1 + 1e6 * bright))

    images = images[:3] * 0.5
    images[1] = 0.95
    maps = nn.functional.interpolate(model(images).mask_logits, size=(SIZE, SIZE), mode="nearest").argmax(1)
    attack = PartPGD(ThreatModel("linf", 0.01), "parts", 3)
    whole = attack(predict, images, labels[:3], maps, image_ids=range(3))
    alone = attack(predict, images[1:2], labels[1:2], maps[1:2], image_ids=[1])
    assert whole.zero_gradient.tolist() == [False, True, False]
    assert alone.zero_gradient.tolist() == [True]
    torch.testing.assert_close(alone.images[0], whole.images[1])
    with pytest.raises(AttackError, match="exactly zero"):
        attack.perturb(predict, images[1:2], labels[1:2], maps[1:2], image_ids=[1], seed=0)


def test_an_empty_batch_gives_an_empty_result(case):
    model, images, labels, maps = case
    attack = PartPGD(ThreatModel("linf", 0.01), "parts", 3)
    result = attack(model, images[:0], labels[:0], maps[:0], image_ids=[])
    assert len(result.images) == len(result.fooled) == len(result.zero_gradient) == 0
    assert len(attack.perturb(model, images[:0], labels[:0], maps[:0], image_ids=[], seed=0)) == 0


def test_blind_attacks_are_errors(case):
    model, images, labels, maps = case
    threat = ThreatModel("linf", 0.02)

    def hard(batch: Tensor) -> PartPrediction:
        found = model(batch)
        one_hot = nn.functional.one_hot(found.mask_logits.argmax(1), 1 + PARTS).permute(0, 3, 1, 2).float()
        return PartPrediction(found.logits, one_hot)

    with pytest.raises(AttackError, match="exactly zero"):
        PartPGD(threat, "parts")(hard, images, labels, maps)
    with pytest.raises(AttackError, match="blind"):
        PartPGD(threat, "parts")(model, images, labels, torch.full_like(maps, -1))
    flat = lambda x: PartPrediction(*(v * (x.sum() * 0 + 1) for v in model(x * 0)))  # noqa: E731
    with pytest.raises(AttackError, match="exactly zero"):
        PartPGD(threat, "parts").perturb(flat, images, labels, maps, image_ids=range(len(images)), seed=0)
    assert bool(PartPGD(threat, "parts")(flat, images, labels, maps).zero_gradient.all()), "said of each image"
    with pytest.raises(AttackError, match="needs guides"):
        PartPGD(threat, "guided")(model, images, labels, maps)
    with pytest.raises(AttackError, match="part_maps must be"):
        PartPGD(threat, "parts")(model, images, labels, maps[:, :4])


@pytest.mark.parametrize(
    "options",
    [{"goal": "backwards"}, {"region": "sky"}, {"part_weight": 2.0}, {"steps": 0}, {"goal": "two-stage", "steps": 1}],
)
def test_settings_that_make_no_sense_are_refused(options):
    with pytest.raises(ValueError, match="PartPGD"):
        PartPGD(ThreatModel("linf", 0.1), **options)


def test_inverse_finds_masks_that_the_head_misreads_and_moves_the_image_to_them(case):
    """The masks come nearer to the misread ones than the clean ones were, and answers follow."""
    model, images, labels, maps = case

    def head(mask_logits: Tensor) -> Tensor:
        pooled = nn.functional.adaptive_avg_pool2d(mask_logits.softmax(dim=1), 2)
        return model.head(pooled.flatten(1)) * 4

    torch.testing.assert_close(head(model(images).mask_logits), model(images).logits)
    attack = PartPGD(ThreatModel("linf", 0.15), "inverse", 20)
    aim = attack._misread_masks(model, head, images, labels)
    assert float((head(aim).argmax(dim=1) != labels).float().mean()) > 0.8
    clean = model(images).mask_logits
    distance = (aim - clean).flatten(1).norm(dim=1)
    assert float(distance.max()) <= clean[0].numel() ** 0.5 * (1 + 1e-5)
    result = attack(model, images, labels, maps, head=head)
    assert bool(result.fooled.any())
    kept = ~result.fooled
    if bool(kept.any()):
        after = (model(result.images[kept]).mask_logits - aim[kept]).flatten(1).norm(dim=1)
        assert bool((after < distance[kept]).all())
    with pytest.raises(AttackError, match="needs the head"):
        attack(model, images, labels, maps)
    with pytest.raises(AttackError, match="differentiable"):
        attack(model, images, labels, maps, head=lambda masks: head(masks).detach())
    with pytest.raises(AttackError, match="not for training"):
        attack.perturb(model, images, labels, maps, image_ids=range(len(images)), seed=0)


def test_equal_logits_are_what_argmax_makes_of_them(case):
    model, images, _, maps = case

    def torn(batch: Tensor) -> PartPrediction:
        found = model(batch)
        return PartPrediction(found.logits[:, :1].repeat(1, 3), found.mask_logits)

    for goal in ("parts", "both", "two-stage"):
        for label in (0, 1):
            result = PartPGD(ThreatModel("linf", 0.02), goal, 4)(torn, images, torch.full((12,), label), maps)
            assert result.fooled.tolist() == [label == 1] * 12, goal


@pytest.mark.parametrize("goal", ["parts", "both", "two-stage"])
def test_other_precisions_and_kinds_of_labels(case, goal):
    model, images, labels, maps = case
    attack = PartPGD(ThreatModel("linf", 0.05), goal, 6)
    plain = attack(model, images, labels, maps, image_ids=range(12))
    same = attack(model, images, labels.int(), maps.to(torch.int32), image_ids=range(12))
    assert torch.equal(same.images, plain.images)

    def half(batch: Tensor) -> PartPrediction:
        return PartPrediction(*(one.bfloat16() for one in model(batch)))

    rounded = attack(half, images, labels, maps, image_ids=range(12))
    assert torch.equal(half(rounded.images).logits.argmax(1) != labels, rounded.fooled)
    assert agreement(model, rounded.images, maps) < 0.95
    double = attack(
        lambda batch: PartPrediction(*(one.double() for one in model(batch))), images, labels, maps, image_ids=range(12)
    )
    torch.testing.assert_close(double.images, plain.images, atol=0.11, rtol=0)
    assert torch.equal(model(double.images).logits.argmax(1) != labels, double.fooled)


def test_labels_that_are_no_part_and_steps_of_nothing_are_refused(case):
    model, images, labels, maps = case
    attack = PartPGD(ThreatModel("linf", 0.05), "parts", 3)
    for wrong in (PARTS + 1, 255, -2):
        broken = maps.clone()
        broken[0, 0, 0] = wrong
        with pytest.raises(AttackError, match="1 to 3 = the model's parts"):
            attack(model, images, labels, broken)
        with pytest.raises(AttackError, match="1 to 3 = the model's parts"):
            PartPGD(ThreatModel("linf", 0.05), "guided", 3)(model, images, labels, maps, guides=broken)
    with pytest.raises(ValueError, match="step size of 0"):
        PartPGD(ThreatModel("linf", 0.05), "parts", 3, 0)
    with pytest.raises(ValueError, match="PartPGD knows linf and l2"):
        PartPGD(ThreatModel("l1", 0.05), "parts", 3)


@pytest.mark.parametrize("goal", ["parts", "both", "two-stage", "guided", "inverse"])
@pytest.mark.parametrize("region", ["all", "object", "background"])
def test_every_goal_in_every_region_keeps_to_it_and_counts_its_passes(case, goal, region):
    model, images, labels, maps = case
    asked = []

    def predict(batch: Tensor) -> PartPrediction:
        asked.append(len(batch))
        return model(batch)

    def head(mask_logits: Tensor) -> Tensor:
        pooled = nn.functional.adaptive_avg_pool2d(mask_logits.softmax(dim=1), 2)
        return model.head(pooled.flatten(1)) * 4

    threat = ThreatModel("linf", 0.1)
    attack = PartPGD(threat, goal, 6, region=region)
    more = {"guides": maps.roll(1, 0)} if goal == "guided" else {"head": head} if goal == "inverse" else {}
    result = attack(predict, images, labels, maps, image_ids=range(12), **more)
    assert result.queries.tolist() == [attack.passes] * 12
    assert sum(asked) == 12 * attack.passes
    change = (result.images - images).abs()
    allowed = region_mask(maps, region).bool().expand_as(images)
    assert not bool(change[~allowed].any())
    assert float(change.max()) <= 0.1 + 1e-6
    assert bool(change.flatten(1).any(dim=1).all())
    assert agreement(model, result.images, maps) < 0.99
    order = torch.tensor([7, 2, 11])
    chosen = {key: value[order] if key == "guides" else value for key, value in more.items()}
    part = attack(model, images[order], labels[order], maps[order], image_ids=order.tolist(), **chosen)
    assert torch.equal(part.fooled, result.fooled[order])
