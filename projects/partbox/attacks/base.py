"""What every attack shares: its result, its input checks, and the gradient of its objective."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .draws import ImageId
from .objectives import Objective, margin

Predict = Callable[[Tensor], Tensor]


class AttackError(RuntimeError):
    """The attack cannot mean anything on this model or input.

    No gradient, logits that are not finite, pixels out of range.
    """


@dataclass(frozen=True)
class AttackResult:
    """What an attack found, one entry an image.

    Attributes:
        images: (B, C, H, W) in [0, 1]; a fooling image where one was found, else the one with the highest loss.
        fooled: (B,) bool; True where the prediction is wrong, also when it was wrong on the clean image.
        queries: (B,) int64, forward passes spent on each image.
        loss: (B,) the objective's value at ``images``; None from attacks that have none.
        zero_gradient: (B,) bool, None from attacks without gradients; True where every gradient that the attack saw was
            exactly zero: such an image was searched blindly and its verdict says nothing about robustness.
    """

    images: Tensor
    fooled: Tensor
    queries: Tensor
    loss: Tensor | None = None
    zero_gradient: Tensor | None = None


def check_inputs(images: Tensor, labels: Tensor, image_ids: Sequence[ImageId] | None) -> None:
    """Refuse what would make an attack silently wrong.

    Raises:
        AttackError: shapes that do not fit, integer or non-finite images, pixels outside [0, 1], a wrong number of ids.
    """
    if images.dim() != 4 or not images.is_floating_point():
        raise AttackError(
            f"images must be float (B, C, H, W) in [0, 1], not {images.dtype} {tuple(images.shape)}; "
            "divide uint8 images by 255"
        )
    if labels.shape != images.shape[:1] or labels.is_floating_point():
        raise AttackError(f"labels must be integers (B,) = ({len(images)},), not {labels.dtype} {tuple(labels.shape)}")
    if image_ids is not None and len(image_ids) != len(images):
        raise AttackError(f"{len(image_ids)} image ids for {len(images)} images")
    if not len(images):
        return
    low, high = images.detach().aminmax()
    if not bool(torch.isfinite(low) & torch.isfinite(high)) or low < 0 or high > 1:
        raise AttackError(f"pixels must be finite and within [0, 1], found [{low.item():g}, {high.item():g}]")


def check_logits(logits: Tensor, labels: Tensor) -> Tensor:
    """Return ``logits`` when they are finite (B, K), and raise AttackError otherwise."""
    if not isinstance(logits, Tensor) or logits.dim() != 2 or len(logits) != len(labels):
        raise AttackError(f"predict must return logits (B, K) with B = {len(labels)}, not {_describe(logits)}")
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < logits.shape[1]:
        raise AttackError(f"labels must lie in [0, {logits.shape[1]}), found {int(labels.min())}..{int(labels.max())}")
    if not bool(torch.isfinite(logits).all()):
        raise AttackError("the model returned logits that are not finite")
    return logits


def _describe(value: object) -> str:
    return f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__


def loss_and_gradient(
    predict: Predict, objective: Objective, images: Tensor, labels: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Logits (B, K), objective (B,) and the objective's gradient with respect to the images (B, C, H, W).

    Raises:
        AttackError: the logits do not depend on the images through differentiable operations.
    """
    with torch.enable_grad():
        leaf = images.detach().requires_grad_(True)
        logits = check_logits(predict(leaf), labels)
        if not logits.requires_grad:
            raise AttackError(
                "the logits do not depend on the images through differentiable operations, so a gradient attack "
                "would be blind; look for detach(), argmax, .data or no_grad on the path"
            )
        loss = objective(logits, labels)
        (gradient,) = torch.autograd.grad(loss.sum(), leaf, allow_unused=True)
    if gradient is None:
        raise AttackError("the logits require a gradient but do not depend on the images")
    if not bool(torch.isfinite(gradient).all()):
        raise AttackError("the gradient with respect to the images is not finite")
    return logits.detach(), loss.detach(), gradient


def loss_and_useful_gradient(
    predict: Predict, objective: Objective, images: Tensor, labels: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """As :func:`loss_and_gradient`, with the margin's gradient where the objective's is zero and the image not fooled.

    The cross-entropy of a very confident model underflows: its gradient is zero although the logits move. The margin of
    the logits does not underflow.

    Returns:
        logits (B, K), objective (B,), gradient (B, C, H, W), and (B,) bool where a second pass was needed.
    """
    logits, loss, gradient = loss_and_gradient(predict, objective, images, labels)
    zero = (gradient == 0).flatten(1).all(dim=1) & (logits.argmax(dim=1) == labels)
    if bool(zero.any()) and objective is not margin:
        _, _, gradient[zero] = loss_and_gradient(predict, margin, images[zero], labels[zero])
        return logits, loss, gradient, zero
    return logits, loss, gradient, torch.zeros_like(zero)


@contextmanager
def attack_mode(model: nn.Module) -> Iterator[None]:
    """Evaluation mode (BatchNorm, dropout) and parameters without gradients, each restored exactly on leaving.

    Freezing the parameters saves the weight gradients, about a third of a pass; leaving the mode of every submodule
    as it was matters because some are kept in evaluation mode on purpose.
    """
    modes = [(module, module.training) for module in model.modules()]
    frozen = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        model.eval()
        for parameter in frozen:
            parameter.requires_grad_(False)
        yield
    finally:
        for module, mode in modes:
            module.training = mode
        for parameter in frozen:
            parameter.requires_grad_(True)
