"""The one place that registers things with detectron2."""

from __future__ import annotations

from detectron2.modeling import BACKBONE_REGISTRY, META_ARCH_REGISTRY


def register_detectors() -> None:
    """Register the meta-architectures ``MaskDINO`` and ``DINO`` and DINO's backbone; a second call changes nothing."""
    # Imported here: both read the configuration's module, which calls this function.
    from .dino import DINO
    from .maskdino import MaskDINO
    from .torchvision_backbone import build_torchvision_resnet_backbone

    for architecture in (MaskDINO, DINO):
        if architecture.__name__ not in META_ARCH_REGISTRY:
            META_ARCH_REGISTRY.register(architecture)
    if build_torchvision_resnet_backbone.__name__ not in BACKBONE_REGISTRY:
        BACKBONE_REGISTRY.register(build_torchvision_resnet_backbone)
