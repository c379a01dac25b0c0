"""Mask DINO's predictor: query selection, denoising, decoder, and the heads for class, box and mask."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from .decoder import Decoder, DecoderSettings, predicted_boxes
from .denoising import noised_objects
from .draws import Draws
from .gradients import cut, learns
from .layers import MLP
from .ms_deform_attn import MSDeformAttn
from .query_selection import BOX_TYPES, Selection, anchors_from_masks, select_tokens, token_proposals
from .structures import NoisedQueries, Outputs, Predictions, Target

DENOISING = ("no", "standard", "seg")
PRIOR = 0.01  # probability that an untrained class head gives


@dataclass(frozen=True)
class MaskDecoderSettings:
    """Sizes and choices of the predictor.

    Attributes:
        decoder: sizes of the decoder.
        classes: of objects.
        class_outputs: of the class head: ``classes``, or one more for "no object" with a softmax.
        queries: number of matching queries.
        mask_dim: channels of the pixel embedding.
        two_stage: queries come from the encoder's tokens; otherwise they are learned.
        learned_content: with two stages, only the boxes come from the tokens.
        initial_prediction: predict from the queries before the first layer too.
        box_type: where initial boxes come from: ``no`` (the tokens' boxes), ``bitmask`` or ``mask2box`` (their masks).
        denoising: ``no``, ``standard`` (labels and boxes) or ``seg`` (masks too).
        denoising_queries, denoising_noise: see :func:`noised_objects`.
        class_prior: start the class head at a probability of 1 %; the official code does not, and begins with losses of
            20,000.
    """

    decoder: DecoderSettings
    classes: int
    class_outputs: int
    queries: int
    mask_dim: int
    two_stage: bool
    learned_content: bool
    initial_prediction: bool
    box_type: str
    denoising: str
    denoising_queries: int
    denoising_noise: float
    class_prior: bool = True


class MaskDINODecoder(nn.Module):
    """The predictor.

    Raises:
        ValueError: choices that do not exist or do not go together.
    """

    def __init__(self, settings: MaskDecoderSettings) -> None:
        super().__init__()
        _check(settings)
        self.settings = settings
        dim = settings.decoder.dim
        if settings.two_stage:
            self.enc_output = nn.Linear(dim, dim)
            self.enc_output_norm = nn.LayerNorm(dim)
        if settings.learned_content or not settings.two_stage:
            self.query_feat = nn.Embedding(settings.queries, dim)
        if not settings.two_stage:
            self.query_embed = nn.Embedding(settings.queries, 4)
        self.class_embed = nn.Linear(dim, settings.class_outputs)
        self.label_enc = nn.Embedding(settings.classes, dim)
        self.mask_embed = MLP(dim, dim, settings.mask_dim, 3)
        self.decoder = Decoder(settings.decoder)
        self.decoder_norm = self.decoder.norm  # the same module under two names, as in official checkpoints
        self._bbox_embed = MLP(dim, dim, 4, 3)
        self.bbox_embed = nn.ModuleList([self._bbox_embed] * settings.decoder.layers)
        self.decoder.bbox_embed = self.bbox_embed
        self._reset_parameters()

    def _reset_parameters(self) -> None:
        for module in self.decoder.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
        for module in self.decoder.modules():
            if isinstance(module, MSDeformAttn):
                module.reset_parameters()
        last = self._bbox_embed.layers[-1]
        assert isinstance(last, nn.Linear)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        if self.settings.class_prior:
            nn.init.constant_(self.class_embed.bias, -math.log((1 - PRIOR) / PRIOR))

    def forward(
        self,
        levels: Sequence[Tensor],
        mask_features: Tensor,
        targets: Sequence[Target] | None = None,
        *,
        draws: Draws,
        every_mask: bool = False,
    ) -> Outputs:
        """Find objects.

        Args:
            levels: (B, C, h_l, w_l) of the pixel decoder; read in the reverse order, as in the official code.
            mask_features: (B, mask_dim, h, w).
            targets: objects of each image, for denoising queries; None for none.
            draws: of the denoising.
            every_mask: predict masks after every layer; otherwise after the last one only, as evaluation needs.
        """
        reverse = list(levels)[::-1]
        shapes = [(level.shape[2], level.shape[3]) for level in reverse]
        tokens = torch.cat([level.flatten(2).transpose(1, 2) for level in reverse], dim=1)
        selection = None
        if self.settings.two_stage:
            selection = self.select(tokens, shapes)
        content, anchors, proposals = self._queries(selection, mask_features)
        noised = self._noised(targets, draws)
        if noised is not None:
            content = torch.cat([noised.content, content], dim=1)
            anchors = torch.cat([noised.anchors, anchors], dim=1)
        valid = tokens.new_ones(tokens.shape[0], len(shapes), 2)
        states, references = self.decoder(
            content, anchors, tokens, shapes, valid, blocked=None if noised is None else noised.blocked
        )
        boxes = predicted_boxes(states, references, self.bbox_embed, self.settings.decoder.eps)
        if self.settings.initial_prediction:
            states, boxes = [content, *states], [anchors.sigmoid(), *boxes]
        layers = []
        for number, (state, box) in enumerate(zip(states, boxes, strict=True)):
            logits, masks = self.heads(state, mask_features if every_mask or number == len(states) - 1 else None)
            layers.append(Predictions(logits, box, masks))
        if self.training and noised is None:  # the embedding gets a gradient (of zero) in every step, for DDP
            layers[-1] = replace(layers[-1], logits=layers[-1].logits + 0.0 * self.label_enc.weight.sum())
        return _separate(layers, proposals, noised)

    def select(self, tokens: Tensor, shapes: Sequence[tuple[int, int]]) -> Selection:
        """The tokens (B, S, C) that become queries, with the class and box heads that the decoder uses as well."""
        useful, proposals = token_proposals(tokens, shapes, None)
        memory = self.enc_output_norm(self.enc_output(useful))
        return select_tokens(memory, proposals, self.class_embed, self._bbox_embed, self.settings.queries)

    def heads(self, state: Tensor, mask_features: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Class logits (B, Q, K) and mask logits (B, Q, h, w) of queries (B, Q, C).

        The norm is the decoder's own: outputs of its layers, which it has already normed, are normed again, as in the
        official code.
        """
        normed = self.decoder_norm(state)
        masks = None
        if mask_features is not None:
            masks = torch.einsum("bqc,bchw->bqhw", self.mask_embed(normed), mask_features)
        return self.class_embed(normed), masks

    def _queries(self, selection: Selection | None, mask_features: Tensor) -> tuple[Tensor, Tensor, Predictions | None]:
        """Content (B, Q, C) and anchors (B, Q, 4), and what the chosen tokens predict.

        While the weights learn, content and anchors have no gradient; boxes around masks never have one.
        """
        batch = mask_features.shape[0]
        if selection is None:
            content = self.query_feat.weight[None].expand(batch, -1, -1)
            return content, self.query_embed.weight[None].expand(batch, -1, -1), None
        logits, masks = self.heads(selection.memory, mask_features)
        assert masks is not None
        learning = learns(self)
        content = cut(selection.memory, learning)
        if self.settings.learned_content:
            content = self.query_feat.weight[None].expand(batch, -1, -1)
        anchors = cut(selection.anchors, learning)
        if self.settings.box_type != "no":
            anchors = anchors_from_masks(masks, self.settings.box_type, self.settings.decoder.eps)
        return content, anchors, Predictions(logits, selection.anchors.sigmoid(), masks)

    def _noised(self, targets: Sequence[Target] | None, draws: Draws) -> NoisedQueries | None:
        settings = self.settings
        if targets is None or settings.denoising == "no":
            return None
        return noised_objects(
            targets,
            self.label_enc,
            classes=settings.classes,
            queries=settings.queries,
            number=settings.denoising_queries,
            noise=settings.denoising_noise,
            eps=settings.decoder.eps,
            draws=draws,
        )


def _separate(layers: Sequence[Predictions], proposals: Predictions | None, noised: NoisedQueries | None) -> Outputs:
    """Take the denoising queries, which come first, apart from the matching ones."""
    if noised is None:
        return Outputs(tuple(layers), proposals)
    count = noised.count

    def part(one: Predictions, rows: slice) -> Predictions:
        masks = None if one.masks is None else one.masks[:, rows]
        return Predictions(one.logits[:, rows], one.boxes[:, rows], masks)

    return Outputs(
        tuple(part(one, slice(count, None)) for one in layers),
        proposals,
        tuple(part(one, slice(0, count)) for one in layers),
        noised,
    )


def _check(settings: MaskDecoderSettings) -> None:
    if settings.denoising not in DENOISING:
        raise ValueError(f"unknown kind of denoising {settings.denoising!r}; known: {', '.join(DENOISING)}")
    if settings.box_type not in BOX_TYPES:
        raise ValueError(f"unknown initialisation of boxes {settings.box_type!r}; known: {', '.join(BOX_TYPES)}")
    if settings.box_type != "no" and not settings.two_stage:
        raise ValueError(f"boxes from masks ({settings.box_type}) need two-stage query selection")
    if settings.box_type != "no" and not settings.initial_prediction:
        raise ValueError(f"boxes from masks ({settings.box_type}) need the initial prediction")
    if settings.denoising_queries < 0 or not 0 <= settings.denoising_noise <= 1:
        raise ValueError("denoising needs a number of queries >= 0 and a noise within [0, 1]")
