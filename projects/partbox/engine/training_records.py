"""What a model may learn from: the training dataset within its label budget, and what predicted labels count."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from detectron2.config import CfgNode
from detectron2.data.build import filter_images_with_only_crowd_annotations

from partbox.data.label_budget import LabelBudget
from partbox.data.pseudo_labels import is_predicted, weigh_predicted

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
        ConfigError: shares out of range, or a budget for a dataset with predicted labels.
        PartDatasetError: fewer images have masks than the budget asks for.
    """
    budget = label_budget(cfg)
    if budget is None:
        return list(records)
    refuse_budget_of_predicted(records, source)
    kept = budget.apply(records, source)
    counts = {kind: sum(record["part_labels"] == kind for record in kept) for kind in ("mask", "box", "none")}
    logger.info("Label budget: %(mask)d images with masks, %(box)d with boxes, %(none)d without part labels", counts)
    return kept


def refuse_budget_of_predicted(records: Sequence[Record], source: str) -> None:
    """Refuse a label budget for a dataset that holds predicted labels.

    The configuration of the run that made the predictions has a budget, and applied once more it would leave a tenth of
    a tenth of the annotated images, without a word; and no smaller budget's cost has the labels that taught that run.

    Raises:
        ConfigError: there are such labels.
    """
    predicted = sum(map(is_predicted, records))
    if predicted:
        annotated = sum(record["part_labels"] != "none" for record in records) - predicted
        raise ConfigError(
            f"DATASETS.LABEL_BUDGET: {source} has {annotated} images with annotated part labels, which the budget "
            f"would take away, and {predicted} with labels predicted from them: set MASK_SHARE and BOX_SHARE to -1"
        )


def training_records(cfg: CfgNode, records: Sequence[Record], source: str) -> list[Record]:
    """The records of a training dataset within their label budget, predicted labels with their weight.

    Raises:
        ConfigError: see :func:`within_budget`; a weight of predicted labels where there are none.
        PartDatasetError: see :func:`within_budget`.
    """
    kept = within_budget(cfg, records, source)
    node = cfg.DATASETS.PSEUDO_LABELS
    weight, times_score = node.WEIGHT, node.TIMES_SCORE
    predicted = sum(map(is_predicted, kept))
    if predicted:
        logger.info(
            "Predicted part labels of %d of %d images; their weight: %g%s",
            *(predicted, len(kept), weight, " times their mean score" if times_score else ""),
        )
        return weigh_predicted(kept, weight, times_score=times_score)
    if weight != 1 or times_score:
        raise ConfigError(
            f"DATASETS.PSEUDO_LABELS is set (WEIGHT {weight:g}, TIMES_SCORE {times_score}), and no part label of "
            f"{source} is predicted: leave 1 and False, or train on a file of tools/pseudo_label.py"
        )
    return kept


def detector_training_records(cfg: CfgNode) -> list[Record]:
    """The records that a detector or segmenter of parts trains on.

    Images whose parts nobody has labelled are left out for a detector. So are, with
    ``DATALOADER.FILTER_EMPTY_ANNOTATIONS``, images without any object.

    Raises:
        ConfigError: see :func:`partbox.engine.detectors.records_of`; a budget for a dataset without part labels; no
            image left; a model of masks, and images with boxes alone; predicted labels that count neither 0 nor 1,
            because the losses of detectron2's models know no weights of images.
    """
    if cfg.DATASETS.PSEUDO_LABELS.WEIGHT not in (0, 1) or cfg.DATASETS.PSEUDO_LABELS.TIMES_SCORE:
        raise ConfigError(
            "DATASETS.PSEUDO_LABELS: the losses of detectron2's models know no weights of images: set WEIGHT 1 or 0 "
            "and TIMES_SCORE False, or train a part classifier (tools/train_net.py)"
        )
    records = records_of(cfg.DATASETS.TRAIN, "DATASETS.TRAIN")
    name = cfg.DATASETS.TRAIN[0]
    if not all("part_labels" in record for record in records):
        if label_budget(cfg) is not None:
            raise ConfigError(f"DATASETS.LABEL_BUDGET: {name} is no part dataset, it does not say what is labelled")
        return _with_objects(cfg, records)
    labelled = labelled_records(cfg, training_records(cfg, records, name))
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
