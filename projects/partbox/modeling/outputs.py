"""What a part classifier takes beside images, and what it gives."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from .evidence import PartEvidence
from .extractors import PartObjects


@dataclass(frozen=True)
class PartOutput:
    """What one forward pass gives.

    Attributes:
        logits: (B, K).
        evidence: of the extractor, None for a plain classifier.
    """

    logits: Tensor
    evidence: PartEvidence | None


@dataclass(frozen=True)
class PartTargets:
    """Labels of a batch.

    Attributes:
        labels: (B,) int64 class of each image.
        part_maps: (B, H, W) int64 part of each pixel, 0 = background, 1 + p = part p, -1 = not labelled.
        objects: the parts of each image as objects, for detectors; None for an image whose parts are not labelled.
        part_weights: (B,) in (0, 1], what each image's part term counts (less than 1 for predicted labels); None stands
            for ones.
        clean_images: (B, 3, H, W) in [0, 1], the images as nobody has attacked them; only of a model whose extractor
            sees those alone.
    """

    labels: Tensor
    part_maps: Tensor
    objects: tuple[PartObjects | None, ...] = ()
    part_weights: Tensor | None = None
    clean_images: Tensor | None = None
