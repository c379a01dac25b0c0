"""Configuration of Mask DINO and DINO: every key with its meaning, unit and default.

Mask DINO's keys carry the official names and defaults. Official keys without a meaning here do not exist, so detectron2
refuses a file that sets one; the README of this package lists them.
"""

from __future__ import annotations

from typing import Any

from detectron2.config import CfgNode

from .decoder import DecoderSettings
from .ms_deform_attn import FORMS
from .registration import register_detectors


def add_maskdino_config(cfg: CfgNode) -> None:
    """Add the keys of Mask DINO and DINO to detectron2's, and register both meta-architectures."""
    register_detectors()
    # How multi-scale deformable attention is computed: torch (plain torch, any device), grid_sample (the definition,
    # slower), gather (for torch.compile), or torch-ms-deform-attn (compiled kernels of that package; an error without).
    cfg.MODEL.DEFORMABLE_ATTENTION = "torch"
    _add_maskdino(cfg)
    _add_pixel_decoder(cfg)
    _add_dino(cfg)


def _add_maskdino(cfg: CfgNode) -> None:
    node = cfg.MODEL.MaskDINO = CfgNode()
    # Loss: weights of the terms; a weight of 0 removes the term.
    node.CLASS_WEIGHT = 4.0
    node.BOX_WEIGHT = 5.0
    node.GIOU_WEIGHT = 2.0
    node.MASK_WEIGHT = 5.0
    node.DICE_WEIGHT = 5.0
    node.DEEP_SUPERVISION = True  # judge every layer, not only the last
    node.NO_OBJECT_WEIGHT = 0.1  # of "no object" in the cross-entropy of SEMANTIC_CE_LOSS
    # Class head with a softmax over classes and "no object", for semantic segmentation only.
    node.SEMANTIC_CE_LOSS = False
    node.TRAIN_NUM_POINTS = 112 * 112  # at which masks are compared
    node.OVERSAMPLE_RATIO = 3.0  # so many times the points are drawn, from which the uncertain ones are taken
    node.IMPORTANCE_SAMPLE_RATIO = 0.75  # share of the points that are the most uncertain ones; the others are random
    # Matching: weights of the terms of the cost.
    node.COST_CLASS_WEIGHT = 4.0
    node.COST_BOX_WEIGHT = 5.0
    node.COST_GIOU_WEIGHT = 2.0
    node.COST_MASK_WEIGHT = 5.0
    node.COST_DICE_WEIGHT = 5.0
    node.HIDDEN_DIM = 256  # channels of queries and tokens; SEM_SEG_HEAD.CONVS_DIM must agree
    node.NHEADS = 8  # of the pixel decoder's encoder, as officially
    node.DEC_NHEADS = 8  # of the decoder; the official code has 8 there whatever is written
    node.DIM_FEEDFORWARD = 2048  # hidden units of the decoder's layers
    node.DEC_LAYERS = 6  # of the decoder
    node.DEC_N_POINTS = 4  # sampling points of the decoder's attention, for each level and head
    node.DROPOUT = 0.1  # of the decoder
    node.NUM_OBJECT_QUERIES = 100  # objects that an image can have at most
    node.TWO_STAGE = True  # queries from the encoder's tokens; otherwise learned
    node.LEARN_TGT = False  # with two stages, learned content and only boxes from the tokens
    node.INITIAL_PRED = True  # predict before the first layer as well
    node.INITIALIZE_BOX_TYPE = "no"  # initial boxes around predicted masks: bitmask, mask2box, or no
    # Denoising queries: no, standard (labels and boxes) or seg (masks too).
    node.DN = "seg"
    node.DN_NUM = 100  # at most, for each image; images with more objects train without
    node.DN_NOISE_SCALE = 0.4  # see maskdino_ext.denoising.noised_objects
    node.CLASS_PRIOR = True  # start the class head at 1 %; the official code does not: its first loss is about 20,000
    # Repeat what the official code does wrong and its weights have learned: target boxes in shares of the unpadded
    # image, swapped position encodings of five levels.
    node.PARITY = False
    node.SIZE_DIVISIBILITY = 32  # images are padded to a multiple, in pixels
    test = node.TEST = CfgNode()
    test.INSTANCE_ON = False  # give instances: boxes, masks, scores
    test.SEMANTIC_ON = True  # give a semantic map
    test.PANOPTIC_ON = False  # give panoptic segments
    test.OBJECT_MASK_THRESHOLD = 0.0  # score that a panoptic segment needs
    test.OVERLAP_THRESHOLD = 0.0  # share of its own mask that must be left of a panoptic segment
    test.TEST_FOUCUS_ON_BOX = False  # score instances by class alone (the official spelling)
    # Scale masks to the photograph before they are merged into a semantic map; always so with INSTANCE_ON, PANOPTIC_ON.
    test.SEM_SEG_POSTPROCESSING_BEFORE_INFERENCE = False
    test.PANO_TRANSFORM_EVAL = True  # sharpen class scores of semantic and panoptic results
    test.PANO_TEMPERATURE = 0.06  # of that: the scores are divided by it before a softmax over the classes


