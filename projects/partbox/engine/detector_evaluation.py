"""Evaluation of a configured detector or segmenter on a dataset: ``results.json`` and its records."""

from __future__ import annotations

from typing import Any

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from torch import nn

from partbox.data.loader import subset

from .detectors import check_classes, evaluators_of, labelled_records, mapper_of, records_of, subject_of
from .evaluate import evaluate_subject

Record = dict[str, Any]


def records_to_evaluate(cfg: CfgNode) -> list[Record]:
    """The records of ``DATASETS.TEST`` whose labels an evaluation can use.

    Raises:
        ConfigError: no such dataset, or one with another number of classes than the model.
    """
    records = labelled_records(cfg, records_of(cfg.DATASETS.TEST, "DATASETS.TEST"))
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
    finished = evaluate_subject(
        cfg,
        subject_of(cfg, model),
        subset(records, cfg.ROBUST_EVAL.NUM_IMAGES, seed=cfg.ROBUST_EVAL.SEED),
        mapper_of(cfg, is_train=False),
        evaluators_of(cfg),
        facts={"weights": weights, "class_names": names},
        part_names=names,
        dataset_images=len(records),
        part=part,
    )
    return None if finished is None else finished[0]
