"""Augmentation of detectors: sizes, boxes and masks of what the recipes cut and pad."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from detectron2.structures import BoxMode
from PIL import Image

from partbox.data.detection_augmentations import detection_training_mapper
from partbox.engine.checks import ConfigError
from partbox.engine.setup import load_config

SIDE = 96


@pytest.fixture
def record(tmp_path):
    """A photograph of 120 x 80 with one object, given as polygon and box."""
    path = tmp_path / "photograph.png"
    Image.fromarray(np.full((80, 120, 3), 200, dtype=np.uint8)).save(path)
    corners = [30.0, 20.0, 90.0, 20.0, 90.0, 60.0, 30.0, 60.0]
    annotation = {"bbox": [30, 20, 90, 60], "bbox_mode": BoxMode.XYXY_ABS, "segmentation": [corners], "category_id": 3}
    return {"file_name": str(path), "height": 80, "width": 120, "image_id": 1, "annotations": [annotation]}


def encoded(record):
    """The record with its mask as a run-length code, as part datasets have it."""
    from pycocotools import mask as masks

    whole = np.zeros((80, 120), dtype=np.uint8)
    whole[20:60, 30:90] = 1
    (annotation,) = record["annotations"]
    return {**record, "annotations": [{**annotation, "segmentation": masks.encode(np.asfortranarray(whole))}]}


def config(name, *options):
    size = ["INPUT.IMAGE_SIZE", str(SIDE)] if name == "large_scale_jitter" else []
    return load_config(
        None,
        [
            *["MODEL.META_ARCHITECTURE", "GeneralizedRCNN", "INPUT.AUGMENTATION", name, *size],
            *["INPUT.MASK_FORMAT", "bitmask", "INPUT.MIN_SIZE_TRAIN", "(48, 64)", "INPUT.MAX_SIZE_TRAIN", "80"],
            *["MODEL.MASK_ON", "True", *options],
        ],
    )


def test_large_scale_jitter_gives_squares_whose_padding_belongs_to_nobody(record):
    mapper = detection_training_mapper(config("large_scale_jitter", "INPUT.MIN_SCALE", "0.3", "INPUT.MAX_SCALE", "0.6"))
    np.random.seed(0)
    for one in (record, encoded(record)):
        for _ in range(8):
            sample = mapper(one)
            assert sample["image"].shape == (3, SIDE, SIDE)
            (mask,) = sample["instances"].gt_masks.tensor
            inside = (sample["image"] == 200).all(dim=0)
            assert inside.any()
            assert not inside.all()
            assert not (mask & ~inside).any()
            share = float(mask.sum() / inside.sum())
            assert share == pytest.approx(60 * 40 / (120 * 80), abs=0.04)
            box = sample["instances"].gt_boxes.tensor
            assert torch.equal(box, sample["instances"].gt_masks.get_bounding_boxes().tensor)


def test_large_scale_jitter_covers_its_scales(record):
    mapper = detection_training_mapper(
        config("large_scale_jitter", "INPUT.MIN_SCALE", "0.25", "INPUT.MAX_SCALE", "2.0")
    )
    np.random.seed(0)
    shares = []
    for _ in range(40):
        sample = mapper(record)
        shares.append(float((sample["image"] == 200).all(dim=0).float().mean()))
    assert min(shares) < 0.15
    assert max(shares) == 1.0


def test_detr_crops_half_of_the_images(record):
    mapper = detection_training_mapper(config("detr", "INPUT.RANDOM_FLIP", "none"))
    np.random.seed(0)
    shapes = [tuple(mapper(record)["image"].shape[1:]) for _ in range(60)]
    # whole: 120 x 80 at shortest side 48 or 64 with the longest at most 80
    whole = {(48, 72), (53, 80)}
    cut = sum(shape not in whole for shape in shapes)
    assert 15 < cut < 45
    assert all(min(shape) <= 64 and max(shape) <= 80 for shape in shapes)


def test_every_draw_follows_the_seed(record):
    mapper = detection_training_mapper(config("detr"))

    def draws():
        np.random.seed(3)
        return [mapper(record)["image"] for _ in range(3)]

    assert all(torch.equal(one, other) for one, other in zip(draws(), draws(), strict=True))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("detr", "INPUT.CROP.ENABLED", "True"), "crops by itself"),
        (("detr", "INPUT.IMAGE_SIZE", "512"), "detr reads none of them"),
        (("shortest_edge", "INPUT.MAX_SCALE", "1.5"), "shortest_edge reads none of them"),
        (("large_scale_jitter", "INPUT.MIN_SCALE", "0"), "MIN_SCALE"),
        (("large_scale_jitter", "INPUT.IMAGE_SIZE", "8"), "IMAGE_SIZE"),
    ],
)
def test_settings_that_contradict_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        detection_training_mapper(config(*options))


def test_an_unknown_augmentation_and_one_that_nothing_reads_are_refused():
    with pytest.raises(ConfigError, match="AUGMENTATION must be one of"):
        config("lsj")
    with pytest.raises(ConfigError, match="is for detectors"):
        load_config(None, ["INPUT.AUGMENTATION", "detr"])
