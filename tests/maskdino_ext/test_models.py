"""Mask DINO and DINO as detectron2 models: losses, results, degenerate batches, refusals."""

from __future__ import annotations

import pytest
import torch
from config_reads import dotted, record_reads
from detectron2.config import get_cfg
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.structures import Boxes, Instances
from small_transformers import CLASSES, sample, small_transformer

from maskdino_ext import add_maskdino_config, register_detectors

BOTH = ("MaskDINO", "DINO")
KINDS = {"MaskDINO": {"ce", "bbox", "giou", "mask", "dice"}, "DINO": {"ce", "bbox", "giou"}}


@pytest.mark.parametrize("architecture", BOTH)
def test_every_prediction_is_judged(architecture):
    model = small_transformer(architecture).train()
    losses = model([sample(), sample(seed=1, objects=3)])
    layers = {"MaskDINO": ["", "_0", "_1", "_interm", "_dn", "_dn_0", "_dn_1"], "DINO": ["", "_0", "_interm", "_dn"]}
    stages = [*layers[architecture], *(["_dn_0"] if architecture == "DINO" else [])]
    assert set(losses) == {f"loss_{kind}{stage}" for kind in KINDS[architecture] for stage in stages}
    assert all(torch.isfinite(value) for value in losses.values())
    sum(losses.values()).backward()
    untouched = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert untouched == []


@pytest.mark.parametrize("architecture", BOTH)
def test_the_first_loss_is_small_thanks_to_the_prior(architecture):
    model = small_transformer(architecture).train()
    losses = model([sample()])
    assert 0.1 < losses["loss_ce"] < 20
    if architecture == "MaskDINO":
        without = small_transformer(architecture, "MODEL.MaskDINO.CLASS_PRIOR", False).train()
        assert without([sample()])["loss_ce"] > 2 * losses["loss_ce"]


@pytest.mark.parametrize("architecture", BOTH)
@pytest.mark.parametrize("case", ["nothing", "one_image_without", "more_than_denoising", "one_pixel"])
def test_degenerate_batches_train(architecture, case):
    batch = {
        "nothing": [sample(objects=0), sample(objects=0, seed=1)],
        "one_image_without": [sample(objects=0), sample(objects=2, seed=1)],
        "more_than_denoising": [sample(objects=11), sample(objects=1, seed=1)],
        "one_pixel": [sample(objects=3, side=1)],
    }[case]
    model = small_transformer(architecture).train()
    losses = model(batch)
    assert all(torch.isfinite(value) for value in losses.values())
    denoised = sum(value.item() for name, value in losses.items() if "_dn" in name)
    assert (denoised == 0) == (case == "nothing" or (case == "more_than_denoising" and architecture == "MaskDINO"))
    sum(losses.values()).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())


@pytest.mark.parametrize("architecture", BOTH)
def test_more_objects_than_queries_are_an_assignment_of_the_queries(architecture):
    model = small_transformer(architecture).train()
    losses = model([sample(objects=20)])
    assert all(torch.isfinite(value) for value in losses.values())


@pytest.mark.parametrize("architecture", BOTH)
def test_a_pixel_that_is_not_a_number_is_said(architecture):
    model = small_transformer(architecture).train()
    broken = sample()
    broken["image"] = broken["image"].float()
    broken["image"][0, 0, 0] = torch.nan
    with pytest.raises(FloatingPointError, match="training has diverged"):
        model([broken])


@pytest.mark.parametrize("architecture", BOTH)
def test_results_are_detectron2s(architecture):
    model = small_transformer(architecture, "TEST.DETECTIONS_PER_IMAGE", 7, "MODEL.DINO.NUM_SELECT", 7).eval()
    first, second = sample((64, 96)), sample((48, 64), seed=1)
    second |= {"height": 96, "width": 128}  # of the photograph
    with torch.no_grad():
        results = model([first, second])
    for result, size in zip(results, ((64, 96), (96, 128)), strict=True):
        instances = result["instances"]
        assert instances.image_size == size
        assert len(instances) == 7
        assert set(instances.pred_classes.tolist()) <= set(range(CLASSES))
        assert ((instances.scores >= 0) & (instances.scores <= 1)).all()
        if architecture == "MaskDINO":
            assert instances.pred_masks.shape == (7, *size)


