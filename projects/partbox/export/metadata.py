"""What a file tells of itself, so that its user needs nothing else."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import torch
from detectron2.config import CfgNode

import partbox
from partbox.engine.pseudo_labelling import sha256_of
from partbox.engine.run_folder import config_hash

from .capture import INPUT
from .comparison import Comparison
from .graphs import Graph

FORMAT = "1"
"""Version of the names below; a change of their meaning changes it."""


@dataclass(frozen=True)
class Origin:
    """Where a model comes from.

    Attributes:
        cfg: its configuration.
        weights: checkpoint file; "" for random weights.
        opset: of the file.
    """

    cfg: CfgNode
    weights: str
    opset: int


def facts_of(graph: Graph, origin: Origin, comparison: Comparison) -> dict[str, str]:
    """Names and texts for ``metadata_props``; lists and mappings are JSON."""
    height, width = graph.size
    part, kind = origin.cfg.MODEL.PART, origin.cfg.MODEL.META_ARCHITECTURE
    facts: dict[str, Any] = {
        "partbox_format": FORMAT,
        "partbox_version": partbox.__version__,
        "torch_version": str(torch.__version__),
        "opset": str(origin.opset),
        "model": kind,
        "input": INPUT,
        "image_height": str(height),
        "image_width": str(width),
        "channel_order": "RGB",
        "pixel_range": "[0, 1]",
        "image_preparation": "whole image resized to image_height x image_width, bilinear with Pillow's filter, "
        "divided by 255; mean and standard deviation are taken off inside",
        "class_names": list(graph.class_names),
        "part_names": list(graph.part_names),
        "outputs": {one.name: {"axes": list(one.axes), "meaning": one.meaning} for one in graph.outputs},
        "weights_name": Path(origin.weights).name if origin.weights else "random",
        "weights_sha256": sha256_of(origin.weights) if origin.weights else "",
        "config_hash": config_hash(origin.cfg),
        "comparison": {
            "with": "torch",
            "images": comparison.images,
            "source": comparison.source,
            "batch_sizes": list(comparison.batch_sizes),
            "largest_difference": comparison.largest,
            "image_to_image": comparison.spread,
            "same_label": comparison.same_label,
            "other_choice": comparison.other_choice,
        },
    }
    if kind == "PartClassifier":
        facts |= {"extractor": part.EXTRACTOR.NAME, "head": part.HEAD.NAME, "part_level": part.EXTRACTOR.LEVEL}
    return {name: value if isinstance(value, str) else json.dumps(value) for name, value in facts.items()}


def with_facts(model: onnx.ModelProto, facts: Mapping[str, str]) -> bytes:
    """The bytes of a model that carries the facts, and no others."""
    onnx.helper.set_model_props(model, dict(facts))
    model.producer_name, model.producer_version = "partbox", partbox.__version__
    found: bytes = model.SerializeToString(deterministic=True)
    return found
