"""Detectors and a segmenter small enough for a test, on the generated example data."""

from __future__ import annotations

from pathlib import Path

from detectron2.config import CfgNode

import partbox
from partbox.engine.setup import load_config

REPOSITORY = Path(__file__).resolve().parents[1]
DETECTORS = ("faster_rcnn", "mask_rcnn", "retinanet")
SEGMENTER = "deeplabv3plus"

TRANSFORMERS = ("maskdino", "dino")

SMALL_DETECTOR = [
    *["MODEL.DEVICE", "cpu", "DATALOADER.NUM_WORKERS", "0", "SEED", "1"],
    *["DATASETS.TRAIN", "('example_train',)", "DATASETS.TEST", "('example_test',)"],
    *["MODEL.PART.BACKBONE.TIMM_NAME", "test_resnet", "MODEL.PART.BACKBONE.WEIGHTS", ""],
    *["INPUT.MIN_SIZE_TRAIN", "(64,)", "INPUT.MIN_SIZE_TEST", "64", "INPUT.SIZE", "(64, 64)"],
    *["MODEL.FPN.OUT_CHANNELS", "16", "MODEL.ANCHOR_GENERATOR.SIZES", "[[8], [12], [16], [24], [40]]"],
    *["MODEL.ROI_HEADS.NUM_CLASSES", "40", "MODEL.RETINANET.NUM_CLASSES", "40"],
    *["MODEL.ROI_BOX_HEAD.FC_DIM", "32", "MODEL.ROI_MASK_HEAD.CONV_DIM", "8"],
    *["MODEL.RPN.POST_NMS_TOPK_TRAIN", "50", "MODEL.RPN.POST_NMS_TOPK_TEST", "50"],
    *["MODEL.SEM_SEG_HEAD.NUM_CLASSES", "41", "MODEL.SEM_SEG_HEAD.CONVS_DIM", "16"],
    *["MODEL.SEM_SEG_HEAD.ASPP_CHANNELS", "16", "MODEL.SEM_SEG_HEAD.PROJECT_CHANNELS", "[8]"],
    *["SOLVER.IMS_PER_BATCH", "4", "SOLVER.WARMUP_ITERS", "0", "ROBUST_EVAL.SELF_CHECK_IMAGES", "0"],
    *["TRACKING.IMAGES", "0"],  # as in SMALL
]
"""Options that make any configuration of configs/car_parts small, and put it on the example data."""


SMALL_TRANSFORMER = [
    *["MODEL.SEM_SEG_HEAD.NUM_CLASSES", "40", "MODEL.DINO.NUM_CLASSES", "40", "MODEL.SEM_SEG_HEAD.CONVS_DIM", "64"],
    *["MODEL.MaskDINO.HIDDEN_DIM", "64", "MODEL.DINO.HIDDEN_DIM", "64", "MODEL.MaskDINO.NUM_OBJECT_QUERIES", "10"],
    *["MODEL.DINO.NUM_OBJECT_QUERIES", "10", "MODEL.MaskDINO.TRAIN_NUM_POINTS", "64", "MODEL.MaskDINO.DEC_LAYERS", "2"],
    *["MODEL.DINO.DEC_LAYERS", "2", "MODEL.SEM_SEG_HEAD.TRANSFORMER_ENC_LAYERS", "1", "MODEL.DINO.ENC_LAYERS", "1"],
    *["MODEL.DINO.DN_NUMBER", "2", "MODEL.MaskDINO.DN_NUM", "9"],
]
"""More options for Mask DINO and DINO."""


def detector_config(name: str, *options: str, root: Path) -> CfgNode:
    """A small model's configuration; ``options`` are KEY VALUE pairs."""
    partbox.register_all(root)
    anchors = ["MODEL.ANCHOR_GENERATOR.SIZES", "[[8, 11], [12, 16], [16, 22], [24, 33], [40, 56]]"]
    extra = anchors if name == "retinanet" else SMALL_TRANSFORMER if name in TRANSFORMERS else []
    return load_config(REPOSITORY / f"configs/car_parts/{name}.yaml", [*SMALL_DETECTOR, *extra, *options])