@pytest.mark.parametrize("architecture", BOTH)
def test_draws_come_from_the_seed(architecture):
    model = small_transformer(architecture).train()

    def losses(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return torch.stack(list(model([sample(), sample(seed=1)]).values())).detach()

    assert torch.equal(losses(1), losses(1))
    assert not torch.equal(losses(1), losses(2))


@pytest.mark.parametrize("architecture", BOTH)
def test_the_order_of_objects_changes_no_matched_loss(architecture):
    options = ["MODEL.MaskDINO.DN", "no", "MODEL.DINO.USE_DN", False]
    model = small_transformer(architecture, *options).train()
    one = sample(objects=4)
    other = {**one, "instances": one["instances"][torch.tensor([2, 0, 3, 1])]}
    torch.manual_seed(0)
    first = model([one])
    torch.manual_seed(0)
    second = model([other])
    for name, value in first.items():
        if "mask" not in name and "dice" not in name:  # their random points are drawn for each pair
            assert torch.allclose(second[name], value, atol=1e-5), name


def test_what_lies_in_the_padding_reaches_no_token_of_the_image_and_no_query():
    model = small_transformer("DINO").eval()
    padding = torch.zeros(1, 96, 128, dtype=torch.bool)
    padding[:, 64:] = padding[:, :, 64:] = True
    features = [torch.randn(1, 32, 12 // 2**i, 16 // 2**i) for i in range(3)]
    with torch.no_grad():
        levels, paddings = model.project(features, padding)
        changed = [torch.where(one[:, None], 50.0, level) for level, one in zip(levels, paddings, strict=True)]
        found = [model.transformer.encode(each, paddings) for each in (levels, changed)]
        real = ~found[0].padding
        assert 0 < int(real.sum()) < real.numel()
        assert not torch.equal(found[0].memory, found[1].memory)
        assert torch.equal(found[0].memory[real], found[1].memory[real])
        states = [model.transformer.decode(each, None)[0][-1] for each in found]
    assert torch.equal(states[0], states[1])


def test_target_boxes_are_shares_of_the_padded_image_unless_parity_is_asked_for():
    samples = [sample((64, 64)), sample((96, 128), seed=1)]
    for parity, side in ((False, (128, 96)), (True, (64, 64))):
        model = small_transformer("MaskDINO", "MODEL.MaskDINO.PARITY", parity)
        images = model.preprocess_image(samples)
        target = model.targets([one["instances"] for one in samples], images)[0]
        box = samples[0]["instances"].gt_boxes.tensor[0]
        centre = (box[:2] + box[2:]) / 2 / torch.tensor(side)
        assert torch.allclose(target.boxes[0, :2], centre)
        assert target.masks.shape == (2, 96, 128)


def test_five_levels_have_swapped_encodings_only_for_parity():
    shapes = {}
    for parity in (False, True):
        options = ["MODEL.SEM_SEG_HEAD.TOTAL_NUM_FEATURE_LEVELS", 5, "MODEL.MaskDINO.PARITY", parity]
        model = small_transformer("MaskDINO", *options).eval()
        with torch.no_grad():
            found = model.sem_seg_head.pixel_decoder(model.backbone(torch.zeros(1, 3, 128, 256)))
        shapes[parity] = [tuple(one.shape[-2:]) for one in found.encodings]
        assert [tuple(one.shape[-2:]) for one in found.inputs] == [(1, 2), (2, 4), (4, 8), (8, 16), (16, 32)]
    assert shapes[False][:2] == [(1, 2), (2, 4)]
    assert shapes[True][:2] == [(2, 4), (1, 2)]


@pytest.mark.parametrize("order", ["low2high", "high2low"])
def test_the_order_of_levels_is_the_one_asked_for(order):
    model = small_transformer(
        "MaskDINO", "MODEL.SEM_SEG_HEAD.TOTAL_NUM_FEATURE_LEVELS", 4, "MODEL.SEM_SEG_HEAD.FEATURE_ORDER", order
    ).eval()
    with torch.no_grad():
        found = model.sem_seg_head.pixel_decoder(model.backbone(torch.zeros(1, 3, 64, 64)))
    sizes = [one.shape[-1] for one in found.levels]
    assert sizes == sorted(sizes, reverse=order == "low2high")
    assert found.mask_features.shape[-2:] == (16, 16)


def test_boxes_alone_train_without_masks_and_missing_masks_are_said():
    weights = ["MASK_WEIGHT", "DICE_WEIGHT", "COST_MASK_WEIGHT", "COST_DICE_WEIGHT"]
    options = [one for key in weights for one in (f"MODEL.MaskDINO.{key}", 0.0)]
    model = small_transformer("MaskDINO", *options).train()
    losses = model([sample(masks=False)])
    sum(losses.values()).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())  # as distributed training wants it
    assert {name.split("_")[1] for name in losses} == {"ce", "bbox", "giou"}
    with pytest.raises(ValueError, match=r"MODEL\.MaskDINO\.MASK_WEIGHT 0"):
        small_transformer("MaskDINO").train()([sample(masks=False)])
    dice = small_transformer("MaskDINO", "MODEL.MaskDINO.MASK_WEIGHT", 0.0).train()([sample()])
    assert {name.split("_")[1] for name in dice} == {"ce", "bbox", "giou", "dice"}
    cost = [one for key in weights[:3] for one in (f"MODEL.MaskDINO.{key}", 0.0)]
    with pytest.raises(ValueError, match=r"COST_DICE_WEIGHT 0"):
        small_transformer("MaskDINO", *cost).train()([sample(masks=False)])


def test_semantic_and_panoptic_results():
    semantic = ["MODEL.MaskDINO.TEST.SEMANTIC_ON", True, "MODEL.MaskDINO.TEST.INSTANCE_ON", False]
    softmax = small_transformer("MaskDINO", *semantic, "MODEL.MaskDINO.SEMANTIC_CE_LOSS", True)
    assert softmax.sem_seg_head.predictor.class_embed.out_features == CLASSES + 1
    assert torch.isfinite(softmax.train()([sample()])["loss_ce"])
    with torch.no_grad():
        [result] = softmax.eval()([{**sample((64, 96)), "height": 32, "width": 48}])
    assert set(result) == {"sem_seg"}
    assert result["sem_seg"].shape == (CLASSES, 32, 48)
    with pytest.raises(ValueError, match="for semantic segmentation alone"):
        small_transformer("MaskDINO", "MODEL.MaskDINO.SEMANTIC_CE_LOSS", True)
    with pytest.raises(ValueError, match=r"need DATASETS\.TRAIN"):
        small_transformer("MaskDINO", "MODEL.MaskDINO.TEST.PANOPTIC_ON", True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["MODEL.MaskDINO.DN", "segs"], "unknown kind of denoising 'segs'"),
        (["MODEL.MaskDINO.INITIALIZE_BOX_TYPE", "masks"], "unknown initialisation of boxes 'masks'"),
        (["MODEL.MaskDINO.TWO_STAGE", False], "need two-stage query selection"),
        (["MODEL.MaskDINO.INITIAL_PRED", False], "need the initial prediction"),
        (["MODEL.MaskDINO.HIDDEN_DIM", 32], "must agree"),
        (["MODEL.DEFORMABLE_ATTENTION", "fast"], "MODEL.DEFORMABLE_ATTENTION is 'fast'"),
        (["MODEL.SEM_SEG_HEAD.FEATURE_ORDER", "up"], "unknown order of levels 'up'"),
        (["MODEL.SEM_SEG_HEAD.TOTAL_NUM_FEATURE_LEVELS", 2], "2 levels for 3 features"),
        (["MODEL.SEM_SEG_HEAD.COMMON_STRIDE", 2], "exactly one feature must have the stride 2"),
    ],
)
def test_choices_that_do_not_exist_or_go_together_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        small_transformer("MaskDINO", *options)


