"""Small layers and the attention blocks of encoder and decoder, with the official parameter names."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from .ms_deform_attn import MSDeformAttn, Shapes


def widened(values: Tensor) -> Tensor:
    """float16 and bfloat16 as float32; float32 and float64 as they are."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


class MLP(nn.Module):
    """Linear layers with ReLU between them.

    Args:
        inputs, hidden, outputs: channels.
        depth: number of linear layers, >= 1.
    """

    def __init__(self, inputs: int, hidden: int, outputs: int, depth: int) -> None:
        super().__init__()
        widths = [inputs, *[hidden] * (depth - 1), outputs]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))

    def forward(self, x: Tensor) -> Tensor:
        """(..., inputs) -> (..., outputs)."""
        *first, last = self.layers
        for layer in first:
            x = functional.relu(layer(x))
        result: Tensor = last(x)
        return result


class EncoderLayer(nn.Module):
    """Deformable self-attention over all tokens of all levels, then a feed-forward network, post-norm.

    Args:
        dim, feedforward: channels of tokens and of the hidden layer.
        levels, heads, points, form: see :class:`MSDeformAttn`.
        dropout: share of activations dropped in training.
    """

    def __init__(
        self, dim: int, feedforward: int, levels: int, heads: int, points: int, form: str, dropout: float
    ) -> None:
        super().__init__()
        self.self_attn = MSDeformAttn(dim, levels, heads, points, form)
        self.norm1 = nn.LayerNorm(dim)
        self.linear1 = nn.Linear(dim, feedforward)
        self.linear2 = nn.Linear(feedforward, dim)
        self.norm2 = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, tokens: Tensor, position: Tensor, reference: Tensor, shapes: Shapes, padding: Tensor | None
    ) -> Tensor:
        """tokens, position (B, S, C), reference (B, S, L, 2) in [0, 1], padding (B, S) -> (B, S, C)."""
        attended = self.self_attn(tokens + position, reference, tokens, shapes, padding)
        tokens = self.norm1(tokens + self.dropout(attended))
        hidden = self.dropout(functional.relu(self.linear1(tokens)))
        result: Tensor = self.norm2(tokens + self.dropout(self.linear2(hidden)))
        return result


class DecoderLayer(nn.Module):
    """Self-attention among the queries, deformable attention to the tokens, a feed-forward network; post-norm.

    Args:
        dim, feedforward: channels of queries and of the hidden layer.
        levels, heads, points, form: see :class:`MSDeformAttn`; ``heads`` of both attentions.
        dropout: share of activations dropped in training.
    """

    def __init__(
        self, dim: int, feedforward: int, levels: int, heads: int, points: int, form: str, dropout: float
    ) -> None:
        super().__init__()
        self.cross_attn = MSDeformAttn(dim, levels, heads, points, form)
        self.norm1 = nn.LayerNorm(dim)
        self.self_attn = nn.MultiheadAttention(dim, heads, dropout=dropout)
        self.norm2 = nn.LayerNorm(dim)
        self.linear1 = nn.Linear(dim, feedforward)
        self.linear2 = nn.Linear(feedforward, dim)
        self.norm3 = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        queries: Tensor,
        position: Tensor,
        reference: Tensor,
        tokens: Tensor,
        shapes: Shapes,
        padding: Tensor | None,
        blocked: Tensor | None,
    ) -> Tensor:
        """queries, position (B, Q, C), reference (B, Q, L, 4) cxcywh in [0, 1], tokens (B, S, C) -> (B, Q, C).

        ``blocked`` (Q, Q) bool is True where a query (row) may not look at another (column).
        """
        placed = (queries + position).transpose(0, 1)
        # the other kernels have no second derivative on every device, and a few hundred queries do not need them
        with sdpa_kernel(SDPBackend.MATH):
            attended = self.self_attn(placed, placed, queries.transpose(0, 1), attn_mask=blocked, need_weights=False)[0]
        queries = self.norm2(queries + self.dropout(attended.transpose(0, 1)))
        found = self.cross_attn(queries + position, reference, tokens, shapes, padding)
        queries = self.norm1(queries + self.dropout(found))
        hidden = self.dropout(functional.relu(self.linear1(queries)))
        result: Tensor = self.norm3(queries + self.dropout(self.linear2(hidden)))
        return result


def token_centres(shapes: Shapes, valid: Tensor) -> Tensor:
    """Where each token is, on each level: (B, S, L, 2) as (x, y) in [0, 1] over the level.

    Args:
        shapes: (H, W) of the L levels.
        valid: (B, L, 2) share of width and height of a level that is not padding.
    """
    points = []
    for level, (height, width) in enumerate(shapes):
        y, x = torch.meshgrid(
            torch.linspace(0.5, height - 0.5, height, dtype=valid.dtype, device=valid.device),
            torch.linspace(0.5, width - 0.5, width, dtype=valid.dtype, device=valid.device),
            indexing="ij",
        )
        own = valid[:, level, None]
        points.append(torch.stack([x.flatten() / (own[..., 0] * width), y.flatten() / (own[..., 1] * height)], dim=-1))
    return torch.cat(points, dim=1)[:, :, None] * valid[:, None]
