"""Validation under attack."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from detectron2.engine import HookBase

from partbox.evaluation.validate import ValidationResult

logger = logging.getLogger(__name__)


class ValidationUnderAttack(HookBase):
    """Measures clean and robust accuracy every ``period`` iterations and at the end, and says when a run is broken.

    Args:
        validate: measures the model (averaged weights where there are any).
        period: iterations between two measurements; 0 = only at the end.
        settled: iteration from which a robust accuracy below the majority class is worth a warning (before it, eps
            still grows).

    Attributes:
        latest: the newest result, None until the first one.
    """

    def __init__(self, validate: Callable[[], ValidationResult], *, period: int, settled: int = 0) -> None:
        self.validate, self.period, self.settled = validate, period, settled
        self.latest: ValidationResult | None = None

    def is_due(self) -> bool:
        """Whether this iteration ends with a validation."""
        done = self.trainer.iter + 1
        return done == self.trainer.max_iter or bool(self.period and done % self.period == 0)

    def after_step(self) -> None:
        self.latest = None
        if not self.is_due():
            return
        result = self.latest = self.validate()
        self.trainer.storage.put_scalars(
            **{
                "validation/clean_accuracy": result.clean_accuracy,
                "validation/robust_accuracy": result.robust_accuracy,
            },
            smoothing_hint=False,
        )
        if result.picture is not None:  # of the main process
            kind = "adversarial" if result.attacked else "clean"
            self.trainer.storage.put_image(f"validation/{kind}_images", result.picture)
        logger.info("Validation at iteration %d: %s", self.trainer.iter + 1, result)
        if self.trainer.iter >= self.settled and result.worse_than_majority:
            logger.warning(
                "BROKEN RUN? %s accuracy is below %.3f, what always answering the most frequent class would reach. "
                "Common reasons: eps too large for this learning rate, no eps warm-up, BatchNorm statistics that do "
                "not follow (try MODEL.PART.BATCH_NORM frozen), or too short a schedule.",
                result.worse_than_majority,
                result.majority_share,
            )

    def state_dict(self) -> dict[str, Any]:
        return {}
