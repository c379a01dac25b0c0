"""Square attack (Andriushchenko et al. 2020, arXiv 1912.00049): random search that needs no gradient."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .base import Attack, Predict, Search, forward, in_layout_of, take, whole_numbers
from .draws import ImageId, image_generator
from .objectives import TINY, margin
from .threat import ThreatModel, per_image

HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)  # queries after which the squares' area is halved


class Square(Attack):
    """Square with the settings of the official AutoAttack.

    Every image has squares, colours and positions of its own, drawn from (seed, image id, restart).

    Args:
        threat: norm and eps in [0, 1] pixel space.
        queries: forward passes of a restart after the start, >= 1.
        first_share: share of the image that the first squares cover, in (0, 1].
        stretch_schedule: scale the schedule of areas from 10,000 queries to ``queries`` (AutoAttack does not).
        restarts: independent runs, >= 1.

    Raises:
        ValueError: a number out of range.
    """

    def __init__(
        self,
        threat: ThreatModel,
        queries: int = 5000,
        *,
        first_share: float = 0.8,
        stretch_schedule: bool = False,
        restarts: int = 1,
    ) -> None:
        threat.only("linf", "l2", of="Square")
        whole_numbers("Square", queries=queries, restarts=restarts)
        if not 0 < first_share <= 1:
            raise ValueError(f"Square's first_share must lie in (0, 1], not {first_share!r}")
        self.threat = threat
        self.queries = queries
        self.first_share = first_share
        self.stretch_schedule = stretch_schedule
        self.restarts = restarts

    @property
    def name(self) -> str:
        return "square" + (f"x{self.restarts}" if self.restarts > 1 else "")

    @property
    def passes(self) -> int:
        return 1 + self.restarts * (self.queries + 1)

    @property
    def settings(self) -> dict[str, int | float | str | bool]:
        return {
            "queries": self.queries,
            "first_share": self.first_share,
            "stretch_schedule": self.stretch_schedule,
            "restarts": self.restarts,
        }

    def area_share(self, query: int) -> float:
        """Share of the image that the square of a query (from 0) covers."""
        if self.stretch_schedule:
            query = int(query / self.queries * 10_000)
        return self.first_share / 2 ** sum(query > halving for halving in HALVINGS)

    def search(self, predict: Predict, search: Search, image_ids: Sequence[ImageId], seed: int) -> None:
        for restart in range(self.restarts):
            rows = search.remaining
            if not len(rows):
                return
            draws = [_Draws(seed, image_ids[row], restart) for row in rows.tolist()]
            self._walk(predict, search, rows, draws)

    def _walk(self, predict: Predict, search: Search, rows: Tensor, draws: list[_Draws]) -> None:
        """Random search from a random start (paper, algorithm 1); an image that is fooled leaves."""
        linf = self.threat.norm == "linf"
        start, propose = (_linf_start, _linf_candidates) if linf else (_l2_start, _l2_candidates)
        clean, labels = take(search.clean, rows), search.labels[rows]
        best = in_layout_of(clean, start(self.threat, clean, draws))
        loss = torch.full_like(labels, -torch.inf, dtype=clean.dtype)
        candidates = best
        for query in range(self.queries + 1):
            logits = forward(predict, candidates, labels)
            losses = margin(logits, labels)
            gone = search.look(rows, candidates, logits, losses)
            better = losses > loss
            best = in_layout_of(clean, torch.where(per_image(better, best), candidates, best))
            loss = torch.where(better, losses, loss)
            if query == self.queries:
                return
            if bool(gone.any()):
                going = (~gone).nonzero().squeeze(1)
                if not len(going):
                    return
                rows, labels, loss = rows[going], labels[going], loss[going]
                clean, best = take(clean, going), take(best, going)
                draws = [draws[i] for i in going.tolist()]
            candidates = in_layout_of(clean, propose(self.threat, clean, best, self.area_share(query), draws))


class _Draws:
    """Uniform numbers of one image, in the order in which they are asked for."""

    BLOCK = 4096

    def __init__(self, seed: int, image_id: ImageId, restart: int) -> None:
        self._generator = image_generator(seed, image_id, restart)
        self._numbers = torch.empty(0)
        self._used = 0

    def take(self, count: int) -> Tensor:
        """The next ``count`` numbers in [0, 1)."""
        if self._used + count > len(self._numbers):
            rest = self._numbers[self._used :]
            fresh = torch.rand(max(self.BLOCK, count), generator=self._generator)
            self._numbers, self._used = torch.cat([rest, fresh]), 0
        self._used += count
        return self._numbers[self._used - count : self._used]


def _uniform(draws: Sequence[_Draws], count: int, like: Tensor) -> Tensor:
    """(B, count) numbers in [0, 1), each image's own."""
    return torch.stack([one.take(count) for one in draws]).to(like)


def _corners(uniform: Tensor, free: int) -> Tensor:
    """Positions 0 .. free - 1 from numbers in [0, 1), as in the official implementation; 0 where nothing is free."""
    return (uniform * free).long()


def _window(corner: Tensor, side: int, height: int, width: int) -> Tensor:
    """(B, 2) numbers in [0, 1) for the corner -> (B, 1, height, width) bool, True in a square of ``side`` pixels."""

    def along(numbers: Tensor, extent: int) -> Tensor:
        first, places = _corners(numbers, extent - side)[:, None], torch.arange(extent, device=numbers.device)
        return (places >= first) & (places < first + side)

    return (along(corner[:, 0], height)[:, :, None] & along(corner[:, 1], width)[:, None, :])[:, None]


