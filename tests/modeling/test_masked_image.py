"""Heads with a network on the masks: what the network sees, and whose gradient it is."""

from __future__ import annotations

import pytest
import torch
from small_models import INEXACT, MODELS, ORACLES, small_config
from torch import Tensor, nn
from torch.nn import functional

from partbox.attacks import PGD, ThreatModel, attack_mode
from partbox.data.mapper import PartDatasetMapper
from partbox.engine.build import build_classifier, build_objective
from partbox.engine.checks import ConfigError
from partbox.modeling import PartEvidence
from partbox.modeling.backbones import POOLED
from partbox.modeling.heads import MaskedImageHead, MaskNetworkHead, MaskReader

EPS = 8 / 255


def evidence(height: int = 4, width: int = 6, scale: int = 2, channels: int = 3) -> PartEvidence:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 1 + channels, height, width, generator=generator)
    return PartEvidence(logits, (scale * height, scale * width))


class Seen(nn.Module):
    """A network that keeps what it was shown; its vector is the mean of each plane, and of the first one's square."""

    def __init__(self) -> None:
        super().__init__()
        self.images: list[Tensor] = []

    def output_shape(self):
        return {POOLED: type("Shape", (), {"channels": 2})}

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        self.images.append(images)
        return {POOLED: torch.stack([images.mean(dim=(1, 2, 3)), images[:, 0].square().mean(dim=(1, 2))], dim=1)}


def test_masks_are_those_of_the_image_size_and_temperature():
    found = evidence()
    enlarged = functional.interpolate(found.mask_logits, size=(8, 12), mode="bilinear", align_corners=False)
    torch.testing.assert_close(MaskReader(3)(found), enlarged.softmax(dim=1))
    torch.testing.assert_close(MaskReader(3, temperature=0.5)(found), (2 * enlarged).softmax(dim=1))
    without = MaskReader(3, keep_background=False)
    torch.testing.assert_close(without(found), enlarged.softmax(dim=1)[:, 1:])
    assert (MaskReader(3).channels, without.channels) == (4, 3)


def test_hard_masks_are_exactly_one_hot_and_have_the_gradient_of_the_soft_ones():
    found = evidence(scale=1)
    leaf = found.mask_logits.clone().requires_grad_(True)
    hard = MaskReader(3, hard=True)(PartEvidence(leaf, found.image_size))
    assert set(hard.detach().unique().tolist()) == {0.0, 1.0}
    assert torch.equal(hard.argmax(dim=1), found.mask_logits.argmax(dim=1))
    assert torch.equal(hard.sum(dim=1), torch.ones(2, 4, 6))
    weights = torch.randn(hard.shape, generator=torch.Generator().manual_seed(1))
    (gradient,) = torch.autograd.grad((weights * hard).sum(), leaf)
    soft = leaf.detach().clone().requires_grad_(True)
    (expected,) = torch.autograd.grad((weights * soft.softmax(dim=1)).sum(), soft)
    torch.testing.assert_close(gradient, expected)


def test_hard_is_of_all_masks_and_then_the_background_goes():
    """A pixel of background is in no mask; the original's one-hot then shifted the parts by one."""
    logits = torch.tensor([[5.0, 0, 0], [0, 5, 0], [0, 0, 5]]).T.reshape(1, 3, 1, 3)
    found = MaskReader(2, hard=True, keep_background=False)(PartEvidence(logits, (1, 3)))
    assert found[0, :, 0].T.tolist() == [[0, 0], [1, 0], [0, 1]]


def test_masks_of_a_class_add_up():
    found = evidence(scale=1)
    to_class = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    masks = found.masks
    summed = MaskReader(3, to_class=to_class)
    assert summed.channels == 3
    expected = torch.stack([masks[:, 0], masks[:, 1] + masks[:, 3], masks[:, 2]], dim=1)
    torch.testing.assert_close(summed(found), expected)
    hard = MaskReader(3, to_class=to_class, hard=True)(found)
    assert torch.equal(hard.argmax(dim=1), expected.argmax(dim=1)), "the largest of the sums, not of the parts"
    assert not torch.equal(hard[:, 1], (masks.argmax(dim=1) % 2 == 1).float())


@pytest.mark.parametrize("keep", [True, False])
def test_what_each_combination_shows_its_network(keep):
    found, images = evidence(), torch.rand(2, 3, 8, 12)
    reader = MaskReader(3, keep_background=keep)
    masks, planes = reader(found), 3 + int(keep)
    alone, side_by_side, multiplied = Seen(), Seen(), Seen()
    MaskNetworkHead(reader, alone, 5)(found)
    assert torch.equal(alone.images[0], masks)
    MaskedImageHead(reader, side_by_side, 5, combine="concat")(found, images)
    assert torch.equal(side_by_side.images[0], torch.cat([images, masks], dim=1))
    head = MaskedImageHead(reader, multiplied, 5, combine="multiply")
    logits = head(found, images)
    assert head.linear.in_features == 2 * planes
    vectors = []
    for image in range(2):
        views = [images[image] * masks[image, plane] for plane in range(planes)]
        for plane, view in enumerate(views):
            torch.testing.assert_close(multiplied.images[0][image * planes + plane], view)
        vectors.append(torch.cat([Seen()(view[None])[POOLED][0] for view in views]))
    torch.testing.assert_close(logits, head.linear(torch.stack(vectors)))


