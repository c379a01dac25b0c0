"""DINO and Mask DINO as part extractors: evidence, heads, losses, and the way of a gradient to the image."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from detectron2.data import transforms as T
from detectron2.structures import BitMasks, Boxes, Instances
from finite_differences import assert_whole_gradient
from small_models import DETECTOR_MODELS, small_config
from torch import Tensor

from partbox.attacks import PGD, ThreatModel, attack_mode
from partbox.data.mapper import PartDatasetMapper
from partbox.data.part_objects import part_instances
from partbox.engine.build import build_classifier, check_attackable
from partbox.engine.checks import ConfigError
from partbox.engine.hooks.ema import WeightAveraging
from partbox.engine.objectives.weight_perturbation import WeightPerturbation
from partbox.modeling.evidence import PartDetections, PartEvidence
from partbox.modeling.extractors.detector import masks_of_queries
from partbox.modeling.heads.box_sequence import BoxSequenceHead
from partbox.modeling.heads.detection_features import detected_boxes, detected_scores
from partbox.modeling.heads.part_box import PartBoxHead
from partbox.modeling.heads.part_to_class import PartToClassHead


@pytest.fixture
def setting(example_dataset):
    """A model and a training batch, by name."""

    def make(name: str, *options: str, count: int = 4):
        cfg = small_config(example_dataset, *DETECTOR_MODELS[name], *options)
        torch.manual_seed(0)
        np.random.seed(0)  # the mapper's crops
        mapper = PartDatasetMapper.from_config(cfg, is_train=True)
        return build_classifier(cfg), [mapper(record) for record in example_dataset.records[:count]]

    return make


@pytest.mark.parametrize("name", DETECTOR_MODELS)
def test_class_and_detection_losses_train_everything_together(setting, name):
    model, batch = setting(name)
    losses = model.train()(batch)
    assert set(losses) == {"loss_class", "loss_part"}
    assert all(torch.isfinite(value) and value > 0 for value in losses.values())
    sum(losses.values()).backward()
    idle = [key for key, parameter in model.named_parameters() if parameter.grad is None]
    # the mask head learns from masks or from the head that reads them
    assert idle == [], name


@pytest.mark.parametrize("name", DETECTOR_MODELS)
def test_attacks_reach_the_image_through_the_detector(setting, name):
    model, batch = setting(name)
    images = model.images_of(batch)
    labels = model.eval().logits(images).argmax(dim=1)  # so that nobody is wrong from the start
    leaf = images.clone().requires_grad_(True)
    torch.nn.functional.cross_entropy(model.logits(leaf), labels).backward()
    assert torch.isfinite(leaf.grad).all()
    touched = (leaf.grad.abs().amax(dim=1) > 0).float()
    on_parts = torch.stack([sample["part_map"] > 0 for sample in batch]).float()
    assert (touched * on_parts).sum() / on_parts.sum() > 0.95
    assert touched.mean() > 0.9
    with attack_mode(model):
        found = PGD(ThreatModel("linf", 32 / 255), 5)(model.logits, images, labels, seed=0)
    moved = model.logits(found.images) - model.logits(images)
    assert moved.abs().max() > 1e-4
    assert not found.zero_gradient.any()


@pytest.mark.parametrize("name", DETECTOR_MODELS)
def test_the_input_gradient_is_that_of_the_whole_network(setting, name):
    """Also of the path through chosen tokens and boxes, which training cuts; boxes around masks have no gradient."""
    model, batch = setting(name, "MODEL.MaskDINO.INITIALIZE_BOX_TYPE", "no", count=2)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():  # away from heads that start at zero
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    model = model.double().eval()
    images = model.images_of(batch).double() * 0.8 + 0.1
    weights = torch.randn(2, 11, generator=generator, dtype=torch.float64)

    assert_whole_gradient(lambda at: (model.logits(at) * weights).sum(), images)


def parts(count: int, side: float, masks: bool) -> Instances:
    """``count`` square parts of an image of 64 pixels."""
    generator = torch.Generator().manual_seed(count)
    corners = torch.rand(count, 2, generator=generator) * (63 - side)
    boxes = torch.cat([corners, corners + side], dim=1)
    found = Instances((64, 64), gt_boxes=Boxes(boxes), gt_classes=torch.arange(count) % 40)
    if masks:
        places = torch.arange(64) + 0.5
        across = (places >= boxes[:, :1]) & (places < boxes[:, 2:3])
        down = (places >= boxes[:, 1:2]) & (places < boxes[:, 3:4])
        found.gt_masks = BitMasks(down[:, :, None] & across[:, None, :])
    return found


@pytest.mark.parametrize("name", ["dino_box_sequence", "maskdino_part_box"])
def test_degenerate_batches_train(setting, name):
    """No part at all, one image without, more parts than denoising queries, parts of a pixel, nobody labelled."""
    model, batch = setting(name, count=2)
    model.train()
    masks = name.startswith("maskdino")
    for first, second in (
        (parts(0, 1, masks), parts(0, 1, masks)),
        (parts(0, 1, False), parts(2, 20, masks)),
        (parts(30, 8, masks), parts(1, 8, masks)),
        (parts(3, 1, masks), parts(2, 1, masks)),
        (None, parts(0, 1, masks)),
        (None, None),
    ):
        samples = [{**sample, "instances": found} for sample, found in zip(batch, (first, second), strict=True)]
        samples = [{k: v for k, v in sample.items() if v is not None} for sample in samples]
        losses = model(samples)
        model.zero_grad()
        sum(losses.values()).backward()
        assert all(torch.isfinite(value) for value in losses.values())
        gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
        assert all(g is None or torch.isfinite(g).all() for g in gradients.values())
        if (first, second) != (None, None):  # nobody has labelled anything: the class alone teaches
            assert [name for name, gradient in gradients.items() if gradient is None] == []


@pytest.mark.parametrize("name", ["dino_box_sequence", "maskdino_part_box"])
def test_images_without_part_labels_teach_the_class_only(setting, name):
    model, batch = setting(name, count=3)
    unlabelled = {key: value for key, value in batch[2].items() if key != "instances"}
    model.train()
    targets = model.targets_of([*batch[:2], unlabelled])
    assert targets.objects[2] is None

    def part_loss(samples: list) -> Tensor:
        torch.manual_seed(3)
        return model.losses(model.images_of(samples), model.targets_of(samples))["loss_part"]

    # batch statistics of the backbone would differ; the loss must not
    for module in model.backbone.modules():
        module.eval()
    assert torch.allclose(part_loss([*batch[:2], unlabelled]), part_loss(batch[:2]), atol=1e-3)
    assert part_loss([unlabelled, unlabelled]) == 0
    assert part_loss([*batch[:2], batch[2]]) != part_loss(batch[:2])


def test_box_supervision_leaves_the_masks_alone(setting):
    model, batch = setting("maskdino_part_box", "MODEL.PART.EXTRACTOR.SUPERVISION", "box")
    assert not batch[0]["instances"].has("gt_masks")
    assert not model.extractor.gives_masks  # nobody taught them
    assert model.head.from_detections
    assert not model.reads_masks
    assert set(model.extractor.criterion.settings.weights) == {"ce", "bbox", "giou"}
    assert torch.isfinite(model.train()(batch)["loss_part"])


@pytest.mark.parametrize("name", ["dino_box_sequence", "maskdino_part_box"])
def test_weight_perturbation_leaves_shared_heads_as_they_were(setting, name):
    """The detectors' heads have several names; they must come back as the parameters that they were."""
    model, batch = setting(name)
    before = {key: (id(value), value.detach().clone()) for key, value in model.train().named_parameters()}
    losses = WeightPerturbation(0.01)(lambda model, batch: model(batch), model, batch)
    sum(losses.values()).backward()
    after = dict(model.named_parameters())
    assert set(after) == set(before)
    for key, (identity, value) in before.items():
        assert id(after[key]) == identity
        assert torch.equal(after[key], value)
        assert after[key].grad is not None, key


