"""From configuration to the pieces of a training or evaluation run."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.solver.build import get_default_optimizer_params, maybe_add_gradient_clipping
from torch import nn
from torch.utils.data import DataLoader

from partbox.attacks import PGD, ThreatModel, parse_eps
from partbox.data.loader import build_test_loader, build_training_loader, subset
from partbox.data.mapper import PartDatasetMapper
from partbox.evaluation.validate import ValidationResult, validate
from partbox.modeling import PartClassifier

from .checkpoint import load_weights, read_checkpoint
from .objectives import CleanObjective, PGDObjective, TrainingObjective
from .setup import ConfigError, load_dataset

logger = logging.getLogger(__name__)


def build_classifier(cfg: CfgNode) -> PartClassifier:
    """The model of the configuration, initialised from ``cfg.SEED``; ``MODEL.WEIGHTS`` is loaded completely or refused.

    Raises:
        ConfigError: the meta-architecture is no part classifier, or a setting is wrong.
        CheckpointError: the weights do not fit.
    """
    torch.manual_seed(max(cfg.SEED, 0))
    try:
        model = build_model(cfg)
    except (ValueError, KeyError) as error:
        raise ConfigError(str(error)) from error
    if not isinstance(model, PartClassifier):
        raise ConfigError(f"MODEL.META_ARCHITECTURE must be PartClassifier here, not {cfg.MODEL.META_ARCHITECTURE}")
    if cfg.MODEL.WEIGHTS:
        load_weights(model, read_checkpoint(cfg.MODEL.WEIGHTS)["model"], cfg.MODEL.WEIGHTS)
        logger.info("Weights of the whole model from %s", cfg.MODEL.WEIGHTS)
    return model.to(memory_format=torch.channels_last) if cfg.MODEL.PART.CHANNELS_LAST else model


def build_optimizer(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    """SGD or AdamW with detectron2's parameter groups; the backbone's rate is scaled by ``SOLVER.BACKBONE_MULTIPLIER``.

    Raises:
        ConfigError: unknown optimizer.
    """
    solver = cfg.SOLVER

    def rate(name: str) -> float:
        return solver.BACKBONE_MULTIPLIER if name.startswith("backbone.") else 1.0

    groups = get_default_optimizer_params(
        model,
        base_lr=solver.BASE_LR,
        weight_decay=solver.WEIGHT_DECAY,
        weight_decay_norm=solver.WEIGHT_DECAY_NORM,
        bias_lr_factor=solver.BIAS_LR_FACTOR,
        weight_decay_bias=solver.WEIGHT_DECAY_BIAS,
        lr_factor_func=rate,
    )
    if solver.OPTIMIZER == "SGD":
        return maybe_add_gradient_clipping(cfg, torch.optim.SGD)(
            groups, lr=solver.BASE_LR, momentum=solver.MOMENTUM, nesterov=solver.NESTEROV
        )
    if solver.OPTIMIZER == "ADAMW":
        return maybe_add_gradient_clipping(cfg, torch.optim.AdamW)(groups, lr=solver.BASE_LR)
    raise ConfigError(f"SOLVER.OPTIMIZER must be SGD or ADAMW, not {solver.OPTIMIZER!r}")


def threat_model(cfg: CfgNode) -> ThreatModel:
    """The threat model that training assumes."""
    return ThreatModel(cfg.ADVERSARY.NORM, cfg.ADVERSARY.EPS)


def build_objective(cfg: CfgNode) -> TrainingObjective:
    """The training objective of ``ADVERSARY``.

    Raises:
        ConfigError: unknown objective or a setting out of range.
    """
    adversary = cfg.ADVERSARY
    if adversary.OBJECTIVE == "clean":
        return CleanObjective()
    if adversary.OBJECTIVE != "pgd":
        raise ConfigError(f"ADVERSARY.OBJECTIVE must be clean or pgd, not {adversary.OBJECTIVE!r}")
    try:
        step_size = None if adversary.STEP_SIZE == "" else parse_eps(adversary.STEP_SIZE, "ADVERSARY.STEP_SIZE")
        return PGDObjective(
            threat_model(cfg),
            steps=adversary.STEPS,
            step_size=step_size,
            random_start=adversary.RANDOM_START,
            seed=max(cfg.SEED, 0),
        )
    except ValueError as error:
        raise ConfigError(f"ADVERSARY: {error}") from error


def build_training_batches(cfg: CfgNode, records: list[dict[str, Any]], start: int = 0) -> DataLoader:
    """Endless training batches from iteration ``start`` on."""
    return build_training_loader(
        records,
        PartDatasetMapper.from_config(cfg, is_train=True),
        batch_size=cfg.SOLVER.IMS_PER_BATCH,
        seed=max(cfg.SEED, 0),
        start=start,
        workers=cfg.DATALOADER.NUM_WORKERS,
    )


def build_validation(cfg: CfgNode, model: nn.Module) -> Callable[[], ValidationResult] | None:
    """A function that measures ``model`` on the validation dataset; None where ``DATASETS.VALIDATION`` is empty."""
    if not cfg.DATASETS.VALIDATION:
        return None
    dataset = load_dataset(cfg, cfg.DATASETS.VALIDATION, "DATASETS.VALIDATION")
    records = subset(dataset.records, cfg.ADVERSARY.VALIDATION_IMAGES, seed=0)
    mapper = PartDatasetMapper.from_config(cfg, is_train=False, part_maps=False)
    attack = None
    if cfg.ADVERSARY.OBJECTIVE != "clean":
        attack = PGD(threat_model(cfg), cfg.ADVERSARY.VALIDATION_STEPS)

    def measure() -> ValidationResult:
        loader = build_test_loader(records, mapper, batch_size=cfg.ROBUST_EVAL.BATCH_SIZE)
        return validate(model, loader, attack)

    return measure
