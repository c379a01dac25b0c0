"""Evaluation of a configured detector or segmenter on a dataset: ``results.json`` and its records."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from torch import nn

from partbox.data.loader import subset
from partbox.evaluation.detectron2_subject import Detectron2Subject
from partbox.evaluation.stamp import check_unique, image_ids_of

from .checks import ConfigError
from .detectors import (
    build_detector,
    check_classes,
    check_stored_names,
    class_count,
    evaluators_of,
    is_segmenter,
    labelled_records,
    mapper_of,
    records_of,
    subject_of,
)
from .evaluate import evaluate_subject
from .hooks.best_checkpoint import FINAL
from .setup import load_config

Record = dict[str, Any]


def records_to_evaluate(cfg: CfgNode) -> list[Record]:
    """The records of ``DATASETS.TEST`` whose labels an evaluation can use.

    Raises:
        ConfigError: no such dataset, one without images or ids of them, or one with another number of classes than the
            model.
    """
    records = labelled_records(cfg, records_of(cfg.DATASETS.TEST, "DATASETS.TEST"))
    try:
        check_unique(image_ids_of(records))
    except ValueError as error:
        raise ConfigError(f"DATASETS.TEST, {cfg.DATASETS.TEST[0]}: {error}") from error
    check_classes(cfg, cfg.DATASETS.TEST[0])
    return records


def evaluate_detector(
    cfg: CfgNode, model: nn.Module, records: list[Record], *, weights: str, part: tuple[int, int] = (0, 1)
) -> dict[str, Any] | None:
    """Evaluate on ``records``; see :func:`partbox.engine.evaluate.evaluate_subject`.

    Args:
        cfg: complete configuration.
        model: with its weights loaded.
        records: from :func:`records_to_evaluate`; at most ``ROBUST_EVAL.NUM_IMAGES`` of them are evaluated.
        weights: where they come from, for the record.
        part: (i, n): do the i-th of n parts of the work; whoever finishes last writes the results.

    Returns:
        The content of ``results.json``; None while parts of other processes are missing.
    """
    names = list(MetadataCatalog.get(cfg.DATASETS.TEST[0]).thing_classes)
    subject = subject_of(cfg, model)
    subject.surrogate = surrogate_of(cfg)
    finished = evaluate_subject(
        cfg,
        subject,
        subset(records, cfg.ROBUST_EVAL.NUM_IMAGES, seed=cfg.ROBUST_EVAL.SEED),
        mapper_of(cfg, is_train=False),
        evaluators_of(cfg),
        facts={"weights": weights, "class_names": names},
        part_names=names,
        dataset_images=len(records),
        part=part,
    )
    return None if finished is None else finished[0]


def surrogate_of(cfg: CfgNode) -> Detectron2Subject | None:
    """The model of the run folder ``ROBUST_EVAL.SURROGATE``, for the transfer check; None without one.

    Raises:
        ConfigError: no such run, or one of another kind, with other classes, another channel order, or other labels.
        CheckpointError: its weights cannot be read, or were made for other classes.
    """
    folder = Path(cfg.ROBUST_EVAL.SURROGATE)
    if not cfg.ROBUST_EVAL.SURROGATE:
        return None
    other = load_config(folder / "config.yaml", ["MODEL.DEVICE", cfg.MODEL.DEVICE])
    if (is_segmenter(other), class_count(other)) != (is_segmenter(cfg), class_count(cfg)):
        raise ConfigError(f"ROBUST_EVAL.SURROGATE: {folder} holds a model of another kind or of other classes")
    if other.INPUT.FORMAT != cfg.INPUT.FORMAT:
        raise ConfigError(f"ROBUST_EVAL.SURROGATE: {folder} reads {other.INPUT.FORMAT} and not {cfg.INPUT.FORMAT}")
    if other.MODEL.MASK_ON and not cfg.MODEL.MASK_ON:
        raise ConfigError(f"ROBUST_EVAL.SURROGATE: {folder} learns from masks, which this evaluation does not read")
    weights = str(folder / FINAL)
    model = build_detector(other, weights).eval().requires_grad_(False)
    check_stored_names(weights, cfg.DATASETS.TEST[0])
    return subject_of(cfg, model)
