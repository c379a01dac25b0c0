"""Square attack (Andriushchenko et al. 2020, arXiv 1912.00049): random search that needs no gradient."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .base import Attack, Predict, Search, forward, in_layout_of, take, whole_numbers
from .draws import ImageId, image_generator
from .objectives import margin
from .threat import ThreatModel

HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)  # queries after which the squares' area is halved
TINY = 1e-12


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
        walk = _linf_walk if self.threat.norm == "linf" else _l2_walk
        for restart in range(self.restarts):
            rows = search.remaining
            if not len(rows):
                return
            draws = [_Draws(seed, image_ids[row], restart) for row in rows.tolist()]
            walk(self, predict, search, rows, draws)


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


def _windows(corners: Tensor, side: int, extent: int) -> Tensor:
    """(B,) first rows -> (B, extent) bool, True within ``side`` rows from there."""
    places = torch.arange(extent, device=corners.device)
    return (places >= corners[:, None]) & (places < corners[:, None] + side)


def _linf_walk(attack: Square, predict: Predict, search: Search, rows: Tensor, draws: list[_Draws]) -> None:
    """Algorithm 1 with the sampling of algorithm 2: squares of colour -eps or +eps."""
    clean, labels = take(search.clean, rows), search.labels[rows]
    _, channels, height, width = clean.shape
    low, high = (clean - attack.threat.eps).clamp(0, 1), (clean + attack.threat.eps).clamp(0, 1)
    stripes = _uniform(draws, channels * width, clean).reshape(-1, channels, 1, width) >= 0.5
    best = in_layout_of(clean, torch.where(stripes, high, low))
    logits = forward(predict, best, labels)
    loss = margin(logits, labels)
    gone = search.look(rows, best, logits, loss)
    for query in range(attack.queries):
        if bool(gone.any()):
            going = (~gone).nonzero().squeeze(1)
            if not len(going):
                return
            rows, labels, loss, clean = rows[going], labels[going], loss[going], take(clean, going)
            low, high, best = take(low, going), take(high, going), take(best, going)
            draws = [draws[i] for i in going.tolist()]
        side = max(round(math.sqrt(attack.area_share(query) * height * width)), 1)
        side = min(side, height, width)
        numbers = _uniform(draws, 2 + channels, clean)
        down = _windows(_corners(numbers[:, 0], height - side), side, height)
        right = _windows(_corners(numbers[:, 1], width - side), side, width)
        square = (down[:, :, None] & right[:, None, :])[:, None]
        colour = (numbers[:, 2:] >= 0.5)[:, :, None, None]
        candidates = in_layout_of(clean, torch.where(square, torch.where(colour, high, low), best))
        logits = forward(predict, candidates, labels)
        losses = margin(logits, labels)
        gone = search.look(rows, candidates, logits, losses)
        better = losses > loss
        best = in_layout_of(clean, torch.where(better[:, None, None, None], candidates, best))
        loss = torch.where(better, losses, loss)


def _l2_walk(attack: Square, predict: Predict, search: Search, rows: Tensor, draws: list[_Draws]) -> None:
    """Algorithm 1 with the sampling of algorithm 3: two windows give their budget to one bump."""
    clean, labels = take(search.clean, rows), search.labels[rows]
    _, channels, height, width = clean.shape
    best = _l2_start(attack.threat, clean, draws)
    logits = forward(predict, best, labels)
    loss = margin(logits, labels)
    gone = search.look(rows, best, logits, loss)
    for query in range(attack.queries):
        if bool(gone.any()):
            going = (~gone).nonzero().squeeze(1)
            if not len(going):
                return
            rows, labels, loss = rows[going], labels[going], loss[going]
            clean, best = take(clean, going), take(best, going)
            draws = [draws[i] for i in going.tolist()]
        side = max(round(math.sqrt(attack.area_share(query) * height * width)), 3)
        side = min(side + 1 - side % 2, height, width)
        numbers = _uniform(draws, 5 + channels, clean)
        candidates = _l2_candidates(attack.threat, clean, best, side, numbers)
        logits = forward(predict, candidates, labels)
        losses = margin(logits, labels)
        gone = search.look(rows, candidates, logits, losses)
        better = losses > loss
        best = in_layout_of(clean, torch.where(better[:, None, None, None], candidates, best))
        loss = torch.where(better, losses, loss)


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
    return in_layout_of(clean, (clean + _unit(delta) * threat.eps).clamp(0, 1))


def _unit(delta: Tensor) -> Tensor:
    """(B, C, H, W) scaled to Euclidean length 1."""
    return delta / (delta.flatten(1).norm(dim=1)[:, None, None, None] + TINY)


def _length(delta: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, C, 1, 1) Euclidean length of each channel."""
    return delta.square().sum(dim=(2, 3), keepdim=True).sqrt()


def _l2_candidates(threat: ThreatModel, clean: Tensor, best: Tensor, side: int, numbers: Tensor) -> Tensor:
    """Move the budget of a second window, and what is unused, into a bump at a first window (paper, algorithm 3).

    Args:
        threat: l2.
        clean: (B, C, H, W).
        best: (B, C, H, W) so far.
        side: of the square windows, in pixels.
        numbers: (B, 5 + C) in [0, 1): two corners, the bump's orientation, and a sign for each channel.
    """
    _, channels, height, width = clean.shape
    delta = best - clean

    def window(first: int) -> Tensor:
        down = _windows(_corners(numbers[:, first], height - side), side, height)
        right = _windows(_corners(numbers[:, first + 1], width - side), side, width)
        return (down[:, :, None] & right[:, None, :])[:, None]

    one, two = window(0), window(2)
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
    return in_layout_of(clean, threat.project(clean, (clean + _unit(delta) * threat.eps).clamp(0, 1)))


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