@pytest.mark.parametrize("architecture", BOTH)
def test_an_image_too_small_for_the_queries_is_said(architecture):
    key = {"MaskDINO": "MODEL.MaskDINO.NUM_OBJECT_QUERIES", "DINO": "MODEL.DINO.NUM_OBJECT_QUERIES"}[architecture]
    model = small_transformer(architecture, key, 200).eval()
    with pytest.raises(ValueError, match="tokens and 200 queries"):
        model([sample((64, 64))])


def test_no_key_is_parsed_and_ignored(monkeypatch):
    """Every key that ``add_maskdino_config`` adds is read when the models are built."""
    plain, ours = get_cfg(), get_cfg()
    add_maskdino_config(ours)
    seen = record_reads(monkeypatch)
    for architecture in BOTH:
        small_transformer(architecture)
    small_transformer("MaskDINO", "MODEL.MaskDINO.TEST.PANO_TRANSFORM_EVAL", True)
    small_transformer("MaskDINO", "MODEL.MaskDINO.TEST.INSTANCE_ON", False)
    new = dotted(ours) - dotted(plain)
    assert len(new) > 60
    assert sorted(new - seen) == []


def test_registering_twice_changes_nothing():
    register_detectors()
    register_detectors()
    assert {"MaskDINO", "DINO"} <= {name for name, _ in META_ARCH_REGISTRY}