def model_and_batch(dataset, name: str, *options: str):
    cfg = small_config(dataset, *{**MODELS, **ORACLES}[name], *options)
    mapper = PartDatasetMapper.from_config(cfg, is_train=False)
    return build_classifier(cfg), [mapper(record) for record in dataset.records[:8]]


@pytest.mark.parametrize("name", ["masks", "masks_detached", "masks_hard", "masks_hard_multiply"])
def test_detached_masks_are_cut_in_training_and_nowhere_else(example_dataset, name):
    """The class then teaches the decoder nothing, and an attack, which sees evaluation mode, has its gradient."""
    model, batch = model_and_batch(example_dataset, name)
    images, targets = model.images_of(batch), model.targets_of(batch)
    decoder = list(model.extractor.parameters())
    gradients = torch.autograd.grad(model.train().losses(images, targets)["loss_class"], decoder, allow_unused=True)
    taught = any(gradient is not None and bool(gradient.any()) for gradient in gradients)
    assert taught == (name in ("masks", "masks_hard"))
    part = torch.autograd.grad(model.losses(images, targets)["loss_part"], decoder)
    assert all(bool(gradient.any()) for gradient in part[-2:]), "the parts' own term teaches it"
    with attack_mode(model):
        leaf = images.clone().requires_grad_(True)
        features = model.backbone(model.normalised(leaf.detach()))
        probe = model.extractor.decode(type("Inputs", (), {"features": features, "images": images})).requires_grad_(
            True
        )
        found = PartEvidence(model.extractor.decoder.predictor(probe), (32, 32))
        (through_masks,) = torch.autograd.grad(model._logits_of(found, images)[:, 0].sum(), probe)
    assert all(bool(one.any()) for one in through_masks)


@pytest.mark.parametrize("name", INEXACT)
def test_an_estimated_gradient_is_declared_and_leads_an_attack(example_dataset, name):
    """Not blind: attacks move the class; not exact: the model says so. Others are exact (finite differences)."""
    model, batch = model_and_batch(example_dataset, name)
    model.eval()
    assert not model.head.exact_gradient
    (remark,) = model.remarks
    assert "upper bound" in remark
    images, labels = model.images_of(batch), torch.zeros(8, dtype=torch.int64)
    with attack_mode(model):
        for one in (images, model.images_of(batch)):
            leaf = one.clone().requires_grad_(True)
            (gradient,) = torch.autograd.grad(model.logits(leaf)[:, 0].sum(), leaf)
            assert bool(gradient.flatten(1).any(dim=1).all())
        found = PGD(ThreatModel("linf", EPS), 3).perturb(model.logits, images, labels, image_ids=range(8), seed=0)
    assert float((found - images).abs().max()) > 0.9 * EPS


def test_free_training_does_not_follow_a_gradient_that_is_cut(example_dataset):
    cfg = small_config(example_dataset, *MODELS["masks_detached"], "ADVERSARY.OBJECTIVE", "free")
    with pytest.raises(ConfigError, match="DETACH_MASKS cuts"):
        build_objective(cfg)
    build_objective(small_config(example_dataset, *MODELS["masks"], "ADVERSARY.OBJECTIVE", "free"))


def test_the_network_is_the_one_that_is_named(example_dataset):
    own, _ = model_and_batch(example_dataset, "masks_concat")
    other, _ = model_and_batch(example_dataset, "masks_concat", "MODEL.PART.HEAD.NETWORK", "test_efficientnet")
    assert type(own.head.network.net) is not type(other.head.network.net)
    assert type(own.head.network.net).__name__ == "ResNet"
    for model in (own, other):
        first = next(module for module in model.head.network.modules() if isinstance(module, nn.Conv2d))
        assert first.in_channels == 3 + len(model.channel_names)


def test_weights_of_the_network_are_loaded_where_it_sees_images(example_dataset, tmp_path):
    import timm

    torch.manual_seed(5)
    network = timm.create_model("test_resnet", num_classes=0)
    torch.save(network.state_dict(), tmp_path / "network.pth")
    options = ["MODEL.PART.HEAD.NETWORK_WEIGHTS", str(tmp_path / "network.pth")]
    model, _ = model_and_batch(example_dataset, "masks_multiply", *options)
    for name, value in model.head.network.net.state_dict().items():
        assert torch.equal(value, network.state_dict()[name]), name
