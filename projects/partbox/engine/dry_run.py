"""What a run would do and cost, without doing it."""

from __future__ import annotations

import torch
from detectron2.config import CfgNode
from detectron2.solver import build_lr_scheduler

from partbox.data import PartDatasetError
from partbox.data.loader import subset
from partbox.data.mapper import PartDatasetMapper
from partbox.modeling import PartClassifier

from .build import (
    build_classifier,
    build_objective,
    build_optimizer,
    build_training_batches,
    build_validation,
    check_attackable,
    check_supervision,
    check_true_parts,
    perturbations_of,
)
from .checks import ConfigError
from .evaluation_cost import cost_lines, self_check_lines
from .objectives import AdversarialObjective
from .setup import load_dataset
from .training_records import training_records


def training_passes(cfg: CfgNode) -> int:
    """Forward passes over single images of the whole training run, attack and update together; most have a backward."""
    batch, iterations = cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.MAX_ITER
    objective = build_objective(cfg)
    if not isinstance(objective, AdversarialObjective):
        return batch * iterations * objective.passes
    clean = min(cfg.ADVERSARY.CLEAN_ITERS, iterations)
    return batch * (clean + (iterations - clean) * objective.passes)


def plan(cfg: CfgNode, *, eval_only: bool) -> str:
    """Build and check datasets, model, optimizer and perturbations; the configuration and its cost as text."""
    test = load_dataset(cfg, cfg.DATASETS.TEST, "DATASETS.TEST")
    lines = []
    model = build_classifier(cfg)
    check_attackable(cfg, model, training=not eval_only)
    if not eval_only:
        train = load_dataset(cfg, cfg.DATASETS.TRAIN, "DATASETS.TRAIN")
        records = training_records(cfg, train.records, cfg.DATASETS.TRAIN[0])
        _try_training(cfg, model, records)
        supervised = check_supervision(cfg, model, records)
        epochs = cfg.SOLVER.MAX_ITER * cfg.SOLVER.IMS_PER_BATCH / len(records)
        lines.append(f"training images: {len(records)}, iterations: {cfg.SOLVER.MAX_ITER} ({epochs:.1f} epochs)")
        lines.append(f"training images with part labels that are used: {supervised}")
        lines.append(f"training cost: {training_passes(cfg):,} forward-backward passes over an image")
    tested = subset(test.records, cfg.ROBUST_EVAL.NUM_IMAGES, seed=cfg.ROBUST_EVAL.SEED)
    check_true_parts(model, tested, "DATASETS.TEST")
    _try_one_image(cfg, model, tested[0])
    images = len(tested)
    lines.append(f"parameters: {sum(p.numel() for p in model.parameters()):,}")
    lines.append(f"classes: {len(model.class_names)}, parts: {len(model.part_names)}")
    lines.append(f"test images: {images} of {len(test.records)}")
    perturbations = perturbations_of(cfg)
    lines += cost_lines(perturbations, images)
    checked = min(cfg.ROBUST_EVAL.SELF_CHECK_IMAGES, images)
    lines += self_check_lines(perturbations, checked, surrogate=bool(cfg.ROBUST_EVAL.SURROGATE))
    return f"{cfg.dump()}\nPlan\n" + "\n".join(lines)


def _try_training(cfg: CfgNode, model: PartClassifier, records: list[dict]) -> None:
    """Build everything that training needs, and load one batch.

    Raises:
        ConfigError: something cannot be built.
    """
    try:
        build_lr_scheduler(cfg, build_optimizer(cfg, model))
        build_validation(cfg, model)
        next(iter(build_training_batches(cfg, records)))
    except (ValueError, KeyError, IndexError) as error:
        if isinstance(error, ConfigError | PartDatasetError):
            raise
        raise ConfigError(str(error)) from error


def _try_one_image(cfg: CfgNode, model: PartClassifier, record: dict) -> None:
    sample = PartDatasetMapper.from_config(cfg, is_train=False)(record)
    model.eval()
    with torch.no_grad():
        model([sample])
