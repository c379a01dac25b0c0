"""DINO and Mask DINO as part extractors: trained by their own detection losses, attacked through their own queries."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.structures import Instances
from torch import Tensor

from maskdino_ext.config import maskdino_parts
from maskdino_ext.criterion import Criterion, CriterionSettings, mean_over_processes
from maskdino_ext.dino import dino_criterion, dino_settings
from maskdino_ext.dino_transformer import DINOHeads
from maskdino_ext.draws import Draws
from maskdino_ext.inference import instances_from_boxes, scaled_boxes
from maskdino_ext.mask_decoder import MaskDecoderSettings, MaskDINODecoder
from maskdino_ext.maskdino import MaskDINOHead
from maskdino_ext.matcher import HungarianMatcher, MatchingCosts
from maskdino_ext.pixel_decoder import MaskDINOEncoder, PixelDecoderSettings
from maskdino_ext.structures import Outputs, Predictions, Target

from ..evidence import PartDetections, PartEvidence
from .base import Extractor, ExtractorInputs, PartObjects

logger = logging.getLogger(__name__)

TINY = 1e-6
CERTAINTY = 4.0  # a pixel that one sure query claims shows its part with 1 - exp(-4) = 98 %


def pyramid(shapes: dict[str, ShapeSpec]) -> dict[str, str]:
    """The deepest feature of each stride under detectron2's names: ``res2`` (stride 4), ``res3`` (8), ..."""
    return {f"res{int(math.log2(shape.stride))}": name for name, shape in shapes.items() if shape.stride}


def masks_of_queries(logits: Tensor, masks: Tensor) -> Tensor:
    """Soft part masks from queries.

    The queries' claims to a pixel add up, a_p = 4 * sum over q of score(q, p) * mask(q); a pixel shows part p with
    probability 1 - exp(-a_p), and the background with the probability that it shows no part.

    Args:
        logits: (B, Q, P).
        masks: (B, Q, h, w) logits.

    Returns:
        (B, 1 + P, h, w) logits of a softmax over the channels.
    """
    claims = CERTAINTY * torch.einsum("bqp,bqhw->bphw", logits.sigmoid(), masks.sigmoid())
    parts = torch.log(-torch.expm1(-claims) + TINY)
    return torch.cat([-claims.sum(dim=1, keepdim=True), parts], dim=1)


class DetectorExtractor(Extractor):
    """What both detectors share.

    Args:
        num_channels: P.
        names: of the pyramid's features in the backbone.
        criterion: the detection losses.
        queries: number of queries.
        shown: detections of an image in predictions, at most.
    """

    gives_detections = True
    learns_objects = True

    def __init__(
        self, num_channels: int, names: dict[str, str], criterion: Criterion, queries: int, shown: int
    ) -> None:
        super().__init__()
        self.num_channels = num_channels
        self.names = names
        self.criterion = criterion
        self.queries = queries
        self.shown = shown
        self.draws = Draws()

    def find(self, features: dict[str, Tensor], images: Tensor, targets: Sequence[Target] | None) -> Outputs:
        """Predictions from features named as in :func:`pyramid`, with denoising queries where targets are given."""
        raise NotImplementedError

    def evidence(self, predictions: Predictions, image_size: tuple[int, int]) -> PartEvidence:
        """The evidence that one layer's predictions are."""
        raise NotImplementedError

    def forward(self, inputs: ExtractorInputs) -> PartEvidence:
        objects = inputs.objects if self.training else None
        targets = None if objects is None else [self.target(one, inputs.images) for one in objects]
        features = {name: inputs.features[source] for name, source in self.names.items()}
        outputs = self.find(features, inputs.images, targets)
        height, width = inputs.images.shape[-2:]
        evidence = self.evidence(outputs.layers[-1], (height, width))
        evidence.training_outputs = outputs if targets is not None else None
        return evidence

    @staticmethod
    def target(objects: PartObjects | None, images: Tensor) -> Target:
        """The objects of an image; none of an image whose parts are not labelled, which the losses leave out."""
        if objects is not None:
            return Target(objects.channels, objects.boxes, objects.masks)
        height, width = images.shape[-2:]
        return Target(
            torch.zeros(0, dtype=torch.int64, device=images.device),
            images.new_zeros(0, 4),
            torch.zeros(0, height, width, dtype=torch.bool, device=images.device),
        )

    def loss(
        self, evidence: PartEvidence, objects: Sequence[PartObjects | None], weights: Tensor | None = None
    ) -> Tensor:
        """The weighted sum of the detection losses over the images whose parts are labelled; 0 without any.

        An image's weight multiplies what its queries add; the sum is divided by the number of objects in all images.
        """
        outputs = evidence.training_outputs
        if outputs is None:
            raise ValueError("detection losses need a forward pass in training mode that was given the objects")
        rows = [i for i, one in enumerate(objects) if one is not None]
        if not rows:
            mean_over_processes(0, outputs.layers[-1].logits)  # the others, which have objects, wait for the number
            return outputs.layers[-1].logits.sum() * 0
        targets = [Target(one.channels, one.boxes, one.masks) for one in objects if one is not None]
        chosen = None if weights is None else weights[rows]
        terms = self.criterion(of_images(outputs, rows), targets, self.draws, chosen)
        return torch.stack([term.value * term.weight for term in terms]).sum()


