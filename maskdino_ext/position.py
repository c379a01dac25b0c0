"""Sine encodings of pixels and of boxes (Vaswani et al. 2017; DAB-DETR, arXiv 2201.12329)."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def _waves(position: Tensor, channels: int, temperature: float) -> Tensor:
    """Sines and cosines in turn, (...) -> (..., channels)."""
    step = torch.arange(channels, dtype=torch.float32, device=position.device)
    period = temperature ** (2 * torch.div(step, 2, rounding_mode="floor") / channels)
    phase = position[..., None] / period
    return torch.stack([phase[..., 0::2].sin(), phase[..., 1::2].cos()], dim=-1).flatten(-2)


def pixel_encoding(padding: Tensor, channels: int, temperature: float) -> Tensor:
    """Encoding of each pixel's place among the pixels that are not padding.

    Args:
        padding: (B, H, W) bool, True on padding.
        channels: of the encoding, even: half of them for y, half for x.
        temperature: longest wavelength over 2 pi.

    Returns:
        (B, channels, H, W).
    """
    real = (~padding).to(torch.float32)
    y, x = real.cumsum(dim=1), real.cumsum(dim=2)
    tiny = 1e-6
    y = y / (y[:, -1:, :] + tiny) * (2 * math.pi)
    x = x / (x[:, :, -1:] + tiny) * (2 * math.pi)
    return torch.cat([_waves(y, channels // 2, temperature), _waves(x, channels // 2, temperature)], dim=3).permute(
        0, 3, 1, 2
    )


def box_encoding(boxes: Tensor, channels: int) -> Tensor:
    """Encoding of boxes, (..., 4) cxcywh in [0, 1] -> (..., 4 * channels), in the order y, x, w, h."""
    scaled = boxes * (2 * math.pi)
    x, y, width, height = (_waves(one, channels, 10000.0) for one in scaled.unbind(dim=-1))
    return torch.cat([y, x, width, height], dim=-1)
