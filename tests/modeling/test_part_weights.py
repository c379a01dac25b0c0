"""Weights of predicted labels in the part losses: 0 is not labelled, 1 is labelled, what lies between is linear."""

from __future__ import annotations

import pytest
import torch
from small_models import DETECTOR_MODELS, MODELS, small_config

from maskdino_ext.criterion import Criterion, CriterionSettings
from maskdino_ext.draws import Draws
from maskdino_ext.matcher import HungarianMatcher, MatchingCosts
from maskdino_ext.structures import Outputs, Predictions, Target
from partbox.data.mapper import PartDatasetMapper
from partbox.data.pseudo_labels import weigh_predicted
from partbox.engine.build import build_classifier
from partbox.modeling.evidence import PartEvidence
from partbox.modeling.losses import keypoint_loss, part_loss

NAMES = {
    "segmenter": [*MODELS["part_box"]],
    "segmenter_at_evidence": [*MODELS["part_box"], "MODEL.PART.LOSS_RESOLUTION", "evidence"],
    "focal": [*MODELS["part_box"], "MODEL.PART.FOCAL_GAMMA", "2.0"],
    "auxiliary": MODELS["part_auxiliary"],
    "dino": DETECTOR_MODELS["dino_box_sequence"],
    "maskdino": DETECTOR_MODELS["maskdino_part_box"],
    "maskdino_boxes": [*DETECTOR_MODELS["maskdino_part_box"], "MODEL.PART.EXTRACTOR.SUPERVISION", "box"],
}
PREDICTED = (1, 3)  # of four images


@pytest.fixture(params=NAMES)
def setting(example_dataset, request):
    """A model, and a function from the weight of predicted labels to a batch of two true and two predicted images."""
    cfg = small_config(example_dataset, *NAMES[request.param])
    model = build_classifier(cfg)
    model.train()
    for module in model.modules():  # an image's features must not depend on its neighbours
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.eval()
    mapper = PartDatasetMapper.from_config(cfg, is_train=True)
    mapper.augmentations = PartDatasetMapper.from_config(cfg, is_train=False).augmentations
    records = [dict(record) for record in example_dataset.records[:4]]
    for row in PREDICTED:
        parts = [{**part, "score": 0.5} for part in records[row]["annotations"]]
        records[row] |= {"label_source": "predicted", "annotations": parts}

    def batch(weight: float | None, *, of=range(4)) -> list[dict]:
        chosen = [records[i] for i in of]
        return [mapper(record) for record in (chosen if weight is None else weigh_predicted(chosen, weight))]

    return model, batch


def gradients(model, batch, weights=None) -> tuple[torch.Tensor, torch.Tensor]:
    """The part term, and its gradient of all parameters; the random numbers are always the same."""
    model.zero_grad()
    torch.manual_seed(0)
    images, targets = model.images_of(batch), model.targets_of(batch)
    if weights is not None:
        object.__setattr__(targets, "part_weights", torch.tensor(weights))
    loss = model.part_losses(model.run(images, targets), targets)["loss_part"]
    loss.backward()
    grads = [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in model.parameters()]
    return loss.detach(), torch.cat([gradient.flatten() for gradient in grads])


def test_weight_0_is_not_labelled_and_weight_1_is_labelled_to_the_last_bit(setting):
    model, batch = setting
    assert model.targets_of(batch(1.0)).part_weights is None
    labelled, as_labelled = gradients(model, batch(None)), gradients(model, batch(1.0))
    assert torch.equal(labelled[0], as_labelled[0])
    assert torch.equal(labelled[1], as_labelled[1])
    unlabelled = batch(None)
    for row in PREDICTED:
        unlabelled[row]["part_map"] = torch.full_like(unlabelled[row]["part_map"], -1)
        unlabelled[row].pop("instances", None)
    without, as_without = gradients(model, unlabelled), gradients(model, batch(0.0))
    assert torch.equal(without[0], as_without[0])
    assert torch.equal(without[1], as_without[1])
    assert not torch.equal(labelled[1], without[1])


def test_an_image_adds_its_weight_times_what_it_would_add(setting):
    """Whatever the others weigh: loss and gradient are linear in the weights."""
    model, batch = setting
    ones, first, rest = ([1.0] * 4, [1.0, 0.0, 1.0, 0.0], [0.0, 1.0, 0.0, 1.0])
    every, annotated, others = (gradients(model, batch(None), weights) for weights in (ones, first, rest))
    mixed = gradients(model, batch(0.3))
    scale = every[1].abs().max()
    for value, whole, part, remainder in zip(mixed, every, annotated, others, strict=True):
        torch.testing.assert_close(part + remainder, whole, rtol=1e-4, atol=float(scale) * 1e-5)
        torch.testing.assert_close(value, part + 0.3 * remainder, rtol=1e-4, atol=float(scale) * 1e-5)
    assert others[1].abs().max() > 0.01 * scale, "or this would show nothing"


def test_the_weight_counts_in_a_batch_of_predicted_labels_alone(setting):
    """A weighted mean would not know it there."""
    model, batch = setting
    full, less = gradients(model, batch(1.0, of=PREDICTED)), gradients(model, batch(0.25, of=PREDICTED))
    torch.testing.assert_close(less[0], 0.25 * full[0], rtol=1e-5, atol=0)
    torch.testing.assert_close(less[1], 0.25 * full[1], rtol=1e-3, atol=float(full[1].abs().max()) * 1e-5)