@pytest.mark.parametrize("name", ["dino_box_sequence", "maskdino_part_box"])
def test_the_average_of_shared_heads_moves_as_all_others(setting, name):
    model, _ = setting(name)
    hook = WeightAveraging(model, decay=0.9)
    hook.average.use_warmup = False
    for parameter in model.parameters():
        parameter.data.add_(1.0)
    start = {key: value.clone() for key, value in hook.module.state_dict().items()}
    hook.average.update(model, step=5)
    for key, value in hook.module.named_parameters(remove_duplicate=False):
        assert torch.allclose(value, start[key] + 0.1, atol=1e-5), key


def detections(queries: int = 6, parts: int = 3, seed: int = 0) -> PartDetections:
    generator = torch.Generator().manual_seed(seed)
    return PartDetections(
        torch.randn(2, queries, parts, generator=generator) * 3, torch.rand(2, queries, 4, generator=generator)
    )


@pytest.mark.parametrize(
    "head",
    [
        BoxSequenceHead(3, 4, 6),
        BoxSequenceHead(3, 4, 6, order="sort", kept=4),
        BoxSequenceHead(3, 4, 6, scores="sigmoid"),
        PartBoxHead(3, 4, from_detections=True),
        PartToClassHead(torch.eye(3), from_detections=True),
    ],
    ids=["pool", "sort", "sigmoid", "part_box", "part_to_class"],
)
def test_the_order_of_queries_carries_no_information(head):
    head.eval()
    found = detections()
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    other = PartDetections(found.logits[:, order], found.boxes[:, order])
    one, two = (head(PartEvidence(None, (32, 32), each)) for each in (found, other))
    assert torch.allclose(one, two, atol=1e-5)
    assert one.std() > 0


