"""What the model of a configuration costs: parameters, multiply-adds, passes of training. Without data or weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data.transforms import ResizeShortestEdge
from detectron2.modeling import GeneralizedRCNN
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from partbox.modeling import PartClassifier, PartTargets

from .build import build_classifier
from .detectors import build_detector, is_segmenter
from .dry_run import training_passes

PHOTOGRAPH = (480, 640)
"""(height, width) in pixels of the photograph that a detector's test size is computed for."""


@dataclass(frozen=True)
class ModelCost:
    """What a model costs.

    Attributes:
        input_size: (height, width) in pixels of what the network sees in inference, before padding.
        parameters: numbers in the whole model, buffers (such as frozen BatchNorm) not included.
        learning: of them, those that training changes.
        in_inference: of them, those that inference reads.
        multiply_adds: of inference on one image: convolutions and matrix products, attention's included. Normalisation,
            activation, resizing, pooling and the sampling of deformable attention are not counted.
        training_passes: over an image, see :func:`partbox.engine.dry_run.training_passes`.
    """

    input_size: tuple[int, int]
    parameters: int
    learning: int
    in_inference: int
    multiply_adds: int
    training_passes: int


def model_cost(cfg: CfgNode) -> ModelCost:
    """Build the model with random weights, on the CPU, and run it once on noise.

    A two-stage detector is counted with as many proposals and detections as its configuration allows: how many there
    are depends on the weights and the image.

    Args:
        cfg: complete configuration; of a part classifier with ``MODEL.PART.CLASS_NAMES`` and ``PART_NAMES``.

    Raises:
        ConfigError: the model cannot be built.
    """
    plain = _without_weights(cfg)
    classifies = cfg.MODEL.META_ARCHITECTURE == "PartClassifier"
    model: nn.Module = build_classifier(plain) if classifies else build_detector(plain)
    learning = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    size = inference_size(cfg)
    image = torch.rand(3, *size, generator=torch.Generator().manual_seed(0))
    with _counted(model.eval()) as (operations, read):
        _infer(model, image, plain)
    return ModelCost(
        input_size=size,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        learning=learning,
        in_inference=read.numbers,
        multiply_adds=operations.get_total_flops() // 2,
        training_passes=training_passes(cfg),
    )


def inference_size(cfg: CfgNode) -> tuple[int, int]:
    """(height, width) in pixels of what the network sees in inference; a detector's is that of ``PHOTOGRAPH``."""
    if cfg.MODEL.META_ARCHITECTURE == "PartClassifier" or is_segmenter(cfg):
        height, width = cfg.INPUT.SIZE
        return height, width
    if not cfg.INPUT.MIN_SIZE_TEST:  # detectron2's word for "as it is"
        return PHOTOGRAPH
    height, width = ResizeShortestEdge.get_output_shape(*PHOTOGRAPH, cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST)
    return height, width


def _without_weights(cfg: CfgNode) -> CfgNode:
    plain = cfg.clone()
    plain.defrost()
    plain.MODEL.DEVICE = "cpu"
    plain.MODEL.WEIGHTS = plain.MODEL.PART.BACKBONE.WEIGHTS = plain.MODEL.PART.HEAD.NETWORK_WEIGHTS = ""
    return plain


class ParametersRead(TorchDispatchMode):
    """Remembers which parameters of a model any operation was given.

    Hooks on layers would miss those that are read without their layer being called: the queries of a decoder, the
    output projection of torch's attention.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._sizes = {id(parameter): parameter.numel() for parameter in model.parameters()}
        self._seen: set[int] = set()

    @property
    def numbers(self) -> int:
        """How many numbers the parameters hold that were read."""
        return sum(self._sizes[one] for one in self._seen)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self._seen.update(id(leaf) for leaf in tree_leaves((args, kwargs)) if id(leaf) in self._sizes)
        return func(*args, **(kwargs or {}))


@contextmanager
def _counted(model: nn.Module) -> Iterator[tuple[FlopCounterMode, ParametersRead]]:
    """Count what is done inside; attention as the matrix products that it is, not as one unknown operation.

    Parameters lose their gradients: torch's counter does not count layers whose inputs are parameters that learn.
    """
    operations, read = FlopCounterMode(display=False), ParametersRead(model.requires_grad_(False))
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), operations, read:
            yield operations, read
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def _infer(model: nn.Module, image: Tensor, cfg: CfgNode) -> None:
    """Inference on one image (3, H, W) in [0, 1]."""
    height, width = image.shape[-2:]
    if isinstance(model, PartClassifier):
        images = image[None]
        nothing = torch.zeros((1, height, width), dtype=torch.int64)
        model.run(images, PartTargets(nothing[:, 0, 0], nothing, clean_images=images), evidence_needed=False)
        return
    sample = {"image": 255 * image, "height": height, "width": width, "image_id": 0}
    if isinstance(model, GeneralizedRCNN):
        _infer_in_two_stages(model, sample, cfg)
    else:
        model([sample])


def _infer_in_two_stages(model: GeneralizedRCNN, sample: dict[str, Any], cfg: CfgNode) -> None:
    images = model.preprocess_image([sample])
    features, heads = model.backbone(images.tensor), model.roi_heads
    model.proposal_generator.rpn_head([features[name] for name in model.proposal_generator.in_features])
    proposals = _boxes(cfg.MODEL.RPN.POST_NMS_TOPK_TEST, images.image_sizes[0])
    pooled = heads.box_pooler([features[name] for name in heads.box_in_features], [proposals])
    heads.box_predictor(heads.box_head(pooled))
    count = cfg.TEST.DETECTIONS_PER_IMAGE
    found = Instances(images.image_sizes[0], pred_boxes=_boxes(count, images.image_sizes[0]))
    found.pred_classes = torch.zeros(count, dtype=torch.int64)
    heads.forward_with_given_boxes(features, [found])


def _boxes(count: int, size: tuple[int, int]) -> Boxes:
    """Boxes (x0, y0, x1, y1) in pixels, each half as large as the image."""
    height, width = size
    return Boxes(torch.tensor([[0.0, 0.0, width / 2, height / 2]]).repeat(count, 1))
