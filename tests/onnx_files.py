"""What the tests of the export share: runs that nobody trained, with statistics of their own; files opened alone."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from detectron2.config import CfgNode
from torch import Tensor, nn

from partbox.data import PartDataset
from partbox.data.mapper import PartDatasetMapper
from partbox.engine.build import build_classifier
from partbox.engine.checkpoint import save_weights
from partbox.engine.detectors import build_detector


def unsettle(model: nn.Module, seed: int = 0) -> nn.Module:
    """The model with weights off their initial values and running statistics of their own; in evaluation mode.

    Untouched, BatchNorm would do nothing in evaluation, and heads that start at zero would hide what they read.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            scale = 0.5 if "decoder.predictor" in name else 0.02  # masks that say something
            parameter += scale * torch.randn(parameter.shape, generator=generator)
        last = [module for module in getattr(model, "head", nn.Module()).modules() if isinstance(module, nn.Linear)][
            -1:
        ]
        for layer in last:
            layer.weight *= 10  # answers that differ from image to image
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                assert module.running_mean is not None
                assert module.running_var is not None
                module.running_mean += 0.2 * torch.randn(module.running_mean.shape, generator=generator)
                module.running_var *= 0.6 + 0.8 * torch.rand(module.running_var.shape, generator=generator)
    return model.eval()


def make_run(folder: Path, cfg: CfgNode, **facts: Any) -> nn.Module:
    """A run's folder with configuration and weights, as training leaves it; gives the model in evaluation mode."""
    classifier = cfg.MODEL.META_ARCHITECTURE == "PartClassifier"
    model = unsettle(build_classifier(cfg, "") if classifier else build_detector(cfg))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(cfg.dump())
    save_weights(folder / "model_final.pth", model, **facts)
    return model


def samples(cfg: CfgNode, dataset: PartDataset, count: int = 5) -> list[dict[str, Any]]:
    """Samples of a test, images (3, H, W) uint8."""
    mapper = PartDatasetMapper.from_config(cfg, is_train=False, part_maps=False)
    return [mapper(record) for record in dataset.records[:count]]


def pixels(batch: Sequence[dict[str, Any]]) -> np.ndarray:
    """(B, 3, H, W) float32 in [0, 1]."""
    return np.stack([sample["image"].numpy() for sample in batch]).astype(np.float32) / 255


class OnnxFile:
    """A file, opened with onnxruntime alone."""

    def __init__(self, path: Path) -> None:
        self.session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        self.proto = onnx.load(str(path))
        self.facts: dict[str, str] = self.session.get_modelmeta().custom_metadata_map

    def __call__(self, images: np.ndarray) -> dict[str, Tensor]:
        names = [output.name for output in self.session.get_outputs()]
        found = self.session.run(names, {"images": images})
        return {name: torch.from_numpy(value) for name, value in zip(names, found, strict=True)}

    def json(self, name: str) -> Any:
        return json.loads(self.facts[name])

    @property
    def operations(self) -> set[str]:
        return {node.op_type for node in self.proto.graph.node}
