"""The parts that a model finds in a photograph whose class is known, in the photograph's own pixels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from detectron2.structures import Instances
from pycocotools import mask as mask_util
from torch import Tensor
from torch.nn import functional

from .part_boxes import regions_of

SMALLEST = 1.0  # side of a box in pixels; less is no part
TINY = 1e-12


@dataclass(frozen=True)
class FoundPart:
    """One part.

    Attributes:
        part: its index.
        score: in [0, 1], six decimals.
        box: x, y, width, height in pixels of the photograph, inside it.
        mask: compressed RLE of the photograph's size as it stands in JSON; None where only boxes are asked for.
    """

    part: int
    score: float
    box: tuple[float, float, float, float]
    mask: dict[str, Any] | None = None

    def to_json(self) -> list[Any]:
        """As plain JSON values."""
        return [self.part, self.score, list(self.box), self.mask]

    @classmethod
    def from_json(cls, values: Sequence[Any]) -> FoundPart:
        """From :meth:`to_json`."""
        part, score, box, mask = values
        return cls(part, score, (box[0], box[1], box[2], box[3]), mask)


def parts_of_masks(
    probabilities: Tensor, size: tuple[int, int], own: Sequence[int], *, of_class: bool, masks: bool
) -> list[FoundPart]:
    """Every connected region of a part, with the mean probability in it as its score.

    Args:
        probabilities: (1 + P, h, w), channel 0 is the background; the whole photograph at any resolution.
        size: (height, width) of the photograph, to which they are enlarged.
        own: parts of the photograph's class; no other is given.
        of_class: channels of other classes' parts are left out and the rest divided by its sum: which part, if the
            class is known. Otherwise all channels compete, and where one of another class wins there is nothing.
        masks: whether the regions themselves are wanted, and not only their boxes.

    Raises:
        FloatingPointError: probabilities that are not finite.
    """
    _check_finite(probabilities)
    chosen = [0, *(1 + part for part in own)] if of_class else list(range(len(probabilities)))
    kept = probabilities.detach().float().cpu()[chosen]
    if of_class:
        kept = kept / kept.sum(dim=0, keepdim=True).clamp_min(TINY)
    enlarged = functional.interpolate(kept[None], size=size, mode="bilinear", align_corners=False)[0]
    found = []
    for region in regions_of(enlarged):
        part = chosen[region.channel] - 1
        if part not in own:
            continue
        rows, columns = region.place
        box = (columns.start, rows.start, columns.stop - columns.start, rows.stop - rows.start)
        mask = None
        if masks:
            whole = np.zeros(size, dtype=np.uint8, order="F")
            whole[region.place] = region.inside
            mask = _encoded(whole)
        found.append(FoundPart(part, _rounded(region.score), box, mask))
    return found


def parts_of_queries(
    scores: Tensor, boxes: Tensor, size: tuple[int, int], own: Sequence[int], *, of_class: bool
) -> list[FoundPart]:
    """The one part that each query of a detector names.

    Args:
        scores: (Q, P) in [0, 1].
        boxes: (Q, 4) cxcywh in shares of the photograph's sides.
        size: (height, width) of the photograph.
        own: parts of the photograph's class; no other is given.
        of_class: the part with the highest score among those of the class; otherwise among all, and a query that names
            a part of another class gives nothing.

    Raises:
        FloatingPointError: scores or boxes that are not finite.
    """
    _check_finite(scores, boxes)
    scores, boxes = scores.detach().float().cpu(), boxes.detach().double().cpu()
    columns = torch.tensor(list(own) if of_class else list(range(scores.shape[1])), dtype=torch.int64)
    if not len(columns):
        return []
    best, place = scores[:, columns].max(dim=1)
    height, width = size
    corners = torch.cat([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2], dim=1)
    corners = corners * corners.new_tensor([width, height, width, height])
    return _boxes_found(columns[place], best, corners, size, own, [None] * len(boxes))


def parts_of_instances(instances: Instances, own: Sequence[int], *, masks: bool) -> list[FoundPart]:
    """What one of detectron2's detectors found of the class.

    Args:
        instances: at the photograph's size, with ``pred_boxes``, ``scores``, ``pred_classes`` and, for masks,
            ``pred_masks``.
        own: parts of the photograph's class; no other is given.
        masks: whether masks are wanted; the box of a part is then that of its mask.

    Raises:
        FloatingPointError: scores or boxes that are not finite.
    """
    found = instances.to("cpu")
    _check_finite(found.scores, found.pred_boxes.tensor)
    if not masks:
        boxes = found.pred_boxes.tensor.double()
        return _boxes_found(found.pred_classes, found.scores, boxes, found.image_size, own, [None] * len(found))
    planes = found.pred_masks.numpy().astype(bool)
    corners, encoded = [], []
    for plane in planes:
        rows, columns = np.nonzero(plane)
        corners.append([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1] if len(rows) else [0, 0, 0, 0])
        encoded.append(_encoded(np.asfortranarray(plane, dtype=np.uint8)) if len(rows) else None)
    tight = torch.tensor(np.array(corners, dtype=np.float64).reshape(-1, 4))
    return _boxes_found(found.pred_classes, found.scores, tight, found.image_size, own, encoded)


def _boxes_found(
    parts: Tensor,
    scores: Tensor,
    corners: Tensor,
    size: tuple[int, int],
    own: Sequence[int],
    masks: Sequence[Mapping[str, Any] | None],
) -> list[FoundPart]:
    """Boxes (N, 4) XYXY in pixels, clipped to the photograph; what is left with a side below a pixel is dropped."""
    height, width = size
    clipped = torch.minimum(corners.clamp_min(0), corners.new_tensor([width, height, width, height]))
    found = []
    for part, score, (x0, y0, x1, y1), mask in zip(
        parts.tolist(), scores.tolist(), clipped.tolist(), masks, strict=True
    ):
        left, top = round(x0, 2), round(y0, 2)
        box = (left, top, round(x1 - left, 2), round(y1 - top, 2))
        if part in own and min(box[2:]) >= SMALLEST:
            found.append(FoundPart(part, _rounded(score), box, None if mask is None else dict(mask)))
    return found


def _check_finite(*predictions: Tensor) -> None:
    if not all(bool(torch.isfinite(one).all()) for one in predictions):
        raise FloatingPointError("the model predicts values that are not finite: its training has diverged")


def _rounded(score: float) -> float:
    return min(max(round(score, 6), 0.0), 1.0)


def _encoded(mask: np.ndarray) -> dict[str, Any]:
    """Mask (H, W) uint8 in Fortran order as compressed RLE with text."""
    rle = mask_util.encode(mask)
    return {"size": [int(side) for side in rle["size"]], "counts": rle["counts"].decode("ascii")}
