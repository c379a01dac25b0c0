"""Part evidence: what a part extractor hands to a classification head."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class PartEvidence:
    """Soft part masks of a batch; the only thing that an evidence head may look at.

    Attributes:
        mask_logits: (B, 1 + P, h, w), channel 0 is the background, channel 1 + p is part p (or object, or
            foreground, after the extractor's part level). The evidence's resolution h x w is the extractor's own.
        image_size: (height, width) in pixels of the images that the evidence was found in.
    """

    mask_logits: Tensor
    image_size: tuple[int, int]

    def __post_init__(self) -> None:
        if self.mask_logits.dim() != 4 or self.mask_logits.shape[1] < 2:
            raise ValueError(f"mask logits must be (B, 1 + P, h, w), not {tuple(self.mask_logits.shape)}")

    @property
    def masks(self) -> Tensor:
        """Probability of each channel at each pixel, (B, 1 + P, h, w), summing to 1 over the channels."""
        return self.mask_logits.softmax(dim=1)
