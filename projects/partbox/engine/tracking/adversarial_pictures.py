"""Images of a validation under attack with the parts that the model finds in them, as one picture."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from partbox.colours import RIGHT, WRONG
from partbox.modeling import PartClassifier
from partbox.visualization.pictures import Panel, ShownPart, draw_parts, sheet

from ..shown_parts import parts_of_classifier

logger = logging.getLogger(__name__)
T = TypeVar("T")

SHORTEST = 224  # pixels of an image in the picture
LONGEST = 280
INCHES = 2.4
SCORE = 0.5  # of a detector's boxes


class AdversarialPictures:
    """Keeps the first images that a validation looks at, and draws them.

    Called with each batch while the model is in evaluation mode. The model is asked once more about the images that
    are kept; no random number is drawn, no statistic changes.

    Args:
        model: that is validated.
        count: images to keep, at least 1.
    """

    def __init__(self, model: PartClassifier, count: int) -> None:
        self.model, self.count = model, count
        self._columns: list[list[Panel]] = []

    def __call__(self, batch: Sequence[dict[str, Any]], images: Tensor, attacked: Tensor) -> None:
        """Take what is still wanted of a batch. An error ends the pictures of this validation, and nothing else.

        Args:
            batch: samples with ``label``.
            images: (B, 3, H, W) in [0, 1], after the attack.
            attacked: (B,) bool; False where the model was wrong before the attack, which left the image alone.
        """
        wanted = min(self.count - len(self._columns), len(batch))
        if wanted > 0:
            self._try(lambda: self._take(list(batch[:wanted]), images[:wanted], attacked[:wanted].tolist()))

    def _take(self, samples: list[dict[str, Any]], kept: Tensor, attacked: list[bool]) -> None:
        with torch.no_grad():
            outputs = self.model.predict_batch(kept, samples)
        for sample, image, output, changed in zip(samples, kept, outputs, attacked, strict=True):
            self._columns.append(self._column(sample["label"], image, output, changed))

    def _column(self, label: int, image: Tensor, output: dict[str, Any], changed: bool) -> list[Panel]:
        pixels = np.rint(image.detach().cpu().permute(1, 2, 0).numpy() * 255).astype(np.uint8)
        right = output["label"] == label
        names = self.model.class_names
        said = f"{names[output['label']]} {float(output['probabilities'].max()):.0%}: {'right' if right else 'wrong'}"
        above = f"{names[label]}, {'attacked' if changed else 'not attacked'}"
        column = [Panel(_drawn(pixels, []), f"{above}\n{said}", RIGHT if right else WRONG)]
        extractor = self.model.extractor
        if extractor is not None and not extractor.training_only:
            size = (pixels.shape[0], pixels.shape[1])
            parts = parts_of_classifier(self.model, output, size, score=SCORE)
            column.append(Panel(_drawn(pixels, parts), f"{len(parts)} parts found"))
        return column

    def picture(self) -> Tensor | None:
        """(3, H, W) uint8: a column an image, the image above its parts; None where no image was kept."""
        return self._try(self._picture) if self._columns else None

    def _picture(self) -> Tensor:
        rows = [list(row) for row in zip(*self._columns, strict=True)]
        return torch.from_numpy(sheet(rows, inches=INCHES)).permute(2, 0, 1).contiguous()

    def _try(self, call: Callable[[], T]) -> T | None:
        try:
            return call()
        except Exception as error:  # noqa: BLE001 whatever tracking does must not cost a run of days
            logger.error("No pictures of this validation (%s: %s); the run goes on", type(error).__name__, error)
            self.count, self._columns = 0, []
            return None


def _drawn(pixels: np.ndarray, parts: Sequence[ShownPart]) -> np.ndarray:
    return draw_parts(pixels, parts, shortest=SHORTEST, longest=LONGEST)