def test_the_loss_reaches_every_pixel_of_an_object():
    """End to end: the detection losses have a gradient at the image, where the objects are and elsewhere."""
    for architecture in BOTH:
        model = small_transformer(architecture).train()
        one = sample()
        one["image"] = one["image"].float().requires_grad_(True)
        sum(model([one]).values()).backward()
        gradient = one["image"].grad
        assert torch.isfinite(gradient).all()
        share = (gradient.abs().amax(dim=0) > 0).float().mean()
        assert share > 0.95, architecture


@pytest.mark.parametrize("architecture", BOTH)
def test_an_image_without_objects_as_detectron2_gives_it(architecture):
    """detectron2's mapper gives no ``gt_masks`` where there is no annotation."""
    empty = Instances((64, 64), gt_boxes=Boxes(torch.zeros(0, 4)), gt_classes=torch.zeros(0, dtype=torch.int64))
    model = small_transformer(architecture).train()
    losses = model([{"image": sample()["image"], "instances": empty}])
    assert losses["loss_bbox"] == 0
    assert losses["loss_ce"] > 0


@pytest.mark.parametrize("architecture", BOTH)
def test_the_whole_model_has_second_derivatives(architecture):
    model = small_transformer(architecture).train()
    one = sample()
    one["image"] = one["image"].float().requires_grad_(True)
    torch.manual_seed(0)
    total = sum(model([one]).values())
    (gradient,) = torch.autograd.grad(total, one["image"], create_graph=True)
    gradient.square().sum().backward()
    assert torch.isfinite(one["image"].grad).all()
    assert one["image"].grad.abs().max() > 0