def test_the_softmax_is_over_the_parts_and_not_over_the_queries():
    found = detections()
    head = BoxSequenceHead(3, 4, 6, order="sort", kept=6)
    head.classifier = torch.nn.Identity()
    seen = head(PartEvidence(None, (32, 32), found)).view(2, 6, 7)
    best = found.logits.amax(dim=-1).argsort(dim=1, descending=True)
    for image in range(2):
        logits = found.logits[image, best[image]]
        wanted = logits.exp() / (1 + logits.exp().sum(dim=-1, keepdim=True))  # "no part" has the logit 0
        assert torch.allclose(seen[image, :, :3], wanted, atol=1e-6)
        assert torch.allclose(seen[image, :, 3:], found.boxes[image, best[image]] * 2 - 1)


def test_a_query_that_shows_nothing_looks_like_nothing():
    found = detections()
    lower = PartDetections(found.logits - 15, found.boxes)
    for head in (BoxSequenceHead(3, 4, 6).eval(), BoxSequenceHead(1, 4, 6).eval()):
        parts = head.shared[0].in_features - 4
        one, other = (
            head(PartEvidence(None, (32, 32), PartDetections(each.logits[..., :parts], each.boxes)))
            for each in (found, lower)
        )
        assert (one - other).abs().max() > 1e-3


def test_votes_of_parts_that_are_not_found_count_for_nothing():
    """Two classes of five and of one part: nothing is found, so neither is named; then one part of the first is."""
    matrix = torch.zeros(6, 2)
    matrix[:5, 0] = matrix[5, 1] = 1
    head = PartToClassHead(matrix, from_detections=True)
    logits = torch.full((1, 4, 6), -12.0)
    boxes = torch.rand(1, 4, 4)
    assert head(PartEvidence(None, (8, 8), PartDetections(logits, boxes))).abs().max() < 1e-3
    logits[0, 2, 3] = 8.0
    votes = head(PartEvidence(None, (8, 8), PartDetections(logits, boxes)))[0]
    assert votes[0] > 0.9 > 0.1 > votes[1]


