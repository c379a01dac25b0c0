"""Part evidence: what a part extractor hands to a classification head."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from maskdino_ext.structures import Outputs


@dataclass(frozen=True)
class PartDetections:
    """What a detector's queries say; their order means nothing.

    Attributes:
        logits: (B, Q, P), a sigmoid of which is the probability that a query shows part p.
        boxes: (B, Q, 4) cxcywh in shares of the image's width and height.
    """

    logits: Tensor
    boxes: Tensor

    def __post_init__(self) -> None:
        if self.logits.dim() != 3 or self.boxes.shape != (*self.logits.shape[:2], 4):
            raise ValueError(
                f"detections are logits (B, Q, P) and boxes (B, Q, 4), not {tuple(self.logits.shape)} and "
                f"{tuple(self.boxes.shape)}"
            )


class PartEvidence:
    """Soft part masks of a batch, detections, or both; the only thing that an evidence head may look at.

    Args:
        mask_logits: (B, 1 + P, h, w), channel 0 is the background, channel 1 + p is part p (or object, or
            foreground, after the extractor's part level). The evidence's resolution h x w is the extractor's own.
            None from a detector of boxes.
        image_size: (height, width) in pixels of the images that the evidence was found in.
        detections: of a detector.
        coarser: further mask logits, at lower resolutions, that training compares with the labels as well.

    Raises:
        ValueError: neither masks nor detections, or masks of another shape.
    """

    def __init__(
        self,
        mask_logits: Tensor | None,
        image_size: tuple[int, int],
        detections: PartDetections | None = None,
        coarser: tuple[Tensor, ...] = (),
    ) -> None:
        if mask_logits is None and detections is None:
            raise ValueError("part evidence is masks, detections, or both")
        if mask_logits is not None and (mask_logits.dim() != 4 or mask_logits.shape[1] < 2):
            raise ValueError(f"mask logits must be (B, 1 + P, h, w), not {tuple(mask_logits.shape)}")
        self._mask_logits = mask_logits
        self._detections = detections
        self._coarser = coarser
        self.image_size = image_size
        # what a detector's losses need of a forward pass in training
        self.training_outputs: Outputs | None = None

    def for_images(self, count: int) -> PartEvidence:
        """This evidence for ``count`` versions of its images: of one image it is repeated, of a batch it stays.

        Raises:
            ValueError: a batch of another size, whose rows would be mistaken for others'.
        """
        found = self._mask_logits if self._mask_logits is not None else self.detections.logits
        if len(found) == count:
            return self
        if len(found) != 1:
            raise ValueError(f"evidence of {len(found)} images is not that of {count}: ask about one image at a time")
        masks = None if self._mask_logits is None else self._mask_logits.expand(count, -1, -1, -1)
        one = self._detections
        detections = one and PartDetections(one.logits.expand(count, -1, -1), one.boxes.expand(count, -1, -1))
        return PartEvidence(masks, self.image_size, detections)

    @property
    def has_masks(self) -> bool:
        return self._mask_logits is not None

    @property
    def has_detections(self) -> bool:
        return self._detections is not None

    @property
    def mask_logits(self) -> Tensor:
        """(B, 1 + P, h, w).

        Raises:
            ValueError: the extractor gives none.
        """
        if self._mask_logits is None:
            raise ValueError("this extractor gives boxes and no masks")
        return self._mask_logits

    @property
    def resolutions(self) -> tuple[Tensor, ...]:
        """Mask logits at every resolution that training compares with the labels, the finest first."""
        return (self.mask_logits, *self._coarser)

    @property
    def detections(self) -> PartDetections:
        """What the queries say.

        Raises:
            ValueError: the extractor gives none.
        """
        if self._detections is None:
            raise ValueError("this extractor gives masks and no detections")
        return self._detections

    @property
    def masks(self) -> Tensor:
        """Probability of each channel at each pixel, (B, 1 + P, h, w), summing to 1 over the channels."""
        return self.mask_logits.softmax(dim=1)
