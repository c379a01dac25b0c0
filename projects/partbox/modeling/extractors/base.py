"""What an extractor is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from ..evidence import PartEvidence


@dataclass(frozen=True)
class PartObjects:
    """The labelled parts of one image, for detectors.

    Attributes:
        channels: (N,) int64 mask channel of each, from 0 without background.
        boxes: (N, 4) cxcywh in shares of the image's width and height.
        masks: (N, H, W) bool; None where the model learns from boxes alone.
    """

    channels: Tensor
    boxes: Tensor
    masks: Tensor | None


@dataclass(frozen=True)
class ExtractorInputs:
    """What an extractor may look at.

    Attributes:
        features: the backbone's feature maps by name, (B, C, h, w) each.
        images: (B, 3, H, W) in [0, 1].
        part_maps: (B, H, W) int64 at the extractor's part level, 0 = background; only the oracle reads them.
        objects: the labelled parts of each image, None for an image without labels; only detectors in training read
            them, for denoising.
    """

    features: dict[str, Tensor]
    images: Tensor
    part_maps: Tensor | None = None
    objects: Sequence[PartObjects | None] | None = None


class Extractor(nn.Module):
    """Finds soft part masks, or detections.

    Attributes:
        num_channels: P, mask channels without background.
        needs_part_maps: whether ``part_maps`` must be given.
        gives_masks: whether the evidence has masks.
        gives_detections: whether it has detections.
        learns_objects: whether it has losses of its own on the labelled parts as objects (:meth:`loss`); otherwise its
            masks are compared with part maps.
        queries: number of detections.
        training_only: whether it runs in training alone; the label must not depend on it.
        decoder_channels: channels of the features that the masks are made of (:meth:`decode`); 0 = it has none to show.
        decoder_stride: their stride in pixels.
    """

    num_channels: int
    needs_part_maps = False
    gives_masks = True
    gives_detections = False
    learns_objects = False
    queries = 0
    training_only = False
    decoder_channels = 0
    decoder_stride = 0

    def decode(self, inputs: ExtractorInputs) -> Tensor:
        """The features that the masks are made of, (B, C, h, w)."""
        raise NotImplementedError

    def evidence_of(self, decoded: Tensor, inputs: ExtractorInputs) -> PartEvidence:
        """The evidence that :meth:`decode` leads to."""
        raise NotImplementedError

    def forward(self, inputs: ExtractorInputs) -> PartEvidence:
        raise NotImplementedError

    def loss(
        self, evidence: PartEvidence, objects: Sequence[PartObjects | None], weights: Tensor | None = None
    ) -> Tensor:
        """The extractor's own loss, a number.

        Args:
            evidence: of a forward pass in training.
            objects: of each image; None stands for an image whose parts are not labelled.
            weights: (B,) multiplies what each image adds to the loss, and nothing else; None stands for ones.
        """
        raise NotImplementedError
