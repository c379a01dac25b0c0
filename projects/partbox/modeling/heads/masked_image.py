"""Part masks, alone or with the image, through a network of their own (the original's mask, seg and cat)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..backbones import POOLED, TimmBackbone
from ..evidence import PartEvidence
from .base import EvidenceHead, ImageHead

Combine = Literal["concat", "multiply"]
COMBINATIONS = ("masks", "concat", "multiply")


class MaskReader(nn.Module):
    """Evidence -> one plane a mask at the image's size, (B, C, H, W), each pixel's planes summing to 1 or less.

    Args:
        num_channels: P, mask channels of the evidence without background.
        keep_background: whether the background's mask is one of the planes.
        hard: the most probable mask of each pixel alone, 0 or 1. Its derivative is zero wherever it exists; the
            gradient of the soft masks takes its place (straight-through, Bengio et al. 2013, arXiv 1308.3432; as an
            attack, BPDA, Athalye et al. 2018, arXiv 1802.00420).
        detach: in training the class teaches the extractor nothing. Only then: evaluation, and attacks with it, keep
            the gradient, since a defence that hides it would look robust to attacks that follow it.
        temperature: divides the mask logits, > 0.
        to_class: None, or (P, K), each row summing to 1: add up the masks of a class.

    Raises:
        ValueError: the temperature is not positive.

    Attributes:
        channels: C.
    """

    to_class: Tensor | None

    def __init__(
        self,
        num_channels: int,
        *,
        keep_background: bool = True,
        hard: bool = False,
        detach: bool = False,
        temperature: float = 1.0,
        to_class: Tensor | None = None,
    ) -> None:
        super().__init__()
        if not temperature > 0:
            raise ValueError(f"MODEL.PART.HEAD.MASK_TEMPERATURE must be positive, not {temperature}")
        self.keep_background = keep_background
        self.hard, self.detach, self.temperature = hard, detach, temperature
        self.register_buffer("to_class", to_class, persistent=False)
        self.channels = (num_channels if to_class is None else to_class.shape[1]) + int(keep_background)

    def forward(self, evidence: PartEvidence) -> Tensor:
        logits = evidence.mask_logits
        if self.detach and self.training:
            logits = logits.detach()
        if logits.shape[-2:] != evidence.image_size:
            logits = functional.interpolate(logits, size=evidence.image_size, mode="bilinear", align_corners=False)
        masks = (logits / self.temperature).softmax(dim=1)
        if self.to_class is not None:
            parts = torch.einsum("bphw,pk->bkhw", masks[:, 1:], self.to_class)
            masks = torch.cat([masks[:, :1], parts], dim=1)
        if self.hard:
            masks = one_hot(masks)
        return masks if self.keep_background else masks[:, 1:]


def one_hot(masks: Tensor) -> Tensor:
    """Exactly 1 where a mask is the largest of its pixel, else 0; (B, C, H, W), with the gradient of ``masks``."""
    chosen = torch.zeros_like(masks).scatter_(1, masks.argmax(dim=1, keepdim=True), 1.0)
    return chosen + (masks - masks.detach())


class MaskNetworkHead(EvidenceHead):
    """Masks as the input channels of a network, and a linear layer; sees nothing of the image but its masks.

    Args:
        reader: of the masks.
        network: timm network that takes ``reader.channels`` planes, with a pooled output.
        num_classes: K.
    """

    def __init__(self, reader: MaskReader, network: TimmBackbone, num_classes: int) -> None:
        super().__init__()
        self.reader, self.network = reader, network
        self.exact_gradient = not reader.hard
        self.linear = nn.Linear(network.output_shape()[POOLED].channels or 0, num_classes)

    def forward(self, evidence: PartEvidence) -> Tensor:
        return self.linear(self.network(self.reader(evidence))[POOLED])


class MaskedImageHead(ImageHead):
    """Image and masks together.

    ``concat``: colours and masks are the input channels of one network. ``multiply``: the network sees the image once
    for each mask, multiplied by it (what is masked out becomes the mean colour), and a linear layer reads all the
    results side by side; C times the cost.

    Args:
        reader: of the masks.
        network: timm network with a pooled output; takes 3 + ``reader.channels`` planes, or the 3 of an image.
        num_classes: K.
        combine: ``concat`` or ``multiply``.
    """

    def __init__(self, reader: MaskReader, network: TimmBackbone, num_classes: int, *, combine: Combine) -> None:
        super().__init__()
        self.reader, self.network, self.combine = reader, network, combine
        self.exact_gradient = not reader.hard
        views = reader.channels if combine == "multiply" else 1
        self.linear = nn.Linear(views * (network.output_shape()[POOLED].channels or 0), num_classes)

    def forward(self, evidence: PartEvidence, images: Tensor) -> Tensor:
        masks = self.reader(evidence)
        if self.combine == "concat":
            return self.linear(self.network(torch.cat([images, masks], dim=1))[POOLED])
        views = (images[:, None] * masks[:, :, None]).flatten(0, 1)
        vectors: Tensor = self.network(views)[POOLED]
        return self.linear(vectors.reshape(images.shape[0], -1))
