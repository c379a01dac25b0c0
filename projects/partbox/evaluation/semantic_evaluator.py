"""Mean IoU of a semantic segmenter at the network's input size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .confusion import confusion_entries, intersection_over_union
from .image_evaluator import SHARE, ImageEvaluator, Measurement, Performance


class SemanticEvaluator(ImageEvaluator):
    """MIoU and pixel accuracy, accumulated over the dataset.

    Inputs carry ``sem_seg`` (H, W); outputs carry ``sem_seg`` (C, H, W) of the same size.

    Args:
        class_names: of the C classes.
        ignore: label of pixels that do not count.
    """

    performances = (Performance("sem_seg", "mIoU", SHARE),)

    def __init__(self, class_names: Sequence[str], *, ignore: int = 255) -> None:
        super().__init__()
        self.names = list(class_names)
        self.ignore = ignore

    def measure(self, sample: Mapping[str, Any], output: Mapping[str, Any]) -> Measurement | None:
        """``[[true, found, pixels], ...]``; None for an image without labels."""
        target, scores = sample["sem_seg"].cpu(), output["sem_seg"].cpu()
        if scores.shape[-2:] != target.shape:
            raise ValueError(f"the output has size {tuple(scores.shape[-2:])}, the labels {tuple(target.shape)}")
        return confusion_entries(scores.argmax(dim=0), target, len(self.names), self.ignore)

    def combine(self, measurements: Sequence[Measurement]) -> dict[str, Any] | None:
        """MIoU over the classes that occur in the labels; None without labelled images."""
        if not measurements:
            return None
        found = intersection_over_union(measurements, len(self.names))
        seen = found.labelled > 0
        return {
            "sem_seg": {
                "images": len(measurements),
                "mIoU": float(found.iou[seen].mean()),
                "pixel_accuracy": float(found.right / found.labelled.sum()),
                "IoU": {name: float(found.iou[i]) for i, name in enumerate(self.names) if bool(seen[i])},
            }
        }
