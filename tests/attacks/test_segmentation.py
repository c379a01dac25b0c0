"""SegPGD, CosPGD and PGD on segmenters: losses against references and formulas, and what they do to a network."""

from __future__ import annotations

import pytest
import torch
from attack_networks import arrays
from torch import Tensor, nn

from partbox.attacks import AttackError, SegmentationPGD, ThreatModel
from partbox.attacks.segmentation import LOSSES, pixel_losses, saturated

EPS = ThreatModel("linf", 0.1)


def reference_segmenter(folder) -> nn.Module:
    """The reference segmentation network: scores at half size, enlarged as the reference does."""
    layers = [
        *[nn.Conv2d(3, 16, 3, 1, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU()],
        *[nn.Conv2d(32, 32, 3, 1, 2, dilation=2), nn.ReLU(), nn.Conv2d(32, 32, 3, 1, 4, dilation=4), nn.ReLU()],
        nn.Conv2d(32, 5, 1),
        nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False),
    ]
    model = nn.Sequential(*layers)
    model.load_state_dict(torch.load(folder / "seg.pt", weights_only=True))
    return model.eval().requires_grad_(False)


def small_segmenter() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 12, 3, 1, 1), nn.Tanh(), nn.Conv2d(12, 4, 3, 1, 1))
    for parameter in model.parameters():
        parameter.data *= 3
    return model.eval().requires_grad_(False)


def right(model: nn.Module, images: Tensor, labels: Tensor, ignore: int) -> Tensor:
    """Share of the labelled pixels of each image that are right."""
    labelled = labels != ignore
    hits = (model(images).argmax(dim=1) == labels) & labelled
    return hits.flatten(1).sum(dim=1) / labelled.flatten(1).sum(dim=1)


@pytest.fixture
def case() -> tuple[nn.Module, Tensor, Tensor]:
    model = small_segmenter()
    images = torch.rand(6, 3, 12, 12, generator=torch.Generator().manual_seed(1))
    labels = model(images).argmax(dim=1)
    labels[:, :2] = 255
    return model, images, labels


@pytest.mark.parametrize("step", [0, 3, 10])
def test_segpgd_equals_the_reference_with_its_gradient(shared, step):
    reference = arrays(shared / "fixtures/attacks/seg.npz")
    logits, target = reference["L_logits"].requires_grad_(), reference["L_target"].long()
    losses = pixel_losses(logits, target, "segpgd", step / 10, -1)
    torch.testing.assert_close(losses, reference[f"L|segpgd-loss|t{step}of10|pixel"], rtol=1e-5, atol=1e-6)
    (gradient,) = torch.autograd.grad(losses.flatten(1).mean(dim=1).sum(), logits)
    torch.testing.assert_close(gradient, reference[f"L|segpgd-loss|t{step}of10|grad"], rtol=1e-4, atol=1e-6)


def test_cross_entropy_equals_the_reference(shared):
    reference = arrays(shared / "fixtures/attacks/seg.npz")
    losses = pixel_losses(reference["L_logits"], reference["L_target"].long(), "ce", 0.0, -1)
    torch.testing.assert_close(losses, reference["L|ce|pixel"], rtol=1e-5, atol=1e-6)


def test_segpgd_is_as_strong_as_the_reference_run(shared):
    """20 steps of eps / 8 without random start; ours keeps the iterate with the fewest right pixels."""
    folder = shared / "fixtures/attacks"
    reference, model = arrays(folder / "seg.npz"), reference_segmenter(folder)
    images, labels = reference["x"], reference["y"].long()
    attack = SegmentationPGD(EPS, "segpgd", 20, 0.1 / 8, random_start=False, ignore=-1)
    ours = right(model, attack(model, images, labels).images, labels, -1)
    theirs = right(model, reference["segpgd20|x_adv"], labels, -1)
    assert theirs.mean() == pytest.approx(0.77673, abs=1e-3), "the network is the reference's"
    assert ours.mean() <= theirs.mean() + 1e-3