def of_images(outputs: Outputs, rows: Sequence[int]) -> Outputs:
    """The outputs for some images of a batch."""
    index = torch.tensor(list(rows), device=outputs.layers[-1].logits.device)

    def part(one: Predictions) -> Predictions:
        return Predictions(one.logits[index], one.boxes[index], None if one.masks is None else one.masks[index])

    return replace(
        outputs,
        layers=tuple(part(one) for one in outputs.layers),
        proposals=None if outputs.proposals is None else part(outputs.proposals),
        denoising=tuple(part(one) for one in outputs.denoising),
    )


class DinoExtractor(DetectorExtractor):
    """DINO: boxes and scores (``MODEL.DINO``)."""

    gives_masks = False

    def __init__(
        self,
        detector: DINOHeads,
        in_features: Sequence[str],
        names: dict[str, str],
        criterion: Criterion,
        *,
        shown: int,
    ) -> None:
        super().__init__(detector.settings.classes, names, criterion, detector.settings.queries, shown)
        self.detector = detector
        self.in_features = list(in_features)

    @classmethod
    def from_config(cls, cfg: CfgNode, shapes: dict[str, ShapeSpec], num_channels: int) -> DinoExtractor:
        """Raises ValueError where the backbone has no feature of a stride that the detector reads."""
        complete = cfg.clone()
        complete.defrost()
        complete.MODEL.DINO.NUM_CLASSES = num_channels
        names = pyramid(shapes)
        wanted = list(cfg.MODEL.DINO.IN_FEATURES)
        _check_features("MODEL.DINO.IN_FEATURES", wanted, names)
        channels = [shapes[names[name]].channels or 0 for name in wanted]
        detector = DINOHeads(channels, dino_settings(complete))
        read = {name: names[name] for name in wanted}
        return cls(detector, wanted, read, dino_criterion(complete), shown=cfg.MODEL.DINO.NUM_SELECT)

    def find(self, features: dict[str, Tensor], images: Tensor, targets: Sequence[Target] | None) -> Outputs:
        padding = torch.zeros(images.shape[0], *images.shape[-2:], dtype=torch.bool, device=images.device)
        return self.detector.find([features[name] for name in self.in_features], padding, targets, self.draws)

    def evidence(self, predictions: Predictions, image_size: tuple[int, int]) -> PartEvidence:
        return PartEvidence(None, image_size, PartDetections(predictions.logits, predictions.boxes))


