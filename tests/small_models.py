"""Models small enough for a test."""

from __future__ import annotations

from detectron2.config import CfgNode

import partbox
from partbox.data import PartDataset
from partbox.engine.setup import fill_names, load_config

SMALL = [
    "MODEL.DEVICE",
    "cpu",
    "INPUT.SIZE",
    "(32, 32)",
    "MODEL.PART.BACKBONE.TIMM_NAME",
    "test_resnet",
    "MODEL.SEM_SEG_HEAD.COMMON_STRIDE",
    "4",
    "MODEL.SEM_SEG_HEAD.NORM",
    "BN",
    "MODEL.SEM_SEG_HEAD.CONVS_DIM",
    "16",
    "MODEL.SEM_SEG_HEAD.ASPP_CHANNELS",
    "16",
    "MODEL.SEM_SEG_HEAD.ASPP_DILATIONS",
    "[1, 2, 3]",
    "MODEL.SEM_SEG_HEAD.PROJECT_CHANNELS",
    "[8]",
    "DATALOADER.NUM_WORKERS",
    "0",
    "SOLVER.IMS_PER_BATCH",
    "8",
    "SEED",
    "1",
    "ROBUST_EVAL.SELF_CHECK_IMAGES",
    "0",
]
"""Options that make any model of partbox small enough for a test."""


def small_config(dataset: PartDataset, *options: str) -> CfgNode:
    """A small model's configuration for ``dataset``; ``options`` are KEY VALUE pairs."""
    partbox.register_all()
    cfg = load_config(None, [*SMALL, *options])
    fill_names(cfg, dataset)
    return cfg


MODELS = {
    "normal": ["MODEL.PART.EXTRACTOR.NAME", "none", "MODEL.PART.HEAD.NAME", "linear"],
    "part_box": ["MODEL.PART.HEAD.NAME", "part_box"],
    "part_pooling": ["MODEL.PART.HEAD.NAME", "part_pooling"],
    "two_head": ["MODEL.PART.HEAD.NAME", "two_head"],
    "part_to_class": ["MODEL.PART.HEAD.NAME", "part_to_class"],
    "part_to_class_learned": ["MODEL.PART.HEAD.NAME", "part_to_class", "MODEL.PART.HEAD.LEARNED", "True"],
    "part_box_object": ["MODEL.PART.HEAD.NAME", "part_box", "MODEL.PART.EXTRACTOR.LEVEL", "object"],
    "part_pooling_fg": ["MODEL.PART.HEAD.NAME", "part_pooling", "MODEL.PART.EXTRACTOR.LEVEL", "fg"],
}
"""Every model of the main job, as configuration options."""
