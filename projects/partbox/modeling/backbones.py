"""timm networks as detectron2 backbones."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import timm
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import FPN, Backbone
from detectron2.modeling.backbone.fpn import LastLevelMaxPool, LastLevelP6P7
from torch import Tensor, nn

from partbox.suggestions import did_you_mean

from .weights import load_backbone_weights

POOLED = "pooled"


def _plain_name(name: str) -> str:
    return name.removeprefix("model.").replace("_", ".")


def _stage_shapes(stages: Iterable[tuple[int, int]]) -> dict[str, ShapeSpec]:
    """``stage1``, ``stage2``, ... of (channels, stride)."""
    return {
        f"stage{i}": ShapeSpec(channels=channels, stride=stride) for i, (channels, stride) in enumerate(stages, start=1)
    }


class TimmBackbone(Backbone):
    """A timm network that gives a feature map a stage, ``stage1`` ... in order of depth, and optionally a vector.

    The whole classification network is kept, so that ImageNet weights load completely and the vector is the one
    that timm's classifier would see. Features are taken at the stages that timm itself names in ``feature_info``.

    Args:
        name: of the timm model.
        pretrained: take timm's own pretrained weights (from its hub or cache).
        output_stride: of the last feature map, 8, 16 or 32; None leaves the network as it is.
        pooled: give only ``{"pooled": (B, D)}``, the input of timm's classifier.
        training_stages: with ``pooled``, give the feature maps as well while the backbone is in training mode.
        weights: address of a weights file, see ``partbox.modeling.weights``; "" = none.
        planes: channels of the input, with ``pooled``; pretrained weights are for 3.

    Raises:
        ValueError: timm does not know the network, or it cannot give feature maps or take so many planes.
    """

    def __init__(
        self,
        name: str,
        *,
        pretrained: bool = False,
        output_stride: int | None = None,
        pooled: bool = False,
        training_stages: bool = False,
        weights: str = "",
        planes: int = 3,
    ) -> None:
        super().__init__()
        if planes != 3 and (pretrained or weights or not pooled):
            raise ValueError(f"pretrained weights and feature maps are for images of 3 channels, not {planes}")
        if not timm.is_model(name):
            raise ValueError(f"timm has no network {name!r}{did_you_mean(name, timm.list_models())}")
        self.pooled = pooled
        self.training_stages = training_stages
        if pooled:
            self.net: nn.Module = timm.create_model(name, pretrained=pretrained, num_classes=0, in_chans=planes)
            if weights:
                load_backbone_weights(self.net, weights)
            vector: Any = getattr(self.net, "head_hidden_size", self.net.num_features)
            self._shapes = {POOLED: ShapeSpec(channels=vector)}
            if training_stages:
                stages: Any = self.net.feature_info
                self._shapes |= _stage_shapes((stage["num_chs"], stage["reduction"]) for stage in stages)
        else:
            self.net = self._pyramid(name, pretrained, output_stride, weights)
            info: Any = self.net.feature_info
            self._shapes = _stage_shapes(zip(info.channels(), info.reduction(), strict=True))
        self._out_features = list(self._shapes)

    @staticmethod
    def _pyramid(name: str, pretrained: bool, output_stride: int | None, weights: str) -> nn.Module:
        extra = {} if output_stride in (None, 32) else {"output_stride": output_stride}
        try:
            net: nn.Module = timm.create_model(name, pretrained=pretrained, features_only=True, **extra)
        except (RuntimeError, TypeError, NotImplementedError, AssertionError) as error:
            raise ValueError(
                f"timm network {name!r} gives no feature maps at output stride {output_stride}: {error}"
            ) from error
        if weights:
            whole = timm.create_model(name, num_classes=0, **extra)
            load_backbone_weights(whole, weights)
            # timm's feature extractors rename modules ("stages.2" -> "stages_2", or a prefix "model.").
            state = {_plain_name(key): value for key, value in whole.state_dict().items()}
            net.load_state_dict({key: state[_plain_name(key)] for key in net.state_dict()}, strict=True)
        return net

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Normalised images (B, 3, H, W) -> feature maps by name, or ``{"pooled": (B, D)}``."""
        if self.pooled and self.training_stages and self.training:
            network: Any = self.net
            last, maps = network.forward_intermediates(images)
            stages = [name for name in self._shapes if name != POOLED]
            vector = network.forward_head(last, pre_logits=True)
            return {POOLED: vector, **dict(zip(stages, maps, strict=True))}
        if self.pooled:
            return {POOLED: self.net(images)}
        return dict(zip(self._shapes, self.net(images), strict=True))

    def output_shape(self) -> dict[str, ShapeSpec]:
        return dict(self._shapes)


def build_timm_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> TimmBackbone:
    """Build the timm network that ``MODEL.PART.BACKBONE`` names.

    A plain classifier gets its pooled vector; so does one with auxiliary part masks, which reads the feature maps in
    training only.
    """
    settings = cfg.MODEL.PART.BACKBONE
    auxiliary = cfg.MODEL.PART.EXTRACTOR.NAME == "auxiliary"
    plain = cfg.MODEL.PART.EXTRACTOR.NAME == "none" or auxiliary
    from_hub = settings.WEIGHTS == "timm"
    return TimmBackbone(
        settings.TIMM_NAME,
        pretrained=from_hub,
        output_stride=None if plain else settings.OUTPUT_STRIDE,
        pooled=plain,
        training_stages=auxiliary,
        weights="" if from_hub else settings.WEIGHTS,
    )


def build_timm_stages_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> TimmBackbone:
    """All stages of the timm network that ``MODEL.PART.BACKBONE`` names, for detectors that make their own pyramid."""
    settings = cfg.MODEL.PART.BACKBONE
    from_hub = settings.WEIGHTS == "timm"
    return TimmBackbone(settings.TIMM_NAME, pretrained=from_hub, weights="" if from_hub else settings.WEIGHTS)


def build_timm_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """A feature pyramid over the timm network that ``MODEL.PART.BACKBONE`` names, for detectron2's detectors.

    ``MODEL.FPN.IN_FEATURES`` are stages (``stage2`` ...); the maps are ``p2``, ``p3``, ... after their strides 4, 8 ...
    One coarser map is added for region proposals, two for RetinaNet.
    """
    settings = cfg.MODEL.PART.BACKBONE
    from_hub = settings.WEIGHTS == "timm"
    bottom_up = TimmBackbone(settings.TIMM_NAME, pretrained=from_hub, weights="" if from_hub else settings.WEIGHTS)
    channels = cfg.MODEL.FPN.OUT_CHANNELS
    retina = cfg.MODEL.META_ARCHITECTURE == "RetinaNet"
    return FPN(
        bottom_up=bottom_up,
        in_features=cfg.MODEL.FPN.IN_FEATURES,
        out_channels=channels,
        norm=cfg.MODEL.FPN.NORM,
        top_block=LastLevelP6P7(channels, channels, in_feature="p5") if retina else LastLevelMaxPool(),
        fuse_type=cfg.MODEL.FPN.FUSE_TYPE,
    )