@pytest.mark.parametrize("architecture", BOTH)
def test_half_precision_changes_little(architecture):
    model = small_transformer(architecture).train()
    batch = [sample(), sample(seed=1)]
    torch.manual_seed(0)
    exact = sum(model(batch).values())
    torch.manual_seed(0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = sum(model(batch).values())
    assert torch.isfinite(rounded)
    assert abs(rounded - exact) < 0.2 * exact


def test_the_pixel_decoder_stays_in_float32_under_autocast():
    """As in the official code; the sizes are such that centres of tokens have no exact value in half precision."""
    model = small_transformer("MaskDINO").eval()
    decoder = model.sem_seg_head.pixel_decoder
    features = model.backbone(torch.randn(1, 3, 96, 160))
    exact = decoder(features)
    seen = []
    handles = [
        module.register_forward_hook(
            lambda module, inputs, output: seen.append(output.dtype) if isinstance(output, torch.Tensor) else None
        )
        for module in decoder.modules()
    ]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = decoder(features)
    for handle in handles:
        handle.remove()
    assert set(seen) == {torch.float32}
    assert torch.equal(found.mask_features, exact.mask_features)
    assert all(torch.equal(one, other) for one, other in zip(found.levels, exact.levels, strict=True))


def test_settings_change_what_they_say():
    """One look at each key that no other test touches."""
    one = sample()
    learned = small_transformer("MaskDINO", "MODEL.MaskDINO.LEARN_TGT", True)
    assert learned.sem_seg_head.predictor.query_feat.weight.shape == (12, 64)
    learned.train()([one])["loss_ce"].backward()
    assert learned.sem_seg_head.predictor.query_feat.weight.grad.abs().max() > 0
    single = small_transformer("MaskDINO", "MODEL.MaskDINO.DEEP_SUPERVISION", False).train()
    assert {name for name in single([one]) if "dn" not in name and "interm" not in name} == {
        f"loss_{kind}" for kind in KINDS["MaskDINO"]
    }
    standard = small_transformer("MaskDINO", "MODEL.MaskDINO.DN", "standard").train()([one])
    assert "loss_ce_dn" in standard
    assert "loss_mask_dn" not in standard
    no_initial = ["MODEL.MaskDINO.INITIAL_PRED", False, "MODEL.MaskDINO.INITIALIZE_BOX_TYPE", "no"]
    assert "loss_ce_1" not in small_transformer("MaskDINO", *no_initial).train()([one])
    dropped = small_transformer("DINO", "MODEL.DINO.DROPOUT", 0.5)
    assert {m.p for m in dropped.modules() if isinstance(m, torch.nn.Dropout)} == {0.5}
    book = small_transformer("DINO", "MODEL.DINO.DN_LABELBOOK_SIZE", 9)
    assert book.label_enc.weight.shape[0] == 10
    content = small_transformer("DINO", "MODEL.DINO.EMBED_INIT_TGT", False)
    assert "transformer.tgt_embed.weight" not in content.state_dict()
    cold, warm = (
        small_transformer("DINO", "MODEL.DINO.PE_TEMPERATURE", value)
        .transformer.encode([torch.zeros(1, 64, 4, 4)] * 4, [torch.zeros(1, 4, 4, dtype=torch.bool)] * 4)
        .position
        for value in (20.0, 10000.0)
    )
    assert not torch.allclose(cold, warm, atol=0.1)


def test_scores_of_instances_are_of_the_class_or_of_the_mask_too():
    with torch.no_grad():
        both, alone = (
            small_transformer("MaskDINO", "MODEL.MaskDINO.TEST.TEST_FOUCUS_ON_BOX", value).eval()([sample()])[0]
            for value in (False, True)
        )
    assert both["instances"].scores.max() < alone["instances"].scores.max()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["MODEL.DINO.DN_NUMBER", 0], "DN_NUMBER must be at least 1"),
        (["MODEL.DINO.DN_LABELBOOK_SIZE", 3], "has no room for 5 classes"),
        (["MODEL.DINO.NUM_FEATURE_LEVELS", 2], "2 levels for 3 features"),
        (["MODEL.DINO.IN_FEATURES", ["res9"]], "no feature 'res9'"),
    ],
)
def test_wrong_settings_of_dino_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        small_transformer("DINO", *options)
