"""Mask DINO's pixel decoder: a deformable encoder over several scales, and a pixel embedding at stride 4."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from detectron2.layers import Conv2d, ShapeSpec, get_norm
from torch import Tensor, nn
from torch.nn import functional

from .layers import EncoderLayer, token_centres, widened
from .ms_deform_attn import MSDeformAttn, Shapes
from .position import pixel_encoding

FEATURE_ORDERS = ("low2high", "high2low")


@dataclass(frozen=True)
class PixelDecoderSettings:
    """Everything but the backbone's features.

    Attributes:
        in_features: backbone features that the encoder sees.
        total_levels: scales of the encoder; strided convolutions make those beyond ``in_features`` from the coarsest.
        order: ``low2high`` puts the finest level first, ``high2low`` the coarsest.
        common_stride: of the pixel embedding; the backbone must have a feature of this stride.
        dim, mask_dim: channels of the tokens, and of the pixel embedding.
        norm: of the two convolutions at the common stride, a name that detectron2 knows.
        layers, heads, points, feedforward, dropout, form: of the encoder, see :class:`EncoderLayer`.
        swapped_encodings: with two extra levels, give each the other's position encoding: the official code does, and
            its weights expect it.
    """

    in_features: tuple[str, ...]
    total_levels: int
    order: str
    common_stride: int
    dim: int
    mask_dim: int
    norm: str
    layers: int
    heads: int
    points: int
    feedforward: int
    dropout: float = 0.0
    form: str = "torch"
    swapped_encodings: bool = False


@dataclass(frozen=True)
class PixelFeatures:
    """What the pixel decoder gives.

    Attributes:
        mask_features: (B, mask_dim, h, w) pixel embedding at the common stride.
        levels: (B, C, h_l, w_l) encoder output, in the encoder's order of levels.
        inputs, encodings: what the encoder saw: (B, C, h_l, w_l) and (1, C, h_l, w_l) each.
    """

    mask_features: Tensor
    levels: tuple[Tensor, ...]
    inputs: tuple[Tensor, ...]
    encodings: tuple[Tensor, ...]


class Encoder(nn.Module):
    """Layers one after the other."""

    def __init__(
        self, dim: int, feedforward: int, layers: int, levels: int, heads: int, points: int, form: str, dropout: float
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            EncoderLayer(dim, feedforward, levels, heads, points, form, dropout) for _ in range(layers)
        )

    def forward(
        self, tokens: Tensor, position: Tensor, shapes: Shapes, valid: Tensor, padding: Tensor | None = None
    ) -> Tensor:
        """tokens, position (B, S, C), valid (B, L, 2), padding (B, S) -> (B, S, C)."""
        reference = token_centres(shapes, valid)
        # in float32 under autocast too, as in the official code
        with torch.autocast(tokens.device.type, enabled=False):
            tokens = widened(tokens)
            for layer in self.layers:
                tokens = layer(tokens, position, reference, shapes, padding)
        return tokens


class _Transformer(nn.Module):
    """The encoder with an embedding of each level; named as in the official code."""

    def __init__(self, settings: PixelDecoderSettings) -> None:
        super().__init__()
        self.encoder = Encoder(
            settings.dim,
            settings.feedforward,
            settings.layers,
            settings.total_levels,
            settings.heads,
            settings.points,
            settings.form,
            settings.dropout,
        )
        self.level_embed = nn.Parameter(torch.empty(settings.total_levels, settings.dim))
        nn.init.normal_(self.level_embed)

    def forward(self, inputs: Sequence[Tensor], encodings: Sequence[Tensor]) -> list[Tensor]:
        shapes = [(feature.shape[2], feature.shape[3]) for feature in inputs]
        tokens = torch.cat([feature.flatten(2).transpose(1, 2) for feature in inputs], dim=1)
        position = torch.cat(
            [
                encoding.flatten(2).transpose(1, 2) + level
                for encoding, level in zip(encodings, self.level_embed, strict=True)
            ],
            dim=1,
        )
        # Padding is not masked, as in the official code: the whole batch canvas counts as image.
        valid = tokens.new_ones(tokens.shape[0], len(shapes), 2)
        found = self.encoder(tokens, position.expand_as(tokens), shapes, valid)
        pieces = found.split([height * width for height, width in shapes], dim=1)
        return [piece.transpose(1, 2).unflatten(2, shape) for piece, shape in zip(pieces, shapes, strict=True)]


class MaskDINOEncoder(nn.Module):
    """The pixel decoder.

    Args:
        features: channels and strides of the backbone's features by name.
        settings: see :class:`PixelDecoderSettings`.

    Raises:
        ValueError: an unknown order of levels, missing features, fewer levels than features, or no feature of the
            common stride.
    """

    def __init__(self, features: Mapping[str, ShapeSpec], settings: PixelDecoderSettings) -> None:
        super().__init__()
        _check(features, settings)
        self.settings = settings
        by_stride = sorted(settings.in_features, key=lambda name: features[name].stride or 0)
        self.in_features = by_stride if settings.order == "low2high" else by_stride[::-1]
        self.coarsest = by_stride[-1]
        [self.lateral] = [name for name, shape in features.items() if shape.stride == settings.common_stride]
        dim = settings.dim
        widths = [features[name].channels or 0 for name in self.in_features]
        projections = [nn.Sequential(nn.Conv2d(width, dim, 1), nn.GroupNorm(32, dim)) for width in widths]
        width = features[self.coarsest].channels or 0
        for _ in range(settings.total_levels - len(widths)):
            projections.append(nn.Sequential(nn.Conv2d(width, dim, 3, stride=2, padding=1), nn.GroupNorm(32, dim)))
            width = dim
        self.input_proj = nn.ModuleList(projections)
        self.transformer = _Transformer(settings)
        bias = settings.norm == ""
        self.adapter_1 = Conv2d(
            features[self.lateral].channels or 0, dim, kernel_size=1, bias=bias, norm=get_norm(settings.norm, dim)
        )
        self.layer_1 = Conv2d(
            dim, dim, kernel_size=3, padding=1, bias=bias, norm=get_norm(settings.norm, dim), activation=functional.relu
        )
        self.mask_features = Conv2d(dim, settings.mask_dim, kernel_size=1)
        self._reset_parameters()

    def _reset_parameters(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
        for module in self.modules():
            if isinstance(module, MSDeformAttn):
                module.reset_parameters()
        for projection in self.input_proj:
            convolution = projection.get_submodule("0")
            assert isinstance(convolution, nn.Conv2d)
            assert convolution.bias is not None
            nn.init.xavier_uniform_(convolution.weight)
            nn.init.zeros_(convolution.bias)
        for convolution in (self.adapter_1, self.layer_1, self.mask_features):
            nn.init.kaiming_uniform_(convolution.weight, a=1)
            if convolution.bias is not None:
                nn.init.zeros_(convolution.bias)

    def forward(self, features: Mapping[str, Tensor]) -> PixelFeatures:
        """Backbone features (B, C_f, h_f, w_f) by name -> :class:`PixelFeatures`.

        In float32 under autocast too, as in the official code.
        """
        with torch.autocast(next(iter(features.values())).device.type, enabled=False):
            return self._forward({name: widened(feature) for name, feature in features.items()})

    def _forward(self, features: Mapping[str, Tensor]) -> PixelFeatures:
        inputs = [
            projection(features[name]) for name, projection in zip(self.in_features, self.input_proj, strict=False)
        ]
        extra: list[Tensor] = []
        for projection in list(self.input_proj)[len(inputs) :]:
            extra.append(projection(extra[-1] if extra else features[self.coarsest]))
        inputs, encodings = self._order(inputs, extra)
        levels = self.transformer(inputs, encodings)
        finest = levels[0] if self.settings.order == "low2high" else levels[-1]
        lateral = self.adapter_1(features[self.lateral])
        enlarged = functional.interpolate(finest, size=lateral.shape[-2:], mode="bilinear", align_corners=False)
        mask_features = self.mask_features(self.layer_1(lateral + enlarged))
        return PixelFeatures(mask_features, tuple(levels), tuple(inputs), tuple(encodings))

    def _order(self, inputs: list[Tensor], extra: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """All levels in the encoder's order, and their position encodings (1, C, h, w)."""
        first = self.settings.order == "high2low"
        swapped = self.settings.swapped_encodings
        # the official code turns the extra levels around in both orders
        placed = extra[::-1] if first or swapped else extra
        encodings = [self._encoding(one) for one in inputs]
        of_extra = [self._encoding(one) for one in (extra if swapped else placed)]
        if first:
            return placed + inputs, of_extra + encodings
        return inputs + placed, encodings + of_extra

    def _encoding(self, feature: Tensor) -> Tensor:
        nothing = torch.zeros(1, *feature.shape[-2:], dtype=torch.bool, device=feature.device)
        return pixel_encoding(nothing, self.settings.dim, 10000.0)


def _check(features: Mapping[str, ShapeSpec], settings: PixelDecoderSettings) -> None:
    if settings.order not in FEATURE_ORDERS:
        raise ValueError(f"unknown order of levels {settings.order!r}; known: {', '.join(FEATURE_ORDERS)}")
    missing = [name for name in settings.in_features if name not in features]
    if missing:
        raise ValueError(f"the backbone has no feature {missing[0]!r}; it has: {', '.join(features)}")
    if settings.total_levels < len(settings.in_features):
        raise ValueError(f"{settings.total_levels} levels for {len(settings.in_features)} features of the backbone")
    strides = {name: shape.stride for name, shape in features.items()}
    if list(strides.values()).count(settings.common_stride) != 1:
        raise ValueError(f"exactly one feature must have the stride {settings.common_stride}; strides: {strides}")
    if min(strides[name] or 0 for name in settings.in_features) > 2 * settings.common_stride:
        raise ValueError(
            f"the encoder's finest feature may be at most twice as coarse as the pixel embedding's stride "
            f"{settings.common_stride}; strides: {strides}"
        )