def test_weighted_boxes_are_the_moments_of_the_boxes():
    sure = torch.full((1, 3, 2), -20.0)
    sure[0, 1, 0], sure[0, 2, 1] = 20.0, 20.0
    boxes = torch.tensor([[[0.1, 0.1, 0.1, 0.1], [0.4, 0.6, 0.2, 0.4], [0.7, 0.3, 0.5, 0.1]]])
    found = detected_boxes(PartDetections(sure, boxes))[0]
    assert torch.allclose(found[0, :2], boxes[0, 1, :2], atol=1e-4)
    assert torch.allclose(found[0, 2:], boxes[0, 1, 2:] / 12**0.5, atol=2e-3)
    assert torch.allclose(found[1, :2], boxes[0, 2, :2], atol=1e-4)
    assert torch.allclose(detected_scores(PartDetections(sure, boxes)), torch.full((1, 2), 20.0), atol=1e-3)
    # two equally sure queries: points drawn from both boxes
    twice = torch.zeros(1, 2, 1)
    both = torch.tensor([[[0.2, 0.5, 0.2, 0.2], [0.8, 0.5, 0.4, 0.2]]])
    points = torch.cat([0.2 + (torch.rand(200_000) - 0.5) * 0.2, 0.8 + (torch.rand(200_000) - 0.5) * 0.4])
    mean, spread = detected_boxes(PartDetections(twice, both))[0, 0, [0, 2]]
    assert abs(mean - points.mean()) < 2e-3
    assert abs(spread - points.std()) < 2e-3


def test_masks_of_queries_are_where_sure_queries_are():
    logits = torch.full((1, 3, 2), -12.0)
    logits[0, 0, 0], logits[0, 1, 1] = 12.0, 12.0
    masks = torch.full((1, 3, 4, 4), -12.0)
    masks[0, 0, :2], masks[0, 1, 2:, :2], masks[0, 2] = 12.0, 12.0, 12.0  # the third query names nothing
    evidence = PartEvidence(masks_of_queries(logits, masks), (16, 16))
    probability = evidence.masks[0]
    assert torch.allclose(probability.sum(dim=0), torch.ones(4, 4))
    assert (probability[1, :2] > 0.97).all()
    assert (probability[2, 2:, :2] > 0.97).all()
    assert (probability[0, 2:, 2:] > 0.99).all()


def test_evidence_that_is_not_there_is_an_error():
    boxes = PartEvidence(None, (32, 32), detections())
    masks = PartEvidence(torch.zeros(2, 3, 4, 4), (32, 32))
    assert (boxes.has_masks, boxes.has_detections, masks.has_masks, masks.has_detections) == (False, True, True, False)
    with pytest.raises(ValueError, match="boxes and no masks"):
        _ = boxes.mask_logits
    with pytest.raises(ValueError, match="masks and no detections"):
        _ = masks.detections
    with pytest.raises(ValueError, match="masks, detections, or both"):
        PartEvidence(None, (32, 32))
    with pytest.raises(ValueError, match="logits \\(B, Q, P\\)"):
        PartDetections(torch.zeros(2, 3, 4), torch.zeros(2, 4, 4))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["MODEL.PART.HEAD.NAME", "part_pooling"], "part_pooling reads masks"),
        (["MODEL.PART.HEAD.EVIDENCE", "masks", "MODEL.PART.HEAD.NAME", "part_box"], "extractor dino gives none"),
        (["MODEL.PART.HEAD.EVIDENCE", "boxes", "MODEL.PART.HEAD.NAME", "part_box"], "unknown MODEL.PART.HEAD.EVIDENCE"),
        (["MODEL.PART.HEAD.QUERY_ORDER", "given"], "unknown order of queries"),
        (["MODEL.PART.HEAD.QUERY_SCORES", "sum"], "unknown kind of scores"),
        (["MODEL.PART.HEAD.QUERY_ORDER", "sort", "MODEL.PART.HEAD.QUERIES", "11"], "1 to 10 queries"),
        (["MODEL.PART.HEAD.EVIDENCE", "masks"], "box_sequence reads detections"),
        (
            ["MODEL.PART.HEAD.NAME", "part_to_class", "MODEL.PART.HEAD.PIXEL_WEIGHT", "foreground"],
            "PIXEL_WEIGHT weights the pixels of masks",
        ),
        (["MODEL.PART.EXTRACTOR.NAME", "segmenter", "MODEL.SEM_SEG_HEAD.NORM", "BN"], "box_sequence needs a detector"),
        (["MODEL.DINO.IN_FEATURES", "['res3', 'res6']"], "the backbone has no res6"),
    ],
)
def test_heads_and_extractors_that_do_not_fit_are_refused(example_dataset, options, message):
    cfg = small_config(example_dataset, *DETECTOR_MODELS["dino_box_sequence"], *options)
    with pytest.raises(ConfigError, match=message):
        build_classifier(cfg)


