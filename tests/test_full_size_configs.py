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
BUILT = [path for path in FILES if path.name != "base.yaml"]
CLASSES = {"coco": 80, "partimagenet": 40, "paco": 456}
# An image must give at least as many tokens as there are queries: 300 of Mask DINO, 900 of DINO.
SIZES = {"MaskDINO": 128, "DINO": 224}
OFFICIAL = REPOSITORY.parent / "shared/fixtures/maskdino/maskdino_r50_state_dict.json"


def config(path: Path, *options: str):
    partbox.register_all()
    return load_config(path, ["MODEL.DEVICE", "cpu", *options])


@pytest.mark.parametrize("path", BUILT, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_configuration_makes_one_training_step(path):
    cfg = config(path)
    assert class_count(cfg) == CLASSES[path.parent.name]
    size = SIZES[cfg.MODEL.META_ARCHITECTURE]
    plan = detector_plan(cfg, size=size)
    (step,) = (line for line in plan.splitlines() if line.startswith("one step"))
    assert f"{size} x {size}" in step
    assert 5 < float(re.search(r"total loss ([\d.]+)", step).group(1)) < 2000
    # layers that none of the six objects reaches would be an error of the configuration
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


@pytest.mark.parametrize(("folder", "name"), [("partimagenet", "maskdino_R50"), ("paco", "dino_4scale_R50")])
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
