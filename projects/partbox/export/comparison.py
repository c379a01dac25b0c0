"""Whether a file says what torch says: onnxruntime on its bytes, torch on the model's own way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnxruntime
import torch
from torch import Tensor

from .capture import INPUT
from .choices import Choices, WithChoices, with_choices
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
        other_choice: images for which onnxruntime chose otherwise between values that differ by no more than the
            tolerance, and which were compared with torch on that choice; see :mod:`.choices`.
    """

    images: int
    source: str
    batch_sizes: tuple[int, ...]
    largest: dict[str, float]
    spread: dict[str, float]
    same_label: int | None
    other_choice: int


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
    """Run both on every picture, onnxruntime in batches of each size; the last batch is filled up from the first.

    Args:
        model: the file's bytes.
        graph: of which it was made.
        pictures: at least one.
        tolerance: largest absolute difference of any number.

    Raises:
        ExportError: a larger difference, or a number that is not finite, on either side.
    """
    names = [output.name for output in graph.outputs]
    file, count = _File(model, names), len(pictures.images)
    expected = [_torch_on(graph, image) for image in pictures.images]
    largest = dict.fromkeys(names, 0.0)
    agreeing, otherwise = np.ones(count, dtype=bool), np.zeros(count, dtype=bool)
    for size in BATCH_SIZES:
        for start in range(0, count, size):
            numbers = [number % count for number in range(start, start + size)]
            batch = _pixels([pictures.images[number] for number in numbers])
            for row, (number, given) in enumerate(zip(numbers, file.answers(batch), strict=True)):
                where = f"{pictures.names[number]} (in a batch of {size})"
                wanted = expected[number]
                found = _differences(names, wanted, given, where)
                if max(found.values()) > tolerance:
                    same = _torch_choosing(graph, pictures.images[number], file.choices(batch)[row], tolerance)
                    otherwise[number] |= same is not None
                    wanted = wanted if same is None else same
                    found = _differences(names, wanted, given, where)
                _check(found, tolerance, where)
                largest = {name: max(largest[name], found[name]) for name in names}
                if LOGITS.name in names:
                    place = names.index(LOGITS.name)
                    agreeing[number] &= wanted[place].argmax() == given[place].argmax()
    columns = zip(names, zip(*expected, strict=True), strict=True)
    spread = {name: float(np.ptp(np.stack(values), axis=0).max()) for name, values in columns}
    same_label = int(agreeing.sum()) if LOGITS.name in names else None
    return Comparison(count, pictures.source, BATCH_SIZES, largest, spread, same_label, int(otherwise.sum()))


def _torch_on(graph: Graph, image: Tensor) -> list[np.ndarray]:
    """Torch's outputs for an image."""
    with torch.no_grad():
        return [tensor[0].numpy() for tensor in graph.reference(image)]


def _torch_choosing(graph: Graph, image: Tensor, choices: Choices, tolerance: float) -> list[np.ndarray] | None:
    """Torch's outputs with onnxruntime's choices between equals; None where torch makes the same by itself."""
    with WithChoices(choices, tolerance) as mode:
        found = _torch_on(graph, image)
    return found if mode.fits and mode.taken else None


def _check(differences: Mapping[str, float], tolerance: float, where: str) -> None:
    """Raises ExportError for an output that differs by more."""
    for name, difference in differences.items():
        if difference > tolerance:
            raise ExportError(
                f"onnxruntime and torch differ by {difference:.3g} in {name} of {where}, and {tolerance:.3g} is "
                "allowed: no file is written (--tolerance allows more)"
            )


def _pixels(images: Sequence[Tensor]) -> np.ndarray:
    """(B, 3, H, W) float32 in [0, 1]."""
    return np.stack([image.numpy() for image in images]).astype(np.float32) / 255


class _File:
    """A file, asked by onnxruntime.

    Args:
        model: its bytes.
        names: of the outputs.
    """

    def __init__(self, model: bytes, names: Sequence[str]) -> None:
        self.model = model
        self.names = list(names)
        self.session = session_of(model)
        self._choosing: tuple[onnxruntime.InferenceSession, dict[str, list[str]]] | None = None

    def answers(self, batch: np.ndarray) -> list[list[np.ndarray]]:
        """The outputs of each image.

        Raises:
            ExportError: it fails, or gives another number of them.
        """
        try:
            outputs = self.session.run(self.names, {INPUT: batch})
        except Exception as error:  # as above
            raise ExportError(f"onnxruntime fails on a batch of {len(batch)}: {str(error).splitlines()[0]}") from error
        for output, name in zip(outputs, self.names, strict=True):
            if len(output) != len(batch):
                raise ExportError(f"onnxruntime gives {len(output)} rows of {name} for a batch of {len(batch)}")
        return [[output[row] for output in outputs] for row in range(len(batch))]

    def choices(self, batch: np.ndarray) -> list[Choices]:
        """What it chose for each image."""
        if self._choosing is None:
            changed, names = with_choices(self.model)
            self._choosing = session_of(changed), names
        session, by_operation = self._choosing
        found = {kind: session.run(names, {INPUT: batch}) if names else [] for kind, names in by_operation.items()}
        return [
            {kind: [_of_image(one, row, len(batch)) for one in calls] for kind, calls in found.items()}
            for row in range(len(batch))
        ]


def _of_image(values: np.ndarray, row: int, count: int) -> np.ndarray:
    """An image's part of values whose first side counts images, or things of each image."""
    share = len(values) // count if values.ndim else 0
    return values[row * share : (row + 1) * share] if share else values


def _differences(
    names: Sequence[str], wanted: Sequence[np.ndarray], given: Sequence[np.ndarray], where: str
) -> dict[str, float]:
    """The largest absolute difference of each output.

    Raises:
        ExportError: other shapes, or numbers that are not finite.
    """
    columns = zip(names, wanted, given, strict=True)
    return {name: _difference(one, other, f"{name} of {where}") for name, one, other in columns}


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
