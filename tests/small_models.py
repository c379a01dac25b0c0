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
    "TRACKING.IMAGES",  # drawing them takes longer than such a training
    "0",
]
"""Options that make any model of partbox small enough for a test."""


def small_config(dataset: PartDataset, *options: str) -> CfgNode:
    """A small model's configuration for ``dataset``; ``options`` are KEY VALUE pairs."""
    partbox.register_all()
    cfg = load_config(None, [*SMALL, *options])
    fill_names(cfg, dataset)
    return cfg


_MASKED = ["MODEL.PART.HEAD.NAME", "masked_image"]

MODELS = {
    "normal": ["MODEL.PART.EXTRACTOR.NAME", "none", "MODEL.PART.HEAD.NAME", "linear"],
    "part_box": ["MODEL.PART.HEAD.NAME", "part_box"],
    "part_pooling": ["MODEL.PART.HEAD.NAME", "part_pooling"],
    "part_auxiliary": ["MODEL.PART.EXTRACTOR.NAME", "auxiliary", "MODEL.PART.HEAD.NAME", "linear"],
    "two_head": ["MODEL.PART.HEAD.NAME", "two_head"],
    "part_to_class": ["MODEL.PART.HEAD.NAME", "part_to_class"],
    "part_to_class_learned": ["MODEL.PART.HEAD.NAME", "part_to_class", "MODEL.PART.HEAD.LEARNED", "True"],
    "part_box_object": ["MODEL.PART.HEAD.NAME", "part_box", "MODEL.PART.EXTRACTOR.LEVEL", "object"],
    "part_pooling_fg": ["MODEL.PART.HEAD.NAME", "part_pooling", "MODEL.PART.EXTRACTOR.LEVEL", "fg"],
    "part_box_group": ["MODEL.PART.HEAD.NAME", "part_box", "MODEL.PART.EXTRACTOR.LEVEL", "group"],
    "part_box_keypoint": ["MODEL.PART.HEAD.NAME", "part_box", "MODEL.PART.KEYPOINT_LOSS_WEIGHT", "1.0"],
    "two_head_decoder": ["MODEL.PART.HEAD.NAME", "two_head_decoder"],
    "masks": _MASKED,
    "masks_detached": [*_MASKED, "MODEL.PART.HEAD.DETACH_MASKS", "True", "MODEL.PART.HEAD.MASK_TEMPERATURE", "0.5"],
    "masks_concat": [*_MASKED, "MODEL.PART.HEAD.COMBINE", "concat", "MODEL.PART.HEAD.KEEP_BACKGROUND", "False"],
    "masks_multiply": [*_MASKED, "MODEL.PART.HEAD.COMBINE", "multiply", "MODEL.PART.HEAD.SUM_BY_CLASS", "True"],
    "masks_hard": [*_MASKED, "MODEL.PART.HEAD.HARD_MASKS", "True"],
    "masks_hard_multiply": [
        *[*_MASKED, "MODEL.PART.EXTRACTOR.LEVEL", "group", "MODEL.PART.HEAD.COMBINE", "multiply"],
        *["MODEL.PART.HEAD.HARD_MASKS", "True", "MODEL.PART.HEAD.DETACH_MASKS", "True"],
    ],
}
"""Every model of the main job, as configuration options."""

INEXACT = ("masks_hard", "masks_hard_multiply")
"""Those whose gradient is an estimate."""

ORACLES = {
    "oracle_masks": [*_MASKED, "MODEL.PART.EXTRACTOR.NAME", "oracle"],
    "oracle_concat": [*_MASKED, "MODEL.PART.EXTRACTOR.NAME", "oracle", "MODEL.PART.HEAD.COMBINE", "concat"],
    "clean_masks": [*_MASKED, "MODEL.PART.EXTRACTOR.FROM_CLEAN_IMAGE", "True"],
    "clean_concat": [
        *[*_MASKED, "MODEL.PART.EXTRACTOR.FROM_CLEAN_IMAGE", "True", "MODEL.PART.HEAD.COMBINE", "concat"],
    ],
}
"""Models whose evidence no attack can change; those named concat see the attacked image beside it."""

_DETECTOR = [
    *["MODEL.PART.BACKBONE.OUTPUT_STRIDE", "32", "INPUT.SIZE", "(64, 64)"],
    *["MODEL.SEM_SEG_HEAD.CONVS_DIM", "64", "MODEL.SEM_SEG_HEAD.NORM", "GN", "MODEL.SEM_SEG_HEAD.MASK_DIM", "16"],
    *["MODEL.SEM_SEG_HEAD.TRANSFORMER_ENC_LAYERS", "1", "MODEL.SEM_SEG_HEAD.DIM_FEEDFORWARD", "32"],
    *["MODEL.MaskDINO.INITIALIZE_BOX_TYPE", "bitmask", "MODEL.SEM_SEG_HEAD.TOTAL_NUM_FEATURE_LEVELS", "3"],
    *["MODEL.MaskDINO.DROPOUT", "0.0"],
    *["MODEL.MaskDINO.HIDDEN_DIM", "64", "MODEL.MaskDINO.DIM_FEEDFORWARD", "32", "MODEL.MaskDINO.DEC_LAYERS", "2"],
    *["MODEL.MaskDINO.NUM_OBJECT_QUERIES", "10", "MODEL.MaskDINO.TRAIN_NUM_POINTS", "64", "MODEL.MaskDINO.DN_NUM", "9"],
    *["MODEL.DINO.HIDDEN_DIM", "64", "MODEL.DINO.DIM_FEEDFORWARD", "32", "MODEL.DINO.DEC_LAYERS", "2"],
    *["MODEL.DINO.ENC_LAYERS", "1", "MODEL.DINO.NUM_OBJECT_QUERIES", "10", "MODEL.DINO.NUM_FEATURE_LEVELS", "3"],
    *["MODEL.DINO.DN_NUMBER", "2", "SOLVER.OPTIMIZER", "ADAMW", "SOLVER.BASE_LR", "0.0001"],
]


def _detector(extractor: str, head: str, *options: str) -> list[str]:
    return [*_DETECTOR, "MODEL.PART.EXTRACTOR.NAME", extractor, "MODEL.PART.HEAD.NAME", head, *options]


DETECTOR_MODELS = {
    "dino_box_sequence": _detector("dino", "box_sequence"),
    "dino_box_sequence_sorted": _detector(
        "dino", "box_sequence", "MODEL.PART.HEAD.QUERY_ORDER", "sort", "MODEL.PART.HEAD.QUERIES", "8"
    ),
    "dino_part_box": _detector("dino", "part_box"),
    "dino_part_to_class": _detector("dino", "part_to_class"),
    "dino_two_head": _detector("dino", "two_head"),
    "maskdino_part_box": _detector("maskdino", "part_box"),
    "maskdino_part_pooling": _detector("maskdino", "part_pooling"),
    "maskdino_part_to_class": _detector("maskdino", "part_to_class", "MODEL.PART.HEAD.EVIDENCE", "detections"),
    "maskdino_box_sequence": _detector("maskdino", "box_sequence", "MODEL.PART.HEAD.QUERY_SCORES", "sigmoid"),
    "maskdino_part_box_object": _detector("maskdino", "part_box", "MODEL.PART.EXTRACTOR.LEVEL", "object"),
}
"""Models whose parts a detector finds, on images of 64 pixels."""
