"""Trained models as finders of parts: a part classifier's extractor, or a detector or segmenter of detectron2."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from detectron2.config import CfgNode
from torch import nn

from partbox.data.mapper import PartDatasetMapper
from partbox.evaluation.found_parts import FoundPart, parts_of_instances, parts_of_masks, parts_of_queries
from partbox.modeling import PartClassifier

from .build import build_classifier
from .checks import ConfigError
from .detectors import build_detector, check_classes, check_stored_names, is_segmenter, mapper_of

Sample = Mapping[str, Any]
LEAST_SCORE = 0.01  # what is fainter is not looked at
KINDS = ("box", "mask")
CHOICES = ("of-class", "any")


class PartFinder(ABC):
    """Finds parts in one image at a time, so that what it finds cannot depend on a batch.

    Args:
        module: the model, in evaluation mode.
        mapper: from a record to a sample, as in tests.
        masks: whether masks are wanted.
        of_class: see :func:`partbox.evaluation.found_parts.parts_of_masks`.
    """

    def __init__(self, module: nn.Module, mapper: Callable[[Any], Any], *, masks: bool, of_class: bool) -> None:
        self.module, self.mapper, self.masks, self.of_class = module, mapper, masks, of_class

    @abstractmethod
    def find(self, sample: Sample, own: Sequence[int]) -> list[FoundPart]:
        """The parts of a sample's class, which ``own`` lists, in pixels of the photograph."""

    def __call__(self, sample: Sample, own: Sequence[int]) -> list[FoundPart]:
        """Those with a score of at least LEAST_SCORE.

        Raises:
            ConfigError: predictions that are not finite.
        """
        try:
            with torch.no_grad():
                return [part for part in self.find(sample, own) if part.score >= LEAST_SCORE]
        except FloatingPointError as error:
            raise ConfigError(f"image {sample['image_id']}: {error}") from error


class ClassifierFinder(PartFinder):
    """The part extractor of a part classifier: queries of a detector for boxes, otherwise regions of the masks."""

    def find(self, sample: Sample, own: Sequence[int]) -> list[FoundPart]:
        model: Any = self.module
        evidence = model.run(model.images_of([sample])).evidence
        size = int(sample["height"]), int(sample["width"])
        if evidence.has_detections and not self.masks:
            found = evidence.detections
            return parts_of_queries(found.logits[0].sigmoid(), found.boxes[0], size, own, of_class=self.of_class)
        return parts_of_masks(evidence.masks[0], size, own, of_class=self.of_class, masks=self.masks)


class DetectorFinder(PartFinder):
    """One of detectron2's detectors; ``of_class`` means nothing to it, since it judges each part by itself."""

    def find(self, sample: Sample, own: Sequence[int]) -> list[FoundPart]:
        (output,) = self.module([dict(sample)])
        return parts_of_instances(output["instances"], own, masks=self.masks)


class SegmenterFinder(PartFinder):
    """One of detectron2's semantic segmenters, whose class 0 is the background."""

    def find(self, sample: Sample, own: Sequence[int]) -> list[FoundPart]:
        (output,) = self.module([dict(sample)])
        size = int(sample["height"]), int(sample["width"])
        return parts_of_masks(output["sem_seg"].softmax(dim=0), size, own, of_class=self.of_class, masks=self.masks)


def build_finder(cfg: CfgNode, weights: str, dataset: str, *, labels: str, parts: str) -> PartFinder:
    """The model of a configuration as a finder.

    Args:
        cfg: complete configuration, with the dataset's classes and parts.
        weights: of the whole model.
        dataset: a loaded part dataset with the parts that the model finds.
        labels: one of KINDS.
        parts: one of CHOICES.

    Raises:
        ConfigError: a model that finds no single parts, or no masks, or choices that mean nothing to it.
        CheckpointError: weights that do not fit, or are of other parts.
    """
    masks, of_class = labels == "mask", parts == "of-class"
    if cfg.MODEL.META_ARCHITECTURE == "PartClassifier":
        model = build_classifier(cfg, weights)
        _check_classifier(cfg, model, masks)
        model.from_clean_image = False  # nobody attacks here: the image that is looked at is the clean one
        mapper = PartDatasetMapper.from_config(cfg, is_train=False, part_maps=False)
        return ClassifierFinder(model.eval(), mapper, masks=masks, of_class=of_class)
    check_classes(cfg, dataset)
    check_stored_names(weights, dataset)
    module = build_detector(cfg, weights).eval()
    if is_segmenter(cfg):
        mapper = PartDatasetMapper.from_config(cfg, is_train=False, part_maps=False)
        return SegmenterFinder(module, mapper, masks=masks, of_class=of_class)
    if not of_class:
        raise ConfigError(
            f"--parts any: a {cfg.MODEL.META_ARCHITECTURE} judges each part by itself, so it would change nothing"
        )
    if masks and not cfg.MODEL.MASK_ON:
        raise ConfigError(f"--labels mask: this {cfg.MODEL.META_ARCHITECTURE} gives boxes alone (MODEL.MASK_ON False)")
    return DetectorFinder(module, mapper_of(cfg, is_train=False), masks=masks, of_class=of_class)


def _check_classifier(cfg: CfgNode, model: PartClassifier, masks: bool) -> None:
    extractor, name = model.extractor, cfg.MODEL.PART.EXTRACTOR.NAME
    if extractor is None or extractor.training_only or extractor.needs_part_maps:
        raise ConfigError(
            f"MODEL.PART.EXTRACTOR.NAME {name} finds no parts in an image without labels: use a model with the "
            "extractor segmenter, dino or maskdino"
        )
    if model.level.name != "part":
        raise ConfigError(
            f"MODEL.PART.EXTRACTOR.LEVEL {model.level.name}: this model does not tell the parts of an object apart, "
            "use one trained at level part"
        )
    if masks and not extractor.gives_masks:
        raise ConfigError(f"--labels mask: the extractor {name} of this model gives boxes alone, use --labels box")
