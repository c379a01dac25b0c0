"""Part masks at three resolutions that only training looks at."""

from __future__ import annotations

import pytest
import torch
from small_models import DETECTOR_MODELS, MODELS, small_config
from torch.nn import functional

from partbox.data.mapper import PartDatasetMapper
from partbox.engine.build import build_classifier, check_attackable
from partbox.engine.checks import ConfigError
from partbox.modeling.backbones import TimmBackbone
from partbox.modeling.losses import part_loss

AUXILIARY = [
    *["MODEL.PART.EXTRACTOR.NAME", "auxiliary", "MODEL.PART.HEAD.NAME", "linear"],
    *["INPUT.SIZE", "(64, 64)", "MODEL.PART.LOSS_RESOLUTION", "evidence"],
]


def case(dataset, *options: str):
    """A small model, and a batch of its training samples."""
    cfg = small_config(dataset, *AUXILIARY, *options)
    mapper = PartDatasetMapper.from_config(cfg, is_train=False)
    torch.manual_seed(0)
    return build_classifier(cfg), [mapper(record) for record in dataset.records[:6]]


def test_training_compares_the_parts_at_three_resolutions(example_dataset):
    model, batch = case(example_dataset)
    model.train()
    images, targets = model.images_of(batch), model.targets_of(batch)
    output = model.run(images, targets)
    resolutions = output.evidence.resolutions
    assert [tuple(logits.shape[1:]) for logits in resolutions] == [(41, 8, 8), (41, 4, 4), (41, 2, 2)]
    terms = []
    for logits in resolutions:
        side = 64 // logits.shape[-1]
        centres = targets.part_maps[:, side // 2 :: side, side // 2 :: side]
        terms.append(functional.cross_entropy(logits, centres))
    losses = model.part_losses(output, targets)
    assert float(losses["loss_part"].detach()) == pytest.approx(0.5 * float(sum(terms).detach()) / 3, rel=1e-5)
    names, parameters = zip(*model.backbone.named_parameters(), strict=True)
    gradients = torch.autograd.grad(losses["loss_part"], parameters, retain_graph=True, allow_unused=True)
    reached = {name.split(".")[1] for name, g in zip(names, gradients, strict=True) if g is not None and g.any()}
    # the residual branches' last BatchNorm starts at zero: not every layer of a stage is reached in the first step
    assert reached >= {"conv1", "layer1", "layer2", "layer3", "layer4"}, "the parts teach the whole backbone"
    for index in range(3):
        (alone,) = torch.autograd.grad(terms[index], model.extractor.predictors[index].weight, retain_graph=True)
        assert alone.abs().sum() > 0


@pytest.mark.parametrize("network", ["test_resnet", "tf_efficientnet_lite0"])
def test_the_backbone_is_the_plain_classifiers(network):
    """One network: its vector is timm's, its maps in training are timm's feature maps."""
    torch.manual_seed(0)
    backbone = TimmBackbone(network, pooled=True, training_stages=True)
    pyramid = TimmBackbone(network)
    own = {name.replace("_", "."): tensor for name, tensor in backbone.net.state_dict().items()}
    pyramid.net.load_state_dict({name: own[name.replace("_", ".")] for name in pyramid.net.state_dict()})
    images = torch.rand(2, 3, 64, 64)
    for module in (*backbone.modules(), *pyramid.modules()):
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()  # the modes of BatchNorm aside
    in_training = backbone(images)
    assert list(in_training) == list(backbone.output_shape())
    for name, maps in pyramid(images).items():
        assert torch.equal(in_training[name], maps)
        assert maps.shape[1] == backbone.output_shape()[name].channels
        assert 64 // maps.shape[-1] == backbone.output_shape()[name].stride
    backbone.eval()
    assert torch.equal(backbone(images)["pooled"], backbone.net(images))
    assert list(backbone(images)) == ["pooled"]
    torch.testing.assert_close(in_training["pooled"], backbone.net(images))


def test_a_coarse_level_reaches_the_finer_ones(example_dataset):
    model, batch = case(example_dataset)
    features = {name: value.detach().requires_grad_() for name, value in _features(model, batch).items()}
    from partbox.modeling.extractors import ExtractorInputs

    evidence = model.extractor(ExtractorInputs(features, model.images_of(batch)))
    deepest = features[model.extractor.features[-1]]
    (gradient,) = torch.autograd.grad(evidence.resolutions[0].sum(), deepest)
    assert gradient.abs().sum() > 0
    finest = features[model.extractor.features[0]]
    (none,) = torch.autograd.grad(
        model.extractor(ExtractorInputs(features, model.images_of(batch))).resolutions[2].sum(),
        finest,
        allow_unused=True,
    )
    assert none is None, "top-down only"


def _features(model, batch):
    images = model.images_of(batch)
    return model.backbone((images - model.pixel_mean) / model.pixel_std)


def test_inference_is_that_of_the_plain_classifier(example_dataset):
    """The same numbers, and nothing of the extractor runs."""
    model, batch = case(example_dataset)
    plain = build_classifier(small_config(example_dataset, *MODELS["normal"]))
    own = model.state_dict()
    plain.load_state_dict({name: own[name] for name in plain.state_dict()})
    assert any(name.startswith("extractor.") for name in own)

    def forbidden(*_):
        raise AssertionError("the extractor runs in inference")

    handles = [module.register_forward_hook(forbidden) for module in model.extractor.modules()]
    model.eval(), plain.eval()
    images = model.images_of(batch)
    assert torch.equal(model.logits(images), plain.logits(images))
    for one, other in zip(model(batch), plain(batch), strict=True):
        assert one.keys() == other.keys() == {"label", "probabilities"}
        assert torch.equal(one["probabilities"], other["probabilities"])
    model.train()
    model.logits(images)  # an attack in training mode needs no parts either
    with pytest.raises(AssertionError, match="runs in inference"):
        model(batch)
    for handle in handles:
        handle.remove()


def test_boxes_are_enough_and_unlabelled_images_add_nothing(example_dataset):
    model, batch = case(example_dataset, "MODEL.PART.EXTRACTOR.SUPERVISION", "box", "MODEL.PART.FOCAL_GAMMA", "2.0")
    model.train()
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    values = []
    for _ in range(40):
        losses = model(batch)
        optimizer.zero_grad()
        losses["loss_part"].backward()
        optimizer.step()
        values.append(float(losses["loss_part"].detach()))
    assert values[-1] < 0.5 * values[0]
    nothing = [{key: value for key, value in sample.items() if key != "part_map"} for sample in batch]
    assert float(model(nothing)["loss_part"]) == 0


def test_the_focal_term_weighs_sure_pixels_less():
    torch.manual_seed(1)
    logits, maps = torch.randn(2, 4, 3, 3), torch.randint(-1, 4, (2, 3, 3))
    total, count = 0.0, 0
    for b in range(2):
        for y in range(3):
            for x in range(3):
                if maps[b, y, x] >= 0:
                    p = float(logits[b, :, y, x].softmax(dim=0)[maps[b, y, x]])
                    total, count = total - (1 - p) ** 2 * torch.log(torch.tensor(p)).item(), count + 1
    assert float(part_loss(logits, maps, at_image_size=False, focal=2.0)) == pytest.approx(total / count, rel=1e-5)
    plain = part_loss(logits, maps, at_image_size=False)
    assert float(part_loss(logits, maps, at_image_size=False, focal=1e-6)) == pytest.approx(float(plain), rel=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["MODEL.PART.HEAD.NAME", "part_box"], "use the head linear"),
        (["MODEL.PART.HEAD.NAME", "two_head"], "use the head linear"),
        (["MODEL.PART.BACKBONE.TIMM_NAME", "test_vit"], "strides 8, 16 and 32"),
        (["MODEL.PART.FOCAL_GAMMA", "-1.0"], "FOCAL_GAMMA must not be negative"),
        ([*DETECTOR_MODELS["dino_box_sequence"], "MODEL.PART.FOCAL_GAMMA", "2.0"], "losses of its own"),
    ],
)
def test_what_does_not_go_together_is_refused(example_dataset, options, message):
    with pytest.raises(ConfigError, match=message):
        build_classifier(small_config(example_dataset, *AUXILIARY, *options))


def test_attacks_on_parts_have_nothing_to_attack(example_dataset):
    parts = ["ROBUST_EVAL.PERTURBATIONS", "[{'name': 'parts', 'eps': '8/255', 'steps': 2, 'goal': 'parts'}]"]
    cfg = small_config(example_dataset, *AUXILIARY, *parts)
    with pytest.raises(ConfigError, match="this model has none"):
        check_attackable(cfg, build_classifier(cfg), training=False)
