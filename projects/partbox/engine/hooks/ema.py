"""Exponential moving average of the weights."""

from __future__ import annotations

from typing import Any

from detectron2.engine import HookBase
from timm.utils import ModelEmaV3
from torch import nn


class _Average(ModelEmaV3):
    """timm's average, with a tensor that has several names (a detector's shared head) averaged once a step."""

    def apply_update_(self, model: nn.Module, decay: float) -> None:
        for averaged, trained in (
            (dict(self.module.named_parameters()), dict(model.named_parameters())),
            (dict(self.module.named_buffers()), dict(model.named_buffers())),
        ):
            for name, value in averaged.items():
                if value.is_floating_point():
                    value.lerp_(trained[name].to(value), 1 - decay)
                else:
                    value.copy_(trained[name])


class WeightAveraging(HookBase):
    """Keeps an average of the weights and of BatchNorm's statistics; the trained weights stay as they are.

    Args:
        model: that is trained.
        decay: largest weight of the past; it grows to this value as 1 - (1 + iteration)^(-2/3).
    """

    def __init__(self, model: nn.Module, *, decay: float) -> None:
        if not 0 < decay < 1:
            raise ValueError(f"SOLVER.EMA.DECAY must lie in (0, 1), not {decay}")
        self.average = _Average(model, decay=decay, use_warmup=True)

    @property
    def module(self) -> nn.Module:
        """The model with averaged weights."""
        return self.average.module

    def after_step(self) -> None:
        self.average.update(self.trainer.model, step=self.trainer.iter)

    def state_dict(self) -> dict[str, Any]:
        return self.average.module.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.average.module.load_state_dict(state_dict)
