"""Mask DINO and DINO learn: a few random images in a fast test, photographs of cars in a slow one."""

from __future__ import annotations

import contextlib
import io
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import COCOEvaluator
from part_dataset_files import forget_builtin_datasets
from small_transformers import sample, small_transformer
from torch import nn

import partbox
from partbox.engine.build import build_optimizer
from partbox.engine.detectors import build_detector, mapper_of
from partbox.engine.setup import load_config

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("architecture", ["MaskDINO", "DINO"])
def test_two_images_are_learned_by_heart(architecture):
    """Every term of the loss of the last layer falls, and the objects are found."""
    model = small_transformer(architecture).train()
    batch = [sample(side=24), sample(seed=1, side=24)]
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3)
    torch.manual_seed(0)
    first: dict[str, float] = {}
    for _ in range(60):
        losses = model(batch)
        first = first or {name: value.item() for name, value in losses.items()}
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
    for name in ("loss_ce", "loss_bbox", "loss_giou", *(["loss_dice"] if architecture == "MaskDINO" else [])):
        assert losses[name].item() < 0.5 * first[name], name
    with torch.no_grad():
        results = model.eval()(batch)
    for one, result in zip(batch, results, strict=True):
        best = result["instances"][: len(one["instances"])]
        distance = best.pred_boxes.tensor[:, None] - one["instances"].gt_boxes.tensor[None]
        assert distance.abs().amax(dim=-1).amin(dim=0).max() < 8  # pixels of 64


@pytest.fixture
def eight_cars(shared, tmp_path, monkeypatch):
    """The first eight training photographs of car parts, registered as ``eight_cars``."""
    source = shared / "data/car_parts"
    if not source.is_dir():
        pytest.skip(f"needs photographs of cars, which are not at {source}")
    script = REPOSITORY / "datasets/prepare_coco_parts.py"
    options = ["--annotations", source / "annotations.json", "--images", source, "--class-name", "car"]
    subprocess.run([sys.executable, script, *options, "--output", tmp_path / "car_parts"], check=True)
    forget_builtin_datasets()
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    partbox.register_all(tmp_path)
    records = DatasetCatalog.get("car_parts_train")[:8]
    DatasetCatalog.register("eight_cars", lambda: records)
    MetadataCatalog.get("eight_cars").set(thing_classes=MetadataCatalog.get("car_parts_train").thing_classes)
    yield records
    DatasetCatalog.remove("eight_cars")
    MetadataCatalog.remove("eight_cars")
    forget_builtin_datasets()


@pytest.mark.slow
def test_eight_photographs_are_learned_by_heart(eight_cars, tmp_path):
    """``configs/car_parts/maskdino.yaml`` reaches a mask AP above 80 % on eight images in 300 iterations of four."""
    options = ["INPUT.MIN_SIZE_TRAIN", "(160,)", "MODEL.DEVICE", "cpu", "SEED", "1"]
    cfg = load_config(REPOSITORY / "configs/car_parts/maskdino.yaml", options)
    torch.manual_seed(1)
    model = build_detector(cfg).train()
    optimizer = build_optimizer(cfg, model)
    rates = [group["lr"] for group in optimizer.param_groups]
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rates, total_steps=300, pct_start=0.1)
    mapper = mapper_of(cfg, is_train=True)
    images = [mapper(record) for record in eight_cars]
    for _ in range(300):
        losses = model([images[i] for i in torch.randperm(8)[:4].tolist()])
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
        schedule.step()
    assert mask_ap(cfg, model.eval(), eight_cars, tmp_path) > 80


def mask_ap(cfg, model: nn.Module, records: list, folder: Path) -> float:
    evaluator = COCOEvaluator(
        "eight_cars", tasks=("bbox", "segm"), distributed=False, use_fast_impl=False, output_dir=str(folder)
    )
    evaluator.reset()
    mapper = mapper_of(cfg, is_train=False)
    with torch.no_grad(), contextlib.redirect_stdout(io.StringIO()):
        for record in records:
            one = mapper(record)
            evaluator.process([one], model([one]))
        return evaluator.evaluate()["segm"]["AP"]
