"""A network whose BatchNorm layers are folded into the convolutions before them: the same function, fewer operations.

In evaluation mode BatchNorm multiplies and shifts each channel by constants, and so may the convolution before it. What
differs is rounding.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from .base import Predict

PROBES = 2  # images on which the network is watched, and compared with its folded form
TOLERANCE = 1e-3  # of the largest logit (at least 1)
FROZEN = "FrozenBatchNorm2d"  # of detectron2 and torchvision: the same constants in buffers


@dataclass(frozen=True)
class Pair:
    """Names of a convolution and of the BatchNorm that alone reads its output."""

    convolution: str
    norm: str


class FoldedNetwork:
    """A copy of a network with every BatchNorm folded that directly follows a convolution.

    The copy is called as the network is; :meth:`refresh` takes over weights that have changed since.

    Args:
        predict: images (B, 3, H, W) -> logits (B, K): a module, or a method of one, in evaluation mode.
        images: (B, 3, H, W); the first few are used to see which layer follows which, and to compare.

    Raises:
        ValueError: nothing can be folded, or the folded network answers differently.
    """

    def __init__(self, predict: Predict, images: Tensor) -> None:
        self._network = network_of(predict)
        self.predict: Predict = copy.deepcopy(predict)
        self._folded = network_of(self.predict).requires_grad_(False)
        probes = images[:PROBES]
        self.pairs = find_pairs(self.predict, self._folded, probes)
        if not self.pairs:
            raise ValueError("fold_batch_norm: no BatchNorm with fixed statistics directly follows a convolution")
        for pair in self.pairs:
            self._take_out(pair)
        self.refresh()
        with torch.no_grad():
            expected, found = predict(probes), self.predict(probes)
        difference = float((expected - found).abs().max())
        if not difference <= TOLERANCE * max(1.0, float(expected.abs().max())):
            raise ValueError(
                f"fold_batch_norm: the folded network's logits differ by {difference:.2g}; it uses the output of a "
                "convolution in another place than its BatchNorm, or changes the convolution's weights on the way"
            )

    def refresh(self) -> None:
        """Take over the network's weights and statistics as they are now."""
        weights = dict(_tensors(self._network))
        with torch.no_grad():
            for name, tensor in _tensors(self._folded):
                if name in weights:
                    tensor.copy_(weights[name])
            for pair in self.pairs:
                convolution: Any = self._folded.get_submodule(pair.convolution)
                weight, bias = folded_weights(
                    self._network.get_submodule(pair.convolution), self._network.get_submodule(pair.norm)
                )
                convolution.weight.copy_(weight)
                convolution.bias.copy_(bias)

    def _take_out(self, pair: Pair) -> None:
        """A bias for the convolution, and what the BatchNorm's module does beside normalising in its place."""
        convolution: Any = self._folded.get_submodule(pair.convolution)
        norm, weight = self._folded.get_submodule(pair.norm), convolution.weight
        convolution.bias = nn.Parameter(weight.new_zeros(len(weight)), requires_grad=False)
        rest = [getattr(norm, name) for name in ("drop", "act") if isinstance(getattr(norm, name, None), nn.Module)]
        self._folded.set_submodule(pair.norm, nn.Sequential(*rest) if rest else nn.Identity())


def network_of(predict: Predict) -> nn.Module:
    """The module that answers.

    Raises:
        ValueError: ``predict`` is neither a module nor a method of one.
    """
    found = predict if isinstance(predict, nn.Module) else getattr(predict, "__self__", None)
    if not isinstance(found, nn.Module):
        raise ValueError("fold_batch_norm needs a network (a torch module, or a method of one), not a function")
    return found


def find_pairs(predict: Predict, network: nn.Module, images: Tensor) -> list[Pair]:
    """Convolutions and the BatchNorms with fixed statistics that read their output, as one pass shows them.

    Layers that are used more than once in a pass are left as they are.
    """
    names = {module: name for name, module in network.named_modules()}
    outputs: dict[int, tuple[str, Tensor]] = {}  # holds the tensors, so that no identity is given out twice
    uses: Counter[str] = Counter()
    found: list[Pair] = []

    def after_convolution(module: nn.Module, _: Any, output: Tensor) -> None:
        uses[names[module]] += 1
        outputs[id(output)] = (names[module], output)
        norm = getattr(module, "norm", None)  # detectron2's convolution applies its norm itself
        if isinstance(norm, nn.Module) and is_fixed(norm):
            found.append(Pair(names[module], names[norm]))

    def before_norm(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        uses[names[module]] += 1
        if id(inputs[0]) in outputs:
            found.append(Pair(outputs[id(inputs[0])][0], names[module]))

    handles = []
    for module in network.modules():
        if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
            handles.append(module.register_forward_hook(after_convolution))
        elif is_fixed(module):
            handles.append(module.register_forward_pre_hook(before_norm))
    try:
        with torch.no_grad():
            predict(images)
    finally:
        for handle in handles:
            handle.remove()
    return [pair for pair in found if uses[pair.convolution] == uses[pair.norm] == 1]


def is_fixed(module: nn.Module) -> bool:
    """Whether a module normalises channels by constants."""
    if isinstance(module, _BatchNorm):
        return module.running_mean is not None and not module.training
    return type(module).__name__ == FROZEN


def folded_weights(convolution: Any, norm: Any) -> tuple[Tensor, Tensor]:
    """Weight and bias of a convolution that does what both layers do."""
    mean, variance = norm.running_mean, norm.running_var
    scale = (variance + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight
    shift = -mean if convolution.bias is None else convolution.bias - mean
    bias = shift * scale if norm.bias is None else shift * scale + norm.bias
    return convolution.weight * scale.view(-1, *[1] * (convolution.weight.dim() - 1)), bias


def _tensors(network: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from network.named_parameters()
    yield from network.named_buffers()
