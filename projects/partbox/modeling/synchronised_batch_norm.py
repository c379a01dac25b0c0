"""BatchNorm whose statistics in training are those of the whole batch, on whatever processes its images lie.

torch's SyncBatchNorm refuses the CPU, and detectron2's takes the variance as a difference of large numbers.
"""

from __future__ import annotations

import torch
from fvcore.nn.distributed import differentiable_all_reduce
from timm.layers import BatchNormAct2d
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from partbox.processes import averaged_together, world_size


def batch_statistics(features: Tensor) -> tuple[Tensor, Tensor, float]:
    """Mean and biased variance of each channel over the features of all processes, and how many values they rest on.

    Gradients flow back to the features of every process.

    Args:
        features: (B, C) or (B, C, h, w), float32 or float64; processes may have different B.

    Returns:
        (C,), (C,), and the number.
    """
    others = [dimension for dimension in range(features.dim()) if dimension != 1]
    number = features.new_tensor([features.numel() / features.shape[1]])
    total = differentiable_all_reduce(torch.cat([features.sum(dim=others), number]))
    count = total[-1].detach()
    mean = total[:-1] / count
    deviations = (features - _as_channels(mean, features)) ** 2
    return mean, differentiable_all_reduce(deviations.sum(dim=others)) / count, float(count)


def _as_channels(values: Tensor, features: Tensor) -> Tensor:
    return values.view(1, -1, *[1] * (features.dim() - 2))


class _Synchronised(_BatchNorm):
    """What all kinds share."""

    def normalised(self, features: Tensor) -> Tensor:
        """BatchNorm by the statistics of all processes, which the running ones follow; at least float32 inside."""
        wide = features.to(torch.promote_types(features.dtype, torch.float32))
        mean, variance, count = batch_statistics(wide)
        if self.track_running_stats and self.running_mean is not None and self.running_var is not None:
            assert self.num_batches_tracked is not None
            self.num_batches_tracked.add_(1)
            share = self.momentum if self.momentum is not None else 1 / float(self.num_batches_tracked)
            with torch.no_grad():
                self.running_mean.lerp_(mean.to(self.running_mean), share)
                self.running_var.lerp_((variance * count / max(count - 1, 1)).to(self.running_var), share)
        scale = torch.rsqrt(variance + self.eps)
        if self.affine:
            scale = scale * self.weight
        found = (wide - _as_channels(mean, wide)) * _as_channels(scale, wide)
        if self.affine:
            found = found + _as_channels(self.bias, wide)
        return found.to(features)


class SynchronisedBatchNorm1d(_Synchronised, nn.BatchNorm1d):
    """BatchNorm1d of features (B, C)."""

    def forward(self, input: Tensor) -> Tensor:
        """The features, normalised."""
        if self.training and world_size() > 1:
            return self.normalised(input)
        return super().forward(input)


class SynchronisedBatchNorm2d(_Synchronised, nn.BatchNorm2d):
    """BatchNorm2d of features (B, C, h, w)."""

    def forward(self, input: Tensor) -> Tensor:
        """The features, normalised."""
        if self.training and world_size() > 1:
            return self.normalised(input)
        return super().forward(input)


class SynchronisedBatchNormAct2d(_Synchronised, BatchNormAct2d):
    """timm's BatchNorm2d with activation."""

    def forward(self, x: Tensor) -> Tensor:
        """Features (B, C, h, w), normalised and activated."""
        if self.training and world_size() > 1:
            activated: Tensor = self.act(self.drop(self.normalised(x)))  # type: ignore[operator]
            return activated
        found: Tensor = super().forward(x)
        return found


SYNCHRONISED: dict[type[nn.Module], type[nn.Module]] = {
    nn.BatchNorm1d: SynchronisedBatchNorm1d,
    nn.BatchNorm2d: SynchronisedBatchNorm2d,
    BatchNormAct2d: SynchronisedBatchNormAct2d,
}


def synchronise_batch_norm(model: nn.Module) -> None:
    """Let every BatchNorm of the model use the statistics of all processes; names and weights stay.

    The modules change their class and nothing else, so that every setting of theirs (momentum, activation) is kept.

    Raises:
        ValueError: a kind of BatchNorm that is not known here.
    """
    for name, module in model.named_modules():
        if type(module) in SYNCHRONISED:
            module.__class__ = SYNCHRONISED[type(module)]
        elif isinstance(module, _BatchNorm) and not isinstance(module, _Synchronised):
            raise ValueError(
                f"MODEL.PART.BATCH_NORM synchronised: {name} is a {type(module).__name__}, which cannot be "
                "synchronised; set it train or frozen"
            )


def average_running_statistics(model: nn.Module) -> None:
    """Give every process the mean of the processes' running statistics.

    Where each normalises by its own images, they drift apart, and the processes would measure different models.
    """
    if world_size() == 1:
        return
    found = [
        statistics
        for module in model.modules()
        if isinstance(module, _BatchNorm) and module.training
        for statistics in (module.running_mean, module.running_var)
        if statistics is not None
    ]
    for statistics, mean in zip(found, averaged_together(found), strict=True):
        statistics.copy_(mean)
