"""The training step."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from detectron2.engine import TrainerBase
from numpy.random import SeedSequence
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from partbox.modeling import PartClassifier
from partbox.modeling.synchronised_batch_norm import average_running_statistics
from partbox.processes import averaged_by_name, rank, world_size

from .objectives import Batch, TrainingObjective

SEED_STRIDE = 1_000_003


class TrainingDiverged(RuntimeError):
    """The loss is not finite any more."""


def mixed_precision_type(device: torch.device) -> torch.dtype:
    """bfloat16 where the device computes in it, else float16 (with loss scaling)."""
    if device.type == "cpu" or torch.cuda.is_bf16_supported():
        return torch.bfloat16
    return torch.float16


class _Step(nn.Module):
    """A step's losses as a module's forward: DistributedDataParallel prepares its exchange there.

    The attack happens inside, on the model itself with frozen weights, so nothing of it is exchanged.
    """

    def __init__(self, model: PartClassifier, objective: TrainingObjective) -> None:
        super().__init__()
        self.model, self.objective = model, objective

    def forward(self, batch: Batch, iteration: int) -> dict[str, Tensor]:
        return self.objective(self.model, batch, iteration)


def shared_step(step: nn.Module) -> nn.Module:
    """A module whose backward pass averages the gradients of all processes; the module itself in a run of one.

    Weights that a process does not need for its images (no part is labelled there) may still get a gradient from
    another's. BatchNorm's statistics are not copied from one process, see
    :func:`partbox.modeling.synchronised_batch_norm.average_running_statistics`.
    """
    if world_size() == 1 or not any(parameter.requires_grad for parameter in step.parameters()):
        return step
    return DistributedDataParallel(step, broadcast_buffers=False, find_unused_parameters=True)


def step_seed(seed: int, iteration: int) -> int:
    """The seed of torch's generator in one step: processes draw different dropout for their different images."""
    first = seed * SEED_STRIDE + iteration
    return first if rank() == 0 else int(SeedSequence([first, rank()]).generate_state(1, "uint64")[0] >> 1)


class PartTrainer(TrainerBase):
    """Batch -> training objective -> backward -> optimizer. All that surrounds a step is a hook.

    Every random number of a step follows from (seed, iteration), so a run continues bit for bit from a checkpoint.
    Of several processes, each has its share of every batch, and the update is that of the whole batch.

    Args:
        model: trained in place.
        optimizer: over the model's parameters.
        objective: gives the losses of a batch.
        seed: of dropout and everything else that draws from torch's global generator.
        mixed_precision: run the update's forward pass in bfloat16 or float16; attacks stay in full precision.
    """

    def __init__(
        self,
        model: PartClassifier,
        optimizer: torch.optim.Optimizer,
        objective: TrainingObjective,
        *,
        seed: int,
        mixed_precision: bool = False,
    ) -> None:
        super().__init__()
        self.model = model
        self.optimizer = optimizer
        self.objective = objective
        self.seed = seed
        self._step = shared_step(_Step(model, objective))
        self.passes = 0  # forward-backward passes over a batch so far
        self._batches: Iterator[Batch] = iter(())
        self._precision = mixed_precision_type(model.device) if mixed_precision else None
        self._scaler = torch.amp.GradScaler(model.device.type, enabled=self._precision == torch.float16)

    def read_from(self, batches: Iterable[Batch]) -> None:
        """Set where batches come from: endless, beginning with the first iteration to run."""
        self._batches = iter(batches)

    def before_train(self) -> None:
        super().before_train()
        self.model.train()

    def run_step(self) -> None:
        """One iteration.

        Raises:
            TrainingDiverged: the loss is not finite.
        """
        start = time.perf_counter()
        batch = next(self._batches)
        data_seconds = time.perf_counter() - start
        torch.manual_seed(step_seed(self.seed, self.iter))
        with torch.autocast(self.model.device.type, self._precision, enabled=self._precision is not None):
            losses = self._step(batch, self.iter)
        total = torch.stack([loss.float() for loss in losses.values()]).sum()
        values = averaged_by_name({name: float(loss.detach()) for name, loss in losses.items()})
        if not all(map(math.isfinite, values.values())):
            raise TrainingDiverged(
                f"the loss is not finite at iteration {self.iter} ({values}); lower SOLVER.BASE_LR, warm up longer, "
                "or clip gradients (SOLVER.CLIP_GRADIENTS.ENABLED True)"
            )
        self.optimizer.zero_grad(set_to_none=True)
        self._scaler.scale(total).backward()
        if self._scaler.is_enabled():
            self._scaler.unscale_(self.optimizer)
        self._scaler.step(self.optimizer)
        self._scaler.update()
        average_running_statistics(self.model)
        self.passes += self.objective.passes
        self.storage.put_scalars(**values, total_loss=sum(values.values()), data_time=data_seconds)
        self.storage.put_scalar("passes", self.passes, smoothing_hint=False)

    def state_dict(self) -> dict[str, Any]:
        state = super().state_dict()
        state["optimizer"] = self.optimizer.state_dict()
        state["scaler"] = self._scaler.state_dict()
        state["passes"] = self.passes
        if hasattr(self.objective, "state_dict"):
            state["objective"] = self.objective.state_dict()
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self.optimizer.load_state_dict(state_dict["optimizer"])
        self._scaler.load_state_dict(state_dict["scaler"])
        self.passes = state_dict["passes"]
        if hasattr(self.objective, "load_state_dict"):
            self.objective.load_state_dict(state_dict["objective"])
