"""Published checkpoints under the names and class orders of this package."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES
from torch import Tensor

BACKBONE_NAMES = ("detectron2", "dino")
COCO_IDS = sorted(category["id"] for category in COCO_CATEGORIES if category["isthing"])
"""Category ids of COCO's 80 classes; official DINO has an output for each id from 0 to 90."""


class OfficialWeightsError(ValueError):
    """A file that is no published checkpoint, or one of another kind."""


def read_official(path: str | Path) -> dict[str, Tensor]:
    """Tensors of a published checkpoint: of Mask DINO, of DINO, or of torchvision.

    Only tensors and plain values are unpickled, and the settings of the training script that DINO keeps beside them.

    Raises:
        OfficialWeightsError: missing, unreadable, or without weights.
    """
    if not Path(path).is_file():
        raise OfficialWeightsError(f"{path} does not exist")
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            contents = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many types for a broken file
        raise OfficialWeightsError(f"{path} cannot be read: {error}") from error
    state = contents.get("model", contents) if isinstance(contents, dict) else None
    if not isinstance(state, dict) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise OfficialWeightsError(f"{path} holds no weights: expected name -> tensor, alone or below 'model'")
    return state


def kind_of(state: Mapping[str, Tensor]) -> str:
    """``maskdino``, ``dino`` or ``resnet`` (torchvision's), from the names.

    Raises:
        OfficialWeightsError: none of them.
    """
    signs = {"maskdino": "sem_seg_head.predictor.", "dino": "backbone.0.body.", "resnet": "layer1.0.conv1."}
    for kind, sign in signs.items():
        if any(name.startswith(sign) for name in state):
            return kind
    raise OfficialWeightsError(f"weights of an unknown model: {', '.join(list(state)[:3])} ...")


def with_coco_classes(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """DINO's weights with detectron2's 80 classes of COCO in place of the 91 category ids.

    Class heads keep the rows of the 80 ids, the embedding of labels these and its last row, the unused one.

    Raises:
        OfficialWeightsError: the class heads have another number of rows than 91.
    """
    changed = dict(state)
    for name, tensor in state.items():
        rows = list(COCO_IDS)
        if "label_enc" in name:
            rows, wanted = [*rows, len(tensor) - 1], 92
        elif "class_embed" in name:
            wanted = 91
        else:
            continue
        if len(tensor) != wanted:
            raise OfficialWeightsError(f"{name} has {len(tensor)} rows, official weights of COCO have {wanted}")
        changed[name] = tensor[rows].clone()
    return changed


def resnet_backbone(state: Mapping[str, Tensor], names: str) -> dict[str, Tensor]:
    """Torchvision's ResNet under the names that a backbone has in detectron2 or in official DINO.

    The classifier and the counters of batch normalisation are left out.

    Raises:
        OfficialWeightsError: ``names`` is neither ``detectron2`` nor ``dino``.
    """
    if names not in BACKBONE_NAMES:
        raise OfficialWeightsError(f"names of a backbone are {' or '.join(BACKBONE_NAMES)}, not {names!r}")
    kept = {n: t for n, t in state.items() if not n.startswith("fc.") and not n.endswith("num_batches_tracked")}
    if names == "dino":
        return {f"backbone.0.body.{name}": tensor for name, tensor in kept.items()}
    return {f"backbone.{_detectron2_name(name)}": tensor for name, tensor in kept.items()}


def _detectron2_name(name: str) -> str:
    name = re.sub(r"^layer(\d)\.", lambda match: f"res{int(match.group(1)) + 1}.", name)
    name = name if name.startswith("res") else f"stem.{name}"
    name = re.sub(r"\bbn(\d)\.", r"conv\1.norm.", name)
    return name.replace("downsample.0.", "shortcut.").replace("downsample.1.", "shortcut.norm.")