def _linf_start(threat: ThreatModel, clean: Tensor, draws: Sequence[_Draws]) -> Tensor:
    """Vertical stripes of -eps or +eps, a sign for each channel and column."""
    _, channels, _, width = clean.shape
    stripes = _uniform(draws, channels * width, clean).reshape(-1, channels, 1, width) >= 0.5
    return torch.where(stripes, clean + threat.eps, clean - threat.eps).clamp(0, 1)


def _linf_candidates(threat: ThreatModel, clean: Tensor, best: Tensor, area: float, draws: Sequence[_Draws]) -> Tensor:
    """One square of colour -eps or +eps (paper, algorithm 2)."""
    _, channels, height, width = clean.shape
    side = min(max(round(math.sqrt(area * height * width)), 1), height, width)
    numbers = _uniform(draws, 2 + channels, clean)
    square = _window(numbers[:, :2], side, height, width)
    colour = (numbers[:, 2:] >= 0.5)[:, :, None, None]
    return torch.where(square, torch.where(colour, clean + threat.eps, clean - threat.eps).clamp(0, 1), best)


def _l2_start(threat: ThreatModel, clean: Tensor, draws: Sequence[_Draws]) -> Tensor:
    """A grid of 5 x 5 bumps with random signs, scaled to eps."""
    _, channels, height, width = clean.shape
    side = max(min(height, width) // 5, 1)
    down, right = height // side, width // side
    signs = _uniform(draws, channels * down * right, clean).reshape(-1, channels, down, right) >= 0.5
    tops = (height - side * down) // 2, (width - side * right) // 2
    turned = _uniform(draws, down * right, clean).reshape(-1, 1, down, right) >= 0.5
    bump = _bump(side).to(clean)
    delta = torch.zeros_like(clean)
    for i in range(down):
        for j in range(right):
            here = torch.where(turned[:, :, i, j, None, None], bump.T, bump)
            window = here * (signs[:, :, i, j, None, None] * 2.0 - 1.0)
            y, x = tops[0] + i * side, tops[1] + j * side
            delta[:, :, y : y + side, x : x + side] += window
    return (clean + _unit(delta) * threat.eps).clamp(0, 1)


def _unit(delta: Tensor) -> Tensor:
    """(B, C, H, W) scaled to Euclidean length 1."""
    return delta / (delta.flatten(1).norm(dim=1)[:, None, None, None] + TINY)


def _length(delta: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, C, 1, 1) Euclidean length of each channel."""
    return delta.square().sum(dim=(2, 3), keepdim=True).sqrt()


def _l2_candidates(threat: ThreatModel, clean: Tensor, best: Tensor, area: float, draws: Sequence[_Draws]) -> Tensor:
    """Move the budget of a second window, and what is unused, into a bump at a first window (paper, algorithm 3)."""
    _, channels, height, width = clean.shape
    side = max(round(math.sqrt(area * height * width)), 3)
    side = min(side + 1 - side % 2, height, width)
    numbers = _uniform(draws, 5 + channels, clean)  # two corners, the bump's orientation, a sign for each channel
    delta = best - clean
    one, two = (_window(numbers[:, first : first + 2], side, height, width) for first in (0, 2))
    old = torch.where(one, delta, 0.0)
    budget = _length(torch.where(one | two, delta, 0.0)).square()
    unused = (threat.eps**2 - delta.flatten(1).square().sum(dim=1)).clamp_min(0.0)[:, None, None, None]
    bump = _bump(side).to(clean)
    turned = torch.where((numbers[:, 4] >= 0.5)[:, None, None], bump.T, bump)[:, None]
    signed = turned * ((numbers[:, 5:] >= 0.5) * 2.0 - 1.0)[:, :, None, None]
    fresh = torch.zeros_like(clean).masked_scatter_(one.expand_as(clean), signed)
    fresh = fresh + old / (_length(old) + TINY)
    fresh = fresh / (_length(fresh) + TINY) * (unused / channels + budget).sqrt()
    delta = torch.where(one, fresh, torch.where(two, 0.0, delta))
    return threat.project(clean, (clean + _unit(delta) * threat.eps).clamp(0, 1))


def _bump(side: int) -> Tensor:
    """(side, side) of Euclidean length 1: a positive hill above a negative one (paper, figure 3)."""
    upper = side // 2
    bump = torch.zeros(side, side)
    if upper:
        bump[:upper] = _hill(upper, side)
    bump[upper:] = -_hill(side - upper, side)
    return bump / bump.norm()


def _hill(height: int, width: int) -> Tensor:
    """Nested rectangles of weight 1, 1/4, 1/9, ... around the middle, of Euclidean length 1 (paper, equation 4)."""
    hill = torch.zeros(height, width)
    top, left = height // 2, width // 2
    for ring in range(max(height // 2, width // 2) + 1):
        y, x, extent = top - ring, left - ring, 2 * ring + 1
        hill[max(y, 0) : min(y + extent, height), max(x, 0) : min(x + extent, width)] += 1.0 / (ring + 1) ** 2
    return hill / hill.norm()