def test_weights_stay_with_their_images_where_others_are_not_labelled(setting):
    """The first image has no labels, the second and the last are predicted."""
    model, batch = setting

    def without_first(weight: float) -> list[dict]:
        samples = batch(weight)
        samples[0]["part_map"] = torch.full_like(samples[0]["part_map"], -1)
        samples[0].pop("instances", None)
        return samples

    every, annotated = gradients(model, without_first(1.0)), gradients(model, without_first(1.0), [1.0, 0.0, 1.0, 0.0])
    mixed = gradients(model, without_first(0.3))
    scale = float(every[1].abs().max())
    for value, whole, part in zip(mixed, every, annotated, strict=True):
        torch.testing.assert_close(value, 0.3 * whole + 0.7 * part, rtol=1e-4, atol=scale * 1e-5)
    assert gradients(model, without_first(1.0), [1.0, 0.0, 0.0, 0.0])[0] == 0, "nobody else has that weight"


def test_the_class_term_knows_no_weight(setting):
    model, batch = setting
    torch.manual_seed(0)
    full = model(batch(1.0))["loss_class"]
    torch.manual_seed(0)
    assert torch.equal(model(batch(0.25))["loss_class"], full)


@pytest.mark.parametrize("weight", [0.0, -1.0, 1.5, float("nan")])
def test_weights_out_of_range_are_refused(example_dataset, weight):
    cfg = small_config(example_dataset, *MODELS["part_box"])
    sample = PartDatasetMapper.from_config(cfg, is_train=True)({**example_dataset.records[0], "part_weight": weight})
    with pytest.raises(ValueError, match=r"part_weight must lie in \(0, 1\]"):
        build_classifier(cfg).targets_of([sample])


def test_the_formula_of_the_segmenters_loss():
    """Two images of two pixels: one labelled in both, one in one."""
    logits = torch.randn(2, 3, 1, 2, generator=torch.Generator().manual_seed(0))
    maps = torch.tensor([[[1, 2]], [[0, -1]]])
    entropy = -logits.log_softmax(dim=1)
    one, two = entropy[0, 1, 0, 0] + entropy[0, 2, 0, 1], entropy[1, 0, 0, 0]
    found = part_loss(logits, maps, at_image_size=True, weights=torch.tensor([1.0, 0.2]))
    torch.testing.assert_close(found, (one + 0.2 * two) / 3)


def test_the_softmax_form_of_the_criterion_is_weighted_too():
    generator = torch.Generator().manual_seed(0)
    predictions = Predictions(
        torch.randn(2, 5, 4, generator=generator), torch.rand(2, 5, 4, generator=generator) * 0.4 + 0.2
    )
    targets = [Target(torch.tensor([0, 2]), torch.rand(2, 4, generator=generator) * 0.4 + 0.2) for _ in range(2)]
    criterion = Criterion(
        CriterionSettings(classes=3, weights={"ce": 1.0, "bbox": 1.0}, softmax=True),
        HungarianMatcher(MatchingCosts(1.0, 1.0, 1.0)),
    )

    def terms(weights: list[float] | None) -> torch.Tensor:
        given = None if weights is None else torch.tensor(weights)
        return torch.stack([term.value for term in criterion(Outputs((predictions,)), targets, Draws(), given)])

    torch.testing.assert_close(terms([1.0, 1.0]), terms(None))
    torch.testing.assert_close(terms([1.0, 0.3]), 0.7 * terms([1.0, 0.0]) + 0.3 * terms(None))
    assert (terms([1.0, 0.0]) < terms(None)).all()


def test_the_keypoint_loss_is_weighted_image_by_image():
    """Three labelled images: the loss is linear in each one's weight, and the others' share stays."""
    generator = torch.Generator().manual_seed(0)
    evidence = PartEvidence(torch.randn(3, 3, 6, 6, generator=generator), (6, 6))
    maps, labels = torch.randint(0, 3, (3, 6, 6), generator=generator), torch.tensor([0, 1, 1])

    def loss(*weights: float) -> torch.Tensor:
        return keypoint_loss(evidence, maps, labels, torch.eye(2), torch.tensor(weights))

    whole = keypoint_loss(evidence, maps, labels, torch.eye(2))
    torch.testing.assert_close(loss(1, 1, 1), whole)
    torch.testing.assert_close(loss(1, 0, 0) + loss(0, 1, 0) + loss(0, 0, 1), whole)
    torch.testing.assert_close(loss(1, 0.3, 1), whole - 0.7 * loss(0, 1, 0))
    assert min(loss(1, 0, 0), loss(0, 1, 0), loss(0, 0, 1)) > 0.1


def test_the_weight_reaches_the_keypoint_loss_of_a_model(example_dataset):
    cfg = small_config(example_dataset, *MODELS["part_box"], "MODEL.PART.KEYPOINT_LOSS_WEIGHT", "1.0")
    model = build_classifier(cfg).eval()
    mapper = PartDatasetMapper.from_config(cfg, is_train=False)
    batch = [mapper(record) for record in example_dataset.records[:6]]
    images = model.images_of(batch)
    whole = model.losses(images, model.targets_of(batch))
    half = model.losses(images, model.targets_of([{**sample, "part_weight": 0.5} for sample in batch]))
    for name in ("loss_keypoint", "loss_part"):
        assert whole[name] > 0.1
        torch.testing.assert_close(half[name], whole[name] / 2)
