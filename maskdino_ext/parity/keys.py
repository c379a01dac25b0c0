"""Comparison of parameter names and shapes with lists of official checkpoints."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model

from .configuration import dino_config, maskdino_config


@dataclass(frozen=True)
class KeyDifferences:
    """Of one model.

    Attributes:
        name: of the configuration.
        count: names in the list.
        missing: names that our model has and the list has not: a checkpoint would leave them unset.
        unexpected: names that the list has and our model has not.
        shapes: names whose shapes differ.
    """

    name: str
    count: int
    missing: list[str]
    unexpected: list[str]
    shapes: list[str]

    @property
    def none(self) -> bool:
        """Whether a checkpoint with these names loads as it is."""
        return not (self.missing or self.unexpected or self.shapes)


def compare_keys(document: Mapping[str, Any]) -> Iterator[KeyDifferences]:
    """Each model of a list of keys: one with ``configs`` (Mask DINO) or with one ``cfg`` (DINO).

    Raises:
        ValueError: neither is there.
    """
    if "configs" in document:
        for name, entry in document["configs"].items():
            yield _differences(name, maskdino_config(entry["cfg"]), entry["shapes"])
    elif "cfg" in document and "shapes" in document:
        yield _differences(
            str(document.get("_source", "DINO")), dino_config(document["cfg"], denoising=True), document["shapes"]
        )
    else:
        raise ValueError("a list of keys has 'configs', or 'cfg' and 'shapes'")


def _differences(name: str, cfg: CfgNode, shapes: Mapping[str, list[int]]) -> KeyDifferences:
    cfg.MODEL.DEVICE = "meta"  # names and shapes need no memory
    with torch.device("meta"):
        state = build_model(cfg).state_dict()
    ours = {key: list(value.shape) for key, value in state.items()}
    return KeyDifferences(
        name,
        len(shapes),
        sorted(set(ours) - set(shapes)),
        sorted(set(shapes) - set(ours)),
        sorted(key for key in set(ours) & set(shapes) if ours[key] != list(shapes[key])),
    )
