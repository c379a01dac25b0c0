"""How training images of detectors are resized and cropped: detectron2's way, or that of the published recipes."""

from __future__ import annotations

from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetMapper
from detectron2.data import transforms as T

AUGMENTATIONS = ("shortest_edge", "large_scale_jitter", "detr")
JITTER = (1024, 0.1, 2.0)  # defaults of IMAGE_SIZE, MIN_SCALE and MAX_SCALE
DETR_FIRST_SIDES = (400, 500, 600)  # shortest sides before the crop, in pixels
DETR_CROP = (384, 600)  # smallest and largest side of the crop, in pixels


def detection_training_mapper(cfg: CfgNode) -> DatasetMapper:
    """detectron2's mapper with the augmentation that ``INPUT.AUGMENTATION`` names.

    Raises:
        ValueError: an unknown name, sizes out of range, or ``INPUT.CROP`` together with an augmentation that crops.
    """
    options: dict[str, Any] = DatasetMapper.from_config(cfg, is_train=True)
    name = cfg.INPUT.AUGMENTATION
    jitter = (cfg.INPUT.IMAGE_SIZE, cfg.INPUT.MIN_SCALE, cfg.INPUT.MAX_SCALE)
    if name != "large_scale_jitter" and jitter != JITTER:
        raise ValueError(
            f"INPUT.IMAGE_SIZE, MIN_SCALE and MAX_SCALE are of large_scale_jitter, {name} reads none of them"
        )
    if name == "shortest_edge":
        return DatasetMapper(**{"is_train": True, **options})
    if name not in AUGMENTATIONS:
        raise ValueError(f"INPUT.AUGMENTATION must be one of {', '.join(AUGMENTATIONS)}, not {name!r}")
    if cfg.INPUT.CROP.ENABLED:
        raise ValueError(f"INPUT.AUGMENTATION {name} crops by itself: set INPUT.CROP.ENABLED False")
    steps = _large_scale_jitter(cfg) if name == "large_scale_jitter" else _detr(cfg)
    # boxes of what a crop has cut: from the masks where there are some, else the part of the box that is left
    changes = {"augmentations": [*_flip(cfg), *steps], "recompute_boxes": cfg.MODEL.MASK_ON}
    return DatasetMapper(**{"is_train": True, **options, **changes})


def _flip(cfg: CfgNode) -> list[T.Augmentation]:
    flip = cfg.INPUT.RANDOM_FLIP
    return [] if flip == "none" else [T.RandomFlip(horizontal=flip == "horizontal", vertical=flip == "vertical")]


def _large_scale_jitter(cfg: CfgNode) -> list[T.Augmentation]:
    """Resize to a random scale, cut or pad to a square of ``IMAGE_SIZE`` (Ghiasi et al. 2021, arXiv 2012.07177)."""
    side, low, high = cfg.INPUT.IMAGE_SIZE, cfg.INPUT.MIN_SCALE, cfg.INPUT.MAX_SCALE
    if side < 32 or not 0 < low <= high:
        raise ValueError(
            "INPUT.IMAGE_SIZE must be at least 32 pixels and 0 < INPUT.MIN_SCALE <= INPUT.MAX_SCALE, "
            f"not {side}, {low} and {high}"
        )
    # detectron2 pads a bitmask with 255, as if the object filled the padding; an instance mask needs 0 there
    return [T.ResizeScale(low, high, side, side), T.FixedSizeCrop((side, side), seg_pad_value=0)]


def _detr(cfg: CfgNode) -> list[T.Augmentation]:
    """Half of the images are cropped at a random size first (Carion et al. 2020, arXiv 2005.12872, appendix A.4)."""
    crop = T.AugmentationList(
        [
            T.ResizeShortestEdge(DETR_FIRST_SIDES, sample_style="choice"),
            T.RandomCrop("absolute_range", DETR_CROP),
        ]
    )
    sides = T.ResizeShortestEdge(cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN, sample_style="choice")
    return [T.RandomApply(crop, prob=0.5), sides]
