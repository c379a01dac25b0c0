"""Part IoU."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.nn import functional

from partbox.data.part_map import IGNORE

from .confusion import confusion_entries, intersection_over_union
from .image_evaluator import SHARE, ImageEvaluator, Measurement, Performance


class PartSegmentationEvaluator(ImageEvaluator):
    """Part IoU with intersections and unions accumulated over the dataset, never averaged by batch or image.

    Inputs carry ``part_map`` (H, W); outputs carry ``part_probabilities`` (1 + P, h, w), which are enlarged to
    (H, W) before the most probable part of each pixel is taken. Of an image the confusion matrix (torchmetrics) is
    kept: how many pixels of which part were found as which.

    Args:
        part_names: of the P parts (or objects, or the foreground, after the part level), without background.
        level_map: turns part maps into maps of the level's channels; None at level ``part``.
    """

    performances = (Performance("part_segmentation", "mIoU", SHARE),)

    def __init__(self, part_names: Sequence[str], level_map: Callable[[Tensor], Tensor] | None = None) -> None:
        super().__init__()
        self.names = ["background", *part_names]
        self.level_map = level_map

    def measure(self, sample: Mapping[str, Any], output: Mapping[str, Any]) -> Measurement | None:
        """``[[true, found, pixels], ...]``; None for an image whose parts are not labelled."""
        target = sample["part_map"].cpu()
        if self.level_map is not None:
            target = self.level_map(target)
        masks = output["part_probabilities"][None].float().cpu()
        enlarged = functional.interpolate(masks, size=target.shape, mode="bilinear", align_corners=False)
        return confusion_entries(enlarged.argmax(dim=1)[0], target, len(self.names), IGNORE)

    def combine(self, measurements: Sequence[Measurement]) -> dict[str, Any] | None:
        """MIoU over the parts that occur in the labels, without and with background; None without labelled images."""
        if not measurements:
            return None
        found = intersection_over_union(measurements, len(self.names))
        seen = found.labelled > 0
        parts = seen.clone()
        parts[0] = False
        return {
            "part_segmentation": {
                "images": len(measurements),
                "mIoU": float(found.iou[parts].mean()) if bool(parts.any()) else None,
                "mIoU_with_background": float(found.iou[seen].mean()),
                "IoU": {name: float(found.iou[i]) for i, name in enumerate(self.names) if seen[i]},
            }
        }
