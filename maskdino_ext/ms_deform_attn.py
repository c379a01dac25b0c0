"""Multi-scale deformable attention (Zhu et al. 2021, arXiv 2010.04159, section 4.1) in plain torch.

Three forms of the same sum, all differentiable twice and on any device:

- ``grid_sample``: one ``grid_sample`` a level. The definition that the other forms are tested against.
- ``gather``: four weighted rows for each sampling point, one matrix product. What ``torch.compile`` gets.
- ``torch`` (default): the rows of ``gather``, summed without being written out, and a backward pass in pieces that fit
  into a cache.

``torch-ms-deform-attn`` is the compiled kernel of the package of that name, for those who have installed it.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import math
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

logger = logging.getLogger(__name__)

Shapes = Sequence[tuple[int, int]]
COMPILED = "torch-ms-deform-attn"
FORMS = ("torch", "grid_sample", "gather", COMPILED)
# Rows of queries in one piece of the backward pass: 6 MB with 48 samples of 32 channels, which fits into a CPU's cache;
# elsewhere 400 MB.
ROWS_AT_ONCE, ROWS_AT_ONCE_ELSEWHERE = 1024, 65536


def ms_deform_attn(value: Tensor, shapes: Shapes, locations: Tensor, weights: Tensor, form: str = "torch") -> Tensor:
    """Weighted sum of values sampled bilinearly, with zeros outside (``align_corners=False``).

    Args:
        value: (B, S, M, D) of M heads with D channels, levels one after the other, rows of a level one after the other.
        shapes: (H, W) of each of the L levels; their areas add up to S.
        locations: (B, Q, M, L, P, 2) of P points a level, (x, y) in [0, 1] over the level.
        weights: (B, Q, M, L, P).
        form: how it is computed, one of ``FORMS``.

    Returns:
        (B, Q, M * D).

    Raises:
        ValueError: an unknown form, or shapes that do not add up.
        RuntimeError: the compiled form is asked for and not installed.
    """
    if form not in FORMS:
        raise ValueError(f"unknown form {form!r} of deformable attention; known: {', '.join(FORMS)}")
    if sum(height * width for height, width in shapes) != value.shape[1]:
        raise ValueError(f"levels {list(shapes)} do not add up to {value.shape[1]} tokens")
    if form == COMPILED:
        return _compiled(value, shapes, locations, weights)
    if form == "grid_sample":
        return _by_grid_sample(value, shapes, locations, weights)
    return _by_rows(value, shapes, locations, weights, as_gather=form == "gather" or torch.compiler.is_compiling())


def _by_grid_sample(value: Tensor, shapes: Shapes, locations: Tensor, weights: Tensor) -> Tensor:
    """In the order of operations of the official code, so that rounding agrees with it as well."""
    batch, _, heads, channels = value.shape
    queries, levels, points = locations.shape[1], locations.shape[3], locations.shape[4]
    grids = 2 * locations - 1
    samples = []
    pieces = value.split([height * width for height, width in shapes], dim=1)
    for level, (piece, (height, width)) in enumerate(zip(pieces, shapes, strict=True)):
        maps = piece.flatten(2).transpose(1, 2).reshape(batch * heads, channels, height, width)
        grid = grids[:, :, :, level].transpose(1, 2).flatten(0, 1)
        samples.append(functional.grid_sample(maps, grid, mode="bilinear", padding_mode="zeros", align_corners=False))
    weights = weights.transpose(1, 2).reshape(batch * heads, 1, queries, levels * points)
    total = (torch.stack(samples, dim=-2).flatten(-2) * weights).sum(dim=-1)
    return total.view(batch, heads * channels, queries).transpose(1, 2).contiguous()


def _by_rows(value: Tensor, shapes: Shapes, locations: Tensor, weights: Tensor, *, as_gather: bool) -> Tensor:
    batch, tokens, heads, channels = value.shape
    queries = locations.shape[1]
    index, share = _corners(shapes, locations, weights)  # (B, Q, M, 4 * L * P)
    first = torch.arange(batch, device=value.device).view(-1, 1, 1, 1) * (tokens * heads)
    head = torch.arange(heads, device=value.device).view(1, 1, -1, 1)
    rows = value.reshape(batch * tokens * heads, channels)
    index, share = (first + index * heads + head).flatten(0, 2), share.flatten(0, 2).to(rows.dtype)
    plain = as_gather or rows.dtype not in (torch.float32, torch.float64)
    found: Tensor = _gathered_sum(rows, index, share) if plain else _WeightedRows.apply(rows, index, share)
    return found.view(batch, queries, heads * channels)


def _corners(shapes: Shapes, locations: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Tokens (B, Q, M, 4 * L * P) int64 around each sampling point, and how much of each is taken (0 outside)."""
    tokens, shares = [], []
    start = 0
    for level, (height, width) in enumerate(shapes):
        # Written as grid_sample computes it, so that both fall on the same side of a pixel's edge.
        x = ((2 * locations[:, :, :, level, :, 0] - 1 + 1) * width - 1) / 2
        y = ((2 * locations[:, :, :, level, :, 1] - 1 + 1) * height - 1) / 2
        left, top = x.detach().floor(), y.detach().floor()
        right_share, bottom_share = x - left, y - top
        for row, row_share in ((top, 1 - bottom_share), (top + 1, bottom_share)):
            for column, column_share in ((left, 1 - right_share), (left + 1, right_share)):
                inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
                # whole numbers first: half precision counts to 2,048 only
                row_number = row.nan_to_num(0).clamp(0, height - 1).long()
                column_number = column.nan_to_num(0).clamp(0, width - 1).long()
                tokens.append(row_number * width + column_number + start)
                shares.append(row_share * column_share * weights[:, :, :, level] * inside)
        start += height * width
    return torch.cat(tokens, dim=-1), torch.cat(shares, dim=-1)