class MaskDinoExtractor(DetectorExtractor):
    """Mask DINO: boxes, scores and masks (``MODEL.MaskDINO`` and ``MODEL.SEM_SEG_HEAD``)."""

    def __init__(
        self, detector: MaskDINOHead, names: dict[str, str], criterion: Criterion, *, learns_masks: bool, shown: int
    ) -> None:
        settings = detector.predictor.settings
        super().__init__(settings.classes, names, criterion, settings.queries, shown)
        self.detector = detector
        self.gives_masks = learns_masks

    @classmethod
    def from_config(cls, cfg: CfgNode, shapes: dict[str, ShapeSpec], num_channels: int) -> MaskDinoExtractor:
        """Under ``MODEL.PART.EXTRACTOR.SUPERVISION box`` nobody teaches the masks, and the evidence has none.

        Raises:
            ValueError: no feature of a stride that the detector reads, or choices that do not go together.
        """
        complete = cfg.clone()
        complete.defrost()
        complete.MODEL.SEM_SEG_HEAD.NUM_CLASSES = num_channels
        node = complete.MODEL.MaskDINO
        if node.SEMANTIC_CE_LOSS:
            raise ValueError("MODEL.MaskDINO.SEMANTIC_CE_LOSS is for semantic segmentation, not for a part extractor")
        learns_masks = cfg.MODEL.PART.EXTRACTOR.SUPERVISION != "box"
        if not learns_masks:
            node.MASK_WEIGHT = node.DICE_WEIGHT = node.COST_MASK_WEIGHT = node.COST_DICE_WEIGHT = 0.0
            node.INITIALIZE_BOX_TYPE = "no"
            logger.info("Mask DINO learns from boxes alone: no mask terms, no initial boxes from masks, no masks")
        names = pyramid(shapes)
        key = "MODEL.SEM_SEG_HEAD.DEFORMABLE_TRANSFORMER_ENCODER_IN_FEATURES"
        _check_features(key, complete.MODEL.SEM_SEG_HEAD.DEFORMABLE_TRANSFORMER_ENCODER_IN_FEATURES, names)
        parts = maskdino_parts(complete)
        features = {name: shapes[source] for name, source in names.items()}
        detector = MaskDINOHead(
            MaskDINOEncoder(features, PixelDecoderSettings(**parts["pixel_decoder"])),
            MaskDINODecoder(MaskDecoderSettings(**parts["predictor"])),
        )
        criterion = Criterion(
            CriterionSettings(**parts["criterion"]), HungarianMatcher(MatchingCosts(**parts["matcher"]))
        )
        return cls(detector, names, criterion, learns_masks=learns_masks, shown=cfg.TEST.DETECTIONS_PER_IMAGE)

    def find(self, features: dict[str, Tensor], images: Tensor, targets: Sequence[Target] | None) -> Outputs:
        outputs: Outputs = self.detector(features, targets, draws=self.draws, every_mask=targets is not None)
        return outputs

    def evidence(self, predictions: Predictions, image_size: tuple[int, int]) -> PartEvidence:
        detections = PartDetections(predictions.logits, predictions.boxes)
        if not self.gives_masks:
            return PartEvidence(None, image_size, detections)
        assert predictions.masks is not None
        return PartEvidence(masks_of_queries(predictions.logits, predictions.masks), image_size, detections)


def detected_parts(evidence: PartEvidence, count: int) -> list[Instances]:
    """detectron2's instances of each image, at most ``count``: boxes XYXY in pixels, scores, classes (channels)."""
    height, width = evidence.image_size
    detections = evidence.detections
    return [
        instances_from_boxes(logits.sigmoid(), scaled_boxes(boxes, width, height), count, (height, width))
        for logits, boxes in zip(detections.logits, detections.boxes, strict=True)
    ]


def _check_features(key: str, wanted: Sequence[str], names: dict[str, str]) -> None:
    missing = [name for name in wanted if name not in names]
    if missing:
        raise ValueError(
            f"{key}: the backbone has no {missing[0]}; it has {', '.join(names)} (res3 is its deepest feature of "
            "stride 8, res4 of 16, res5 of 32): set MODEL.PART.BACKBONE.OUTPUT_STRIDE 32, or other features"
        )
