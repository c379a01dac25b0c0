"""Mask DINO (arXiv 2206.02777) as a detectron2 meta-architecture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.data import MetadataCatalog
from detectron2.modeling import build_backbone
from detectron2.modeling.backbone import Backbone
from detectron2.modeling.postprocessing import sem_seg_postprocess
from detectron2.structures import BitMasks, ImageList, Instances, PolygonMasks
from torch import Tensor, nn
from torch.nn import functional

from .boxes import xyxy_to_cxcywh
from .config import maskdino_parts
from .criterion import Criterion, CriterionSettings, Term
from .draws import Draws
from .inference import class_scores, instances_from_masks, panoptic_map, scaled_boxes, semantic_map
from .mask_decoder import MaskDecoderSettings, MaskDINODecoder
from .matcher import HungarianMatcher, MatchingCosts
from .pixel_decoder import MaskDINOEncoder, PixelDecoderSettings
from .structures import Outputs, Predictions, Target


@dataclass(frozen=True)
class MaskDINOTest:
    """What an evaluation gives.

    Attributes:
        instances, semantic, panoptic: which results.
        detections: instances of an image, at most.
        box_scores: see :func:`instances_from_masks`.
        score_threshold, overlap: see :func:`panoptic_map`.
        temperature: see :func:`class_scores`.
        crop_first: scale masks to the output's size before, not after, they are merged into a semantic map.
    """

    instances: bool
    semantic: bool
    panoptic: bool
    detections: int
    box_scores: bool
    score_threshold: float
    overlap: float
    temperature: float | None
    crop_first: bool


class MaskDINOHead(nn.Module):
    """Pixel decoder and predictor; named as in official checkpoints."""

    def __init__(self, pixel_decoder: MaskDINOEncoder, predictor: MaskDINODecoder) -> None:
        super().__init__()
        self.pixel_decoder = pixel_decoder
        self.predictor = predictor

    def forward(
        self,
        features: Mapping[str, Tensor],
        targets: Sequence[Target] | None = None,
        *,
        draws: Draws,
        every_mask: bool = False,
    ) -> Outputs:
        """Backbone features by name -> :class:`Outputs`; see :meth:`MaskDINODecoder.forward`."""
        found = self.pixel_decoder(features)
        outputs: Outputs = self.predictor(
            found.levels, found.mask_features, targets, draws=draws, every_mask=every_mask
        )
        return outputs


class MaskDINO(nn.Module):
    """Detects and segments with queries that are boxes.

    Called with detectron2's list of samples: in training a dict of weighted losses, otherwise a list of results
    (``instances``, ``sem_seg``, ``panoptic_seg``). Parameter names and shapes are those of the official checkpoints.

    Args:
        backbone: of detectron2.
        head: pixel decoder and predictor.
        criterion: the loss.
        test: see :class:`MaskDINOTest`.
        size_divisibility: padded sizes are multiples of it.
        pixel_mean, pixel_std: three each, in the channel order of the images.
        things: classes that may be instances in a panoptic result.
        official_boxes: divide target boxes by the image's own size, as the official code does, although predicted boxes
            are scaled by the padded one; the two agree only where nothing is padded. Otherwise both use the padded one.
        input_format: channel order of the images.
    """

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        head: MaskDINOHead,
        criterion: Criterion,
        test: MaskDINOTest,
        size_divisibility: int,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        things: Sequence[int] | None,
        official_boxes: bool,
        input_format: str = "RGB",
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.sem_seg_head = head
        self.criterion = criterion
        self.test = test
        self.size_divisibility = max(size_divisibility, backbone.size_divisibility)
        self.register_buffer("pixel_mean", torch.tensor(list(pixel_mean)).view(-1, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(list(pixel_std)).view(-1, 1, 1), persistent=False)
        self.things = things
        self.official_boxes = official_boxes
        self.input_format = input_format
        self.draws = Draws()

    pixel_mean: Tensor
    pixel_std: Tensor

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """The arguments, from a configuration with :func:`maskdino_ext.add_maskdino_config`.

        Raises:
            ValueError: choices that do not go together.
        """
        backbone = build_backbone(cfg)
        parts = maskdino_parts(cfg)
        pixel_decoder = MaskDINOEncoder(backbone.output_shape(), PixelDecoderSettings(**parts["pixel_decoder"]))
        predictor = MaskDINODecoder(MaskDecoderSettings(**parts["predictor"]))
        criterion = Criterion(
            CriterionSettings(**parts["criterion"]), HungarianMatcher(MatchingCosts(**parts["matcher"]))
        )
        return {
            "backbone": backbone,
            "head": MaskDINOHead(pixel_decoder, predictor),
            "criterion": criterion,
            "test": MaskDINOTest(**parts["test"]),
            "size_divisibility": cfg.MODEL.MaskDINO.SIZE_DIVISIBILITY,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "things": _things(cfg) if parts["test"]["panoptic"] else None,
            "official_boxes": cfg.MODEL.MaskDINO.PARITY,
            "input_format": cfg.INPUT.FORMAT,
        }

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.pixel_mean.device

    def preprocess_image(self, samples: Sequence[Mapping[str, Any]]) -> ImageList:
        """Normalised and padded images."""
        images = [(sample["image"].to(self.device) - self.pixel_mean) / self.pixel_std for sample in samples]
        return ImageList.from_tensors(images, self.size_divisibility)

    def outputs(self, images: Tensor, targets: Sequence[Target] | None = None, *, every_mask: bool = False) -> Outputs:
        """Predictions for normalised, padded images (B, 3, H, W); differentiable."""
        found: Outputs = self.sem_seg_head(
            self.backbone(images), targets, draws=self.draws, every_mask=every_mask or targets is not None
        )
        return found

    def forward(self, samples: list[dict[str, Any]]) -> dict[str, Tensor] | list[dict[str, Any]]:
        """Losses in training, results otherwise."""
        images = self.preprocess_image(samples)
        if self.training:
            instances = [sample["instances"].to(self.device) for sample in samples]
            targets = self.targets(instances, images)
            return {term.name: term.value * term.weight for term in self.terms(images.tensor, targets)}
        outputs = self.outputs(images.tensor)
        return self.results(outputs.layers[-1], images, samples)

    def terms(self, images: Tensor, targets: Sequence[Target]) -> list[Term]:
        """The terms of the loss for normalised, padded images (B, 3, H, W)."""
        terms: list[Term] = self.criterion(self.outputs(images, targets), targets, self.draws)
        return terms

    def targets(self, instances: Sequence[Instances], images: ImageList) -> list[Target]:
        """The objects of each image, masks padded like the images.

        Raises:
            ValueError: masks are part of the loss, and an image has none.
        """
        height, width = images.tensor.shape[-2:]
        wanted = self.criterion.needs_masks
        targets = []
        for one in instances:
            size = one.image_size if self.official_boxes else (height, width)
            scale = one.gt_boxes.tensor.new_tensor([size[1], size[0], size[1], size[0]])
            masks = _padded_masks(one, height, width) if wanted else None
            targets.append(Target(one.gt_classes, xyxy_to_cxcywh(one.gt_boxes.tensor) / scale, masks))
        return targets

    def results(
        self, predictions: Predictions, images: ImageList, samples: Sequence[Mapping[str, Any]]
    ) -> list[dict[str, Any]]:
        """detectron2's results at each sample's ``height`` and ``width``."""
        assert predictions.masks is not None
        padded = (images.tensor.shape[-2], images.tensor.shape[-1])
        masks = functional.interpolate(predictions.masks, size=padded, mode="bilinear", align_corners=False)
        results = []
        for i, (sample, size) in enumerate(zip(samples, images.image_sizes, strict=True)):
            output = (int(sample.get("height", size[0])), int(sample.get("width", size[1])))
            results.append(
                self._result(predictions.logits[i], masks[i], predictions.boxes[i], padded, (size[0], size[1]), output)
            )
        return results

    def _result(
        self,
        logits: Tensor,
        masks: Tensor,
        boxes: Tensor,
        padded: tuple[int, int],
        size: tuple[int, int],
        output: tuple[int, int],
    ) -> dict[str, Any]:
        """Of one image: ``size`` within ``padded`` becomes ``output``, each (H, W)."""
        test, softmax = self.test, self.criterion.settings.softmax
        logits, masks = logits.float(), masks.float()  # scores of half precision have ties
        result: dict[str, Any] = {}
        if test.crop_first:
            masks = sem_seg_postprocess(masks, size, *output)
        if test.semantic:
            scores = class_scores(logits, softmax=softmax, temperature=test.temperature)
            semantic = semantic_map(scores, masks)
            result["sem_seg"] = semantic if test.crop_first else sem_seg_postprocess(semantic, size, *output)
        if test.panoptic:
            result["panoptic_seg"] = panoptic_map(
                logits,
                masks,
                self.things or (),
                threshold=test.score_threshold,
                overlap=test.overlap,
                temperature=test.temperature,
            )
        if test.instances:
            width, height = padded[1] * output[1] / size[1], padded[0] * output[0] / size[0]
            result["instances"] = instances_from_masks(
                logits.sigmoid(),
                masks,
                scaled_boxes(boxes, width, height),
                test.detections,
                things=self.things if test.panoptic else None,
                box_scores=test.box_scores,
            )
        return result


def _things(cfg: CfgNode) -> list[int]:
    """Contiguous ids of the classes with instances.

    Raises:
        ValueError: the dataset does not say.
    """
    if not cfg.DATASETS.TRAIN:
        raise ValueError("panoptic results need DATASETS.TRAIN: its metadata says which classes are things")
    ids = MetadataCatalog.get(cfg.DATASETS.TRAIN[0]).get("thing_dataset_id_to_contiguous_id")
    if ids is None:
        raise ValueError(f"panoptic results need to know things: {cfg.DATASETS.TRAIN[0]} has no such metadata")
    return sorted(set(ids.values()))


def _padded_masks(instances: Instances, height: int, width: int) -> Tensor:
    """(N, height, width) bool, the instances' masks at the top left.

    Raises:
        ValueError: there are none.
    """
    if not len(instances):  # detectron2 gives no masks for an image without objects
        return torch.zeros((0, height, width), dtype=torch.bool, device=instances.gt_classes.device)
    if not instances.has("gt_masks"):
        raise ValueError(
            "the loss has mask terms and an image comes without masks: label them, or train on boxes alone with "
            "MODEL.MaskDINO.MASK_WEIGHT 0 MODEL.MaskDINO.DICE_WEIGHT 0 and the matching costs COST_MASK_WEIGHT 0 "
            "COST_DICE_WEIGHT 0"
        )
    masks = instances.gt_masks
    if isinstance(masks, PolygonMasks):
        masks = BitMasks.from_polygon_masks(masks, *instances.image_size)
    tensor = (masks.tensor if isinstance(masks, BitMasks) else torch.as_tensor(masks)).to(instances.gt_classes.device)
    padded = torch.zeros((len(tensor), height, width), dtype=torch.bool, device=tensor.device)
    padded[:, : tensor.shape[1], : tensor.shape[2]] = tensor.bool()
    return padded
