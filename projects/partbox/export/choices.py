"""Choices between values that only rounding tells apart, which onnxruntime may make otherwise than torch.

A detector takes the best tokens of an image and draws boxes around pixels above 0, a hard mask shows the most probable
part. Where two values differ by rounding alone, either choice is right, and all that follows from it is other numbers.
So torch is asked again, with onnxruntime's choices wherever they are between values that count as equal.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

CHOSEN = {"TopK": 1, "ArgMax": 0, "Greater": 0}
"""Operations of ONNX that choose, and which of their outputs says what."""

CALLS: dict[Callable[..., Any], str] = {
    **dict.fromkeys((torch.topk, Tensor.topk), "TopK"),
    **dict.fromkeys((torch.argmax, Tensor.argmax), "ArgMax"),
    **dict.fromkeys((torch.gt, torch.greater, Tensor.gt, Tensor.greater, Tensor.__gt__), "Greater"),
}
"""The same of torch."""

Choices = Mapping[str, Sequence[np.ndarray]]
"""Operation -> what was chosen in each of its calls, in their order."""


def with_choices(model: bytes) -> tuple[bytes, dict[str, list[str]]]:
    """The model with its choices as further outputs, and their names by operation, in the order of the graph."""
    proto = onnx.load_from_string(model)
    names: dict[str, list[str]] = {operation: [] for operation in CHOSEN}
    for node in proto.graph.node:
        if node.op_type in CHOSEN:
            names[node.op_type].append(node.output[CHOSEN[node.op_type]])
    known = {output.name for output in proto.graph.output}
    added = {name for found in names.values() for name in found} - known
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in sorted(added))
    changed: bytes = proto.SerializeToString()
    return changed, names


class WithChoices(TorchFunctionMode):
    """While it is active, torch chooses as it is told, where what it would choose itself is no better.

    Args:
        choices: those of one image.
        tolerance: values that differ by no more count as equal.

    Attributes:
        taken: how many were taken over, since torch's own were others.
    """

    def __init__(self, choices: Choices, tolerance: float) -> None:
        super().__init__()
        self.choices = choices
        self.tolerance = tolerance
        self.taken = 0
        self._calls = dict.fromkeys(CHOSEN, 0)

    @property
    def fits(self) -> bool:
        """Whether there were as many calls as choices, so that each choice was of the call that it was taken for."""
        return all(self._calls[operation] == len(found) for operation, found in self.choices.items())

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run ``function``; what it chooses is exchanged for what was given, where both are as good."""
        found = function(*args, **(kwargs or {}))
        operation = CALLS.get(function)
        if operation is None:
            return found
        number = self._calls[operation]
        self._calls[operation] += 1
        if number >= len(self.choices[operation]):
            return found
        given, own = torch.from_numpy(self.choices[operation][number]), _choice(found)
        if given.numel() != own.numel() or torch.equal(given := given.reshape(own.shape).to(own.dtype), own):
            return found
        loss, other = LOSSES[operation](given, found, *args, **(kwargs or {}))
        if not loss <= self.tolerance:
            return found
        self.taken += 1
        return other


def _choice(found: Any) -> Tensor:
    chosen: Tensor = found if isinstance(found, Tensor) else found.indices
    return chosen


# Of each operation: how much worse the given choice is, and what the operation gives with it.


def _of_topk(given: Tensor, found: Any, values: Tensor, k: int, dim: int = -1, **_: Any) -> tuple[float, Any]:
    chosen = values.gather(dim, given)
    return float((chosen - found.values).abs().max()), torch.return_types.topk((chosen, given))


def _of_argmax(
    given: Tensor, found: Tensor, values: Tensor, dim: int | None = None, keepdim: bool = False
) -> tuple[float, Tensor]:
    if dim is None:
        values, dim, keepdim = values.flatten(), 0, False
    index = given if keepdim else given.unsqueeze(dim)
    return float((values.amax(dim, keepdim=True) - values.gather(dim, index)).max()), given


def _of_greater(given: Tensor, found: Tensor, values: Tensor, other: Tensor | float) -> tuple[float, Tensor]:
    return float((values - other).abs()[given != found].max()), given


LOSSES: dict[str, Callable[..., tuple[float, Any]]] = {
    "TopK": _of_topk,
    "ArgMax": _of_argmax,
    "Greater": _of_greater,
}
