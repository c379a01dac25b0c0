"""Configurations for the sizes that a reference's JSON file describes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from detectron2.config import CfgNode, get_cfg

from maskdino_ext.config import add_maskdino_config

Described = Mapping[str, Any]
UNNORMALISED = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]


def base_config(architecture: str) -> CfgNode:
    """detectron2's configuration with our keys, on the CPU."""
    cfg = get_cfg()
    add_maskdino_config(cfg)
    cfg.MODEL.META_ARCHITECTURE = architecture
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.WEIGHTS = ""
    cfg.INPUT.FORMAT = "RGB"
    cfg.MODEL.BACKBONE.NAME = "build_resnet_backbone"
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    cfg.MODEL.RESNETS.STRIDE_IN_1X1 = False
    cfg.MODEL.SEM_SEG_HEAD.COMMON_STRIDE = 4
    return cfg


def maskdino_config(described: Described, *, denoising: str | None = None) -> CfgNode:
    """A Mask DINO from the ``cfg`` of a run, or of a list of keys; ``denoising`` replaces the described kind."""
    cfg = base_config("MaskDINO")
    _pixel_decoder(cfg, described)
    node = cfg.MODEL.MaskDINO
    node.HIDDEN_DIM = described["hidden_dim"]
    node.NHEADS = described.get("encoder_heads", described.get("encoder_nheads"))
    node.DEC_NHEADS = described.get("decoder_heads", described.get("decoder_nheads (hard default)"))
    node.DIM_FEEDFORWARD = described.get("decoder_ffn", described.get("decoder_dim_feedforward"))
    node.DEC_LAYERS = described["dec_layers"]
    node.DEC_N_POINTS = described["n_points"]
    node.DROPOUT = described["dropout"]
    node.NUM_OBJECT_QUERIES = described["num_queries"]
    node.TWO_STAGE = described["two_stage"]
    node.LEARN_TGT = described["learn_tgt"]
    node.INITIAL_PRED = described["initial_pred"]
    node.INITIALIZE_BOX_TYPE = described["initialize_box_type"]
    node.DN = denoising if denoising is not None else described["dn"]
    node.DN_NUM, node.DN_NOISE_SCALE = described["dn_num"], described["dn_noise_scale"]
    node.CLASS_PRIOR, node.PARITY = False, True
    node.DEEP_SUPERVISION = "loss_ce_0" in described.get("weight_dict", {"loss_ce_0": 0})
    # the official code looks at it in semantic segmentation only
    node.SEMANTIC_CE_LOSS = bool(described["semantic_ce_loss"] and described["semantic_on"])
    node.SIZE_DIVISIBILITY = described["size_divisibility"]
    node.TRAIN_NUM_POINTS = described["train_num_points"]
    node.OVERSAMPLE_RATIO = described["oversample_ratio"]
    node.IMPORTANCE_SAMPLE_RATIO = described["importance_sample_ratio"]
    _weights(cfg, described)
    _maskdino_test(cfg, described)
    cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD = described["pixel_mean"], described["pixel_std"]
    _resnet(cfg, described)
    return cfg


def _pixel_decoder(cfg: CfgNode, described: Described) -> None:
    head = cfg.MODEL.SEM_SEG_HEAD
    head.NUM_CLASSES = described["num_classes"]
    head.CONVS_DIM = described["convs_dim"]
    head.MASK_DIM = described["mask_dim"]
    head.NORM = described["norm"].removesuffix("(32)")
    head.COMMON_STRIDE = described["common_stride"]
    head.DEFORMABLE_TRANSFORMER_ENCODER_IN_FEATURES = list(described["encoder_in_features"])
    head.DEFORMABLE_TRANSFORMER_ENCODER_N_POINTS = described["n_points"]
    layers = "enc_layers (SEM_SEG_HEAD.TRANSFORMER_ENC_LAYERS)"
    head.TRANSFORMER_ENC_LAYERS = described.get("enc_layers", described.get(layers))
    head.DIM_FEEDFORWARD = described.get("encoder_ffn", described.get("encoder_dim_feedforward"))
    head.TOTAL_NUM_FEATURE_LEVELS = described["total_num_feature_levels"]
    head.FEATURE_ORDER = described["feature_order"]


def _weights(cfg: CfgNode, described: Described) -> None:
    node = cfg.MODEL.MaskDINO
    loss = {key.upper(): value for key, value in described["loss_weights"].items()}
    cost = {key.upper(): value for key, value in described["cost_weights"].items()}
    node.CLASS_WEIGHT = loss.get("CE", loss.get("CLASS"))
    node.BOX_WEIGHT = loss.get("BBOX", loss.get("BOX"))
    node.GIOU_WEIGHT, node.MASK_WEIGHT, node.DICE_WEIGHT = loss["GIOU"], loss["MASK"], loss["DICE"]
    node.NO_OBJECT_WEIGHT = described.get("no_object_weight", loss.get("NO_OBJECT"))
    node.COST_CLASS_WEIGHT = cost["CLASS"]
    node.COST_BOX_WEIGHT = cost.get("BBOX", cost.get("BOX"))
    node.COST_GIOU_WEIGHT, node.COST_MASK_WEIGHT, node.COST_DICE_WEIGHT = cost["GIOU"], cost["MASK"], cost["DICE"]


