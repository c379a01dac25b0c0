"""RayS: a hard-label attack that searches a direction of signs (Chen & Gu 2020, arXiv 2006.12792), linf."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence

import torch
from torch import Tensor

from .base import Attack, Predict, Search, forward, take, whole_numbers
from .draws import ImageId
from .objectives import margin
from .threat import ThreatModel

TOLERANCE = 1e-3  # of the binary search for the radius, in pixel space
Queries = Generator[Tensor, bool, None]  # yields a candidate (C, H, W), is sent whether it is misclassified


class RayS(Attack):
    """Only the predicted class is used. Nothing is drawn at random.

    The direction starts as all ones. Blocks of it, first halves, then quarters, ... are flipped, and a flip stays if
    the smallest misclassified radius along the direction shrinks: one query tells whether it does, a binary search then
    finds the new radius. An image leaves once a misclassified candidate within eps is found.

    Args:
        threat: linf only.
        queries: at most, an image, >= 1.

    Raises:
        ValueError: another norm, or no queries.
    """

    def __init__(self, threat: ThreatModel, queries: int = 5000) -> None:
        whole_numbers("RayS", queries=queries)
        if threat.norm != "linf":
            raise ValueError(f"RayS searches in linf, not in {threat.norm}")
        self.threat = threat
        self.queries = queries

    @property
    def name(self) -> str:
        return "rays"

    @property
    def passes(self) -> int:
        return 1 + self.queries

    @property
    def settings(self) -> dict[str, int | float | str | bool]:
        return {"queries": self.queries}

    def search(self, predict: Predict, search: Search, image_ids: Sequence[ImageId], seed: int) -> None:
        """All images ask their next question together, each for itself."""
        streams = {int(row): _questions(search.clean[row]) for row in search.remaining}
        candidates = {row: next(stream) for row, stream in streams.items()}
        for _ in range(self.queries):
            rows = torch.tensor(list(candidates), device=search.images.device)
            if not len(rows):
                return
            asked = torch.stack(list(candidates.values()))
            asked = take(asked, torch.arange(len(asked), device=asked.device))
            logits = forward(predict, asked, search.labels[rows])
            wrong = logits.argmax(dim=1) != search.labels[rows]
            inside = self.threat.distance(search.clean[rows], asked) <= self.threat.eps * (1 + 1e-6)
            search.queries[rows] += 1
            for i, row in enumerate(rows.tolist()):
                if bool(wrong[i]) and bool(inside[i]):
                    one = torch.tensor([row], device=rows.device)
                    search.accept(one, asked[i : i + 1], margin(logits[i : i + 1], search.labels[one]))
                    del candidates[row]
                    continue
                try:
                    candidates[row] = streams[row].send(bool(wrong[i]))
                except StopIteration:
                    del candidates[row]


def _questions(image: Tensor) -> Queries:
    """The candidates that RayS wants to see for one image, coarse directions first."""
    direction = torch.ones_like(image).flatten()
    size = direction.numel()

    def along(signs: Tensor) -> Callable[[float], Tensor]:
        return lambda radius: (image + radius * signs.reshape(image.shape)).clamp(0, 1)

    radius = yield from _smallest_radius(along(direction), 1.0, known=False)
    blocks = 1
    while True:
        blocks = min(2 * blocks, size)
        length = -(-size // blocks)
        for start in range(0, size, length):
            flipped = direction.clone()
            flipped[start : start + length] *= -1
            if not (yield along(flipped)(min(radius, 1.0))):
                continue
            direction = flipped
            radius = yield from _smallest_radius(along(flipped), min(radius, 1.0), known=True)
        if blocks == size:
            return


def _smallest_radius(
    candidate: Callable[[float], Tensor], largest: float, *, known: bool
) -> Generator[Tensor, bool, float]:
    """The smallest misclassified radius up to ``largest``; infinite where ``largest`` is right."""
    if not known and not (yield candidate(largest)):
        return float("inf")
    low, high = 0.0, largest
    while high - low > TOLERANCE:
        middle = (low + high) / 2
        if (yield candidate(middle)):
            high = middle
        else:
            low = middle
    return high