def _gathered_sum(rows: Tensor, index: Tensor, share: Tensor) -> Tensor:
    """Sums (N, D) of rows (R, D) chosen by ``index`` (N, K) and weighted by ``share`` (N, K)."""
    chosen = rows.index_select(0, index.flatten()).view(*index.shape, rows.shape[1])
    return torch.bmm(share[:, None], chosen)[:, 0]


class _WeightedRows(torch.autograd.Function):
    """:func:`_gathered_sum` without the (N, K, D) tensor in memory."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, index: Tensor, share: Tensor) -> Tensor:
        ctx.save_for_backward(rows, index, share)
        return functional.embedding_bag(index, rows, per_sample_weights=share, mode="sum")

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, None, Tensor | None]:
        rows, index, share = ctx.saved_tensors
        if torch.is_grad_enabled():  # somebody wants the gradient of the gradient
            chosen = rows.index_select(0, index.flatten()).view(*index.shape, rows.shape[1])
            of_share = torch.bmm(chosen, gradient[:, :, None])[:, :, 0]
            spread = (share[:, :, None] * gradient[:, None]).flatten(0, 1)
            return torch.zeros_like(rows).index_add(0, index.flatten(), spread), None, of_share
        return _WeightedRows._in_pieces(rows, index, share, gradient, *ctx.needs_input_grad[::2])

    @staticmethod
    def _in_pieces(
        rows: Tensor, index: Tensor, share: Tensor, gradient: Tensor, wants_rows: bool, wants_share: bool
    ) -> tuple[Tensor | None, None, Tensor | None]:
        of_rows = torch.zeros_like(rows) if wants_rows else None
        of_share = torch.empty_like(share) if wants_share else None
        size = ROWS_AT_ONCE if rows.device.type == "cpu" else ROWS_AT_ONCE_ELSEWHERE
        for start in range(0, len(index), size):
            part = slice(start, start + size)
            flat, incoming = index[part].flatten(), gradient[part]
            if of_share is not None:
                chosen = rows.index_select(0, flat).view(*index[part].shape, rows.shape[1])
                of_share[part] = torch.bmm(chosen, incoming[:, :, None])[:, :, 0]
            if of_rows is not None:
                of_rows.index_add_(0, flat, torch.bmm(share[part][:, :, None], incoming[:, None]).flatten(0, 1))
        return of_rows, None, of_share


@cache
def compiled_module() -> Any:
    """The compiled package.

    Raises:
        RuntimeError: it is not installed.
    """
    if importlib.util.find_spec("torch_ms_deform_attn") is None:
        raise RuntimeError(
            f"the compiled form of deformable attention was asked for and {COMPILED} is not installed: "
            f"pip install --no-build-isolation {COMPILED}, or set MODEL.DEFORMABLE_ATTENTION torch"
        )
    logger.info("deformable attention: the compiled kernels of %s", COMPILED)
    return importlib.import_module("torch_ms_deform_attn")


def _compiled(value: Tensor, shapes: Shapes, locations: Tensor, weights: Tensor) -> Tensor:
    sizes = torch.tensor(list(shapes), dtype=torch.int64, device=value.device)
    areas = [height * width for height, width in shapes]
    starts = torch.tensor([sum(areas[:level]) for level in range(len(areas))], device=value.device)
    found: Tensor = compiled_module().ms_deform_attn(
        value.contiguous(), sizes, starts, locations.to(value.dtype).contiguous(), weights.to(value.dtype).contiguous()
    )
    return found


class MSDeformAttn(nn.Module):
    """The attention layer with its projections; parameter names are those of the official code.

    Args:
        dim: channels of queries and tokens, a multiple of ``heads``.
        levels: scales L.
        heads: M.
        points: P for each level and head.
        form: see :func:`ms_deform_attn`; the compiled form is looked for at once.
    """

    def __init__(self, dim: int, levels: int, heads: int, points: int, form: str = "torch") -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"{dim} channels do not divide into {heads} heads")
        if form == COMPILED:
            compiled_module()
        self.levels, self.heads, self.points, self.form = levels, heads, points, form
        self.sampling_offsets = nn.Linear(dim, heads * levels * points * 2)
        self.attention_weights = nn.Linear(dim, heads * levels * points)
        self.value_proj = nn.Linear(dim, dim)
        self.output_proj = nn.Linear(dim, dim)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Head m first looks in direction 2 pi m / M, point p at distance p + 1; all with equal weight."""
        nn.init.zeros_(self.sampling_offsets.weight)
        angles = torch.arange(self.heads, dtype=torch.float32) * (2 * math.pi / self.heads)
        directions = torch.stack([angles.cos(), angles.sin()], dim=-1)
        directions = directions / directions.abs().amax(dim=-1, keepdim=True)
        distances = torch.arange(1, self.points + 1, dtype=torch.float32)
        offsets = directions[:, None, None] * distances[:, None]
        with torch.no_grad():
            self.sampling_offsets.bias.copy_(offsets.expand(-1, self.levels, -1, -1).flatten())
        nn.init.zeros_(self.attention_weights.weight)
        nn.init.zeros_(self.attention_weights.bias)
        for layer in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(
        self, query: Tensor, reference: Tensor, tokens: Tensor, shapes: Shapes, padding: Tensor | None = None
    ) -> Tensor:
        """Attend to ``tokens`` around ``reference``.

        Args:
            query: (B, Q, C).
            reference: (B, Q, L, 2) points (x, y), or (B, Q, L, 4) boxes (cx, cy, w, h), in [0, 1] over each level.
            tokens: (B, S, C).
            shapes: (H, W) of the levels.
            padding: (B, S) bool, True where a token is padding and counts as zero.

        Returns:
            (B, Q, C).
        """
        batch, queries, dim = query.shape
        value = self.value_proj(tokens)
        if padding is not None:
            value = value.masked_fill(padding[..., None], 0.0)
        value = value.view(batch, tokens.shape[1], self.heads, dim // self.heads)
        offsets = self.sampling_offsets(query).view(batch, queries, self.heads, self.levels, self.points, 2)
        weights = self.attention_weights(query).view(batch, queries, self.heads, self.levels * self.points)
        weights = weights.softmax(dim=-1).view(batch, queries, self.heads, self.levels, self.points)
        centres = reference[:, :, None, :, None, :2]
        if reference.shape[-1] == 2:
            sizes = query.new_tensor([[width, height] for height, width in shapes])
            locations = centres + offsets / sizes[:, None]
        else:
            locations = centres + offsets / self.points * reference[:, :, None, :, None, 2:] * 0.5
        found: Tensor = self.output_proj(ms_deform_attn(value, shapes, locations, weights, self.form))
        return found
