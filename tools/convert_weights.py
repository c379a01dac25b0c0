#!/usr/bin/env python
r"""Make a published checkpoint one that partbox's configurations load.

Examples:
    # ResNet-50 of torchvision as the start of Mask DINO, or of DINO: IMAGENET1K_V1, which the published recipes used
    python tools/convert_weights.py resnet50-0676ba61.pth weights/resnet50_detectron2.pth --backbone-names detectron2
    python tools/convert_weights.py resnet50-0676ba61.pth weights/resnet50_dino.pth --backbone-names dino

    # official DINO-4scale: 91 category ids of COCO become detectron2's 80 classes
    python tools/convert_weights.py checkpoint0011_4scale.pth weights/dino_4scale_r50_coco.pth

    # official Mask DINO: the weights alone, as they are
    python tools/convert_weights.py maskdino_r50_50ep_..._box51.5ap.pth weights/maskdino_r50_coco_hid1024.pth

Whether the result fits a configuration: python tools/train_detector.py --dry-run --config-file FILE
"""

from __future__ import annotations

import sys

from partbox.arguments import ArgumentParser

import torch

from maskdino_ext.official_weights import (
    BACKBONE_NAMES,
    OfficialWeightsError,
    kind_of,
    read_official,
    resnet_backbone,
    with_coco_classes,
)
from partbox.files import write_atomically


def main() -> None:
    """Read, convert, write whole or not at all."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("source", metavar="FROM", help="published checkpoint")
    parser.add_argument("target", metavar="TO", help="file to write")
    parser.add_argument("--backbone-names", choices=BACKBONE_NAMES, help="of a ResNet: for Mask DINO, or for DINO")
    parser.add_argument("--keep-category-ids", action="store_true", help="of DINO: keep the outputs for 91 ids")
    arguments = parser.parse_args()
    state = read_official(arguments.source)
    kind = kind_of(state)
    if (kind == "resnet") != (arguments.backbone_names is not None):
        raise OfficialWeightsError(
            f"--backbone-names is for a ResNet of torchvision, and needed there; {arguments.source} is a {kind}"
        )
    if arguments.keep_category_ids and kind != "dino":
        raise OfficialWeightsError(f"--keep-category-ids is for DINO; {arguments.source} is a {kind}")
    if kind == "resnet":
        state = resnet_backbone(state, arguments.backbone_names)
    elif kind == "dino" and not arguments.keep_category_ids:
        state = with_coco_classes(state)
    write_atomically(arguments.target, lambda file: torch.save({"model": dict(state)}, file))
    print(f"{arguments.target}: {len(state)} tensors of a {kind}")


if __name__ == "__main__":
    try:
        main()
    except OfficialWeightsError as problem:
        sys.exit(f"{type(problem).__name__}: {problem}")
