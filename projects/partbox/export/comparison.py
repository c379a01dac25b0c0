"""Whether a file says what torch says: onnxruntime on its bytes, torch on the model's own way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnxruntime
import torch
from torch import Tensor

from .capture import INPUT
from .errors import ExportError
from .graphs import LOGITS, Graph
from .pictures import Pictures

BATCH_SIZES = (1, 2, 5)
QUIET = 3  # onnxruntime's level of errors


@dataclass(frozen=True)
class Comparison:
    """What was compared, and the largest differences.

    Attributes:
        images: number of images.
        source: what they are.
        batch_sizes: in which each of them was asked.
        largest: largest absolute difference by output.
        spread: by output, how far torch's answers to these images lie apart at most; where this is hardly more than the
            differences, the images show little of what the model does.
        same_label: images whose label is the same; None without logits.
    """

    images: int
    source: str
    batch_sizes: tuple[int, ...]
    largest: dict[str, float]
    spread: dict[str, float]
    same_label: int | None


def session_of(model: bytes) -> onnxruntime.InferenceSession:
    """Onnxruntime's session on the CPU, as anybody would open the file.

    Raises:
        ExportError: it does not run this model.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = QUIET
    options.intra_op_num_threads = torch.get_num_threads()
    try:
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its errors are of many types, all of its own
        raise ExportError(f"onnxruntime does not run the exported model: {str(error).splitlines()[0]}") from error


def compare(model: bytes, graph: Graph, pictures: Pictures, tolerance: float) -> Comparison:
    """Run both on every picture, onnxruntime in batches of each size.

    Args:
        model: the file's bytes.
        graph: of which it was made.
        pictures: at least one.
        tolerance: largest absolute difference of any number.

    Raises:
        ExportError: a larger difference, or a number that is not finite, on either side.
    """
    session = session_of(model)
    names = [output.name for output in graph.outputs]
    with torch.no_grad():
        expected = [[tensor[0].numpy() for tensor in graph.reference(image)] for image in pictures.images]
    largest = dict.fromkeys(names, 0.0)
    agreeing = np.ones(len(pictures.images), dtype=bool)
    sizes = _batch_sizes(len(pictures.images))
    for size in sizes:
        found = _in_batches(session, names, pictures.images, size)
        for number, (wanted, given) in enumerate(zip(expected, found, strict=True)):
            for name, one, other in zip(names, wanted, given, strict=True):
                where = f"{name} of {pictures.names[number]} (in a batch of {size})"
                difference = _difference(one, other, where)
                largest[name] = max(largest[name], difference)
                if difference > tolerance:
                    raise ExportError(
                        f"onnxruntime and torch differ by {difference:.3g} in {where}, and {tolerance:.3g} is allowed: "
                        "no file is written (--tolerance allows more)"
                    )
                if name == LOGITS.name:
                    agreeing[number] &= one.argmax() == other.argmax()
    columns = zip(names, zip(*expected, strict=True), strict=True)
    spread = {name: float(np.ptp(np.stack(values), axis=0).max()) for name, values in columns}
    same = int(agreeing.sum()) if LOGITS.name in names else None
    return Comparison(len(pictures.images), pictures.source, sizes, largest, spread, same)


def _batch_sizes(count: int) -> tuple[int, ...]:
    """Those that ``count`` images fill."""
    return tuple(size for size in BATCH_SIZES if size <= count)


def _in_batches(
    session: onnxruntime.InferenceSession, names: Sequence[str], images: Sequence[Tensor], size: int
) -> list[list[np.ndarray]]:
    """The outputs of each image."""
    found: list[list[np.ndarray]] = []
    for start in range(0, len(images), size):
        batch = np.stack([image.numpy() for image in images[start : start + size]]).astype(np.float32) / 255
        try:
            outputs = session.run(list(names), {INPUT: batch})
        except Exception as error:  # as above
            raise ExportError(f"onnxruntime fails on a batch of {len(batch)}: {str(error).splitlines()[0]}") from error
        for output, name in zip(outputs, names, strict=True):
            if len(output) != len(batch):
                raise ExportError(f"onnxruntime gives {len(output)} rows of {name} for a batch of {len(batch)}")
        found += [[output[row] for output in outputs] for row in range(len(batch))]
    return found


def _difference(one: np.ndarray, other: np.ndarray, where: str) -> float:
    """The largest absolute difference.

    Raises:
        ExportError: other shapes, or numbers that are not finite.
    """
    if one.shape != other.shape:
        raise ExportError(f"{where} has the shape {other.shape} in onnxruntime and {one.shape} in torch")
    for values, side in ((one, "torch"), (other, "onnxruntime")):
        if not np.isfinite(values).all():
            raise ExportError(f"{where} is not finite in {side}")
    return float(np.abs(one.astype(np.float64) - other).max(initial=0.0))