def test_attacks_on_masks_are_refused_where_there_are_none(example_dataset):
    attack = ["ROBUST_EVAL.PERTURBATIONS", "[{'name': 'parts', 'eps': '4/255'}]"]
    cfg = small_config(example_dataset, *DETECTOR_MODELS["dino_part_box"], *attack)
    with pytest.raises(ConfigError, match="attacks part masks, and this model has none"):
        check_attackable(cfg, build_classifier(cfg), training=False)
    goal = ["ADVERSARY.OBJECTIVE", "pgd", "ADVERSARY.GOAL", "parts"]
    cfg = small_config(example_dataset, *DETECTOR_MODELS["dino_part_box"], *goal)
    with pytest.raises(ConfigError, match="need a model with part masks"):
        check_attackable(cfg, build_classifier(cfg), training=True)


def test_predictions_carry_the_detections_in_pixels(setting):
    model, batch = setting("maskdino_part_box")
    with torch.no_grad():
        [first, *_] = model.eval()(batch)
    instances = first["instances"]
    assert instances.image_size == (64, 64)
    assert len(instances) == 100  # TEST.DETECTIONS_PER_IMAGE
    assert first["part_probabilities"].shape == (1 + len(model.part_names), 16, 16)
    assert instances.pred_boxes.tensor.abs().max() > 2  # pixels, not shares


def test_a_detector_of_boxes_gets_no_masks(setting):
    _, boxes = setting("dino_part_box", count=1)
    _, masks = setting("maskdino_part_box", count=1)
    assert not boxes[0]["instances"].has("gt_masks")
    assert masks[0]["instances"].has("gt_masks")


def test_objects_follow_the_image_through_its_transforms(example_dataset):
    record = example_dataset.records[0]
    size = (record["height"], record["width"])
    plain = part_instances(record, T.NoOpTransform(), size, "auto")
    assert len(plain) == len(record["annotations"])
    for mask, box in zip(plain.gt_masks.tensor, plain.gt_boxes.tensor, strict=True):
        rows, columns = mask.nonzero(as_tuple=True)
        corners = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        assert box.tolist() == [float(corner) for corner in corners]
    flipped = part_instances(record, T.HFlipTransform(size[1]), size, "auto")
    assert torch.equal(flipped.gt_masks.tensor, plain.gt_masks.tensor.flip(2))
    assert torch.equal(flipped.gt_boxes.tensor[:, 0], size[1] - plain.gt_boxes.tensor[:, 2])
    boxes = part_instances(record, T.HFlipTransform(size[1]), size, "box")
    assert not boxes.has("gt_masks")
    # annotated boxes of masks are as tight as the masks
    assert (boxes.gt_boxes.tensor - flipped.gt_boxes.tensor).abs().max() <= 1.0
    left = part_instances(record, T.CropTransform(0, 0, size[1] // 2, size[0]), (size[0], size[1] // 2), "auto")
    inside = plain.gt_masks.tensor[:, :, : size[1] // 2].flatten(1).any(dim=1)
    assert left.gt_classes.tolist() == plain.gt_classes[inside].tolist()
    assert part_instances({**record, "part_labels": "none"}, T.NoOpTransform(), size, "auto") is None
    assert part_instances({**record, "part_labels": "box"}, T.NoOpTransform(), size, "mask") is None
    # an image that counts as labelled with boxes shows no mask, even where the file has one
    filled = part_instances({**record, "part_labels": "box"}, T.NoOpTransform(), size, "auto")
    areas = filled.gt_masks.tensor.flatten(1).sum(dim=1)
    sides = filled.gt_boxes.tensor[:, 2:] - filled.gt_boxes.tensor[:, :2]
    assert torch.equal(areas.float(), sides.prod(dim=1))