def _add_pixel_decoder(cfg: CfgNode) -> None:
    node = cfg.MODEL.SEM_SEG_HEAD
    node.MASK_DIM = 256  # channels of the pixel embedding
    # Features of the backbone that the encoder sees, the finest first.
    node.DEFORMABLE_TRANSFORMER_ENCODER_IN_FEATURES = ["res3", "res4", "res5"]
    node.DEFORMABLE_TRANSFORMER_ENCODER_N_POINTS = 4  # sampling points of its attention, for each level and head
    node.TRANSFORMER_ENC_LAYERS = 6  # of the encoder
    node.DIM_FEEDFORWARD = 1024  # hidden units of its layers
    node.TOTAL_NUM_FEATURE_LEVELS = 4  # those beyond IN_FEATURES come from the coarsest by strided convolutions
    node.FEATURE_ORDER = "high2low"  # order of the levels in the encoder; low2high: the finest first


def _add_dino(cfg: CfgNode) -> None:
    node = cfg.MODEL.DINO = CfgNode()
    node.NUM_CLASSES = 80  # without "no object"
    node.IN_FEATURES = ["res3", "res4", "res5"]  # of the backbone, the finest first
    node.NUM_FEATURE_LEVELS = 4  # those beyond IN_FEATURES come from the coarsest by strided convolutions
    node.HIDDEN_DIM = 256  # channels of queries and tokens
    node.NHEADS = 8  # of every attention
    node.DIM_FEEDFORWARD = 2048  # hidden units of every layer
    node.ENC_LAYERS = 6  # of the encoder
    node.DEC_LAYERS = 6  # of the decoder
    node.ENC_N_POINTS = 4  # sampling points of the encoder's attention, for each level and head
    node.DEC_N_POINTS = 4  # of the decoder's
    node.DROPOUT = 0.0  # of every layer
    node.NUM_OBJECT_QUERIES = 900  # an image must give at least as many tokens
    node.TWO_STAGE = True  # queries from the encoder's tokens; otherwise learned
    node.EMBED_INIT_TGT = True  # learned content; False: content from the encoder's tokens
    node.PE_TEMPERATURE = 20.0  # of the position encoding: longest wavelength over 2 pi
    # Contrastive denoising: see maskdino_ext.denoising.contrastive_objects.
    node.USE_DN = True
    node.DN_NUMBER = 100
    node.DN_BOX_NOISE_SCALE = 0.4  # the official training script overrides it with 1.0
    node.DN_LABEL_NOISE_RATIO = 0.5  # labels change with half this probability
    node.DN_LABELBOOK_SIZE = 0  # classes of the embedding of labels; 0 = NUM_CLASSES
    # Loss: weights of the terms.
    node.CLASS_WEIGHT = 1.0
    node.BOX_WEIGHT = 5.0
    node.GIOU_WEIGHT = 2.0
    # Matching: weights of the terms of the cost.
    node.COST_CLASS_WEIGHT = 2.0
    node.COST_BOX_WEIGHT = 5.0
    node.COST_GIOU_WEIGHT = 2.0
    node.DEEP_SUPERVISION = True  # judge every layer, not only the last
    node.NUM_SELECT = 300  # detections of an image


def attention_form(cfg: CfgNode) -> str:
    """``MODEL.DEFORMABLE_ATTENTION``, checked.

    Raises:
        ValueError: an unknown form.
    """
    form: str = cfg.MODEL.DEFORMABLE_ATTENTION
    if form not in FORMS:
        raise ValueError(f"MODEL.DEFORMABLE_ATTENTION is {form!r}; known: {', '.join(FORMS)}")
    return form


def maskdino_parts(cfg: CfgNode) -> dict[str, dict[str, Any]]:
    """Arguments of the parts of a Mask DINO: pixel_decoder, predictor, criterion, matcher, test.

    Raises:
        ValueError: choices that do not go together.
    """
    softmax = _softmax(cfg)
    return {
        "pixel_decoder": _pixel_decoder(cfg),
        "predictor": _predictor(cfg, softmax),
        "criterion": _criterion(cfg, softmax),
        "matcher": _matcher(cfg),
        "test": _test(cfg),
    }


def _softmax(cfg: CfgNode) -> bool:
    node = cfg.MODEL.MaskDINO
    if node.SEMANTIC_CE_LOSS and (not node.TEST.SEMANTIC_ON or node.TEST.INSTANCE_ON or node.TEST.PANOPTIC_ON):
        raise ValueError(
            "MODEL.MaskDINO.SEMANTIC_CE_LOSS is for semantic segmentation alone: set TEST.SEMANTIC_ON True, "
            "TEST.INSTANCE_ON False and TEST.PANOPTIC_ON False below MODEL.MaskDINO"
        )
    return bool(node.SEMANTIC_CE_LOSS)


