"""What every attack shares: its call, its result, its input checks, and the gradient of its objective."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from partbox.progress import note_passes

from .draws import ImageId, content_ids
from .objectives import Objective, margin
from .threat import ThreatModel

Predict = Callable[[Tensor], Tensor]


class AttackError(RuntimeError):
    """The attack cannot mean anything on this model or input.

    No gradient, logits that are not finite, pixels out of range.
    """


class BlindAttackError(AttackError):
    """What the attack maximises does not depend on this image: nothing is shown, but other images can be attacked."""


@dataclass(frozen=True)
class AttackResult:
    """What an attack found, one entry an image.

    Attributes:
        images: (B, C, H, W) in [0, 1]; a fooling image where one was found, else the one with the highest loss.
        fooled: (B,) bool; True where the prediction is wrong, also when it was wrong on the clean image.
        queries: (B,) int64, forward passes spent on each image.
        loss: (B,) margin of the logits at ``images``: the largest wrong one minus the true one, positive when fooled.
            The same quantity whatever the attack maximises, so that attacks can be compared; None where unknown.
        zero_gradient: (B,) bool, None from attacks without gradients; True where every gradient that the attack saw was
            exactly zero: such an image was searched blindly and its verdict says nothing about robustness.
        notes: sentences on what differs from the published attack, such as a loss replaced because of few classes.
        fooled_by: an entry an image: the attack of the ensemble that fooled it, ``clean`` where the clean image is
            misclassified, "" where nothing fooled it.
    """

    images: Tensor
    fooled: Tensor
    queries: Tensor
    loss: Tensor | None = None
    zero_gradient: Tensor | None = None
    notes: tuple[str, ...] = ()
    fooled_by: tuple[str, ...] = ()


class Search:
    """What an attack knows about each image of a batch while it searches.

    Keeps the first fooling image seen, or else the one with the highest loss.

    Attributes:
        clean: (B, C, H, W) the images to start from.
        labels: (B,) true classes.
        clean_logits: (B, K).
        images: (B, C, H, W) the images to return.
        fooled: (B,) bool.
        queries: (B,) int64 forward passes.
        margin: (B,) of the logits at ``images``.
        fooled_by, notes: see :class:`AttackResult`.
    """

    def __init__(self, images: Tensor, labels: Tensor, clean_logits: Tensor) -> None:
        self.clean, self.labels, self.clean_logits = images, labels, clean_logits
        self.images = images.clone()
        self.fooled = clean_logits.argmax(dim=1) != labels
        self.queries = torch.zeros(len(images), dtype=torch.int64, device=images.device)
        self.margin = margin(clean_logits, labels)
        self._highest = torch.full_like(self.margin, -torch.inf)  # of the loss that the attack maximises
        self.notes: list[str] = []
        self.fooled_by = ["clean" if wrong else "" for wrong in self.fooled.tolist()]
        self._gradients_seen = torch.zeros_like(self.queries)
        self._saw_only_zero = torch.ones_like(self.fooled)

    @property
    def remaining(self) -> Tensor:
        """Indices of the images that are not fooled yet."""
        return (~self.fooled).nonzero().squeeze(1)

    def look(self, rows: Tensor, candidates: Tensor, logits: Tensor, loss: Tensor) -> Tensor:
        """Take in one forward pass on candidates for the images ``rows``.

        Of an image that is fooled already only another fooling candidate counts: the last one is kept.

        Returns:
            (len(rows),) bool, True where the candidate fools.
        """
        wrong = logits.argmax(dim=1) != self.labels[rows]
        better = wrong | ((loss > self._highest[rows]) & ~self.fooled[rows])
        if bool(better.any()):
            chosen = rows[better]
            self.images[chosen] = candidates[better]
            self._highest[chosen] = loss[better].to(self._highest)
            self.margin[chosen] = margin(logits[better], self.labels[chosen]).to(self.margin)
            self.fooled[rows[wrong]] = True
        self.queries[rows] += 1
        return wrong

    def accept(self, rows: Tensor, images: Tensor, margins: Tensor) -> None:
        """Take in images (len(rows), C, H, W) that fool, with the margins (len(rows),) of their logits."""
        self.images[rows], self.margin[rows], self.fooled[rows] = images, margins.to(self.margin), True

    def saw_gradients(self, rows: Tensor, zero: Tensor) -> None:
        """Note whether the gradient that the attack follows was exactly zero, (len(rows),) bool."""
        self._gradients_seen[rows] += 1
        self._saw_only_zero[rows] &= zero

    def part(self, rows: Tensor) -> Search:
        """A new search on some of the images, with the clean logits known."""
        return Search(take(self.clean, rows), self.labels[rows], self.clean_logits[rows])

    def found_by(self, name: str) -> None:
        """Give an attack the credit for the images that are fooled and have no name yet."""
        for row in self.fooled.nonzero().squeeze(1).tolist():
            self.fooled_by[row] = self.fooled_by[row] or name

    def merge(self, rows: Tensor, part: Search) -> None:
        """Take over what a :meth:`part` found; of images that nothing fools the one with the larger margin stays."""
        news = part.fooled | (part.margin > self.margin[rows])
        chosen = rows[news]
        self.images[chosen] = part.images[news]
        self.margin[chosen] = part.margin[news]
        self.fooled[rows] |= part.fooled
        self.spent(rows, part)
        for row, name in zip(rows.tolist(), part.fooled_by, strict=True):
            self.fooled_by[row] = name
        self.notes += [note for note in part.notes if note not in self.notes]

    def spent(self, rows: Tensor, part: Search) -> None:
        """Take over what a :meth:`part` has cost, and nothing that it found."""
        self.queries[rows] += part.queries
        self._gradients_seen[rows] += part._gradients_seen
        self._saw_only_zero[rows] &= part._saw_only_zero

    @property
    def zero_gradient(self) -> Tensor:
        """(B,) bool, True where there were gradients and all of them were zero."""
        return self._saw_only_zero & (self._gradients_seen > 0)

    def result(self) -> AttackResult:
        return AttackResult(
            self.images,
            self.fooled,
            self.queries,
            self.margin,
            self.zero_gradient,
            tuple(self.notes),
            tuple(self.fooled_by),
        )


class Attack(ABC):
    """An attack on one threat model: searches a misclassified image around each image of a batch.

    Attributes:
        threat: which changes are allowed.
    """

    threat: ThreatModel

    @property
    @abstractmethod
    def name(self) -> str:
        """How tables call it, such as ``apgd-ce``; without the threat model."""

    @property
    @abstractmethod
    def passes(self) -> int:
        """Forward passes of an image that nothing fools, the clean one included."""

    @property
    @abstractmethod
    def settings(self) -> dict[str, int | float | str | bool]:
        """Everything but threat model and seed that decides the outcome, as plain values."""

    @abstractmethod
    def search(self, predict: Predict, search: Search, image_ids: Sequence[ImageId], seed: int) -> None:
        """Attack the images of ``search`` that remain; what is found goes into it."""

    def __call__(
        self,
        predict: Predict,
        images: Tensor,
        labels: Tensor,
        *,
        image_ids: Sequence[ImageId] | None = None,
        seed: int = 0,
    ) -> AttackResult:
        """Search a misclassified image within the threat model of each image.

        Images keep their memory layout: given channels-last, ``predict`` sees channels-last.

        Args:
            predict: images (B, C, H, W) in [0, 1] -> logits (B, K), in evaluation mode.
            images: (B, C, H, W) float in [0, 1].
            labels: (B,) true classes.
            image_ids: what the random draw of each image depends on; default: its pixels.
            seed: of all draws.

        Raises:
            AttackError: see :mod:`partbox.attacks.base`.
        """
        check_inputs(images, labels, image_ids)
        images, labels = plain(images), labels.long()
        ids = list(image_ids) if image_ids is not None else content_ids(images)
        notes = check_mode(predict)
        if not len(images):
            return Search(images, labels, images.new_zeros((0, 1))).result()
        logits = forward(predict, images, labels)
        if logits.shape[1] < 2:
            raise AttackError(
                "predict returns one logit an image, so that no answer is ever wrong; of a sigmoid give both classes: "
                "torch.cat([torch.zeros_like(z), z], dim=1)"
            )
        search = Search(images, labels, logits)
        search.notes += notes
        search.queries += 1
        self.search(predict, search, ids, seed)
        search.found_by(self.name)
        return search.result()


def whole_numbers(attack: str, **numbers: object) -> None:
    """Refuse settings that are no whole number >= 1.

    Raises:
        ValueError: naming the attack, the setting and the value.
    """
    for name, number in numbers.items():
        if isinstance(number, bool) or not isinstance(number, int) or number < 1:
            raise ValueError(f"{attack}'s {name} must be a whole number >= 1, not {number!r}")


def take(images: Tensor, rows: Tensor) -> Tensor:
    """Some images of a batch, (B, C, H, W) -> (len(rows), C, H, W), in the memory layout of the batch."""
    return in_layout_of(images, images[rows])


def in_layout_of(images: Tensor, other: Tensor) -> Tensor:
    """``other`` in the memory layout (contiguous or channels last) of ``images``."""
    if other.dim() == 4 and images.dim() == 4 and images.is_contiguous(memory_format=torch.channels_last):
        return other.contiguous(memory_format=torch.channels_last)
    return other.contiguous()


def plain(images: Tensor) -> Tensor:
    """The images without a gradient's history, as a tensor that may get a gradient.

    Raises:
        AttackError: called in ``torch.inference_mode()``, where nothing gets a gradient.
    """
    if torch.is_inference_mode_enabled():
        raise AttackError("attacks need gradients, which torch.inference_mode() forbids: call them outside of it")
    return images.clone() if images.is_inference() else images.detach()


def check_mode(predict: Callable[..., object]) -> list[str]:
    """Notes on a network that answers at random; a plain function tells nothing about its network.

    Raises:
        AttackError: a network whose BatchNorm is in training mode.
    """
    network = predict if isinstance(predict, nn.Module) else getattr(predict, "__self__", None)
    if not isinstance(network, nn.Module):
        return []
    for name, module in network.named_modules():
        if isinstance(module, _BatchNorm) and module.training:
            raise AttackError(
                f"the model is in training mode ({name or type(module).__name__}): answers would depend on the batch, "
                "and the attack would change the running statistics; call eval() on the model first"
            )
    active = any(isinstance(one, _DropoutNd) and one.training and one.p > 0 for one in network.modules())
    return ["dropout was active (training mode): the model answered at random"] if active else []


def forward(predict: Predict, images: Tensor, labels: Tensor) -> Tensor:
    """Checked logits (B, K) without a gradient.

    Raises:
        AttackError: see :func:`check_logits`; images that ``predict`` has changed.
    """
    with torch.no_grad():
        version = images._version
        logits = predict(images)
        if images._version != version:
            raise AttackError(
                "predict changes the images that it is given (an operation in place, such as x -= mean): let it work "
                "on a copy"
            )
        return check_logits(logits, labels, images)


def check_inputs(images: Tensor, labels: Tensor, image_ids: Sequence[ImageId] | None) -> None:
    """Refuse what would make an attack silently wrong.

    Raises:
        AttackError: shapes that do not fit, integer, half-precision or non-finite images, pixels outside [0, 1], labels
            that are no integers, a wrong number of ids.
    """
    if images.dim() != 4 or not images.is_floating_point():
        raise AttackError(
            f"images must be float (B, C, H, W) in [0, 1], not {images.dtype} {tuple(images.shape)}; "
            "divide uint8 images by 255"
        )
    if images.dtype in (torch.float16, torch.bfloat16):
        raise AttackError(
            f"images in {images.dtype} cannot hold the small steps of an attack: give float32, convert inside predict"
        )
    if labels.shape != images.shape[:1] or labels.is_floating_point() or labels.dtype == torch.bool:
        raise AttackError(f"labels must be integers (B,) = ({len(images)},), not {labels.dtype} {tuple(labels.shape)}")
    if image_ids is not None and len(image_ids) != len(images):
        raise AttackError(f"{len(image_ids)} image ids for {len(images)} images")
    if not len(images):
        return
    low, high = images.detach().aminmax()
    if not bool(torch.isfinite(low) & torch.isfinite(high)) or low < 0 or high > 1:
        raise AttackError(f"pixels must be finite and within [0, 1], found [{low.item():g}, {high.item():g}]")


def check_logits(logits: Tensor, labels: Tensor, images: Tensor) -> Tensor:
    """Return ``logits`` when they are finite (B, K), and raise AttackError otherwise.

    A model may answer in half precision: then they are returned in that of the images. Of a model that answers in
    double precision they stay as they are, since rounding could make the largest ones equal and so another verdict.
    """
    if not isinstance(logits, Tensor) or logits.dim() != 2 or len(logits) != len(labels):
        raise AttackError(f"predict must return logits (B, K) with B = {len(labels)}, not {_describe(logits)}")
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < logits.shape[1]:
        raise AttackError(f"labels must lie in [0, {logits.shape[1]}), found {int(labels.min())}..{int(labels.max())}")
    if not bool(torch.isfinite(logits).all()):
        raise AttackError("the model returned logits that are not finite")
    note_passes(len(logits))
    return logits.to(torch.promote_types(logits.dtype, images.dtype))


def _describe(value: object) -> str:
    return f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__


@dataclass(frozen=True)
class Ascent:
    """One forward and backward pass.

    Attributes:
        logits: (B, K).
        loss: (B,) the objective.
        gradient: (B, C, H, W) of the objective.
        zero: (B,) bool, the gradient is exactly zero everywhere.
        passes: (B,) int64, forward passes that it took.
    """

    logits: Tensor
    loss: Tensor
    gradient: Tensor
    zero: Tensor
    passes: Tensor


def _gradient_pass(
    predict: Predict, objective: Objective, images: Tensor, labels: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Logits (B, K), objective (B,), its gradient (B, C, H, W), and where that is zero everywhere (B,)."""
    with torch.enable_grad():
        leaf = images.detach().requires_grad_(True)
        logits = check_logits(predict(leaf), labels, leaf)
        if not logits.requires_grad:
            raise AttackError(
                "the logits do not depend on the images through differentiable operations, so a gradient attack "
                "would be blind; look for detach(), argmax, .data or no_grad on the path"
            )
        loss = objective(logits, labels)
        (gradient,) = torch.autograd.grad(loss.sum(), leaf, allow_unused=True)
    if gradient is None:
        raise AttackError("the logits require a gradient but do not depend on the images")
    largest = gradient.abs().flatten(1).amax(dim=1)
    if not bool(torch.isfinite(largest).all()):
        raise AttackError("the gradient with respect to the images is not finite")
    return logits.detach(), loss.detach(), gradient, largest == 0


def ascend(predict: Predict, objective: Objective, images: Tensor, labels: Tensor) -> Ascent:
    """The objective and its gradient, with the margin's gradient where the objective's is zero and nothing is fooled.

    The cross-entropy of a very confident model underflows: its gradient is zero although the logits move. The margin of
    the logits does not underflow.

    Raises:
        AttackError: the logits do not depend on the images through differentiable operations, or values are not finite.
    """
    logits, loss, gradient, zero = _gradient_pass(predict, objective, images, labels)
    passes = torch.ones_like(labels)
    if objective is not margin and bool(zero.any()):
        again = zero & (logits.argmax(dim=1) == labels)
        if bool(again.any()):
            gradient = gradient.clone()  # it may share memory, such as that of a mean
            _, _, gradient[again], zero[again] = _gradient_pass(predict, margin, take(images, again), labels[again])
            passes[again] += 1
    return Ascent(logits, loss, gradient, zero, passes)


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
