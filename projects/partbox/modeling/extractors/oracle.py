"""The true parts as evidence: the upper bound of what a head can do with a perfect extractor."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from ..evidence import PartEvidence
from .base import Extractor, ExtractorInputs


class OracleExtractor(Extractor):
    """Evidence made from the labels; does not look at the image, and so no attack moves it.

    Args:
        num_channels: P, mask channels without background.
        certainty: logit of the true channel; the others have 0.
    """

    needs_part_maps = True

    def __init__(self, num_channels: int, certainty: float = 20.0) -> None:
        super().__init__()
        self.num_channels = num_channels
        self.certainty = certainty

    def forward(self, inputs: ExtractorInputs) -> PartEvidence:
        """Raises ValueError where an image has no part labels."""
        maps: Tensor | None = inputs.part_maps
        if maps is None or bool((maps < 0).any()):
            raise ValueError("the oracle extractor needs part labels for every image and pixel")
        one_hot = functional.one_hot(maps, 1 + self.num_channels).permute(0, 3, 1, 2)
        height, width = inputs.images.shape[-2:]
        return PartEvidence(one_hot.to(inputs.images.dtype) * self.certainty, (height, width))
