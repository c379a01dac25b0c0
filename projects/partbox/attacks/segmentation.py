"""Attacks on semantic segmentation: PGD on a pixel-wise loss, SegPGD, CosPGD."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from partbox.progress import note_passes
from partbox.suggestions import unknown

from .base import AttackError, AttackResult, Predict, whole_numbers
from .draws import ImageId, content_ids, random_starts
from .threat import ThreatModel, parse_eps

LOSSES = ("ce", "segpgd", "cospgd", "margin")


def pixel_losses(logits: Tensor, labels: Tensor, loss: str, progress: float, ignore: int) -> Tensor:
    """The loss of each pixel as the attack weights it, (B, C, H, W), (B, H, W) -> (B, H, W); 0 where ignored.

    ``ce``: cross-entropy. ``segpgd``: (1 - l) cross-entropy where the pixel is still right, l where it is wrong, with
    l = progress / 2, progress = (t - 1) / T at step t of T (Gu et al. 2022, arXiv 2207.12391, eq. 4). ``cospgd``:
    cross-entropy times the cosine similarity of the softmax and the one-hot label, without a gradient through the
    similarity (Agnihotri et al. 2024, arXiv 2302.02213, as its official code: softmax). ``margin``: the largest wrong
    logit minus the true one where the pixel is still right, 0 where it is wrong, with less weight the further the pixel
    is from falling; it does not underflow.
    """
    labelled = labels != ignore
    safe = torch.where(labelled, labels, 0)
    if loss == "margin":
        return _weighted_margins(pixel_margins(logits, safe).clamp(max=0) * labelled)
    ce = functional.cross_entropy(logits, safe, reduction="none")
    if loss == "segpgd":
        share = progress / 2
        right = logits.detach().argmax(dim=1) == labels
        weight = torch.where(right, 1 - share, share)
    elif loss == "cospgd":
        one_hot = functional.one_hot(safe, logits.shape[1]).movedim(-1, 1).to(logits)
        weight = functional.cosine_similarity(logits.detach().softmax(dim=1), one_hot, dim=1)
    else:
        weight = torch.ones_like(ce)
    return ce * weight * labelled


def pixel_margins(logits: Tensor, labels: Tensor) -> Tensor:
    """The largest wrong logit minus the true one, (B, C, H, W), (B, H, W) in [0, C) -> (B, H, W); positive = wrong."""
    true = logits.gather(1, labels[:, None])[:, 0]
    return logits.scatter(1, labels[:, None], -torch.inf).amax(dim=1) - true


def _weighted_margins(margins: Tensor) -> Tensor:
    """Margins <= 0 times a / (a + margin's size), a = the image's mean size: pixels near their fall count most."""
    sizes = -margins.detach()
    counted = (sizes > 0).flatten(1).sum(dim=1).clamp_min(1)
    typical = (sizes.flatten(1).sum(dim=1) / counted)[:, None, None]
    return margins * typical / (typical + sizes).clamp_min(1e-12)


def saturated(logits: Tensor, labels: Tensor, ignore: int) -> Tensor:
    """Where a pixel is right and its cross-entropy has no gradient at all, (B, H, W) bool.

    The softmax of every wrong class underflows to zero there, which no honest network's logits come near.
    """
    right = (logits.argmax(dim=1) == labels) & (labels != ignore)
    return right & ((logits.detach().softmax(dim=1) > 0).sum(dim=1) == 1) & (logits.shape[1] > 1)


def _climbed(logits: Tensor, labels: Tensor, loss: str, progress: float, ignore: int) -> Tensor:
    """:func:`pixel_losses` with the margin at saturated pixels, where the cross-entropy would be blind, (B, H, W)."""
    losses = pixel_losses(logits, labels, loss, progress, ignore)
    hidden = saturated(logits, labels, ignore)
    if loss == "margin" or not bool(hidden.any()):
        return losses
    return torch.where(hidden, pixel_losses(logits, labels, "margin", progress, ignore), losses)


class SegmentationPGD:
    """PGD on a segmenter; of each image the iterate with the fewest right pixels is kept.

    Where a right pixel's logits are so far apart that its cross-entropy has no gradient, the margin's is followed.

    Args:
        threat: norm and eps in [0, 1] pixel space.
        loss: ``ce``, ``segpgd``, ``cospgd`` or ``margin``, see :func:`pixel_losses`.
        steps: gradient steps, >= 1.
        step_size: in the threat's norm and pixel space; default 2.5 * eps / steps.
        random_start: start from a random allowed image.
        ignore: label of pixels that do not count.

    Raises:
        ValueError: unknown loss, or a number out of range.
    """

    def __init__(
        self,
        threat: ThreatModel,
        loss: str = "segpgd",
        steps: int = 20,
        step_size: float | str | None = None,
        *,
        random_start: bool = True,
        ignore: int = 255,
    ) -> None:
        whole_numbers("SegmentationPGD", steps=steps)
        if loss not in LOSSES:
            raise ValueError(unknown("loss of SegmentationPGD", loss, LOSSES))
        self.threat = threat
        self.loss = loss
        self.steps = steps
        self.step_size = 2.5 * threat.eps / steps if step_size is None else parse_eps(step_size, "step size")
        if self.step_size == 0 and threat.eps > 0:
            raise ValueError("a step size of 0 never leaves the start")
        self.random_start = random_start
        self.ignore = ignore

    @property
    def name(self) -> str:
        """How tables call it, such as ``segpgd-20``."""
        names = {"ce": "segmentation-pgd", "margin": "segmentation-pgd-margin"}
        return f"{names.get(self.loss, self.loss)}-{self.steps}"

    @property
    def passes(self) -> int:
        """Forward passes of an image; all but one have a backward pass."""
        return self.steps + 1

    @property
    def settings(self) -> dict[str, int | float | str | bool]:
        """Everything but threat model and seed that decides the outcome."""
        return {
            "loss": self.loss,
            "steps": self.steps,
            "step_size": self.step_size,
            "random_start": self.random_start,
            "ignore": self.ignore,
        }

    def __call__(
        self,
        predict: Predict,
        images: Tensor,
        labels: Tensor,
        *,
        image_ids: Sequence[ImageId] | None = None,
        seed: int = 0,
    ) -> AttackResult:
        """Attack each image.

        Args:
            predict: images (B, 3, H, W) in [0, 1] -> logits (B, C, H, W), in evaluation mode.
            images: (B, 3, H, W) float in [0, 1].
            labels: (B, H, W) int64, ``ignore`` where not labelled.
            image_ids: what the random start of each image depends on; default: its pixels.
            seed: of the random starts.

        Returns:
            ``fooled`` where there are labelled pixels and none of them is right, ``loss`` their mean cross-entropy.

        Raises:
            AttackError: shapes that do not fit, pixels or labels out of range, logits that are not finite or do not
                depend on the images.
        """
        self._check(images, labels)
        clean = images.detach()
        ids = list(image_ids) if image_ids is not None else content_ids(images)
        candidates = clean.clone()
        if self.random_start:
            candidates = random_starts(self.threat, clean, ids, seed=seed, restart=0)
        best = clean.clone()
        fewest = torch.full((len(images),), torch.inf, device=images.device)
        losses = torch.zeros_like(fewest)
        blind = torch.ones_like(fewest, dtype=torch.bool)
        if not len(images):  # a network need not take an empty batch
            return AttackResult(best, blind, torch.zeros(0, dtype=torch.int64), losses, blind)
        for step in range(self.steps + 1):
            last = step == self.steps
            inputs = candidates.detach().requires_grad_(not last)
            with torch.set_grad_enabled(not last):
                logits = self._logits(predict, inputs, labels)
            right, entropy = self._score(logits.detach(), labels)
            better = (right < fewest) | ((right == fewest) & (entropy > losses))
            best[better], fewest[better], losses[better] = candidates[better], right[better], entropy[better]
            if last:
                break
            pixels = _climbed(logits, labels, self.loss, step / self.steps, self.ignore)
            objective = pixels.flatten(1).mean(dim=1)
            if not objective.requires_grad:
                raise AttackError("the logits do not depend on the images: the attack would be blind")
            (gradient,) = torch.autograd.grad(objective.sum(), inputs, allow_unused=True)
            if gradient is None:
                raise AttackError("the logits require a gradient but do not depend on the images")
            blind &= ~gradient.flatten(1).any(dim=1)
            moved = candidates + self.step_size * self.threat.ascent_direction(gradient)
            candidates = self.threat.project(clean, moved)
        queries = torch.full((len(images),), self.steps + 1, dtype=torch.int64)
        labelled = (labels != self.ignore).flatten(1).any(dim=1)
        return AttackResult(best, (fewest == 0) & labelled, queries, losses, blind & labelled)

    def _check(self, images: Tensor, labels: Tensor) -> None:
        if images.dim() != 4 or not images.is_floating_point():
            raise AttackError(f"images must be float (B, C, H, W) in [0, 1], not {images.dtype} {tuple(images.shape)}")
        if labels.shape != (len(images), *images.shape[-2:]) or labels.is_floating_point():
            raise AttackError(
                f"labels must be integers (B, H, W) of the images' size, not {labels.dtype} {tuple(labels.shape)}"
            )
        if len(images) and not (float(images.min()) >= 0 and float(images.max()) <= 1):  # nor NaN
            raise AttackError("pixels must lie in [0, 1]; divide 8-bit images by 255")

    def _logits(self, predict: Predict, images: Tensor, labels: Tensor) -> Tensor:
        logits = predict(images)
        if logits.dim() != 4 or logits.shape[-2:] != labels.shape[-2:]:
            raise AttackError(f"logits must be (B, C, H, W) at the labels' size, not {tuple(logits.shape)}")
        strange = labels[(labels != self.ignore) & ((labels < 0) | (labels >= logits.shape[1]))]
        if len(strange):
            raise AttackError(
                f"labels must lie in [0, {logits.shape[1]}) or be {self.ignore} (not labelled), found {int(strange[0])}"
            )
        if not bool(torch.isfinite(logits).all()):
            raise AttackError("the logits are not finite")
        note_passes(len(logits))
        return logits

    def _score(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Right pixels and mean cross-entropy of the labelled pixels of each image, (B,) each."""
        labelled = labels != self.ignore
        right = ((logits.argmax(dim=1) == labels) & labelled).flatten(1).sum(dim=1).float()
        entropy = pixel_losses(logits, labels, "ce", 0.0, self.ignore).flatten(1).sum(dim=1)
        return right, entropy / labelled.flatten(1).sum(dim=1).clamp_min(1)
