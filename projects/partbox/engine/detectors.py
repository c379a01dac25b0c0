"""detectron2's own detectors and segmenters: built, fed, trained and evaluated from a configuration."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import COCOEvaluator, DatasetEvaluator
from detectron2.modeling import build_model
from torch import nn

from partbox.data.catalog import register_dataset_file
from partbox.data.detection_augmentations import detection_training_mapper
from partbox.data.mapper import PartDatasetMapper
from partbox.data.part_map import IGNORE
from partbox.evaluation.detectron2_subject import (
    DetectorSubject,
    Detectron2Subject,
    SegmenterSubject,
    labelled_test_mapper,
)
from partbox.evaluation.perturbations import Perturbation
from partbox.evaluation.semantic_evaluator import SemanticEvaluator
from partbox.suggestions import did_you_mean

from .build import perturbations_of
from .checkpoint import CheckpointError, load_weights, read_checkpoint
from .checks import ConfigError, check_annotated, check_registered, device_of

logger = logging.getLogger(__name__)

SEGMENTERS = ("SemanticSegmentor",)
IGNORED_PIXEL = 255


def is_segmenter(cfg: CfgNode) -> bool:
    """Whether the configuration describes a semantic segmenter rather than a detector."""
    return cfg.MODEL.META_ARCHITECTURE in SEGMENTERS


class SemanticMapper:
    """A part dataset as semantic segmentation: ``sem_seg`` (H, W) int64, 0 = background, 1 + part, 255 = not labelled.

    ``height`` and ``width`` of a sample are those of the network's input, so that results are compared there.
    """

    def __init__(self, mapper: PartDatasetMapper) -> None:
        self.mapper = mapper

    @property
    def image_format(self) -> str:
        """Channel order of the images."""
        return self.mapper.image_format

    @property
    def augmentations(self) -> Any:
        """Steps between the photograph and the sample."""
        return self.mapper.augmentations

    @augmentations.setter
    def augmentations(self, steps: Any) -> None:
        self.mapper.augmentations = steps

    def __call__(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """The sample of a record."""
        sample = self.mapper(record)
        part_map = sample.pop("part_map")
        sample["sem_seg"] = torch.where(part_map == IGNORE, IGNORED_PIXEL, part_map)
        sample["height"], sample["width"] = part_map.shape
        return sample


def mapper_of(cfg: CfgNode, *, is_train: bool) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """From a record of the dataset to a sample with labels; random augmentation in training only.

    Raises:
        ConfigError: settings of the augmentation that do not go together.
    """
    if is_segmenter(cfg):
        return SemanticMapper(PartDatasetMapper.from_config(cfg, is_train=is_train))
    try:
        mapper: Callable[[dict[str, Any]], dict[str, Any]] = (
            detection_training_mapper(cfg) if is_train else labelled_test_mapper(cfg)
        )
    except ValueError as error:
        raise ConfigError(str(error)) from error
    return mapper


def records_of(names: tuple[str, ...], key: str) -> list[dict[str, Any]]:
    """The records of the one dataset that a key of ``DATASETS`` names.

    Raises:
        ConfigError: several datasets, one that nobody has registered, or one whose files are not there; predicted part
            labels in ``DATASETS.TEST``.
    """
    if len(names) != 1:
        raise ConfigError(f"{key} must name exactly one dataset, not {names}")
    register_dataset_file(names[0])
    if names[0] not in DatasetCatalog.list():
        hint = did_you_mean(names[0], DatasetCatalog.list())
        raise ConfigError(f"{key}: no dataset is registered as {names[0]!r}{hint}")
    try:
        records: list[dict[str, Any]] = DatasetCatalog.get(names[0])
    except FileNotFoundError as error:
        raise ConfigError(
            f"{key}: {names[0]} is not on this machine, {error.filename} is missing; put it there, or set "
            "DETECTRON2_DATASETS to the folder of the datasets"
        ) from error
    if key == "DATASETS.TEST":
        check_annotated(records, key, names[0])
    return records


def labelled_records(cfg: CfgNode, records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """For a detector, the records without images whose parts nobody has labelled (``part_labels`` "none").

    They would teach it that there is nothing, and every part that it finds there would count as wrong. Segmenters read
    them as pixels without a label; datasets that do not say what is labelled stay as they are.
    """
    if is_segmenter(cfg):
        return records
    kept = [record for record in records if record.get("part_labels") != "none"]
    if len(kept) < len(records):
        logger.info("Left out: %d of %d images whose parts are not labelled", len(records) - len(kept), len(records))
    return kept


def build_detector(cfg: CfgNode, weights: str = "", anew: Sequence[str] = ()) -> nn.Module:
    """Build the model, on ``MODEL.DEVICE``, with all weights of a file or with random ones.

    Args:
        cfg: complete configuration.
        weights: checkpoint file.
        anew: patterns of parameters that stay as initialised, see :func:`partbox.engine.checkpoint.load_weights`.

    Raises:
        ConfigError: the model cannot be built, or has another number of classes than the dataset.
        CheckpointError: the weights do not fit.
    """
    check_registered(cfg)
    torch.manual_seed(max(cfg.SEED, 0))
    complete = cfg.clone()
    complete.defrost()
    complete.MODEL.DEVICE = device_of(cfg)
    if weights:
        complete.MODEL.PART.BACKBONE.WEIGHTS = ""
    try:
        model: nn.Module = build_model(complete)
    except (ValueError, KeyError, OSError) as error:
        raise ConfigError(f"the model cannot be built: {error}") from error
    if weights:
        load_weights(model, read_checkpoint(weights)["model"], weights, anew)
    return model


def class_count(cfg: CfgNode) -> int:
    """Number of classes of the model, the background of a segmenter included."""
    return int(cfg.MODEL[_class_node(cfg)].NUM_CLASSES)


def _class_node(cfg: CfgNode) -> str:
    """Which part of the configuration says how many classes there are."""
    nodes = {"RetinaNet": "RETINANET", "FCOS": "FCOS", "DINO": "DINO", "MaskDINO": "SEM_SEG_HEAD"}
    nodes |= dict.fromkeys(SEGMENTERS, "SEM_SEG_HEAD")
    return nodes.get(cfg.MODEL.META_ARCHITECTURE, "ROI_HEADS")


def check_classes(cfg: CfgNode, dataset: str) -> int:
    """Number of classes of the model, compared with the dataset's.

    Raises:
        ConfigError: they differ; naming the key.
    """
    count = class_count(cfg)
    wanted = len(MetadataCatalog.get(dataset).thing_classes) + is_segmenter(cfg)
    if count != wanted:
        raise ConfigError(
            f"MODEL.{_class_node(cfg)}.NUM_CLASSES is {count}, and {dataset} has {wanted}"
            + (" (parts and background)" if is_segmenter(cfg) else "")
        )
    return count


def check_perturbations(cfg: CfgNode) -> list[Perturbation]:
    """The perturbations of ``ROBUST_EVAL``, which this model can be attacked with.

    Raises:
        ConfigError: one is wrong, attacks another kind of model, or needs more classes.
    """
    perturbations = perturbations_of(cfg, "segmenter" if is_segmenter(cfg) else "detector")
    if not is_segmenter(cfg) and class_count(cfg) < 2:
        wrong = [one.name for one in perturbations if one.settings.get("goal") == "mislabel"]
        if wrong:
            raise ConfigError(
                f"ROBUST_EVAL.PERTURBATIONS: {wrong[0]} needs at least two classes, and this model has one"
            )
    return perturbations


def check_stored_names(weights: str, dataset: str) -> list[str]:
    """The parts of a loaded dataset, compared with those that the weights were made for, where these say so.

    Raises:
        CheckpointError: they differ.
    """
    names = list(MetadataCatalog.get(dataset).thing_classes)
    stored = read_checkpoint(weights).get("class_names")
    if stored is not None and list(stored) != names:
        raise CheckpointError(f"{weights} was made for other parts than {dataset} has (or another order): {stored[:4]}")
    return names


def subject_of(cfg: CfgNode, model: nn.Module) -> Detectron2Subject:
    """The model as an evaluation sees it."""
    if is_segmenter(cfg):
        return SegmenterSubject(model, ignore=IGNORED_PIXEL)
    return DetectorSubject(model, check_classes(cfg, cfg.DATASETS.TEST[0]))


def evaluators_of(cfg: CfgNode) -> list[DatasetEvaluator]:
    """COCO AP of boxes (and of masks and keypoints, where the model has them), or mIoU."""
    name = cfg.DATASETS.TEST[0]
    if is_segmenter(cfg):
        names = ["background", *MetadataCatalog.get(name).thing_classes]
        return [SemanticEvaluator(names, ignore=IGNORED_PIXEL)]
    tasks = ("bbox", *("segm",) * cfg.MODEL.MASK_ON, *("keypoints",) * cfg.MODEL.KEYPOINT_ON)
    sigmas = cfg.TEST.KEYPOINT_OKS_SIGMAS
    return [COCOEvaluator(name, tasks=tasks, distributed=False, use_fast_impl=False, kpt_oks_sigmas=sigmas)]
