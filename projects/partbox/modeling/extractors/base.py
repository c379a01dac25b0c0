"""What an extractor is."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from ..evidence import PartEvidence


@dataclass(frozen=True)
class ExtractorInputs:
    """What an extractor may look at.

    Attributes:
        features: the backbone's feature maps by name, (B, C, h, w) each.
        images: (B, 3, H, W) in [0, 1].
        part_maps: (B, H, W) int64 at the extractor's part level, 0 = background; only the oracle reads them.
    """

    features: dict[str, Tensor]
    images: Tensor
    part_maps: Tensor | None = None


class Extractor(nn.Module):
    """Finds soft part masks.

    Attributes:
        num_channels: P, mask channels without background.
        needs_part_maps: whether ``part_maps`` must be given.
    """

    num_channels: int
    needs_part_maps = False

    def forward(self, inputs: ExtractorInputs) -> PartEvidence:
        raise NotImplementedError
