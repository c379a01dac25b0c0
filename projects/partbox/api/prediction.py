"""What a model says about an image, in the image's own pixels."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from detectron2.structures import Boxes, Instances
from torch import Tensor
from torch.nn import functional

from partbox.evaluation.part_boxes import regions_of_winners


@dataclass(frozen=True, eq=False)
class Part:
    """A part, or another object that a detector found.

    Attributes:
        name: as in the dataset that the model learned from, ``class:part``; at other part levels (``object``,
            ``group``, ``fg``) that of the mask channel.
        score: in [0, 1]; of a region of masks, the mean probability in it.
        box: (x0, y0, x1, y1) in pixels of the image given, inside it.
        mask: (H, W) bool of the image's size; None from a model of boxes.
    """

    name: str
    score: float
    box: tuple[float, float, float, float]
    mask: np.ndarray | None = field(default=None, repr=False)


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a model says about one image.

    Attributes:
        label: name of the class; None from a detector or segmenter, which names no class of the whole image.
        probabilities: class name -> probability, in the order of the model's classes; empty from a detector or
            segmenter.
        parts: that were found, the surest first.
        image_size: (height, width) in pixels of the image given, after its EXIF orientation is applied.
    """

    label: str | None
    probabilities: dict[str, float]
    parts: tuple[Part, ...]
    image_size: tuple[int, int]


def parts_of_regions(
    probabilities: Tensor, size: tuple[int, int], names: Sequence[str], min_score: float
) -> tuple[Part, ...]:
    """Every connected region in which a part is the most probable channel, as evaluation makes boxes of masks.

    Args:
        probabilities: (1 + P, h, w), channel 0 is the background; the whole image at any resolution.
        size: (height, width) of the image, to which they are enlarged.
        names: of the P channels.
        min_score: the least mean probability in a region.

    Raises:
        FloatingPointError: probabilities that are not finite.
    """
    _check_finite(probabilities)
    parts = []
    for region in regions_of_winners(*_winners(probabilities.detach().float().cpu(), size)):
        if region.score < min_score:
            continue
        rows, columns = region.place
        mask = np.zeros(size, dtype=bool)
        mask[region.place] = region.inside
        box = (float(columns.start), float(rows.start), float(columns.stop), float(rows.stop))
        parts.append(Part(names[region.channel - 1], region.score, box, mask))
    return _surest_first(parts)


def _winners(probabilities: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """The largest probability and its channel at each pixel, (height, width) each.

    Channel by channel: all of them at the size of a photograph would take gigabytes.
    """
    best = torch.full(size, -1.0)
    winner = torch.zeros(size, dtype=torch.int64)
    for channel, one in enumerate(probabilities):
        enlarged = functional.interpolate(one[None, None], size=size, mode="bilinear", align_corners=False)[0, 0]
        larger = enlarged > best
        best[larger], winner[larger] = enlarged[larger], channel
    return best, winner


def parts_of_instances(instances: Instances, names: Sequence[str], min_score: float) -> tuple[Part, ...]:
    """What a detector found.

    Args:
        instances: at the image's size, with ``pred_boxes``, ``scores``, ``pred_classes`` and perhaps ``pred_masks``.
        names: of the classes.
        min_score: the least score.

    Raises:
        FloatingPointError: scores or boxes that are not finite.
    """
    found = instances.to("cpu")
    _check_finite(found.scores, found.pred_boxes.tensor)
    found = found[found.scores >= min_score]
    boxes = Boxes(found.pred_boxes.tensor.clone())
    boxes.clip(found.image_size)
    masks = found.pred_masks.numpy().astype(bool) if found.has("pred_masks") else [None] * len(found)
    rows = zip(found.pred_classes.tolist(), found.scores.tolist(), boxes.tensor.tolist(), masks, strict=True)
    return _surest_first(Part(names[index], score, (*box,), mask) for index, score, box, mask in rows)


def _surest_first(parts: Iterable[Part]) -> tuple[Part, ...]:
    return tuple(sorted(parts, key=lambda part: -part.score))


def _check_finite(*predictions: Tensor) -> None:
    if not all(bool(torch.isfinite(one).all()) for one in predictions):
        raise FloatingPointError("the model predicts values that are not finite: its training has diverged")
