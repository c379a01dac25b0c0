"""What detectron2's registries are told of partbox's models."""

from __future__ import annotations

from detectron2.modeling import BACKBONE_REGISTRY, META_ARCH_REGISTRY

from .backbones import build_timm_backbone, build_timm_fpn_backbone, build_timm_stages_backbone
from .part_classifier import PartClassifier


def register_models() -> None:
    """Register the meta-architecture and the timm backbones; a second call changes nothing."""
    if "PartClassifier" not in META_ARCH_REGISTRY:
        META_ARCH_REGISTRY.register(PartClassifier)
    for build in (build_timm_backbone, build_timm_fpn_backbone, build_timm_stages_backbone):
        if build.__name__ not in BACKBONE_REGISTRY:
            BACKBONE_REGISTRY.register(build)
