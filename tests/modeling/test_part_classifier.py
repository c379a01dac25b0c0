"""The meta-architecture with each extractor and head, on random weights."""

from __future__ import annotations

import pytest
import torch
from detectron2.modeling import build_model
from small_models import INEXACT, MODELS, small_config

from partbox.data.mapper import PartDatasetMapper
from partbox.engine.build import build_classifier
from partbox.engine.checks import ConfigError
from partbox.modeling import PartClassifier, PartTargets


def build(dataset, name: str, *options: str) -> tuple[PartClassifier, list[dict]]:
    """A model of ``conftest.MODELS`` and a batch of 8 samples."""
    cfg = small_config(dataset, *MODELS[name], *options)
    model = build_classifier(cfg)
    mapper = PartDatasetMapper.from_config(cfg, is_train=False)
    return model, [mapper(record) for record in dataset.records[:8]]


@pytest.mark.parametrize("name", MODELS)
def test_training_gives_losses_and_inference_predictions(example_dataset, name):
    model, batch = build(example_dataset, name)
    losses = model.train()(batch)
    expected = {"loss_class"} if name == "normal" else {"loss_class", "loss_part"}
    assert set(losses) == (expected | {"loss_keypoint"} if name == "part_box_keypoint" else expected)
    assert all(bool(torch.isfinite(loss)) for loss in losses.values())
    predictions = model.eval()(batch)
    assert len(predictions) == 8
    for prediction in predictions:
        assert prediction["label"] == int(prediction["probabilities"].argmax())
        assert float(prediction["probabilities"].sum()) == pytest.approx(1, abs=1e-5)
        assert ("part_probabilities" in prediction) == (name not in ("normal", "part_auxiliary"))


