"""DINO (arXiv 2203.03605) as a detectron2 meta-architecture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import build_backbone
from detectron2.modeling.backbone import Backbone
from detectron2.structures import ImageList, Instances
from torch import Tensor

from .boxes import xyxy_to_cxcywh
from .config import attention_form
from .criterion import Criterion, CriterionSettings, Term
from .decoder import DecoderSettings
from .dino_transformer import DINOHeads, DINOSettings
from .draws import Draws
from .inference import instances_from_boxes, scaled_boxes
from .matcher import HungarianMatcher, MatchingCosts
from .structures import Outputs, Predictions, Target


class DINO(DINOHeads):
    """Detects with queries that are boxes.

    Called with detectron2's list of samples: in training a dict of weighted losses, otherwise a list of results with
    ``instances``. Parameter names and shapes are those of the official checkpoints. Boxes are in shares of the image
    without padding, which is masked.

    Args:
        backbone: of detectron2.
        in_features: of the backbone, the finest first.
        settings: see :class:`DINOSettings`.
        criterion: the loss.
        detections: of an image, at most.
        pixel_mean, pixel_std: three each, in the channel order of the images.
        input_format: channel order of the images.
    """

    pixel_mean: Tensor
    pixel_std: Tensor

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        in_features: Sequence[str],
        settings: DINOSettings,
        criterion: Criterion,
        detections: int,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        input_format: str = "RGB",
    ) -> None:
        shapes = backbone.output_shape()
        missing = [name for name in in_features if name not in shapes]
        if missing:
            raise ValueError(f"the backbone has no feature {missing[0]!r}; it has: {', '.join(shapes)}")
        super().__init__([shapes[name].channels or 0 for name in in_features], settings)
        self.backbone = backbone
        self.in_features = list(in_features)
        self.criterion = criterion
        self.detections = detections
        self.register_buffer("pixel_mean", torch.tensor(list(pixel_mean)).view(-1, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(list(pixel_std)).view(-1, 1, 1), persistent=False)
        self.input_format = input_format
        self.draws = Draws()

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """The arguments, from a configuration with :func:`maskdino_ext.add_maskdino_config`."""
        node = cfg.MODEL.DINO
        return {
            "backbone": build_backbone(cfg),
            "in_features": node.IN_FEATURES,
            "settings": dino_settings(cfg),
            "criterion": dino_criterion(cfg),
            "detections": node.NUM_SELECT,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "input_format": cfg.INPUT.FORMAT,
        }

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.pixel_mean.device

    def preprocess_image(self, samples: Sequence[Mapping[str, Any]]) -> ImageList:
        """Normalised and padded images."""
        images = [(sample["image"].to(self.device) - self.pixel_mean) / self.pixel_std for sample in samples]
        return ImageList.from_tensors(images, self.backbone.size_divisibility)

    def outputs(self, images: Tensor, padding: Tensor, targets: Sequence[Target] | None = None) -> Outputs:
        """Predictions for normalised images (B, 3, H, W) with padding (B, H, W) bool; differentiable."""
        features = self.backbone(images)
        return self.find([features[name] for name in self.in_features], padding, targets, self.draws)

    def forward(self, samples: list[dict[str, Any]]) -> dict[str, Tensor] | list[dict[str, Any]]:
        """Losses in training, results otherwise."""
        images = self.preprocess_image(samples)
        padding = padding_of(images)
        if self.training:
            targets = dino_targets([sample["instances"].to(self.device) for sample in samples])
            terms: list[Term] = self.criterion(self.outputs(images.tensor, padding, targets), targets, self.draws)
            return {term.name: term.value * term.weight for term in terms}
        return self.results(self.outputs(images.tensor, padding).layers[-1], images, samples)

    def results(
        self, predictions: Predictions, images: ImageList, samples: Sequence[Mapping[str, Any]]
    ) -> list[dict[str, Any]]:
        """detectron2's instances at each sample's ``height`` and ``width``."""
        results = []
        for logits, boxes, size, sample in zip(
            predictions.logits, predictions.boxes, images.image_sizes, samples, strict=True
        ):
            height, width = int(sample.get("height", size[0])), int(sample.get("width", size[1]))
            found = scaled_boxes(boxes, width, height)
            results.append(
                {"instances": instances_from_boxes(logits.float().sigmoid(), found, self.detections, (height, width))}
            )
        return results


def padding_of(images: ImageList) -> Tensor:
    """(B, H, W) bool, True on padding."""
    padding = torch.ones((len(images), *images.tensor.shape[-2:]), dtype=torch.bool, device=images.tensor.device)
    for one, (height, width) in zip(padding, images.image_sizes, strict=True):
        one[:height, :width] = False
    return padding


def dino_targets(instances: Sequence[Instances]) -> list[Target]:
    """The objects of each image, boxes in shares of the image."""
    targets = []
    for one in instances:
        height, width = one.image_size
        scale = one.gt_boxes.tensor.new_tensor([width, height, width, height])
        targets.append(Target(one.gt_classes, xyxy_to_cxcywh(one.gt_boxes.tensor) / scale))
    return targets


def dino_settings(cfg: CfgNode) -> DINOSettings:
    """Sizes and choices of ``MODEL.DINO``."""
    node = cfg.MODEL.DINO
    return DINOSettings(
        decoder=DecoderSettings(
            dim=node.HIDDEN_DIM,
            feedforward=node.DIM_FEEDFORWARD,
            layers=node.DEC_LAYERS,
            levels=node.NUM_FEATURE_LEVELS,
            heads=node.NHEADS,
            points=node.DEC_N_POINTS,
            eps=1e-3,
            form=attention_form(cfg),
            dropout=node.DROPOUT,
        ),
        encoder_layers=node.ENC_LAYERS,
        encoder_points=node.ENC_N_POINTS,
        encoder_feedforward=node.DIM_FEEDFORWARD,
        classes=node.NUM_CLASSES,
        label_book=node.DN_LABELBOOK_SIZE or node.NUM_CLASSES,
        queries=node.NUM_OBJECT_QUERIES,
        two_stage=node.TWO_STAGE,
        learned_content=node.EMBED_INIT_TGT,
        temperature=node.PE_TEMPERATURE,
        denoising=node.USE_DN,
        denoising_number=node.DN_NUMBER,
        label_noise=node.DN_LABEL_NOISE_RATIO,
        box_noise=node.DN_BOX_NOISE_SCALE,
    )


def dino_criterion(cfg: CfgNode) -> Criterion:
    """The loss of ``MODEL.DINO``."""
    node = cfg.MODEL.DINO
    weights = {"ce": node.CLASS_WEIGHT, "bbox": node.BOX_WEIGHT, "giou": node.GIOU_WEIGHT}
    settings = CriterionSettings(
        classes=node.NUM_CLASSES,
        weights={kind: weight for kind, weight in weights.items() if weight},
        denoising_kinds=tuple(weights) if node.USE_DN else (),
        deep_supervision=node.DEEP_SUPERVISION,
        saved=False,
    )
    costs = MatchingCosts(label=node.COST_CLASS_WEIGHT, box=node.COST_BOX_WEIGHT, overlap=node.COST_GIOU_WEIGHT)
    return Criterion(settings, HungarianMatcher(costs))
