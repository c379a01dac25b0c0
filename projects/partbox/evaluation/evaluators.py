"""detectron2 evaluators for part predictions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from detectron2.evaluation import DatasetEvaluator
from torch import Tensor
from torch.nn import functional
from torchmetrics.classification import MulticlassJaccardIndex

from partbox.data.part_map import IGNORE


class PartSegmentationEvaluator(DatasetEvaluator):
    """Part IoU with intersections and unions accumulated over the dataset (torchmetrics), never averaged by batch.

    Inputs carry ``part_map`` (H, W); outputs carry ``part_probabilities`` (1 + P, h, w), which are enlarged to
    (H, W) before the most probable part of each pixel is taken.

    Args:
        part_names: of the P parts (or objects, or the foreground, after the part level), without background.
        level_map: turns part maps into maps of the level's channels; None at level ``part``.
    """

    def __init__(self, part_names: Sequence[str], level_map: Callable[[Tensor], Tensor] | None = None) -> None:
        self.names = ["background", *part_names]
        self.level_map = level_map
        self.jaccard = MulticlassJaccardIndex(len(self.names), average="none", ignore_index=IGNORE)
        self.seen = torch.zeros(len(self.names), dtype=torch.bool)
        self.images = 0

    def reset(self) -> None:
        self.jaccard.reset()
        self.seen.zero_()
        self.images = 0

    def process(self, inputs: Sequence[dict[str, Any]], outputs: Sequence[dict[str, Any]]) -> None:
        for sample, output in zip(inputs, outputs, strict=True):
            target = sample["part_map"].cpu()
            if self.level_map is not None:
                target = self.level_map(target)
            labelled = target[target != IGNORE]
            if not len(labelled):
                continue
            masks = output["part_probabilities"][None].float().cpu()
            enlarged = functional.interpolate(masks, size=target.shape, mode="bilinear", align_corners=False)
            found = enlarged.argmax(dim=1)[0]
            self.jaccard.update(found[None], target[None])
            self.seen[labelled.unique()] = True
            self.images += 1

    def evaluate(self) -> dict[str, Any] | None:
        """MIoU over the parts that occur in the labels, without and with background; None without labelled images."""
        if not self.images:
            return None
        ious = self.jaccard.compute()
        parts = self.seen.clone()
        parts[0] = False
        return {
            "part_segmentation": {
                "images": self.images,
                "mIoU": float(ious[parts].mean()) if bool(parts.any()) else None,
                "mIoU_with_background": float(ious[self.seen].mean()),
                "IoU": {name: float(ious[i]) for i, name in enumerate(self.names) if self.seen[i]},
            }
        }
