"""The training step of detectron2's detectors, on clean images or adversarially for free."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from detectron2.engine import TrainerBase
from detectron2.modeling.meta_arch.dense_detector import DenseDetector
from torch import Tensor, nn

from partbox.attacks import ThreatModel
from partbox.modeling.synchronised_batch_norm import average_running_statistics
from partbox.processes import averaged_by_name, gathered, rank, world_size

from .trainer import SEED_STRIDE, TrainingDiverged, mixed_precision_type, shared_step, step_seed

Sample = dict[str, Any]


class DetectorTrainer(TrainerBase):
    """Batch -> losses -> optimizer; with a threat model each batch is replayed under its own gradient.

    Free adversarial training of detectors (Shafahi et al. 2019, arXiv 1904.12843, on the detector's losses): a batch
    comes ``replays`` times, and the sign of the pixels' gradient of each update moves its perturbation for the next
    one. The first replay starts from uniform noise. Pixels are in [0, 1] at the size and in the channel order that the
    network sees. Of several processes, each has its share of every batch.

    Every random number of a step follows from (seed, iteration), so a run continues bit for bit from a checkpoint.

    Args:
        model: gives a dict of losses in training mode.
        batches: endless; see :meth:`read_from`.
        optimizer: over the model's parameters.
        threat: linf; None trains on clean images.
        replays: of each batch, with a threat model.
        seed: of the noise, and of all that draws from torch's global generator (proposals, denoising queries, dropout).
        mixed_precision: run the forward pass in bfloat16, or in float16 with loss scaling where the device has no
            bfloat16.

    Raises:
        ValueError: another norm than linf, or fewer than two replays.
    """

    def __init__(
        self,
        model: nn.Module,
        batches: Iterable[Sequence[Sample]],
        optimizer: torch.optim.Optimizer,
        *,
        threat: ThreatModel | None = None,
        replays: int = 1,
        seed: int = 0,
        mixed_precision: bool = False,
    ) -> None:
        super().__init__()
        if threat is not None and threat.norm != "linf":
            raise ValueError(f"free adversarial training is defined for linf, not {threat.norm}")
        if threat is not None and replays < 2:
            raise ValueError(f"REPLAYS must be at least 2, not {replays}: one replay would train on random noise")
        self.model, self.optimizer, self.threat, self.seed = model, optimizer, threat, seed
        self.replays = replays if threat is not None else 1
        self.device = next(model.parameters()).device
        self._precision = mixed_precision_type(self.device) if mixed_precision else None
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self._precision == torch.float16)
        self._step = shared_step(model)
        self._batches = iter(batches)
        self._batch: Sequence[Sample] = ()
        self._deltas: list[Tensor] = []

    def read_from(self, batches: Iterable[Sequence[Sample]]) -> None:
        """Set where batches come from: endless, beginning with that of the first iteration to run."""
        self._batches = iter(batches)

    def before_train(self) -> None:
        super().before_train()
        self.model.train()

    def run_step(self) -> None:
        """One update.

        Raises:
            TrainingDiverged: the loss is not finite.
            RuntimeError: no loss of the batch depends on the weights.
        """
        is_new = self.iter % self.replays == 0
        if is_new or not self._batch:
            self._batch = next(self._batches)
        if is_new or not self._deltas:  # a resumed run brings those of the batch that is being replayed
            first = rank() * len(self._batch)
            self._deltas = [self._noise(sample, place) for place, sample in enumerate(self._batch, start=first)]
        leaves = [self._leaf(sample, delta) for sample, delta in zip(self._batch, self._deltas, strict=True)]
        samples = [{**sample, "image": leaf * 255} for sample, leaf in zip(self._batch, leaves, strict=True)]
        torch.manual_seed(step_seed(self.seed, self.iter))
        with torch.autocast(self.device.type, self._precision, enabled=self._precision is not None):
            losses = self._step(samples)
        total = torch.stack([loss.float() for loss in losses.values()]).sum()
        values = averaged_by_name({name: float(loss.detach()) for name, loss in losses.items()})
        if not all(map(math.isfinite, values.values())):
            raise TrainingDiverged(f"the loss is not finite at iteration {self.iter} ({values}); lower SOLVER.BASE_LR")
        if not total.requires_grad:
            objects = [len(sample.get("instances", ())) for sample in self._batch]
            raise RuntimeError(
                f"no loss of iteration {self.iter} depends on the model's weights ({values}; objects in its images: "
                f"{objects}): leave images without objects out (DATALOADER.FILTER_EMPTY_ANNOTATIONS True)"
            )
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(total).backward()
        if self.scaler.is_enabled():
            self.scaler.unscale_(self.optimizer)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        average_running_statistics(self.model)
        if self.threat is not None:
            eps = self.threat.eps
            moved = zip(self._deltas, leaves, strict=True)
            self._deltas = [(delta + eps * _sign(leaf)).clamp(-eps, eps) for delta, leaf in moved]
        self.storage.put_scalars(**values, total_loss=sum(values.values()))

    def state_dict(self) -> dict[str, Any]:
        state: dict[str, Any] = super().state_dict()
        normalizers = {
            name: module.loss_normalizer for name, module in self._normalized() if hasattr(module, "loss_normalizer")
        }
        shares = gathered(self._deltas if self.threat is not None else [])
        return state | {
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "normalizers": gathered(normalizers),  # each process has its own
            "perturbations": [delta for share in shares for delta in share],  # of the whole batch
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self.optimizer.load_state_dict(state_dict["optimizer"])
        self.scaler.load_state_dict(state_dict["scaler"])
        whole = list(state_dict["perturbations"])
        images = len(whole) // world_size()
        self._deltas = whole[rank() * images : (rank() + 1) * images]
        of_each = state_dict["normalizers"]
        normalizers = of_each[rank()] if len(of_each) == world_size() else of_each[0]
        for name, module in self._normalized():
            if name in normalizers:
                module.loss_normalizer = normalizers[name]
            elif hasattr(module, "loss_normalizer"):
                del module.loss_normalizer

    def _normalized(self) -> list[tuple[str, nn.Module]]:
        """Modules that divide their loss by a running mean, a plain number that their state dict does not have."""
        return [(name, module) for name, module in self.model.named_modules() if isinstance(module, DenseDetector)]

    def _noise(self, sample: Sample, place: int) -> Tensor:
        image = sample["image"]
        if self.threat is None:
            return torch.zeros(image.shape)
        generator = torch.Generator().manual_seed((self.seed * SEED_STRIDE + self.iter) * 4096 + place)
        return (torch.rand(image.shape, generator=generator) * 2 - 1) * self.threat.eps

    def _leaf(self, sample: Sample, delta: Tensor) -> Tensor:
        pixels = (sample["image"].float() / 255 + delta.to("cpu")).clamp(0, 1).to(self.device)
        return pixels.requires_grad_(self.threat is not None)


def _sign(leaf: Tensor) -> Tensor:
    """Sign of the gradient of a leaf, on the CPU where the perturbation is kept.

    0 where no loss depends on the image: some detectors leave images without objects out.
    """
    return torch.zeros(leaf.shape) if leaf.grad is None else leaf.grad.sign().cpu()