def _pixel_decoder(cfg: CfgNode) -> dict[str, Any]:
    head, node = cfg.MODEL.SEM_SEG_HEAD, cfg.MODEL.MaskDINO
    if head.CONVS_DIM != node.HIDDEN_DIM:
        raise ValueError(
            f"MODEL.SEM_SEG_HEAD.CONVS_DIM {head.CONVS_DIM} and MODEL.MaskDINO.HIDDEN_DIM {node.HIDDEN_DIM} must agree"
        )
    return {
        "in_features": tuple(head.DEFORMABLE_TRANSFORMER_ENCODER_IN_FEATURES),
        "total_levels": head.TOTAL_NUM_FEATURE_LEVELS,
        "order": head.FEATURE_ORDER,
        "common_stride": head.COMMON_STRIDE,
        "dim": head.CONVS_DIM,
        "mask_dim": head.MASK_DIM,
        "norm": head.NORM,
        "layers": head.TRANSFORMER_ENC_LAYERS,
        "heads": node.NHEADS,
        "points": head.DEFORMABLE_TRANSFORMER_ENCODER_N_POINTS,
        "feedforward": head.DIM_FEEDFORWARD,
        "dropout": node.DROPOUT,
        "form": attention_form(cfg),
        "swapped_encodings": node.PARITY,
    }


def _predictor(cfg: CfgNode, softmax: bool) -> dict[str, Any]:
    head, node = cfg.MODEL.SEM_SEG_HEAD, cfg.MODEL.MaskDINO
    return {
        "decoder": DecoderSettings(
            dim=node.HIDDEN_DIM,
            feedforward=node.DIM_FEEDFORWARD,
            layers=node.DEC_LAYERS,
            levels=head.TOTAL_NUM_FEATURE_LEVELS,
            heads=node.DEC_NHEADS,
            points=node.DEC_N_POINTS,
            eps=1e-5,
            form=attention_form(cfg),
            dropout=node.DROPOUT,
        ),
        "classes": head.NUM_CLASSES,
        "class_outputs": head.NUM_CLASSES + softmax,
        "queries": node.NUM_OBJECT_QUERIES,
        "mask_dim": head.MASK_DIM,
        "two_stage": node.TWO_STAGE,
        "learned_content": node.LEARN_TGT,
        "initial_prediction": node.INITIAL_PRED,
        "box_type": node.INITIALIZE_BOX_TYPE,
        "denoising": node.DN,
        "denoising_queries": node.DN_NUM,
        "denoising_noise": node.DN_NOISE_SCALE,
        "class_prior": node.CLASS_PRIOR,
    }


def _criterion(cfg: CfgNode, softmax: bool) -> dict[str, Any]:
    node = cfg.MODEL.MaskDINO
    weights = {
        "ce": node.CLASS_WEIGHT,
        "mask": node.MASK_WEIGHT,
        "dice": node.DICE_WEIGHT,
        "bbox": node.BOX_WEIGHT,
        "giou": node.GIOU_WEIGHT,
    }
    of_denoising = {"no": (), "standard": ("ce", "bbox", "giou"), "seg": tuple(weights)}
    return {
        "classes": cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES,
        "weights": {kind: weight for kind, weight in weights.items() if weight},
        "softmax": softmax,
        "no_object": node.NO_OBJECT_WEIGHT,
        "denoising_kinds": of_denoising.get(node.DN, ()),
        "deep_supervision": node.DEEP_SUPERVISION,
        "first_denoised": 0 if node.TWO_STAGE else 1,
        "points": node.TRAIN_NUM_POINTS,
        "oversample": node.OVERSAMPLE_RATIO,
        "important": node.IMPORTANCE_SAMPLE_RATIO,
    }


def _matcher(cfg: CfgNode) -> dict[str, Any]:
    node = cfg.MODEL.MaskDINO
    return {
        "label": node.COST_CLASS_WEIGHT,
        "box": node.COST_BOX_WEIGHT,
        "overlap": node.COST_GIOU_WEIGHT,
        "mask": node.COST_MASK_WEIGHT,
        "dice": node.COST_DICE_WEIGHT,
        "points": node.TRAIN_NUM_POINTS,
    }


def _test(cfg: CfgNode) -> dict[str, Any]:
    test = cfg.MODEL.MaskDINO.TEST
    return {
        "instances": test.INSTANCE_ON,
        "semantic": test.SEMANTIC_ON,
        "panoptic": test.PANOPTIC_ON,
        "detections": cfg.TEST.DETECTIONS_PER_IMAGE,
        "box_scores": test.TEST_FOUCUS_ON_BOX,
        "score_threshold": test.OBJECT_MASK_THRESHOLD,
        "overlap": test.OVERLAP_THRESHOLD,
        "temperature": test.PANO_TEMPERATURE if test.PANO_TRANSFORM_EVAL else None,
        "crop_first": test.SEM_SEG_POSTPROCESSING_BEFORE_INFERENCE or test.PANOPTIC_ON or test.INSTANCE_ON,
    }
