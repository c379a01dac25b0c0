"""A part model as attacks on parts see it."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from partbox.attacks.parts import MaskHead, PartPredict, PartPrediction


def part_predict(model: Any) -> PartPredict:
    """Images (B, 3, H, W) in [0, 1] -> logits and part masks of a model with ``run`` as PartClassifier has it."""

    def predict(images: Tensor) -> PartPrediction:
        output = model.run(images)
        return PartPrediction(output.logits, output.evidence.mask_logits)

    return predict


def mask_head(model: Any, image_size: tuple[int, int]) -> MaskHead:
    """Mask logits -> logits of a model with ``logits_of_masks`` as PartClassifier has it."""

    def head(mask_logits: Tensor) -> Tensor:
        logits: Tensor = model.logits_of_masks(mask_logits, image_size)
        return logits

    return head
