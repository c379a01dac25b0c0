"""A model becomes a file: captured, compared with torch, described, written."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path

from detectron2.config import CfgNode

from partbox.files import write_atomically

from .build import build_graph
from .capture import DEFAULT_OPSET, OPSETS, to_onnx
from .comparison import Comparison, compare
from .errors import ExportError
from .graphs import Graph
from .metadata import Origin, facts_of, with_facts
from .pictures import pictures_for

SUFFIX = ".onnx"
TOLERANCE = 1e-4


@dataclass(frozen=True)
class ExportOptions:
    """What may be chosen.

    Attributes:
        opset: version of ONNX's operations, of ``OPSETS``.
        size: (height, width) of the images, of detectors only.
        parts: whether what a part classifier finds is exported beside its logits.
        images: on how many images the file is compared with torch, at least 1.
        seed: of the choice of these images.
        tolerance: largest absolute difference that is allowed, >= 0.

    Raises:
        ExportError: one is out of range.
    """

    opset: int = DEFAULT_OPSET
    size: tuple[int, int] | None = None
    parts: bool = True
    images: int = 10
    seed: int = 0
    tolerance: float = TOLERANCE

    def __post_init__(self) -> None:
        if self.opset not in OPSETS:
            raise ExportError(f"--opset {self.opset}: torch's exporter writes {OPSETS.start} to {OPSETS.stop - 1}")
        if self.size is not None and min(self.size) < 1:
            raise ExportError(f"--size must be two numbers of pixels, not {self.size[0]} {self.size[1]}")
        if self.images < 1:
            raise ExportError(
                f"--images must be at least 1, not {self.images}: a file that nobody compared is not written"
            )
        if self.seed < 0:
            raise ExportError(f"--seed must not be negative, it is {self.seed}")
        if not (math.isfinite(self.tolerance) and self.tolerance >= 0):
            raise ExportError(f"--tolerance must be a number of at least 0, not {self.tolerance}")


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        file: the file.
        size: of the file, in bytes.
        opset: version of ONNX's operations in it.
        trained: whether it has weights of a checkpoint, not random ones.
        graph: of which it was made.
        comparison: with torch.
    """

    file: Path
    size: int
    opset: int
    trained: bool
    graph: Graph
    comparison: Comparison


def export_onnx(cfg: CfgNode, weights: str, output: Path, options: ExportOptions) -> Exported:
    """Write a model as ONNX file, whole or not at all, if onnxruntime says of images what torch says.

    Args:
        cfg: complete but for the names of classes and parts, which a dataset can fill in.
        weights: checkpoint of the whole model; "" for random weights.
        output: file to write.
        options: see :class:`ExportOptions`.

    Raises:
        ExportError: the model, or an operation of it, cannot be exported, or the file differs from it.
        ConfigError, CheckpointError, PartDatasetError: a model or images that cannot be had.
    """
    _check_output(output)
    graph = build_graph(cfg, weights, size=options.size, parts=options.parts)
    pictures = pictures_for(cfg, graph.size, options.images, options.seed)
    model = to_onnx(graph, options.opset)
    comparison = compare(model.SerializeToString(), graph, pictures, options.tolerance)
    contents = with_facts(model, facts_of(graph, Origin(cfg, weights, options.opset), comparison))
    try:
        write_atomically(output, lambda file: file.write(contents))
    except OSError as error:
        raise ExportError(f"--output {output} cannot be written: {error}") from error
    return Exported(output, len(contents), options.opset, bool(weights), graph, comparison)


def _check_output(output: Path) -> None:
    """Raises ExportError for a file that could not be written in the end."""
    if output.suffix != SUFFIX:
        raise ExportError(f"--output {output}: the name of the file must end in {SUFFIX}")
    if output.is_dir():
        raise ExportError(f"--output {output} is a folder")
    there = next(parent for parent in output.absolute().parents if parent.exists())
    if not there.is_dir():
        raise ExportError(f"--output {output}: {there} is a file, and should be a folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise ExportError(f"--output {output}: nobody may write into the folder {there}")
