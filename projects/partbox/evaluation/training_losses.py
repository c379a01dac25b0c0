"""The training losses of any detectron2 model as a function of one image, for attacks."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from detectron2.structures import Instances
from detectron2.utils.events import EventStorage
from torch import Tensor, nn

from partbox.attacks import AttackError
from partbox.attacks.detector import Targets
from partbox.attacks.draws import drawn_from, image_seed

NORMALIZATIONS = (nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm)
DROPOUTS = (nn.modules.dropout._DropoutNd, nn.modules.dropout.AlphaDropout)
DROP_PATHS = ("DropPath", "DropBlock2d", "StochasticDepth")  # of timm and torchvision, by name
PLAIN = bool | int | float | str


def is_deterministic_in_evaluation(module: nn.Module) -> bool:
    """Whether a module behaves otherwise in training for regularisation only: BatchNorm, dropout, stochastic depth."""
    return isinstance(module, NORMALIZATIONS + DROPOUTS) or type(module).__name__ in DROP_PATHS


@contextmanager
def as_in_training(model: nn.Module) -> Iterator[None]:
    """Let a model give its training losses without leaving a trace.

    The model is in training mode but for BatchNorm, dropout and stochastic depth, and draws no pictures. Afterwards
    every mode, buffer, plain value and tensor that a module holds is as it was: RetinaNet, for one, keeps a running
    number of objects among its attributes and would answer the next image differently.
    """
    modes = {module: module.training for module in model.modules()}
    held = {module: _held(module) for module in model.modules()}
    buffers = {module: dict(module._buffers) for module in model.modules()}
    tensors = [value for its in (held, buffers) for values in its.values() for value in values.values()]
    contents = [(value, value.detach().clone()) for value in tensors if isinstance(value, Tensor)]
    model.train()
    for module in model.modules():
        if is_deterministic_in_evaluation(module):
            module.train(False)
        if getattr(module, "vis_period", 0):  # would draw pictures of an image that requires a gradient
            vars(module)["vis_period"] = 0
    try:
        yield
    finally:
        for module, values in held.items():
            for key in _held(module).keys() - values.keys():
                del vars(module)[key]
            vars(module).update(values)
            module._buffers.clear()
            module._buffers.update(buffers[module])
        for module, mode in modes.items():
            module.training = mode
        with torch.no_grad():
            for tensor, before in contents:
                if not torch.equal(tensor, before):  # writing to it would cut the gradient's path through it
                    tensor.copy_(before)


def _held(module: nn.Module) -> dict[str, Any]:
    """The plain values and tensors among a module's attributes, beside its parameters and buffers."""
    return {key: value for key, value in vars(module).items() if value is None or isinstance(value, PLAIN | Tensor)}


class TrainingLosses:
    """The training losses of one image; a :data:`partbox.attacks.detector.DetectorLosses`.

    Args:
        model: a detectron2 meta-architecture; its parameters should be frozen.
        sample: of a mapper that keeps the labels, with ``image`` (3, H, W) in 0..255 and ``instances``.
        num_classes: of the detector, for wrong labels.
        seed: of what the detector samples and of the wrong labels, together with the image id and the draw.

    Raises:
        AttackError: the sample has no labels.
    """

    def __init__(self, model: nn.Module, sample: Mapping[str, Any], num_classes: int, *, seed: int = 0) -> None:
        if "instances" not in sample:
            raise AttackError(
                f"image {sample.get('image_id')} comes without instances: detectron2's test mapper drops the labels "
                "that an attack needs; use partbox.evaluation.detectron2_subject.labelled_test_mapper(cfg)"
            )
        self.model, self.sample, self.num_classes, self.seed = model, sample, num_classes, seed

    def __call__(self, image: Tensor, targets: Targets, draw: int) -> dict[str, Tensor]:
        """Losses by name at ``image`` (3, H, W) in [0, 1]; the same draw gives the same losses."""
        sample = {**self.sample, "image": image * 255, "instances": self.targets(targets)}
        seed = image_seed(self.seed, self.sample["image_id"], draw)
        with as_in_training(self.model), drawn_from(seed), EventStorage(0):
            losses = self.model([sample])
        if not isinstance(losses, Mapping):
            raise AttackError(f"{type(self.model).__name__} gives no losses in training mode")
        return dict(losses)

    def targets(self, targets: Targets) -> Instances:
        """The image's objects, none of them, or all with wrong labels (each other label equally likely)."""
        # A model may change what it is given, such as the scale of its boxes.
        truth: Instances = copy.deepcopy(self.sample["instances"])
        if targets == "nothing":
            return truth[torch.zeros(len(truth), dtype=torch.bool)]
        if targets == "truth":
            return truth
        if self.num_classes < 2:
            raise AttackError("the goal mislabel needs at least two classes")
        generator = torch.Generator().manual_seed(image_seed(self.seed, self.sample["image_id"], -1))
        shift = torch.randint(1, self.num_classes, (len(truth),), generator=generator).to(truth.gt_classes)
        truth.gt_classes = (truth.gt_classes + shift) % self.num_classes
        return truth
