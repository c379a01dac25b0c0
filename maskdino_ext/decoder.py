"""The decoder of DINO and Mask DINO: layers that refine a box for each query (DINO section 3.5)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .boxes import inverse_sigmoid
from .gradients import cut, learns
from .layers import MLP, DecoderLayer, widened
from .ms_deform_attn import Shapes
from .position import box_encoding


@dataclass(frozen=True)
class DecoderSettings:
    """Sizes of a decoder: see :class:`DecoderLayer`; ``eps`` is that of a reference's logit."""

    dim: int
    feedforward: int
    layers: int
    levels: int
    heads: int
    points: int
    eps: float
    form: str = "torch"
    dropout: float = 0.0


class Decoder(nn.Module):
    """Refines queries and their boxes layer by layer.

    ``bbox_embed``, one box head for each layer, is set by the owner, who also predicts with them.
    """

    bbox_embed: nn.ModuleList

    def __init__(self, settings: DecoderSettings) -> None:
        super().__init__()
        self.eps = settings.eps
        self.layers = nn.ModuleList(
            DecoderLayer(
                settings.dim,
                settings.feedforward,
                settings.levels,
                settings.heads,
                settings.points,
                settings.form,
                settings.dropout,
            )
            for _ in range(settings.layers)
        )
        self.norm = nn.LayerNorm(settings.dim)
        self.ref_point_head = MLP(2 * settings.dim, settings.dim, settings.dim, 2)
        self.channels = settings.dim // 2  # of the encoding of each coordinate

    def forward(
        self,
        content: Tensor,
        anchors: Tensor,
        tokens: Tensor,
        shapes: Shapes,
        valid: Tensor,
        padding: Tensor | None = None,
        blocked: Tensor | None = None,
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Run all layers.

        Args:
            content: (B, Q, C).
            anchors: (B, Q, 4) logits of cxcywh.
            tokens: (B, S, C) of the encoder.
            shapes: (H, W) of the L levels.
            valid: (B, L, 2) share of width and height that is not padding.
            padding: (B, S) bool; None for none.
            blocked: (Q, Q) bool, see :class:`DecoderLayer`.

        Returns:
            For each layer its normed queries (B, Q, C); and the boxes (B, Q, 4) cxcywh in [0, 1] that each layer starts
            from, with those that the last one ends with: one more than layers. While the weights learn, a layer starts
            from these boxes without their gradient, and the prediction of a layer uses them with it: "look forward
            twice"; see :func:`maskdino_ext.gradients.learns`.
        """
        learning = learns(self)
        # in float32 under autocast too, as in the official code
        with torch.autocast(content.device.type, enabled=False):
            content, anchors, tokens = widened(content), widened(anchors), widened(tokens)
            scale = torch.cat([valid, valid], dim=-1)[:, None]
            reference = anchors.sigmoid()
            states, references = [], [reference]
            for layer, box_head in zip(self.layers, self.bbox_embed, strict=True):
                on_levels = reference[:, :, None] * scale
                position = self.ref_point_head(box_encoding(on_levels[:, :, 0], self.channels))
                content = layer(content, position, on_levels, tokens, shapes, padding, blocked)
                refined = (box_head(content) + inverse_sigmoid(reference, self.eps)).sigmoid()
                reference = cut(refined, learning)
                references.append(refined)
                states.append(self.norm(content))
            return states, references


def predicted_boxes(
    states: Sequence[Tensor], references: Sequence[Tensor], heads: nn.ModuleList, eps: float
) -> list[Tensor]:
    """What each layer predicts: its box head on the *normed* query, from the box that the layer started from.

    The next layer starts from the box that the head gives on the query before the norm: the two differ, as in the
    official code.

    Returns:
        (B, Q, 4) cxcywh in [0, 1] for each layer.
    """
    return [
        (head(state) + inverse_sigmoid(reference, eps)).sigmoid()
        for state, reference, head in zip(states, references[:-1], heads, strict=True)
    ]
