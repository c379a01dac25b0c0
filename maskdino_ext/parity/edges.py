"""Gradients at the edge of a ReLU or of a pixel, where rounding decides which of two values is right.

A run on another processor rounds its sums differently. Values then differ by 1e-6, but the gradient of a ReLU at 1e-7
is 1 or 0, and that of bilinear sampling jumps where a location crosses the centre of a pixel. Where nothing but
gradients differs, the comparison is made again on the other side of each such edge.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from .comparison import Comparison

NEAR_ZERO = 1e-6  # of a ReLU's input, in shares of the largest of its tensor
NEAR_INTEGER = 3e-6  # of a sampling location, in pixels
MOST = 24  # edges that are tried
ENOUGH = 0.8  # crossing an edge has to bring all gradients together this much nearer
RELUS = (functional.relu, functional.relu_, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_)


@dataclass(frozen=True)
class Edge:
    """One value at an edge: the how manieth ReLU or floor of a run, and the place in its flattened input."""

    kind: str
    call: int
    place: int
    value: float

    def __str__(self) -> str:
        what = "input of a ReLU" if self.kind == "relu" else "sampling location, from a pixel's centre"
        return f"{what}: {self.value:.1e}"


class Edges(TorchFunctionMode):
    """Notes values at edges while it is active, and takes the other side of those in ``crossed``."""

    def __init__(self, crossed: Iterable[Edge] = ()) -> None:
        super().__init__()
        self.crossed = list(crossed)
        self.found: list[Edge] = []
        self.calls = {"relu": 0, "floor": 0}

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run ``function``, if it is a ReLU or a floor with the crossed edges on their other side."""
        if function in RELUS:
            value = args[0]
            near = value.detach().abs() <= NEAR_ZERO * value.detach().abs().amax() if value.numel() else value > 0
            places = self._note("relu", near, value.detach())
            if places:
                moved = torch.zeros_like(value).flatten()
                moved[places] = -2 * value.detach().flatten()[places]
                # a value of exactly 0 is moved to where the gradient is 1
                moved[places] += (value.detach().flatten()[places] == 0) * 1e-30
                args = (value + moved.view_as(value), *args[1:])
        elif function in (torch.floor, Tensor.floor) and args[0].is_floating_point():
            value = args[0].detach()
            offset = value - value.round()
            places = self._note("floor", offset.abs() <= NEAR_INTEGER, offset)
            lower = function(*args, **(kwargs or {}))
            if places:
                lower = lower.clone()
                side = offset.flatten()[places] >= 0
                lower.view(-1)[places] += torch.where(side, -1.0, 1.0)
            return lower
        return function(*args, **(kwargs or {}))

    def _note(self, kind: str, near: Tensor, value: Tensor) -> list[int]:
        call = self.calls[kind]
        self.calls[kind] += 1
        flat = value.flatten()
        for place in near.flatten().nonzero()[:, 0].tolist():
            self.found.append(Edge(kind, call, place, float(flat[place])))
        return [edge.place for edge in self.crossed if (edge.kind, edge.call) == (kind, call)]


def compare_across_edges(run: Callable[[], Comparison]) -> Comparison:
    """The comparison, with those edges crossed that bring the gradients nearer; ``notes`` says which.

    Args:
        run: makes the comparison from the start.
    """
    with Edges() as edges:
        best = run()
    crossed: list[Edge] = []
    candidates = sorted(edges.found, key=lambda edge: abs(edge.value))[:MOST]
    while _only_gradients(best) and candidates:
        attempts = []
        for edge in candidates:
            with Edges([*crossed, edge]):
                attempts.append(run())
        nearest = min(range(len(candidates)), key=lambda i: _distance(attempts[i]))
        if _distance(attempts[nearest]) > ENOUGH * _distance(best):
            break
        best = attempts[nearest]
        crossed.append(candidates.pop(nearest))
    best.notes += [f"on the other side of an edge, by rounding: {edge}" for edge in crossed]
    return best


def _only_gradients(comparison: Comparison) -> bool:
    failures = comparison.failures
    return bool(failures) and all(name.startswith(("grad/", "grad_norm/")) for name in failures)


def _distance(comparison: Comparison) -> float:
    names = [name for name in comparison.differences if name.startswith(("grad/", "grad_norm/"))]
    return sum(comparison.differences[name] for name in names)