@pytest.mark.parametrize("name", [name for name in MODELS if name not in INEXACT])
def test_input_gradient_agrees_with_finite_differences(example_dataset, name):
    model, batch = build(example_dataset, name)
    model = randomised(model).double().eval()
    assert model.head.exact_gradient
    images = model.images_of(batch)[:2].double() * 0.8 + 0.1
    direction = torch.randn(images.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    images.requires_grad_(True)
    value = model.logits(images)[:, 0].sum()
    (gradient,) = torch.autograd.grad(value, images)
    # Small enough not to cross the kinks of ReLU, large enough for float64.
    step = 1e-7
    with torch.no_grad():
        ahead, behind = model.logits(images + step * direction), model.logits(images - step * direction)
        slope = float((ahead - behind)[:, 0].sum() / (2 * step))
    assert float(gradient.abs().max()) > 0
    assert slope == pytest.approx(float((gradient * direction).sum()), rel=1e-3, abs=1e-8)


def randomised(model: PartClassifier) -> PartClassifier:
    """Weights away from their small initial values, so that every path to the logits carries a signal."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "predictor" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.5)
    return model


FEATURES = ("normal", "two_head", "two_head_decoder", "part_auxiliary")
IMAGES = ("masks_concat", "masks_multiply", "masks_hard_multiply")


@pytest.mark.parametrize("name", [name for name in MODELS if name not in FEATURES + IMAGES])
def test_evidence_is_the_only_path_to_the_label(example_dataset, name):
    """With the evidence held fixed, the image may change as it likes: the label must not."""
    model, batch = build(example_dataset, name)
    model.eval()
    assert model.label_needs_evidence
    assert model.evidence_is_the_only_path
    images = model.images_of(batch)
    evidence = model.run(images).evidence
    model.extractor.forward = lambda inputs: evidence
    torch.testing.assert_close(model.logits(images), model.logits(torch.rand_like(images)), atol=0, rtol=0)


@pytest.mark.parametrize("name", IMAGES)
def test_heads_that_look_at_the_image_say_so(example_dataset, name):
    """The same evidence and another image is another answer; the evidence is a path too, neither is the only one."""
    model, batch = build(example_dataset, name)
    model.eval()
    assert model.label_needs_evidence
    assert not model.evidence_is_the_only_path
    images = model.images_of(batch)
    evidence = model.run(images).evidence
    other = model.run(torch.rand_like(images)).evidence
    answers = []
    for given in (evidence, other):
        model.extractor.forward = lambda inputs, given=given: given
        answers += [model.logits(images), model.logits(images.flip(0))]
    assert all(not torch.allclose(answers[0], answer, atol=1e-4) for answer in answers[1:])


@pytest.mark.parametrize("name", ["two_head", "two_head_decoder"])
def test_two_head_does_not_look_at_the_evidence(example_dataset, name):
    model, batch = build(example_dataset, name)
    model.eval()
    assert not model.label_needs_evidence
    before = model.logits(model.images_of(batch))
    with torch.no_grad():
        model.extractor.decoder.predictor.bias += 100
    assert torch.equal(before, model.logits(model.images_of(batch)))


@pytest.mark.parametrize(
    "name", ["normal", "part_box", "part_pooling", "part_to_class", "masks", "masks_multiply", "two_head_decoder"]
)
@pytest.mark.parametrize("size", ["(32, 64)", "(64, 32)"])
def test_non_square_images(example_dataset, name, size):
    model, batch = build(example_dataset, name, "INPUT.SIZE", size)
    assert model.eval().logits(model.images_of(batch)).shape == (8, 11)


def test_normalisation_happens_inside(example_dataset):
    """A threat model in [0, 1] is true only if the model itself normalises: scale and shift undo each other."""
    model, batch = build(example_dataset, "normal")
    model.eval()
    images = model.images_of(batch)
    assert 0 <= float(images.min()) <= float(images.max()) <= 1
    expected = model.head(model.backbone((images - model.pixel_mean) / model.pixel_std))
    torch.testing.assert_close(model.logits(images), expected)
    assert float(model.pixel_mean.max()) < 1


def test_unlabelled_images_do_not_touch_the_part_term(example_dataset):
    """Neither in the sum nor in the mean: half the batch unlabelled gives the loss of the other half."""
    model, batch = build(example_dataset, "part_box")
    model.eval()
    images, targets = model.images_of(batch), model.targets_of(batch)
    half = PartTargets(targets.labels, targets.part_maps.clone())
    half.part_maps[4:] = -1
    of_half = model.losses(images, half)["loss_part"]
    alone = model.losses(images[:4], PartTargets(targets.labels[:4], targets.part_maps[:4]))["loss_part"]
    torch.testing.assert_close(of_half, alone)
    nothing = PartTargets(targets.labels, torch.full_like(targets.part_maps, -1))
    loss = model.losses(images, nothing)["loss_part"]
    assert float(loss) == 0
    loss.backward()
    assert all(p.grad is None or not bool(p.grad.any()) for p in model.parameters())


def test_the_two_terms_are_weighted_by_c(example_dataset):
    def losses(weight: str) -> dict:
        model, batch = build(example_dataset, "part_box", "MODEL.PART.LOSS_WEIGHT", weight)
        return model.eval().losses(model.images_of(batch), model.targets_of(batch))

    quarter, half, none = losses("0.25"), losses("0.5"), losses("0.0")
    torch.testing.assert_close(quarter["loss_class"], 0.75 * none["loss_class"])
    torch.testing.assert_close(2 * quarter["loss_part"], half["loss_part"])
    assert float(none["loss_part"]) == 0


@pytest.mark.parametrize("resolution", ["image", "evidence"])
def test_perfect_masks_have_no_part_loss(example_dataset, resolution):
    cfg = small_config(
        example_dataset,
        *MODELS["part_to_class"],
        *["MODEL.PART.EXTRACTOR.NAME", "oracle", "MODEL.PART.LOSS_RESOLUTION", resolution],
    )
    model = build_classifier(cfg)
    mapper = PartDatasetMapper.from_config(cfg, is_train=False)
    batch = [mapper(record) for record in example_dataset.records[:16]]
    losses = model.losses(model.images_of(batch), model.targets_of(batch))
    assert float(losses["loss_part"]) < 1e-6


def test_the_oracle_is_always_right_and_not_attackable(example_dataset):
    cfg = small_config(example_dataset, *MODELS["part_to_class"], "MODEL.PART.EXTRACTOR.NAME", "oracle")
    model = build_classifier(cfg).eval()
    assert not model.attackable
    mapper = PartDatasetMapper.from_config(cfg, is_train=False)
    batch = [mapper(record) for record in example_dataset.records]
    assert [p["label"] for p in model(batch)] == [sample["label"] for sample in batch]
    with pytest.raises(ValueError, match="part labels"):
        model.logits(model.images_of(batch))


@pytest.mark.parametrize("supervision", ["box", "mask"])
def test_parts_are_learned(example_dataset, supervision):
    """Sixteen images are learned by heart in 80 steps: labels and masks fit together, and gradients reach the decoder.

    With detectron2's initialisation of the last layer nothing but background is found for the first hundred steps.
    """
    options = [*MODELS["part_box"], "MODEL.PART.EXTRACTOR.SUPERVISION", supervision]
    cfg = small_config(example_dataset, *options, "MODEL.PART.LOSS_WEIGHT", "0.9", "MODEL.SEM_SEG_HEAD.CONVS_DIM", "48")
    model = build_classifier(cfg).train()
    mapper = PartDatasetMapper((32, 32), supervision=supervision, augmentations=[])
    batch = [mapper(record) for record in example_dataset.records[:16]]
    images, targets = model.images_of(batch), model.targets_of(batch)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(80):
        optimizer.zero_grad()
        sum(model.losses(images, targets).values()).backward()
        optimizer.step()
    masks = model.run(images).evidence.mask_logits
    found = torch.nn.functional.interpolate(masks, size=(32, 32), mode="bilinear").argmax(dim=1)
    parts = targets.part_maps > 0
    assert float((found == targets.part_maps)[parts].float().mean()) > 0.5


def test_frozen_batch_norm_keeps_statistics_and_learns_scale(example_dataset):
    model, batch = build(example_dataset, "normal", "MODEL.PART.BATCH_NORM", "frozen")
    model.train()
    norm = next(m for m in model.backbone.modules() if isinstance(m, torch.nn.BatchNorm2d))
    before = norm.running_mean.clone()
    model(batch)["loss_class"].backward()
    assert torch.equal(norm.running_mean, before)
    assert norm.weight.grad is not None
    assert bool(norm.weight.grad.any())
    trained, batch = build(example_dataset, "normal")
    trained.train()(batch)
    norm = next(m for m in trained.backbone.modules() if isinstance(m, torch.nn.BatchNorm2d))
    assert not torch.equal(norm.running_mean, before)


SUMMED = ["MODEL.PART.HEAD.SUM_BY_CLASS", "True"]
KEYPOINTS_ALONE = ["MODEL.PART.KEYPOINT_LOSS_WEIGHT", "1", "MODEL.PART.PIXEL_LOSS_WEIGHT", "0"]
FROM_CLEAN = ["MODEL.PART.EXTRACTOR.FROM_CLEAN_IMAGE", "True"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["MODEL.PART.EXTRACTOR.NAME", "none", "MODEL.PART.HEAD.NAME", "part_box"], "needs part evidence"),
        (["MODEL.PART.HEAD.NAME", "linear"], "plain classifier"),
        (["MODEL.PART.HEAD.NAME", "boxes"], "unknown MODEL.PART.HEAD.NAME 'boxes'; known: linear"),
        (["MODEL.PART.EXTRACTOR.NAME", "sam"], "unknown MODEL.PART.EXTRACTOR.NAME"),
        (["MODEL.PART.EXTRACTOR.LEVEL", "limb"], "unknown part level"),
        (["MODEL.PART.HEAD.NAME", "part_to_class", "MODEL.PART.EXTRACTOR.LEVEL", "fg"], "no mask belongs to a class"),
        (["MODEL.PART.HEAD.NAME", "part_to_class", "MODEL.PART.EXTRACTOR.LEVEL", "group"], "several classes"),
        (["MODEL.PART.EXTRACTOR.GROUPS", "[{'name': 'limb', 'parts': ['foot']}]"], "the level is 'part'"),
        (["MODEL.PART.KEYPOINT_LOSS_WEIGHT", "1", "MODEL.PART.EXTRACTOR.LEVEL", "group"], "several classes"),
        (["MODEL.PART.KEYPOINT_LOSS_WEIGHT", "1", "MODEL.PART.EXTRACTOR.NAME", "oracle"], "teaches the masks"),
        (["MODEL.PART.KEYPOINT_LOSS_WEIGHT", "1", *MODELS["normal"]], "teaches the masks"),
        (["MODEL.PART.PIXEL_LOSS_WEIGHT", "0"], "weighs nothing"),
        (["MODEL.PART.PIXEL_LOSS_WEIGHT", "-1"], "must not be negative"),
        ([*KEYPOINTS_ALONE, "MODEL.PART.FOCAL_GAMMA", "2"], "FOCAL_GAMMA weighs the pixels"),
        (["MODEL.PART.HEAD.NETWORK", "test_resnet"], "part_box has no network"),
        ([*MODELS["two_head"], "MODEL.PART.HEAD.NETWORK_WEIGHTS", "timm"], "two_head has no network"),
        (["MODEL.PART.HEAD.HARD_MASKS", "True"], "belong to the head masked_image"),
        (["MODEL.PART.HEAD.MASK_TEMPERATURE", "2"], "belong to the head masked_image"),
        ([*MODELS["masks"], "MODEL.PART.HEAD.MASK_TEMPERATURE", "0"], "must be positive"),
        ([*MODELS["masks"], "MODEL.PART.HEAD.COMBINE", "add"], "unknown MODEL.PART.HEAD.COMBINE"),
        ([*MODELS["masks"], "MODEL.PART.HEAD.NETWORK_WEIGHTS", "timm"], "COMBINE multiply"),
        ([*MODELS["masks"], "MODEL.PART.HEAD.NETWORK", "resnet999"], "timm has no network"),
        ([*MODELS["masks"], "MODEL.PART.EXTRACTOR.NAME", "none"], "needs part evidence"),
        ([*MODELS["masks"], *SUMMED, "MODEL.PART.EXTRACTOR.LEVEL", "object"], "object has none"),
        ([*MODELS["masks"], *SUMMED, "MODEL.PART.EXTRACTOR.LEVEL", "group"], "several classes"),
        ([*MODELS["two_head"], *FROM_CLEAN], "does not read them"),
        ([*MODELS["normal"], *FROM_CLEAN], "looks at the image"),
        ([*MODELS["masks"], *FROM_CLEAN, "MODEL.PART.EXTRACTOR.NAME", "oracle"], "looks at the image"),
        ([*MODELS["two_head_decoder"], "MODEL.PART.EXTRACTOR.NAME", "oracle"], "reads a segmenter"),
        ([*MODELS["two_head_decoder"], "INPUT.SIZE", "(16, 16)"], "6 x 6 cells"),
        (["MODEL.PART.BACKBONE.TIMM_NAME", "resnet999"], "timm has no network"),
        (["MODEL.PART.BATCH_NORM", "off"], "one of train, synchronised, frozen, not 'off'"),
        (["MODEL.PART.LOSS_RESOLUTION", "half"], "one of image, evidence, not 'half'"),
        (["MODEL.PART.LOSS_WEIGHT", "1.5"], r"\[0, 1\]"),
        (["INPUT.FORMAT", "BGR"], "RGB"),
        (["MODEL.SEM_SEG_HEAD.COMMON_STRIDE", "64"], "no feature map of stride"),
    ],
)
def test_impossible_models_are_refused_when_built(example_dataset, options, words):
    with pytest.raises(ConfigError, match=words):
        build_classifier(small_config(example_dataset, *options))


def test_a_detectron2_backbone_serves_as_well(example_dataset):
    options = ["MODEL.BACKBONE.NAME", "build_resnet_backbone", "MODEL.RESNETS.DEPTH", "18", "MODEL.RESNETS.NORM", "BN"]
    options += ["MODEL.RESNETS.RES2_OUT_CHANNELS", "64", "MODEL.RESNETS.OUT_FEATURES", "['res2', 'res5']"]
    options += ["MODEL.SEM_SEG_HEAD.IN_FEATURES", "['res2', 'res5']"]
    for name in ("normal", "part_box"):
        model, batch = build(example_dataset, name, *options)
        assert type(model.backbone).__name__ == "ResNet"
        assert model.eval().logits(model.images_of(batch)).shape == (8, 11)


def test_is_an_ordinary_detectron2_model(example_dataset):
    model = build_model(small_config(example_dataset, *MODELS["part_box"]))
    assert isinstance(model, PartClassifier)
