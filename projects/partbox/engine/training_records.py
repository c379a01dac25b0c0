"""What a model may learn from: the training dataset within its label budget."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from detectron2.config import CfgNode
from detectron2.data.build import filter_images_with_only_crowd_annotations

from partbox.data.label_budget import LabelBudget

from .checks import ConfigError
from .detectors import is_segmenter, labelled_records, records_of

logger = logging.getLogger(__name__)

Record = dict[str, Any]


def label_budget(cfg: CfgNode) -> LabelBudget | None:
    """``DATASETS.LABEL_BUDGET``; None where both shares are -1, that is, every label may be used.

    Raises:
        ConfigError: shares out of range.
    """
    node = cfg.DATASETS.LABEL_BUDGET
    if node.MASK_SHARE == node.BOX_SHARE == -1.0:
        return None
    masks, boxes = (0.0 if share == -1.0 else share for share in (node.MASK_SHARE, node.BOX_SHARE))
    try:
        return LabelBudget(masks, boxes, node.SEED)
    except ValueError as error:
        raise ConfigError(f"DATASETS.LABEL_BUDGET: {error}") from error


def within_budget(cfg: CfgNode, records: Sequence[Record], source: str) -> list[Record]:
    """The records of a training dataset with the labels that ``DATASETS.LABEL_BUDGET`` pays for.

    Raises:
        ConfigError: shares out of range.
        PartDatasetError: fewer images have masks than the budget asks for.
    """
    budget = label_budget(cfg)
    if budget is None:
        return list(records)
    kept = budget.apply(records, source)
    counts = {kind: sum(record["part_labels"] == kind for record in kept) for kind in ("mask", "box", "none")}
    logger.info("Label budget: %(mask)d images with masks, %(box)d with boxes, %(none)d without part labels", counts)
    return kept


def detector_training_records(cfg: CfgNode) -> list[Record]:
    """The records that a detector or segmenter of parts trains on.

    Images whose parts nobody has labelled are left out for a detector. So are, with
    ``DATALOADER.FILTER_EMPTY_ANNOTATIONS``, images without any object.

    Raises:
        ConfigError: see :func:`partbox.engine.detectors.records_of`; a budget for a dataset without part labels; no
            image left; a model of masks, and images with boxes alone.
    """
    records = records_of(cfg.DATASETS.TRAIN, "DATASETS.TRAIN")
    name = cfg.DATASETS.TRAIN[0]
    if not all("part_labels" in record for record in records):
        if label_budget(cfg) is not None:
            raise ConfigError(f"DATASETS.LABEL_BUDGET: {name} is no part dataset, it does not say what is labelled")
        return _with_objects(cfg, records)
    labelled = labelled_records(cfg, within_budget(cfg, records, name))
    if not labelled:
        raise ConfigError(f"DATASETS.TRAIN: no image of {name} has part labels that the label budget leaves")
    if not is_segmenter(cfg) and cfg.MODEL.MASK_ON and any(record["part_labels"] == "box" for record in labelled):
        raise ConfigError(f"MODEL.MASK_ON needs masks, and {name} has images with boxes alone: set it False")
    return _with_objects(cfg, labelled)


def _with_objects(cfg: CfgNode, records: list[Record]) -> list[Record]:
    """What ``DATALOADER.FILTER_EMPTY_ANNOTATIONS`` leaves, by detectron2's rule."""
    if is_segmenter(cfg) or not cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS:
        return records
    kept: list[Record] = filter_images_with_only_crowd_annotations(records)
    return kept