def _maskdino_test(cfg: CfgNode, described: Described) -> None:
    test = cfg.MODEL.MaskDINO.TEST
    test.INSTANCE_ON = described["instance_on"]
    test.SEMANTIC_ON = described["semantic_on"]
    test.PANOPTIC_ON = described["panoptic_on"]
    if test.PANOPTIC_ON:  # whose metadata says which classes are things
        cfg.DATASETS.TRAIN = ("coco_2017_train_panoptic",)
    test.PANO_TRANSFORM_EVAL = described["pano_transform_eval"]
    test.PANO_TEMPERATURE = described["pano_temperature"]
    test.TEST_FOUCUS_ON_BOX = described.get("focus_on_box", False)
    test.OVERLAP_THRESHOLD = described.get("overlap_threshold", 0.8)
    test.OBJECT_MASK_THRESHOLD = described.get("object_mask_threshold", 0.25)
    cfg.TEST.DETECTIONS_PER_IMAGE = described.get("test_topk_per_image", described.get("detections_per_image"))


def _resnet(cfg: CfgNode, described: Described) -> None:
    resnet = cfg.MODEL.RESNETS
    if "resnet" in described:
        resnet.NORM, resnet.STRIDE_IN_1X1 = described["resnet"]["norm"], described["resnet"]["stride_in_1x1"]
        return
    backbone = described["backbone"]
    depths = {(3, 4, 6, 3): 50, (3, 4, 23, 3): 101, (3, 8, 36, 3): 152}
    resnet.DEPTH = depths[tuple(backbone["blocks"])]
    resnet.NORM = "FrozenBN"
    resnet.STRIDE_IN_1X1 = backbone["stride_in_1x1"]
    resnet.STEM_OUT_CHANNELS = backbone["stem"]
    resnet.RES2_OUT_CHANNELS = backbone["out"][0]
    resnet.WIDTH_PER_GROUP = backbone["bottleneck"][0]


def dino_config(described: Described, *, denoising: bool) -> CfgNode:
    """DINO from the ``cfg`` of a run (short names) or of the list of keys (official names)."""
    cfg = base_config("DINO")
    cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD = UNNORMALISED
    node = cfg.MODEL.DINO
    official = "hidden_dim" in described
    names = dict(zip(SHORT, OFFICIAL if official else SHORT, strict=True))
    node.NUM_CLASSES = described[names["c"]]
    node.HIDDEN_DIM, node.NHEADS = described[names["hidden"]], described[names["heads"]]
    node.DIM_FEEDFORWARD = described[names["ffn"]]
    node.ENC_LAYERS, node.DEC_LAYERS = described[names["enc"]], described[names["dec"]]
    node.NUM_OBJECT_QUERIES = described[names["q"]]
    node.DN_NUMBER = described[names["dn"]]
    node.ENC_N_POINTS = described.get("enc_n_points", described.get("n_points"))
    node.DEC_N_POINTS = described.get("dec_n_points", described.get("n_points"))
    node.NUM_FEATURE_LEVELS = described["num_feature_levels"]
    node.TWO_STAGE = described["two_stage_type"] == "standard"
    node.EMBED_INIT_TGT = described["embed_init_tgt"]
    node.PE_TEMPERATURE = float(described.get("pe_temperature", described.get("pe_temperatureH")))
    node.USE_DN = denoising
    _refuse_what_is_fixed_here(described)
    weights = described.get("weight_dict")
    if weights:
        node.CLASS_WEIGHT, node.BOX_WEIGHT = float(weights["loss_ce"]), float(weights["loss_bbox"])
        node.GIOU_WEIGHT = float(weights["loss_giou"])
        node.DEEP_SUPERVISION = "loss_ce_0" in weights
    node.DN_BOX_NOISE_SCALE = described["dn_box_noise_scale"]
    node.DN_LABEL_NOISE_RATIO = described["dn_label_noise_ratio"]
    node.NUM_SELECT = described["num_select"]
    if official:
        node.DN_LABELBOOK_SIZE = described["dn_labelbook_size"]
        node.DROPOUT = described["dropout"]
        node.IN_FEATURES = [f"res{2 + i}" for i in described["return_interm_indices"]]
        node.CLASS_WEIGHT, node.BOX_WEIGHT = described["cls_loss_coef"], described["bbox_loss_coef"]
        node.GIOU_WEIGHT = described["giou_loss_coef"]
        cfg.MODEL.BACKBONE.NAME = "build_torchvision_resnet_backbone"
        cfg.MODEL.BACKBONE.FREEZE_AT = 2
    else:
        cost = described["cost"]
        node.COST_CLASS_WEIGHT, node.COST_BOX_WEIGHT, node.COST_GIOU_WEIGHT = (
            cost["class"],
            cost["bbox"],
            cost["giou"],
        )
    return cfg


# Settings of the official DINO that have one value here.
FIXED = {
    "focal_alpha": 0.25,
    "two_stage_bbox_embed_share": False,
    "two_stage_class_embed_share": False,
    "dec_pred_bbox_embed_share": True,
    "dec_pred_class_embed_share": True,
    "num_patterns": 0,
    "pre_norm": False,
    "use_detached_boxes_dec_out": False,
    "two_stage_learn_wh": False,
    "two_stage_default_hw": 0.05,
}


def _refuse_what_is_fixed_here(described: Described) -> None:
    """Raises ValueError for a setting that this DINO cannot have."""
    for key, value in FIXED.items():
        if described.get(key, value) != value:
            raise ValueError(f"{key} is {described[key]!r} in the reference, and only {value!r} exists here")
    if described.get("pe_temperatureH") != described.get("pe_temperatureW"):
        raise ValueError("pe_temperatureH and pe_temperatureW differ in the reference, and only one exists here")


SHORT = ("c", "hidden", "heads", "ffn", "enc", "dec", "q", "dn")
OFFICIAL = (
    "num_classes",
    "hidden_dim",
    "nheads",
    "dim_feedforward",
    "enc_layers",
    "dec_layers",
    "num_queries",
    "dn_number",
)
