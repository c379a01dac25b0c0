"""Errors of the export to ONNX."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from unittest.mock import patch

import torch
from detectron2.config import CfgNode
from small_detectors import detector_config
from small_models import SMALL
from torch import Tensor, nn

import partbox
from partbox.engine.checkpoint import CheckpointError, weights_of_run
from partbox.engine.setup import load_config
from partbox.export import ExportError, ExportOptions, capture, comparison, export_onnx
from partbox.export.build import build_graph
from partbox.export.graphs import LOGITS, Graph
from partbox.export.pictures import Pictures

from .provoking import REPOSITORY, entry, said


@entry("onnxscript is not installed")
def _() -> str:
    ours = {name: None for name in sys.modules if name.startswith("partbox.export")}
    kept = {name: sys.modules[name] for name in ours}
    with patch.dict(sys.modules, {"onnxscript": None}):
        for name in ours:
            del sys.modules[name]
        try:
            runpy.run_path(str(REPOSITORY / "tools/export_onnx.py"))
        except SystemExit as end:
            return str(end.code)
        finally:
            sys.modules.update(kept)
    raise AssertionError("the tool needs no onnxscript")


@entry("A run has no weights to export")
def _() -> str:
    run = Path("output/part_box")
    run.mkdir(parents=True)
    (run / "resume_0000199.pth").touch()
    return said(CheckpointError, lambda: weights_of_run(run))


def refused(name: str) -> str:
    """What the export of one of detectron2's own detectors says, as nobody has trained it."""
    partbox.register_all(Path("datasets_root").absolute())
    cfg = detector_config(name, "DATASETS.TEST", "()", root=Path("datasets_root").absolute())
    return said(ExportError, lambda: export_onnx(cfg, "", Path("detector.onnx"), ExportOptions(images=1)))


@entry("Faster R-CNN and Mask R-CNN cannot be exported")
def _() -> str:
    return refused("faster_rcnn")


@entry("RetinaNet cannot be exported")
def _() -> str:
    return refused("retinanet")


def transformer(**changes: object) -> CfgNode:
    options = [str(word) for pair in changes.items() for word in pair]
    cfg = detector_config("maskdino", "DATASETS.TEST", "()", *options, root=Path("datasets_root").absolute())
    cfg.INPUT.MAX_SIZE_TEST, cfg.INPUT.MIN_SIZE_TEST = 224, 160
    return cfg


@entry("A detector has no size of its own")
def _() -> str:
    return said(ExportError, lambda: build_graph(transformer(), ""))


@entry("Nobody knows the names of a detector's parts")
def _() -> str:
    return said(ExportError, lambda: build_graph(transformer(), "", size=(160, 224)))


@entry("Images of this size would be padded")
def _() -> str:
    from partbox.export import build

    with patch.object(build, "_part_names", lambda cfg, weights: ["wheel"]):
        return said(ExportError, lambda: build_graph(transformer(), "", size=(150, 200)))


class Differs(Graph):
    """A model of which the file says something else."""

    outputs = (LOGITS,)
    part_names = ()

    def __init__(self) -> None:
        super().__init__(nn.Identity(), (8, 8))

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return (images.mean(dim=(2, 3)),)

    def reference(self, image: Tensor) -> tuple[Tensor, ...]:
        return (torch.full((1, 3), 0.000213),)


@entry("The file and the model differ")
def _() -> str:
    model = capture.to_onnx(Differs().eval()).SerializeToString()
    pictures = Pictures((torch.zeros(3, 8, 8, dtype=torch.uint8),), ("2008_001479.jpg",), "photographs")
    return said(ExportError, lambda: comparison.compare(model, Differs(), pictures, 1e-4))


def classifier(*options: str) -> str:
    partbox.register_all(Path("datasets_root").absolute())
    cfg = load_config(None, [*SMALL, *options])
    part = cfg.MODEL.PART
    part.CLASS_NAMES, part.PART_NAMES, part.PART_TO_CLASS = ["cat", "dog"], ["cat:head", "dog:head"], [0, 1]
    return said(ExportError, lambda: build_graph(cfg, ""))


@entry("The label rests on given parts")
def _() -> str:
    return classifier("MODEL.PART.HEAD.NAME", "masked_image", "MODEL.PART.EXTRACTOR.NAME", "oracle")


@entry("A classifier of another size is asked for")
def _() -> str:
    partbox.register_all(Path("datasets_root").absolute())
    cfg = load_config(None, [*SMALL, "INPUT.SIZE", "(96, 96)"])
    return said(ExportError, lambda: build_graph(cfg, "", size=(224, 224)))


@entry("The weights are too large for one file")
def _() -> str:
    return said(ExportError, lambda: capture._check_bytes(int(2.61 * 2**30)))
