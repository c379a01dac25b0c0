"""A part model as attacks on parts see it."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from partbox.attacks.parts import PartPredict, PartPrediction


def part_predict(model: Any) -> PartPredict:
    """Images (B, 3, H, W) in [0, 1] -> logits and part masks of a model with ``run`` as PartClassifier has it."""

    def predict(images: Tensor) -> PartPrediction:
        output = model.run(images)
        return PartPrediction(output.logits, output.evidence.mask_logits)

    return predict
