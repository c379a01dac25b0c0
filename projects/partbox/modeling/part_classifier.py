"""The meta-architecture: backbone -> part extractor -> part evidence -> classification head."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import build_backbone
from detectron2.structures import Instances
from torch import Tensor, nn
from torch.nn import functional

from partbox.data.part_map import IGNORE
from partbox.suggestions import one_of

from .build import build_extractor, build_head
from .evidence import PartEvidence
from .extractors import Extractor, ExtractorInputs, PartObjects
from .extractors.detector import DetectorExtractor, detected_parts
from .heads import DecoderHead, EvidenceHead, FeatureHead, Head, ImageHead
from .levels import LevelMap, channels_to_class, part_level
from .losses import keypoint_loss, part_loss
from .outputs import PartOutput, PartTargets
from .synchronised_batch_norm import synchronise_batch_norm

BATCH_NORMS = (nn.modules.batchnorm._BatchNorm,)
BATCH_NORM_MODES = ("train", "synchronised", "frozen")
LOSS_RESOLUTIONS = ("image", "evidence")


class PartClassifier(nn.Module):
    """Names the object in an image, from its parts where it has an extractor.

    ``forward`` is detectron2's: a list of dicts gives a dict of losses in training and a list of predictions in
    inference. ``logits`` is what attacks need: images in [0, 1] -> logits, normalisation inside.

    Args:
        backbone: detectron2 backbone.
        extractor: None for a plain classifier.
        head: reads the evidence, evidence and image, or features.
        class_names: of the K classes.
        part_names: of the P parts, as ``class:part``.
        part_to_class: class index of each part.
        level: part level of the extractor's channels.
        groups: of level ``group``, see :func:`partbox.modeling.levels.part_level`.
        from_clean_image: the extractor sees the clean image, whatever an attack does to the one that the head sees.
        part_loss_weight: c of (1 - c) classification + c parts; 0 where no extractor learns.
        pixel_loss_weight: of the pixels' cross-entropy within the part term.
        keypoint_loss_weight: of :func:`partbox.modeling.losses.keypoint_loss` within the part term.
        part_loss_at_image_size: see :func:`partbox.modeling.losses.part_loss`.
        part_focal_gamma: of the part term; 0 is plain cross-entropy.
        label_smoothing: of the classification term.
        freeze_batch_norm: the backbone's BatchNorm uses its running statistics in training too.
        synchronised_batch_norm: BatchNorm uses the statistics of the whole batch where several processes share it.
        pixel_mean: of R, G, B in 0..255.
        pixel_std: of R, G, B in 0..255.
    """

    pixel_mean: Tensor
    pixel_std: Tensor
    channel_to_class: Tensor

    @configurable
    def __init__(
        self,
        *,
        backbone: nn.Module,
        extractor: Extractor | None,
        head: Head,
        class_names: Sequence[str],
        part_names: Sequence[str],
        part_to_class: Sequence[int],
        level: str = "part",
        groups: Sequence[dict[str, Any]] = (),
        from_clean_image: bool = False,
        part_loss_weight: float = 0.5,
        pixel_loss_weight: float = 1.0,
        keypoint_loss_weight: float = 0.0,
        part_loss_at_image_size: bool = True,
        part_focal_gamma: float = 0.0,
        label_smoothing: float = 0.0,
        freeze_batch_norm: bool = False,
        synchronised_batch_norm: bool = False,
        pixel_mean: Sequence[float] = (123.675, 116.28, 103.53),
        pixel_std: Sequence[float] = (58.395, 57.12, 57.375),
    ) -> None:
        super().__init__()
        if not 0 <= part_loss_weight <= 1:
            raise ValueError(f"MODEL.PART.LOSS_WEIGHT must lie in [0, 1], not {part_loss_weight}")
        if isinstance(head, EvidenceHead | ImageHead | DecoderHead) and extractor is None:
            raise ValueError(f"{type(head).__name__} needs part evidence: MODEL.PART.EXTRACTOR.NAME must not be 'none'")
        self.backbone = backbone
        self.extractor = extractor
        self.head = head
        self.class_names = tuple(class_names)
        self.part_names = tuple(part_names)
        self.part_to_class = tuple(part_to_class)
        self.level = part_level(level, class_names, part_names, part_to_class, groups)
        self.level_map = LevelMap(self.level)
        self.from_clean_image = from_clean_image
        # Nothing learns from a part term of the true parts; it would only take its share from the classification.
        learns = extractor is not None and not extractor.needs_part_maps
        self.part_loss_weight = part_loss_weight if learns else 0.0
        self.pixel_loss_weight, self.keypoint_loss_weight = pixel_loss_weight, keypoint_loss_weight
        if keypoint_loss_weight:
            owners = channels_to_class(self.level, part_to_class, len(class_names))
            self.register_buffer("channel_to_class", owners, persistent=False)
        self.part_loss_at_image_size = part_loss_at_image_size
        self.part_focal_gamma = part_focal_gamma
        self.label_smoothing = label_smoothing
        self.freeze_batch_norm = freeze_batch_norm
        if synchronised_batch_norm:
            synchronise_batch_norm(self)
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).reshape(1, 3, 1, 1) / 255, persistent=False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).reshape(1, 3, 1, 1) / 255, persistent=False)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        part = cfg.MODEL.PART
        if not part.CLASS_NAMES:
            raise ValueError("MODEL.PART.CLASS_NAMES is empty: fill it from a dataset (partbox.engine.setup does)")
        if cfg.INPUT.FORMAT != "RGB":
            raise ValueError(f"INPUT.FORMAT must be RGB for a PartClassifier, not {cfg.INPUT.FORMAT}")
        backbone = build_backbone(cfg)
        set_batch_norm_momentum(backbone, part.BATCH_NORM_MOMENTUM)
        if part.BATCH_NORM not in BATCH_NORM_MODES:
            raise ValueError(one_of("MODEL.PART.BATCH_NORM", part.BATCH_NORM, BATCH_NORM_MODES))
        if part.FOCAL_GAMMA < 0:
            raise ValueError(f"MODEL.PART.FOCAL_GAMMA must not be negative, it is {part.FOCAL_GAMMA}")
        if part.LOSS_RESOLUTION not in LOSS_RESOLUTIONS:
            raise ValueError(one_of("MODEL.PART.LOSS_RESOLUTION", part.LOSS_RESOLUTION, LOSS_RESOLUTIONS))
        extractor = build_extractor(cfg, backbone.output_shape())
        return {
            "backbone": backbone,
            "extractor": extractor,
            "head": build_head(cfg, backbone.output_shape(), extractor),
            "class_names": list(part.CLASS_NAMES),
            "part_names": list(part.PART_NAMES),
            "part_to_class": list(part.PART_TO_CLASS),
            "level": part.EXTRACTOR.LEVEL,
            "groups": list(part.EXTRACTOR.GROUPS),
            "from_clean_image": part.EXTRACTOR.FROM_CLEAN_IMAGE,
            "part_loss_weight": part.LOSS_WEIGHT,
            "pixel_loss_weight": part.PIXEL_LOSS_WEIGHT,
            "keypoint_loss_weight": part.KEYPOINT_LOSS_WEIGHT,
            "part_loss_at_image_size": part.LOSS_RESOLUTION == "image",
            "part_focal_gamma": part.FOCAL_GAMMA,
            "label_smoothing": part.LABEL_SMOOTHING,
            "freeze_batch_norm": part.BATCH_NORM == "frozen",
            "synchronised_batch_norm": part.BATCH_NORM == "synchronised",
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
        }

    @property
    def device(self) -> torch.device:
        return self.pixel_mean.device

    @property
    def channel_names(self) -> tuple[str, ...]:
        """Names of the mask channels, without background."""
        return self.level.channels

    @property
    def channel_of_part(self) -> tuple[int, ...]:
        """Index in :attr:`channel_names` of each part: groups of one name may hold other parts."""
        return self.level.of_part

    @property
    def label_needs_evidence(self) -> bool:
        """Whether the label depends on the part evidence, as part of what the head sees or all of it."""
        return isinstance(self.head, EvidenceHead | ImageHead)

    @property
    def evidence_is_the_only_path(self) -> bool:
        """Whether nothing but the part evidence leads from the image to the label."""
        return isinstance(self.head, EvidenceHead)

    @property
    def evidence_is_given(self) -> bool:
        """Whether the label rests on evidence that no attack on the image can change: an oracle, and no defence.

        It comes from the true parts, or from the clean image. So ``logits`` cannot be asked, only ``logits_for``.
        """
        if self.extractor is None or not self.label_needs_evidence:
            return False
        return self.from_clean_image or self.extractor.needs_part_maps

    @property
    def oracle(self) -> str:
        """Why an evaluation of this model is an upper bound and shows no defence; empty where it is none."""
        if not self.evidence_is_given:
            return ""
        if self.from_clean_image:
            return "oracle: the part masks are those of the clean image whatever the attack does, an upper bound"
        return "oracle: the part masks are the labels, an upper bound"

    @property
    def remarks(self) -> tuple[str, ...]:
        """What has to be said beside every number of this model under attack."""
        inexact = (
            "the head's masks are hard, and the attacks follow an estimate of the gradient (straight-through): robust "
            "accuracy is an upper bound, compare with an attack without gradients (square)"
        )
        found = (self.oracle, "" if self.head.exact_gradient or self.evidence_is_given else inexact)
        return tuple(remark for remark in found if remark)

    def train(self, mode: bool = True) -> PartClassifier:
        super().train(mode)
        if mode and self.freeze_batch_norm:
            for module in self.backbone.modules():
                if isinstance(module, BATCH_NORMS):
                    module.eval()
        return self

    def normalised(self, images: Tensor) -> Tensor:
        """Images in [0, 1] -> what networks see."""
        return (images - self.pixel_mean) / self.pixel_std

    def run(self, images: Tensor, targets: PartTargets | None = None, *, evidence_needed: bool = True) -> PartOutput:
        """One forward pass.

        Args:
            images: (B, 3, H, W) float RGB in [0, 1].
            targets: for evidence that does not come from ``images``, and for detectors in training.
            evidence_needed: False skips the extractor where the label does not depend on it.

        Raises:
            ValueError: the evidence comes from the clean image or the true parts, and there are none.
        """
        seen = images
        if self.from_clean_image:
            if targets is None or targets.clean_images is None:
                raise ValueError("this model's parts come from the clean image, which must be given: use logits_for")
            seen = targets.clean_images
        features = self.backbone(self.normalised(seen))
        inputs = self._extractor_inputs(features, seen, targets, learns=evidence_needed)
        if isinstance(self.head, DecoderHead):
            assert self.extractor is not None  # the constructor refused this head without extractor
            decoded = self.extractor.decode(inputs)
            evidence = self.extractor.evidence_of(decoded, inputs) if evidence_needed else None
            return PartOutput(self.head(decoded), evidence)
        evidence = None
        used = self.extractor is not None and (self.training or not self.extractor.training_only)
        if self.extractor is not None and used and (evidence_needed or self.label_needs_evidence):
            evidence = self.extractor(inputs)
        if isinstance(self.head, FeatureHead):
            return PartOutput(self.head(features), evidence)
        assert evidence is not None  # the constructor refused these heads without extractor
        return PartOutput(self._logits_of(evidence, images), evidence)

    def _extractor_inputs(
        self, features: dict[str, Tensor], images: Tensor, targets: PartTargets | None, *, learns: bool
    ) -> ExtractorInputs:
        maps = objects = None
        if targets is not None and self.extractor is not None and self.extractor.needs_part_maps:
            maps = self.level_map(targets.part_maps)
        if targets is not None and self.extractor is not None and self.extractor.learns_objects and learns:
            objects = targets.objects
        return ExtractorInputs(features, images, maps, objects)

    def _logits_of(self, evidence: PartEvidence, images: Tensor) -> Tensor:
        """What a head that reads evidence answers to it and, where it sees them, to the images in [0, 1]."""
        if isinstance(self.head, ImageHead):
            logits: Tensor = self.head(evidence, self.normalised(images))
        else:
            logits = self.head(evidence)
        return logits

    def logits(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W), float RGB in [0, 1] -> logits (B, K).

        Raises:
            ValueError: :attr:`evidence_is_given`, which needs :meth:`logits_for`.
        """
        return self.run(images, evidence_needed=False).logits

    @property
    def reads_masks(self) -> bool:
        """Whether the label depends on part masks: not on detections, and not on features alone."""
        return self.label_needs_evidence and not self.head.from_detections

    def logits_of_masks(self, mask_logits: Tensor, image_size: tuple[int, int]) -> Tensor:
        """What the head answers to mask logits (B, 1 + P, h, w) of images of (height, width) pixels; (B, K).

        Raises:
            ValueError: the head does not read the parts, or more than the parts.
        """
        if not self.reads_masks or not self.evidence_is_the_only_path:
            raise ValueError(f"{type(self.head).__name__} does not read part masks alone")
        logits: Tensor = self.head(PartEvidence(mask_logits, image_size))
        return logits

    @property
    def attackable(self) -> bool:
        """Whether the logits depend on the image at all: not where given evidence is all that the head sees."""
        return not (self.evidence_is_given and self.evidence_is_the_only_path)

    def logits_for(self, batch: Sequence[dict[str, Any]]) -> Callable[[Tensor], Tensor]:
        """The function images -> logits for this batch.

        Where :attr:`evidence_is_given`, it holds the evidence of the batch as it is now, in the model's present mode:
        the images that it is asked about must be versions of those of the batch in the same order, or any number of
        versions of the one image of a batch of one. An attack, which drops images that are done, needs the latter.
        """
        if not self.evidence_is_given:
            return self.logits
        with torch.no_grad():
            evidence = self.run(self.images_of(batch), self.targets_of(batch)).evidence
        assert evidence is not None
        return lambda images: self._logits_of(evidence.for_images(len(images)), images)

    def losses(self, images: Tensor, targets: PartTargets) -> dict[str, Tensor]:
        """The weighted terms of the training loss: ``loss_class`` and those of :meth:`part_losses`."""
        output = self.run(images, targets)
        classification = self.classification_loss(output.logits, targets)
        return {"loss_class": (1 - self.part_loss_weight) * classification, **self.part_losses(output, targets)}

    def classification_loss(self, logits: Tensor, targets: PartTargets) -> Tensor:
        """Mean cross-entropy of the class, without its weight; a number."""
        return functional.cross_entropy(logits, targets.labels, label_smoothing=self.label_smoothing)

    def part_losses(self, output: PartOutput, targets: PartTargets) -> dict[str, Tensor]:
        """The weighted part term, ``loss_part`` and (with a weight) ``loss_keypoint``; nothing without extractor."""
        if output.evidence is None:
            return {}
        if self.extractor is not None and self.extractor.learns_objects:
            part = self.extractor.loss(output.evidence, targets.objects, targets.part_weights)
            return {"loss_part": self.part_loss_weight * part}
        maps, weights = self.level_map(targets.part_maps), targets.part_weights
        terms = [
            part_loss(
                logits,
                maps,
                at_image_size=self.part_loss_at_image_size,
                focal=self.part_focal_gamma,
                weights=weights,
            )
            for logits in output.evidence.resolutions
        ]
        losses = {"loss_part": self.part_loss_weight * self.pixel_loss_weight * torch.stack(terms).mean()}
        if self.keypoint_loss_weight:
            keypoints = keypoint_loss(output.evidence, maps, targets.labels, self.channel_to_class, weights)
            losses["loss_keypoint"] = self.part_loss_weight * self.keypoint_loss_weight * keypoints
        return losses

    def images_of(self, batch: Sequence[dict[str, Any]]) -> Tensor:
        """The batch's images, (B, 3, H, W) float RGB in [0, 1] on the model's device.

        Raises:
            ValueError: images of different size.
        """
        sizes = {tuple(sample["image"].shape) for sample in batch}
        if len(sizes) > 1:
            raise ValueError(f"the images of a batch must have one size, found {sorted(sizes)}: set INPUT.SIZE")
        return torch.stack([sample["image"] for sample in batch]).to(self.device).to(self.pixel_mean.dtype) / 255

    def targets_of(self, batch: Sequence[dict[str, Any]]) -> PartTargets:
        """The batch's labels on the model's device; a sample without ``part_map`` has no part labels.

        Raises:
            ValueError: a ``part_weight`` outside (0, 1]; an image that shall not count has no part labels.
        """
        labels = torch.tensor([sample["label"] for sample in batch], device=self.device)
        maps = [
            sample.get("part_map", torch.full(sample["image"].shape[-2:], IGNORE, dtype=torch.int64))
            for sample in batch
        ]
        objects: tuple[PartObjects | None, ...] = ()
        if self.extractor is not None and self.extractor.learns_objects:
            objects = tuple(self._objects(sample.get("instances")) for sample in batch)
        clean = self.images_of(batch) if self.from_clean_image else None
        return PartTargets(labels, torch.stack(maps).to(self.device), objects, self._part_weights(batch), clean)

    def _part_weights(self, batch: Sequence[dict[str, Any]]) -> Tensor | None:
        """``part_weight`` of each sample, (B,); None where all are 1, so that the loss is the same to the last bit."""
        weights = [float(sample.get("part_weight", 1.0)) for sample in batch]
        if not all(0 < weight <= 1 for weight in weights):
            raise ValueError(f"part_weight must lie in (0, 1], not {weights}")
        if all(weight == 1 for weight in weights):
            return None
        return torch.tensor(weights, device=self.device, dtype=self.pixel_mean.dtype)

    def _objects(self, instances: Instances | None) -> PartObjects | None:
        """The labelled parts (boxes XYXY in pixels, classes at part level) of an image; None stays None."""
        if instances is None:
            return None
        height, width = instances.image_size
        boxes = instances.gt_boxes.tensor
        share = boxes.new_tensor([width, height, width, height])
        centred = torch.cat([(boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]], dim=1) / share
        masks = instances.gt_masks.tensor.to(self.device) if instances.has("gt_masks") else None
        if masks is None and not len(boxes):  # an image without parts has all the masks that it can have
            masks = torch.zeros((0, height, width), dtype=torch.bool, device=self.device)
        channels = self.level_map(instances.gt_classes + 1) - 1
        return PartObjects(channels.to(self.device), centred.to(self.device), masks)

    def forward(self, batched_inputs: Sequence[dict[str, Any]]) -> dict[str, Tensor] | list[dict[str, Any]]:
        """Training: losses by name. Inference: one prediction an image.

        Args:
            batched_inputs: dicts with ``image`` (3, H, W) RGB in 0..255; in training also ``label`` and, where the
                parts are labelled, ``part_map`` (H, W) and ``part_weight`` (1 where absent).

        Returns:
            Predictions hold ``label`` (int), ``probabilities`` (K,) and, after the extractor, ``part_probabilities``
            (1 + P, h, w) at the evidence's resolution and ``instances``, parts in pixels of the image.
        """
        images = self.images_of(batched_inputs)
        if self.training:
            return self.losses(images, self.targets_of(batched_inputs))
        return self.predict_batch(images, batched_inputs)

    def predict_batch(self, images: Tensor, batch: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Predictions on ``images`` (B, 3, H, W) in [0, 1], which stand for the images of ``batch``."""
        needed = self.from_clean_image or (self.extractor is not None and self.extractor.needs_part_maps)
        return self.predictions(self.run(images, self.targets_of(batch) if needed else None))

    def predictions(self, output: PartOutput) -> list[dict[str, Any]]:
        """Split an output into one prediction an image."""
        probabilities = output.logits.softmax(dim=1)
        labels = probabilities.argmax(dim=1).tolist()
        predictions: list[dict[str, Any]] = [
            {"label": label, "probabilities": row} for label, row in zip(labels, probabilities, strict=True)
        ]
        if output.evidence is not None and output.evidence.has_masks:
            for prediction, masks in zip(predictions, output.evidence.masks, strict=True):
                prediction["part_probabilities"] = masks
        if output.evidence is not None and isinstance(self.extractor, DetectorExtractor):
            shown = self.extractor.shown
            for prediction, instances in zip(predictions, detected_parts(output.evidence, shown), strict=True):
                prediction["instances"] = instances
        return predictions


def set_batch_norm_momentum(module: nn.Module, momentum: float) -> None:
    """Set the share of the newest batch in the running statistics of every BatchNorm below ``module``."""
    for child in module.modules():
        if isinstance(child, BATCH_NORMS):
            child.momentum = momentum
