"""Keeping the best weights."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from detectron2.engine import HookBase
from torch import nn

from partbox.processes import is_main

from ..checkpoint import save_weights
from .validation import ValidationUnderAttack

logger = logging.getLogger(__name__)

BEST = "model_best.pth"
FINAL = "model_final.pth"


class BestWeights(HookBase):
    """Writes ``model_best.pth`` when validation improves, and ``model_final.pth`` at the end of training.

    Better means higher robust accuracy, then higher clean accuracy; a robust accuracy above the clean one counts as
    the clean one (the original's rule clean >= robust > best). Must stand after the validation in the list of hooks.

    Args:
        folder: of the run.
        model: whose weights are kept (the averaged ones where there are any).
        validation: gives the results.
    """

    def __init__(self, folder: str | Path, model: nn.Module, validation: ValidationUnderAttack | None) -> None:
        self.folder, self.model, self.validation = Path(folder), model, validation
        self.best: list[float] = []
        self.iteration = -1

    def after_step(self) -> None:
        result = self.validation.latest if self.validation is not None else None
        if result is None:
            return
        score = [min(result.robust_accuracy, result.clean_accuracy), result.clean_accuracy]
        if self.best and score <= self.best:
            return
        self.best, self.iteration = score, self.trainer.iter
        if is_main():
            save_weights(
                self.folder / BEST,
                self.model,
                iteration=self.iteration,
                robust_accuracy=result.robust_accuracy,
                clean_accuracy=result.clean_accuracy,
            )
        logger.info("Best so far: %s after iteration %d", result, self.iteration + 1)

    def after_train(self) -> None:
        if is_main() and self.trainer.iter >= self.trainer.max_iter:
            save_weights(self.folder / FINAL, self.model, iteration=self.trainer.iter - 1)

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "iteration": self.iteration}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best, self.iteration = list(state_dict["best"]), state_dict["iteration"]
