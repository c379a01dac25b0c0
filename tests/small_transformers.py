"""Mask DINO and DINO small enough for a test, on a backbone of four convolutions, without any data."""

from __future__ import annotations

from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone, build_model
from detectron2.structures import BitMasks, Boxes, Instances
from torch import Tensor, nn

from maskdino_ext.parity.configuration import base_config

CLASSES = 5


class SmallBackbone(Backbone):
    """Features res2 to res5 of 32 channels at strides 4 to 32."""

    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.ModuleList(nn.Conv2d(width, 32, 5, stride, 2) for width, stride in ((3, 4), *[(32, 2)] * 3))

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """(B, 3, H, W) -> features by name."""
        features = {}
        for name, stage in zip(("res2", "res3", "res4", "res5"), self.stages, strict=True):
            images = torch.nn.functional.silu(stage(images))
            features[name] = images
        return features

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Channels and strides."""
        return {f"res{i}": ShapeSpec(channels=32, stride=2**i) for i in range(2, 6)}


def build_small_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> SmallBackbone:
    return SmallBackbone()


def small_transformer(architecture: str, *options: Any, seed: int = 0) -> nn.Module:
    """A small model; ``options`` are KEY VALUE pairs."""
    if "build_small_backbone" not in BACKBONE_REGISTRY:
        BACKBONE_REGISTRY.register(build_small_backbone)
    cfg = base_config(architecture)
    cfg.MODEL.BACKBONE.NAME = "build_small_backbone"
    cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD = [127.5] * 3, [127.5] * 3
    cfg.MODEL.SEM_SEG_HEAD.merge_from_other_cfg(
        CfgNode({"NUM_CLASSES": CLASSES, "CONVS_DIM": 64, "MASK_DIM": 16, "NORM": "GN"})
    )
    cfg.MODEL.SEM_SEG_HEAD.TRANSFORMER_ENC_LAYERS, cfg.MODEL.SEM_SEG_HEAD.DIM_FEEDFORWARD = 1, 32
    for node in (cfg.MODEL.MaskDINO, cfg.MODEL.DINO):
        node.HIDDEN_DIM, node.DIM_FEEDFORWARD, node.DEC_LAYERS, node.NUM_OBJECT_QUERIES = 64, 32, 2, 12
    cfg.MODEL.MaskDINO.TRAIN_NUM_POINTS, cfg.MODEL.MaskDINO.DN_NUM = 64, 8
    cfg.MODEL.MaskDINO.INITIALIZE_BOX_TYPE, cfg.MODEL.MaskDINO.DROPOUT = "bitmask", 0.0
    cfg.MODEL.MaskDINO.TEST.INSTANCE_ON, cfg.MODEL.MaskDINO.TEST.SEMANTIC_ON = True, False
    cfg.MODEL.SEM_SEG_HEAD.TOTAL_NUM_FEATURE_LEVELS = 3
    cfg.MODEL.DINO.NUM_CLASSES, cfg.MODEL.DINO.ENC_LAYERS, cfg.MODEL.DINO.DN_NUMBER = CLASSES, 1, 2
    cfg.merge_from_list(list(options))
    torch.manual_seed(seed)
    model: nn.Module = build_model(cfg)
    return model


def sample(
    size: tuple[int, int] = (64, 64), objects: int = 2, *, seed: int = 0, masks: bool = True, side: int = 16
) -> dict[str, Any]:
    """A random image (3, H, W) uint8 with square objects."""
    generator = torch.Generator().manual_seed(seed)
    height, width = size
    instances = Instances(size)
    corners = torch.rand(objects, 2, generator=generator) * torch.tensor([width - side, height - side])
    corners = corners.floor()
    instances.gt_boxes = Boxes(torch.cat([corners, corners + side], dim=1))
    instances.gt_classes = torch.randint(CLASSES, (objects,), generator=generator)
    if masks:
        maps = torch.zeros(objects, height, width, dtype=torch.bool)
        for one, (x, y) in zip(maps, corners.long().tolist(), strict=True):
            one[y : y + side, x : x + side] = True
        instances.gt_masks = BitMasks(maps)
    image = torch.randint(256, (3, height, width), generator=generator, dtype=torch.uint8)
    return {"image": image, "instances": instances, "height": height, "width": width, "image_id": seed}
