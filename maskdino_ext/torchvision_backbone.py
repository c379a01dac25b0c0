"""torchvision's ResNet-50 under the names of official DINO checkpoints (``backbone.0.body.layer1...``)."""

from __future__ import annotations

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling.backbone import Backbone
from torch import Tensor, nn
from torchvision.models import resnet50
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.ops import FrozenBatchNorm2d

LAYERS = {"layer1": "res2", "layer2": "res3", "layer3": "res4", "layer4": "res5"}


class TorchvisionResNet(Backbone):
    """ResNet-50 with frozen batch normalisation; random weights, until a checkpoint is loaded.

    Args:
        out_features: which of res2 to res5.
        freeze_at: stages without a gradient: 1 is the stem, 2 res2 as well (as official DINO).

    Raises:
        ValueError: an unknown feature.
    """

    def __init__(self, out_features: list[str], freeze_at: int) -> None:
        super().__init__()
        unknown = [name for name in out_features if name not in LAYERS.values()]
        if unknown:
            raise ValueError(f"a ResNet has no feature {unknown[0]!r}; it has: {', '.join(LAYERS.values())}")
        network = resnet50(weights=None, norm_layer=FrozenBatchNorm2d)
        wanted = {layer: name for layer, name in LAYERS.items() if name in out_features}
        body: nn.Module = IntermediateLayerGetter(network, wanted)
        holder = nn.Module()
        holder.add_module("body", body)
        self.add_module("0", holder)
        for name, parameter in body.named_parameters():
            stage = next((i for i, layer in enumerate(LAYERS, 2) if name.startswith(layer)), 1)
            parameter.requires_grad_(stage > freeze_at)
        self._out_features = list(out_features)
        self._out_feature_strides = {"res2": 4, "res3": 8, "res4": 16, "res5": 32}
        self._out_feature_channels = {"res2": 256, "res3": 512, "res4": 1024, "res5": 2048}

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """(B, 3, H, W) normalised RGB -> features by name."""
        features: dict[str, Tensor] = self.get_submodule("0.body")(images)
        return features


def build_torchvision_resnet_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> TorchvisionResNet:
    """``MODEL.RESNETS.OUT_FEATURES`` of a ResNet-50, frozen up to ``MODEL.BACKBONE.FREEZE_AT``."""
    return TorchvisionResNet(list(cfg.MODEL.RESNETS.OUT_FEATURES), cfg.MODEL.BACKBONE.FREEZE_AT)
