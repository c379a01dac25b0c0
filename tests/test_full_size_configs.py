"""The configurations of full size: each is built and makes one training step, at a reduced resolution."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from small_detectors import REPOSITORY

import partbox
from partbox.engine.checkpoint import save_weights
from partbox.engine.checks import ConfigError
from partbox.engine.detector_dry_run import detector_plan, made_up_samples
from partbox.engine.detectors import build_detector, class_count
from partbox.engine.setup import load_config

FOLDERS = ("coco", "partimagenet", "paco")
FILES = sorted(path for folder in FOLDERS for path in (REPOSITORY / "configs" / folder).glob("*.yaml"))
BUILT = [path for path in FILES if path.stem not in ("base", "dino_4scale_R50_36ep")]
QUICK = ("coco/maskdino_R50_2048", "partimagenet/dino_4scale_R50")  # the others differ in sizes and numbers of classes
CLASSES = {"coco": 80, "partimagenet": 40, "paco": 456}
# An image must give at least as many tokens as there are queries: 300 of Mask DINO, 900 of DINO.
SIZES = {"MaskDINO": 128, "DINO": 224}
DINO_OFFICIAL = REPOSITORY.parent / "shared/fixtures/maskdino/dino_4scale_r50_state_dict.json"
OFFICIAL = REPOSITORY.parent / "shared/fixtures/maskdino/maskdino_r50_state_dict.json"


def config(path: Path, *options: str):
    partbox.register_all()
    return load_config(path, ["MODEL.DEVICE", "cpu", *options])


def test_the_longer_schedule_differs_in_the_schedule_alone():
    short, long = (config(REPOSITORY / f"configs/coco/dino_4scale_R50{end}.yaml") for end in ("", "_36ep"))
    assert long.SOLVER.MAX_ITER == 3 * short.SOLVER.MAX_ITER
    assert long.SOLVER.STEPS == (long.SOLVER.MAX_ITER * 30 // 36,)
    long.SOLVER.MAX_ITER, long.SOLVER.STEPS = short.SOLVER.MAX_ITER, short.SOLVER.STEPS
    assert long.dump() == short.dump()


def name_of(path: Path) -> str:
    return f"{path.parent.name}/{path.stem}"


@pytest.mark.parametrize("path", BUILT, ids=name_of)
def test_every_configuration_knows_its_classes(path):
    assert class_count(config(path)) == CLASSES[path.parent.name]


@pytest.mark.parametrize(
    "path",
    [path if name_of(path) in QUICK else pytest.param(path, marks=pytest.mark.slow) for path in BUILT],
    ids=name_of,
)
def test_every_configuration_makes_one_training_step(path):
    cfg = config(path)
    size = SIZES[cfg.MODEL.META_ARCHITECTURE]
    plan = detector_plan(cfg, size=size)
    (step,) = (line for line in plan.splitlines() if line.startswith("one step"))
    assert f"{size} x {size}" in step
    assert 5 < float(re.search(r"total loss ([\d.]+)", step).group(1)) < 2000
    # a layer that the step does not reach would be a mistake in the configuration
    assert "without a gradient" not in plan
    assert f"weights: {cfg.MODEL.WEIGHTS} is not on this machine" in plan
    assert f"{cfg.SOLVER.MAX_ITER:,} iterations of 16 images" in plan


@pytest.mark.skipif(not OFFICIAL.exists(), reason="the lists of official parameters are not on this machine")
@pytest.mark.parametrize(
    ("name", "official"),
    [
        ("maskdino_R50_1024", "coco_instance_R50_3s (hid1024, bitmask)"),
        ("maskdino_R50_2048", "coco_instance_R50_3s_dowsample1_2048 (mask2box)"),
    ],
)
def test_the_recipe_is_the_official_one(name, official):
    cfg = config(REPOSITORY / f"configs/coco/{name}.yaml")
    facts = json.loads(OFFICIAL.read_text())["configs"][official]
    assert sum(p.numel() for p in build_detector(cfg).parameters()) == facts["n_params"]
    recipe, head, node = facts["cfg"], cfg.MODEL.SEM_SEG_HEAD, cfg.MODEL.MaskDINO
    optim = recipe["optim"]
    assert (optim["lr"], optim["backbone_mult"]) == (cfg.SOLVER.BASE_LR, cfg.SOLVER.BACKBONE_MULTIPLIER)
    assert (optim["wd"], optim["wd_embed"]) == (cfg.SOLVER.WEIGHT_DECAY, cfg.SOLVER.WEIGHT_DECAY_EMBED)
    assert (cfg.SOLVER.MAX_ITER, list(cfg.SOLVER.STEPS)) == (optim["max_iter"], optim["steps"])
    assert (optim["batch"], optim["amp"]) == (cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.AMP.ENABLED)
    assert optim["clip_full_model_norm2"] == cfg.SOLVER.CLIP_GRADIENTS.CLIP_VALUE
    assert (recipe["feature_order"], recipe["initialize_box_type"]) == (head.FEATURE_ORDER, node.INITIALIZE_BOX_TYPE)
    assert (recipe["dn"], recipe["dn_num"], recipe["dn_noise_scale"]) == (node.DN, node.DN_NUM, node.DN_NOISE_SCALE)
    assert (recipe["train_num_points"], recipe["dropout"]) == (node.TRAIN_NUM_POINTS, node.DROPOUT)
    assert list(cfg.MODEL.PIXEL_MEAN) == recipe["pixel_mean"]
    assert ("FrozenBN", recipe["resnet"]["freeze_at"]) == (cfg.MODEL.RESNETS.NORM, cfg.MODEL.BACKBONE.FREEZE_AT)


@pytest.mark.skipif(not DINO_OFFICIAL.exists(), reason="the list of official parameters is not on this machine")
def test_the_recipe_of_dino_is_the_official_one():
    """With the 91 outputs of the official model; the rate falls after epoch 11 of 12."""
    cfg = config(REPOSITORY / "configs/coco/dino_4scale_R50.yaml", "MODEL.DINO.NUM_CLASSES", "91")
    facts = json.loads(DINO_OFFICIAL.read_text())
    recipe, node, solver = facts["cfg"], cfg.MODEL.DINO, cfg.SOLVER
    assert sum(p.numel() for p in build_detector(cfg).parameters()) == facts["n_params"]
    assert recipe["lr"] == solver.BASE_LR
    assert pytest.approx(recipe["lr_backbone"]) == solver.BASE_LR * solver.BACKBONE_MULTIPLIER
    decays = {solver.WEIGHT_DECAY, solver.WEIGHT_DECAY_NORM, solver.WEIGHT_DECAY_EMBED}
    assert decays == {recipe["weight_decay"]}
    assert recipe["clip_max_norm"] == solver.CLIP_GRADIENTS.CLIP_VALUE
    assert solver.STEPS[0] / solver.MAX_ITER == pytest.approx(recipe["lr_drop"] / recipe["epochs"], abs=1e-4)
    assert pytest.approx(recipe["epochs"] * 118_287 / solver.IMS_PER_BATCH, abs=recipe["epochs"]) == solver.MAX_ITER
    assert (recipe["num_queries"], recipe["dn_number"]) == (node.NUM_OBJECT_QUERIES, node.DN_NUMBER)
    assert (recipe["num_select"], recipe["dn_label_noise_ratio"]) == (node.NUM_SELECT, node.DN_LABEL_NOISE_RATIO)
    assert (6, 6, recipe["dropout"]) == (node.ENC_LAYERS, node.DEC_LAYERS, node.DROPOUT)


def test_a_dead_layer_and_a_wrong_number_of_classes_are_seen():
    small = ["MODEL.MaskDINO.DEC_LAYERS", "1", "MODEL.SEM_SEG_HEAD.TRANSFORMER_ENC_LAYERS", "1"]
    path = REPOSITORY / "configs/coco/maskdino_R50_1024.yaml"
    silent = ["MODEL.MaskDINO.DN", "no", "MODEL.MaskDINO.MASK_WEIGHT", "0.0", "MODEL.MaskDINO.DICE_WEIGHT", "0.0"]
    plan = detector_plan(config(path, *small, *silent), size=SIZES["MaskDINO"])
    assert "parameters without a gradient" in plan
    with pytest.raises(ConfigError, match="NUM_CLASSES is 81, and coco_2017_train has 80"):
        detector_plan(config(path, *small, "MODEL.SEM_SEG_HEAD.NUM_CLASSES", "81"), size=SIZES["MaskDINO"])


@pytest.mark.parametrize(
    ("folder", "name"),
    [("partimagenet", "maskdino_R50"), pytest.param("paco", "dino_4scale_R50", marks=pytest.mark.slow)],
)
def test_weights_of_coco_start_a_model_of_parts(folder, name, tmp_path):
    """Everything but the class heads is what the file says, and nothing else is left out."""
    cfg = config(REPOSITORY / f"configs/{folder}/{name}.yaml", "MODEL.WEIGHTS", str(tmp_path / "coco.pth"))
    node = "DINO" if cfg.MODEL.META_ARCHITECTURE == "DINO" else "SEM_SEG_HEAD"
    coco = build_detector(config(REPOSITORY / f"configs/{folder}/{name}.yaml", f"MODEL.{node}.NUM_CLASSES", "80"))
    with torch.no_grad():
        for parameter in coco.parameters():
            parameter.mul_(1.001)
    save_weights(tmp_path / "coco.pth", coco)
    loaded = build_detector(cfg, cfg.MODEL.WEIGHTS, cfg.MODEL.WEIGHTS_EXCEPT).state_dict()
    anew = {name for name, tensor in coco.state_dict().items() if not torch.equal(tensor, loaded[name][: len(tensor)])}
    assert anew
    assert all("class_embed" in name or "label_enc" in name or "empty_weight" in name for name in anew)
    assert f"{cfg.MODEL.WEIGHTS} fits" in detector_plan(cfg, size=SIZES[cfg.MODEL.META_ARCHITECTURE])


def test_a_step_that_is_not_possible_says_why():
    cfg = config(REPOSITORY / "configs/coco/dino_4scale_R50.yaml")
    with pytest.raises(ConfigError, match="900"):
        detector_plan(cfg, size=64)


def test_made_up_samples_are_whole():
    cfg = config(REPOSITORY / "configs/coco/maskdino_R50_1024.yaml")
    samples = made_up_samples(cfg, 64)
    for sample in samples:
        objects = sample["instances"]
        assert objects.gt_classes.max() < 80
        # pixels whose centre lies in the box
        assert (objects.gt_masks.get_bounding_boxes().tensor - objects.gt_boxes.tensor).abs().max() <= 1
    assert not torch.equal(samples[0]["image"], samples[1]["image"])