def test_cospgd_weights_by_the_cosine_without_a_gradient_through_it():
    logits = torch.randn(2, 5, 3, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    labels = torch.randint(0, 5, (2, 3, 3), generator=torch.Generator().manual_seed(1))
    labels[0, 0, 0] = 255
    losses = pixel_losses(logits, labels, "cospgd", 0.5, 255)
    (gradient,) = torch.autograd.grad(losses.sum(), logits)
    losses = losses.detach()
    assert float(losses[0, 0, 0]) == 0
    assert not bool(gradient[0, :, 0, 0].any())
    for b, y, x in [(0, 1, 2), (1, 0, 0), (1, 2, 1)]:
        z, label = logits.detach()[b, :, y, x], int(labels[b, y, x])
        p = z.softmax(0)
        cosine = p[label] / p.norm()
        assert float(losses[b, y, x]) == pytest.approx(float(cosine * -p[label].log()), rel=1e-5)
        by_hand = cosine * (p - nn.functional.one_hot(torch.tensor(label), 5))
        torch.testing.assert_close(gradient[b, :, y, x], by_hand, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_every_loss_takes_pixels_away_within_eps(case, loss, norm):
    model, images, labels = case
    threat = ThreatModel(norm, 0.1 if norm == "linf" else 1.5)
    attack = SegmentationPGD(threat, loss, 10)
    result = attack(model, images, labels, image_ids=range(6))
    assert right(model, result.images, labels, 255).mean() < 0.6
    assert float(threat.distance(images, result.images).max()) <= threat.eps + 1e-5
    assert not bool(result.zero_gradient.any())
    assert bool((result.loss > 0).all())
    assert result.queries.tolist() == [attack.passes] * 6


def test_large_eps_leaves_no_pixel_right(case):
    model, images, labels = case
    result = SegmentationPGD(ThreatModel("linf", 1.0), "segpgd", 40)(model, images, labels)
    assert right(model, result.images, labels, 255).max() < 0.2


def test_batch_and_order_do_not_matter(case):
    model, images, labels = case
    attack = SegmentationPGD(EPS, "cospgd", 4)
    whole = attack(model, images, labels, image_ids=range(6), seed=3).images
    for i in (4, 1):
        alone = attack(model, images[i : i + 1], labels[i : i + 1], image_ids=[i], seed=3).images
        torch.testing.assert_close(alone[0], whole[i])
    other = attack(model, images, labels, image_ids=range(6), seed=4).images
    assert not torch.allclose(whole, other)


def test_what_cannot_be_attacked_is_said(case):
    model, images, labels = case
    attack = SegmentationPGD(EPS, steps=2)
    with pytest.raises(AttackError, match="do not depend"):
        attack(lambda x: torch.zeros(6, 4, 12, 12), images, labels)
    with pytest.raises(AttackError, match="at the labels' size"):
        attack(lambda x: model(x)[:, :, ::2], images, labels)
    with pytest.raises(AttackError, match="not finite"):
        attack(lambda x: model(x) * torch.nan, images, labels)
    with pytest.raises(AttackError, match=r"\(B, H, W\)"):
        attack(model, images, labels[:, 0, 0])
    with pytest.raises(AttackError, match="divide 8-bit"):
        attack(model, images * 255, labels)
    with pytest.raises(ValueError, match="unknown loss of SegmentationPGD 'dice'"):
        SegmentationPGD(EPS, "dice")
    masked = attack(lambda x: model((x * 3).round() / 3), images, labels)
    assert bool(masked.zero_gradient.all()), "rounding has no gradient, and that is said"


@pytest.mark.parametrize("loss", LOSSES)
def test_saturated_logits_are_attacked_through_their_margin(case, loss):
    """Logits 10,000 times as far apart: the same answers, and a cross-entropy without a gradient."""
    model, images, labels = case
    labels[:, 2] = (labels[:, 2] + 1) % 4  # a row that is wrong has a gradient, and must not be all that is followed
    attack = SegmentationPGD(EPS, loss, 10)
    plain = right(model, attack(model, images, labels, image_ids=range(6)).images, labels, 255)
    far = attack(lambda x: model(x) * 1e4, images, labels, image_ids=range(6))
    assert bool(saturated(model(images) * 1e4, labels, 255).any())
    assert not bool(saturated(model(images), labels, 255).any())
    assert not bool(far.zero_gradient.any())
    assert right(model, far.images, labels, 255).mean() < plain.mean() + 0.1
    assert bool((far.loss > 0).all()), "the loss told is the cross-entropy all the same"


def test_an_empty_batch_gives_an_empty_result(case):
    model, images, labels = case
    result = SegmentationPGD(EPS)(model, images[:0], labels[:0], image_ids=[])
    assert len(result.images) == len(result.fooled) == len(result.zero_gradient) == 0


@pytest.mark.parametrize("loss", LOSSES)
def test_images_without_labelled_pixels_are_neither_fooled_nor_blind(case, loss):
    model, images, labels = case
    labels = labels.clone()
    labels[1] = 255
    result = SegmentationPGD(EPS, loss, 3)(model, images, labels, image_ids=range(6))
    alone = SegmentationPGD(EPS, loss, 3)(model, images[:1], labels[:1], image_ids=[0])
    assert not bool(result.fooled[1])
    assert not bool(result.zero_gradient[1])
    assert float(result.loss[1]) == 0
    torch.testing.assert_close(result.images[0], alone.images[0])


def test_features_that_are_cut_off_are_said_also_where_nobody_froze_the_network(case):
    model, images, labels = case
    layer = torch.nn.Conv2d(3, 4, 1)
    with pytest.raises(AttackError, match="do not depend on the images"):
        SegmentationPGD(EPS, steps=2)(lambda x: layer(x.detach()), images, labels)
    with pytest.raises(AttackError, match=r"must lie in \[0, 4\)"):
        SegmentationPGD(EPS, steps=2)(model, images, labels + 7)
    with pytest.raises(AttackError, match="pixels must lie"):
        SegmentationPGD(EPS, steps=2)(model, images * torch.nan, labels)
