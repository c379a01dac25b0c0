"""What passes between the parts of a detector."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Predictions:
    """Of one layer.

    Attributes:
        logits: (B, Q, K) of the classes.
        boxes: (B, Q, 4) cxcywh in [0, 1].
        masks: (B, Q, h, w) logits at the stride of the pixel embedding; None where they were not asked for, or in DINO.
    """

    logits: Tensor
    boxes: Tensor
    masks: Tensor | None = None


@dataclass(frozen=True)
class NoisedQueries:
    """Denoising queries of a batch (DN-DETR, arXiv 2203.01305; DINO section 3.3).

    Attributes:
        content: (B, D, C); zero in slots that no object uses.
        anchors: (B, D, 4) logits of cxcywh; zero in slots that no object uses.
        groups: number of groups.
        slots: slots of an image in a group, so that D = groups * slots.
        blocked: (D + Q, D + Q) bool, True where a query (row) may not look at another (column).
        labels, boxes: (groups * objects,) and (groups * objects, 4) cxcywh after the noise; kept for inspection.
    """

    content: Tensor
    anchors: Tensor
    groups: int
    slots: int
    blocked: Tensor
    labels: Tensor
    boxes: Tensor

    @property
    def count(self) -> int:
        return self.groups * self.slots


@dataclass(frozen=True)
class Outputs:
    """Everything that a criterion looks at.

    Attributes:
        layers: predictions, the last one is the result.
        proposals: predictions of the encoder's selected tokens; None without two-stage selection.
        denoising: predictions for the denoising queries, an entry a layer; empty without them.
        noised: the denoising queries.
    """

    layers: tuple[Predictions, ...]
    proposals: Predictions | None = None
    denoising: tuple[Predictions, ...] = ()
    noised: NoisedQueries | None = None


@dataclass(frozen=True)
class Target:
    """The objects of one image.

    Attributes:
        labels: (N,) int64.
        boxes: (N, 4) cxcywh in [0, 1].
        masks: (N, H, W) bool over the padded image; None where only boxes are known.
    """

    labels: Tensor
    boxes: Tensor
    masks: Tensor | None = None
