"""Ranges and choices of configuration values, checked together before any work starts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.modeling import BACKBONE_REGISTRY, META_ARCH_REGISTRY

from maskdino_ext.mask_decoder import DENOISING
from maskdino_ext.ms_deform_attn import FORMS
from maskdino_ext.pixel_decoder import FEATURE_ORDERS
from maskdino_ext.query_selection import BOX_TYPES
from partbox.attacks.parts import GOALS, REGIONS
from partbox.data.detection_augmentations import AUGMENTATIONS
from partbox.data.image_files import VERIFY_LEVELS
from partbox.data.part_map import SUPERVISIONS
from partbox.data.pseudo_labels import is_predicted
from partbox.suggestions import did_you_mean, one_of


class ConfigError(ValueError):
    """The configuration names something that does not exist or contradicts itself."""


AT_LEAST_ONE = ("SOLVER.IMS_PER_BATCH", "SOLVER.MAX_ITER", "SOLVER.CHECKPOINT_PERIOD", "ROBUST_EVAL.BATCH_SIZE")
NOT_NEGATIVE = (
    "ADVERSARY.CLEAN_ITERS",
    "ADVERSARY.EPS_WARMUP_ITERS",
    "ADVERSARY.PROBE_PERIOD",
    "ADVERSARY.VALIDATION_IMAGES",
    "DATALOADER.NUM_WORKERS",
    "ROBUST_EVAL.EXAMPLES",
    "ROBUST_EVAL.NUM_IMAGES",
    "ROBUST_EVAL.SEED",
    "ROBUST_EVAL.SELF_CHECK_IMAGES",
    "TEST.EVAL_PERIOD",
    "TRACKING.IMAGES",
)
OBJECTIVES = ("clean", "pgd", "trades", "mart", "mat", "fgsm-rs", "n-fgsm", "free")
FIXED_SIZE = ("PartClassifier", "SemanticSegmentor")  # trained on crops of INPUT.SIZE
CHOICES = {
    "INPUT.FORMAT": ("RGB", "BGR"),
    "INPUT.AUGMENTATION": AUGMENTATIONS,
    "INPUT.VERIFY_IMAGES": VERIFY_LEVELS,
    "INPUT.RANDOM_FLIP": ("horizontal", "vertical", "none"),
    "MODEL.DEFORMABLE_ATTENTION": FORMS,
    "MODEL.MaskDINO.DN": DENOISING,
    "MODEL.MaskDINO.INITIALIZE_BOX_TYPE": BOX_TYPES,
    "MODEL.PART.EXTRACTOR.SUPERVISION": SUPERVISIONS,
    "MODEL.SEM_SEG_HEAD.FEATURE_ORDER": FEATURE_ORDERS,
    "SOLVER.LR_SCHEDULER_NAME": ("WarmupCosineLR", "WarmupMultiStepLR", "WarmupStepWithFixedGammaLR"),
    "SOLVER.OPTIMIZER": ("SGD", "ADAMW"),
    "ADVERSARY.OBJECTIVE": OBJECTIVES,
    # the others need another image, or an image's misread masks, which training does not have
    "ADVERSARY.GOAL": ("class", *(goal for goal in GOALS if goal not in ("guided", "inverse"))),
    "ADVERSARY.REGION": REGIONS,
    "TRACKING.WANDB.MODE": ("offline", "online", "disabled"),
}


def value_of(cfg: CfgNode, key: str) -> object:
    """The value of a dotted key."""
    for step in key.split("."):
        cfg = cfg[step]
    return cfg


def check_config(cfg: CfgNode) -> None:
    """Refuse values out of range.

    Raises:
        ConfigError: naming the key, what it is and what it may be.
    """
    for least, keys in ((1, AT_LEAST_ONE), (0, NOT_NEGATIVE)):
        for key in keys:
            value = value_of(cfg, key)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ConfigError(f"{key} must be a whole number >= {least}, not {value!r}")
    for key, choices in CHOICES.items():
        if value_of(cfg, key) not in choices:
            raise ConfigError(one_of(key, value_of(cfg, key), choices))
    size = cfg.INPUT.SIZE
    if len(size) != 2 or not all(isinstance(side, int) and side >= 8 for side in size):
        raise ConfigError(f"INPUT.SIZE must be (height, width), each a whole number of at least 8 pixels, not {size}")
    if cfg.INPUT.AUGMENTATION != "shortest_edge" and cfg.MODEL.META_ARCHITECTURE in FIXED_SIZE:
        raise ConfigError(
            f"INPUT.AUGMENTATION {cfg.INPUT.AUGMENTATION} is for detectors; a {cfg.MODEL.META_ARCHITECTURE} reads "
            "INPUT.SIZE and INPUT.CROP_AREA instead"
        )
    if cfg.MODEL.WEIGHTS_EXCEPT and not cfg.MODEL.WEIGHTS:
        raise ConfigError("MODEL.WEIGHTS_EXCEPT names what to leave out of weights, and MODEL.WEIGHTS is empty")
    weight = cfg.DATASETS.PSEUDO_LABELS.WEIGHT
    if not 0 <= weight <= 1:
        raise ConfigError(f"DATASETS.PSEUDO_LABELS.WEIGHT must lie in [0, 1], not {weight}")
    if not 0 <= cfg.ROBUST_EVAL.EXAMPLE_SCORE <= 1:
        raise ConfigError(f"ROBUST_EVAL.EXAMPLE_SCORE must lie in [0, 1], not {cfg.ROBUST_EVAL.EXAMPLE_SCORE}")
    if cfg.SOLVER.EMA.ENABLED and not 0 < cfg.SOLVER.EMA.DECAY < 1:
        raise ConfigError(f"SOLVER.EMA.DECAY must lie in (0, 1), not {cfg.SOLVER.EMA.DECAY}")
    if cfg.ADVERSARY.VALIDATION_STEPS < 1:
        raise ConfigError(f"ADVERSARY.VALIDATION_STEPS must be at least 1, not {cfg.ADVERSARY.VALIDATION_STEPS}")
    device_of(cfg)


def check_registered(cfg: CfgNode) -> None:
    """Refuse a model or backbone that nobody has registered with detectron2, before it is built.

    Raises:
        ConfigError: naming the key and the nearest registered names.
    """
    for key, registry in (("MODEL.META_ARCHITECTURE", META_ARCH_REGISTRY), ("MODEL.BACKBONE.NAME", BACKBONE_REGISTRY)):
        name = str(value_of(cfg, key))
        if name not in registry:
            hint = did_you_mean(name, (known for known, _ in registry))
            raise ConfigError(f"{key}: nothing is registered as {name!r}{hint}")


def check_annotated(records: Sequence[Mapping[str, Any]], key: str, name: str) -> None:
    """Refuse a dataset for evaluation in which a model predicted part labels.

    Raises:
        ConfigError: naming the key.
    """
    predicted = sum(map(is_predicted, records))
    if predicted:
        raise ConfigError(
            f"{key}: the part labels of {predicted} images of {name} are predicted, and agreement with predictions is "
            "no result: name a dataset with annotated labels"
        )


def device_of(cfg: CfgNode) -> str:
    """The device that ``MODEL.DEVICE`` means; ``auto`` is an accelerator where there is one, else the CPU.

    Raises:
        ConfigError: no such device here.
    """
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    name = cfg.MODEL.DEVICE
    if name == "auto":
        return accelerator.type if accelerator is not None else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"MODEL.DEVICE {name!r} is no device: {error}") from error
    if device.type != "cpu" and (accelerator is None or accelerator.type != device.type):
        raise ConfigError(f"MODEL.DEVICE {name} is not available on this machine; use auto or cpu")
    return name
