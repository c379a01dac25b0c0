"""DINO's encoder, query selection, decoder and heads (arXiv 2203.03605), without the backbone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from .decoder import Decoder, DecoderSettings, predicted_boxes
from .denoising import contrastive_objects
from .draws import Draws
from .gradients import cut, learns
from .layers import MLP
from .mask_decoder import PRIOR
from .ms_deform_attn import MSDeformAttn
from .pixel_decoder import Encoder
from .position import pixel_encoding
from .query_selection import Selection, select_tokens, token_proposals
from .structures import NoisedQueries, Outputs, Predictions, Target


@dataclass(frozen=True)
class DINOSettings:
    """Sizes and choices.

    Attributes:
        decoder: of the decoder; the encoder shares channels, heads, levels, form and dropout.
        encoder_layers, encoder_points, encoder_feedforward: of the encoder.
        classes: K.
        label_book: classes that denoising can name.
        queries: number of matching queries.
        two_stage: queries come from the encoder's tokens; otherwise they are learned.
        learned_content: with two stages, only the boxes come from the tokens ("mixed" selection, section 3.4).
        temperature: of the position encoding.
        denoising: whether training adds denoising queries.
        denoising_number, label_noise, box_noise: see :func:`contrastive_objects`.
    """

    decoder: DecoderSettings
    encoder_layers: int
    encoder_points: int
    encoder_feedforward: int
    classes: int
    label_book: int
    queries: int
    two_stage: bool
    learned_content: bool
    temperature: float
    denoising: bool
    denoising_number: int
    label_noise: float
    box_noise: float


@dataclass(frozen=True)
class Tokens:
    """The encoder's output.

    Attributes:
        memory: (B, S, C).
        shapes: (H, W) of the levels, the finest first.
        valid: (B, L, 2) share of width and height that is not padding.
        padding: (B, S) bool.
        inputs, position: (B, S, C) what the encoder saw.
    """

    memory: Tensor
    shapes: tuple[tuple[int, int], ...]
    valid: Tensor
    padding: Tensor
    inputs: Tensor
    position: Tensor


class DINOTransformer(nn.Module):
    """Encoder, query selection and decoder; parameter names are those of official checkpoints."""

    def __init__(self, settings: DINOSettings) -> None:
        super().__init__()
        self.settings = settings
        sizes = settings.decoder
        dim = sizes.dim
        self.level_embed = nn.Parameter(torch.empty(sizes.levels, dim))
        self.encoder = Encoder(
            dim,
            settings.encoder_feedforward,
            settings.encoder_layers,
            sizes.levels,
            sizes.heads,
            settings.encoder_points,
            sizes.form,
            sizes.dropout,
        )
        self.decoder = Decoder(sizes)
        if settings.two_stage:
            self.enc_output = nn.Linear(dim, dim)
            self.enc_output_norm = nn.LayerNorm(dim)
        else:
            self.refpoint_embed = nn.Embedding(settings.queries, 4)
        if settings.learned_content or not settings.two_stage:
            self.tgt_embed = nn.Embedding(settings.queries, dim)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
        for module in self.modules():
            if isinstance(module, MSDeformAttn):
                module.reset_parameters()
        nn.init.normal_(self.level_embed)
        if settings.two_stage:
            self.enc_out_class_embed = class_head(dim, settings.classes)
            self.enc_out_bbox_embed = box_head(dim)

    def encode(self, features: Sequence[Tensor], paddings: Sequence[Tensor]) -> Tokens:
        """Features (B, C, h_l, w_l), the finest first, and paddings (B, h_l, w_l) bool -> :class:`Tokens`."""
        shapes = tuple((feature.shape[2], feature.shape[3]) for feature in features)
        dim, temperature = self.settings.decoder.dim, self.settings.temperature
        tokens = torch.cat([feature.flatten(2).transpose(1, 2) for feature in features], dim=1)
        position = torch.cat(
            [
                pixel_encoding(padding, dim, temperature).flatten(2).transpose(1, 2) + level
                for padding, level in zip(paddings, self.level_embed, strict=True)
            ],
            dim=1,
        )
        padding = torch.cat([one.flatten(1) for one in paddings], dim=1)
        real = [~one for one in paddings]
        shares = [
            torch.stack([one[:, 0].float().mean(dim=1), one[:, :, 0].float().mean(dim=1)], dim=-1) for one in real
        ]
        valid = torch.stack(shares, dim=1)
        memory = self.encoder(tokens, position, shapes, valid, padding)
        return Tokens(memory, shapes, valid, padding, tokens, position)

    def select(self, tokens: Tokens) -> Selection:
        """The tokens that become queries, with heads of their own."""
        useful, proposals = token_proposals(tokens.memory, tokens.shapes, tokens.padding)
        memory = self.enc_output_norm(self.enc_output(useful))
        return select_tokens(
            memory, proposals, self.enc_out_class_embed, self.enc_out_bbox_embed, self.settings.queries
        )

    def decode(
        self, tokens: Tokens, noised: NoisedQueries | None
    ) -> tuple[list[Tensor], list[Tensor], Predictions | None]:
        """Queries and boxes of each layer, see :meth:`Decoder.forward`, and what the chosen tokens predict."""
        batch = tokens.memory.shape[0]
        proposals = None
        if self.settings.two_stage:
            selection = self.select(tokens)
            proposals = Predictions(self.enc_out_class_embed(selection.memory), selection.anchors.sigmoid())
            learning = learns(self)
            content, anchors = cut(selection.memory, learning), cut(selection.anchors, learning)
        else:
            anchors = self.refpoint_embed.weight[None].expand(batch, -1, -1)
        if self.settings.learned_content or not self.settings.two_stage:
            content = self.tgt_embed.weight[None].expand(batch, -1, -1)
        if noised is not None:
            content = torch.cat([noised.content, content], dim=1)
            anchors = torch.cat([noised.anchors, anchors], dim=1)
        states, references = self.decoder(
            content,
            anchors,
            tokens.memory,
            tokens.shapes,
            tokens.valid,
            tokens.padding,
            None if noised is None else noised.blocked,
        )
        return states, references, proposals


def class_head(dim: int, classes: int) -> nn.Linear:
    """A linear class head that starts at a probability of 1 %."""
    head = nn.Linear(dim, classes)
    nn.init.constant_(head.bias, -math.log((1 - PRIOR) / PRIOR))
    return head


def box_head(dim: int) -> MLP:
    """A box head that starts by changing nothing."""
    head = MLP(dim, dim, 4, 3)
    last = head.layers[-1]
    assert isinstance(last, nn.Linear)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return head


class DINOHeads(nn.Module):
    """Everything of DINO behind the backbone.

    Its parameters belong to the model under their own names (``transformer``, ``input_proj``, ``label_enc`` and so on),
    so :class:`maskdino_ext.dino.DINO` inherits from this class.

    Args:
        channels: of the backbone's features, the finest first.
        settings: see :class:`DINOSettings`.

    Raises:
        ValueError: fewer levels than features, or denoising that makes no sense.
    """

    def __init__(self, channels: Sequence[int], settings: DINOSettings) -> None:
        super().__init__()
        sizes = settings.decoder
        if settings.denoising_number < 1:
            raise ValueError(f"DN_NUMBER must be at least 1, not {settings.denoising_number}; USE_DN False is without")
        if settings.label_book < settings.classes:
            raise ValueError(f"DN_LABELBOOK_SIZE {settings.label_book} has no room for {settings.classes} classes")
        if sizes.levels < len(channels):
            raise ValueError(f"{sizes.levels} levels for {len(channels)} features of the backbone")
        self.settings = settings
        self.transformer = DINOTransformer(settings)
        self.label_enc = nn.Embedding(settings.label_book + 1, sizes.dim)
        projections = [nn.Sequential(nn.Conv2d(width, sizes.dim, 1), nn.GroupNorm(32, sizes.dim)) for width in channels]
        width = channels[-1]
        for _ in range(sizes.levels - len(channels)):
            strided = nn.Conv2d(width, sizes.dim, 3, stride=2, padding=1)
            projections.append(nn.Sequential(strided, nn.GroupNorm(32, sizes.dim)))
            width = sizes.dim
        for projection in projections:
            convolution = projection[0]
            assert isinstance(convolution, nn.Conv2d)
            assert convolution.bias is not None
            nn.init.xavier_uniform_(convolution.weight)
            nn.init.zeros_(convolution.bias)
        self.input_proj = nn.ModuleList(projections)
        self.class_embed = nn.ModuleList([class_head(sizes.dim, settings.classes)] * sizes.layers)
        self.bbox_embed = nn.ModuleList([box_head(sizes.dim)] * sizes.layers)
        self.transformer.decoder.bbox_embed = self.bbox_embed
        self.transformer.decoder.class_embed = self.class_embed

    def project(self, features: Sequence[Tensor], padding: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Levels (B, C, h_l, w_l) and their paddings (B, h_l, w_l), from features and the images' padding (B, H, W)."""
        levels = [projection(feature) for projection, feature in zip(self.input_proj, features, strict=False)]
        for projection in list(self.input_proj)[len(features) :]:
            levels.append(projection(levels[-1] if len(levels) > len(features) else features[-1]))
        paddings = [
            functional.interpolate(padding[:, None].float(), size=level.shape[-2:])[:, 0].bool() for level in levels
        ]
        return levels, paddings

    def find(
        self, features: Sequence[Tensor], padding: Tensor, targets: Sequence[Target] | None, draws: Draws
    ) -> Outputs:
        """Find objects.

        Args:
            features: (B, C_l, h_l, w_l) of the backbone, the finest first.
            padding: (B, H, W) bool of the images, True on padding.
            targets: objects of each image, for denoising queries; None for none.
            draws: of the denoising.
        """
        tokens = self.transformer.encode(*self.project(features, padding))
        noised = self._noised(targets, draws)
        states, references, proposals = self.transformer.decode(tokens, noised)
        boxes = predicted_boxes(states, references, self.bbox_embed, self.settings.decoder.eps)
        logits = [head(state) for head, state in zip(self.class_embed, states, strict=True)]
        if self.training and noised is None:  # the embedding gets a gradient (of zero) in every step, for DDP
            logits[-1] = logits[-1] + 0.0 * self.label_enc.weight.sum()
        count = 0 if noised is None else noised.count
        return Outputs(
            tuple(Predictions(a[:, count:], b[:, count:]) for a, b in zip(logits, boxes, strict=True)),
            proposals,
            tuple(Predictions(a[:, :count], b[:, :count]) for a, b in zip(logits, boxes, strict=True)) if count else (),
            noised,
        )

    def _noised(self, targets: Sequence[Target] | None, draws: Draws) -> NoisedQueries | None:
        settings = self.settings
        if targets is None or not settings.denoising:
            return None
        return contrastive_objects(
            targets,
            self.label_enc,
            classes=settings.classes,
            queries=settings.queries,
            number=settings.denoising_number,
            label_noise=settings.label_noise,
            box_noise=settings.box_noise,
            eps=settings.decoder.eps,
            draws=draws,
        )
