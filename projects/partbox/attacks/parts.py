"""Attacks on part-based models that aim at the parts: what the head reads, not only what it answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from partbox.suggestions import unknown

from .base import AttackError, AttackResult, check_inputs, check_logits, check_mode, plain, whole_numbers
from .draws import ImageId, content_ids, random_starts
from .objectives import cross_entropy, margin
from .threat import ThreatModel, step_length

NOT_LABELLED = -1  # as in partbox.data, which attacks do not import: they work without detectron2
GOALS = ("parts", "both", "guided", "two-stage", "inverse")
MASK_STEPS = 20  # of the search for masks that the head misreads
REGIONS = ("all", "object", "background")


class PartPrediction(NamedTuple):
    """What a part model says about a batch.

    Attributes:
        logits: (B, K) of the classes.
        mask_logits: (B, 1 + P, h, w) of background and parts at each pixel, before the softmax.
    """

    logits: Tensor
    mask_logits: Tensor


PartPredict = Callable[[Tensor], PartPrediction]
MaskHead = Callable[[Tensor], Tensor]  # mask logits (B, 1 + P, h, w) -> logits (B, K)


def part_maps_at(part_maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Part maps (B, H, W) int64 reduced to (B, h, w): the label at the centre of each cell."""
    return functional.interpolate(part_maps[:, None].double(), size=size, mode="nearest-exact")[:, 0].to(torch.int64)


def part_cross_entropy(mask_logits: Tensor, part_maps: Tensor) -> Tensor:
    """Cross-entropy of each image's parts, averaged over its labelled pixels; (B, 1 + P, h, w), (B, H, W) -> (B,).

    0 for an image without labelled pixels.
    """
    maps = part_maps_at(part_maps, (mask_logits.shape[2], mask_logits.shape[3]))
    losses = functional.cross_entropy(mask_logits, maps, reduction="none", ignore_index=NOT_LABELLED)
    labelled = (maps != NOT_LABELLED).flatten(1).sum(dim=1)
    return losses.flatten(1).sum(dim=1) / labelled.clamp_min(1)


def region_mask(part_maps: Tensor, region: str) -> Tensor:
    """Which pixels may change, (B, H, W) part maps -> (B, 1, H, W) of 0 and 1. Unlabelled pixels are background."""
    if region == "all":
        return torch.ones_like(part_maps, dtype=torch.float32)[:, None]
    on_object = (part_maps > 0).float()[:, None]
    return on_object if region == "object" else 1 - on_object


class PartPGD:
    """PGD against the parts of a part model.

    Goals:

    - ``parts``: away from the true parts: maximise their cross-entropy. The class is not looked at.
    - ``both``: maximise ``part_weight`` times that plus (1 - ``part_weight``) times the class's cross-entropy.
    - ``guided``: towards the parts of another image: minimise the cross-entropy to its part map.
    - ``inverse``: first masks near the clean ones that the head misreads are searched, in the space of mask logits (l2,
      a root mean square of 1 an entry, as the original's ``seg-inverse``), then the image is moved until its masks
      resemble them: minimise the mean squared difference.
    - ``two-stage``: the first half of the steps as ``parts`` (or as ``guided`` where guides are given), the second as
      plain PGD on the class.

    The returned image is, for ``both``, ``inverse`` and ``two-stage``, the first that is misclassified, else the one
    with the highest objective; for ``parts`` and ``guided`` the one with the highest objective, whatever its class.
    ``fooled`` is the class verdict on the returned image.

    Args:
        threat: norm and eps in [0, 1] pixel space.
        goal: see above.
        steps: gradient steps, >= 1 (>= 2 for ``two-stage``).
        step_size: in the threat's norm and pixel space; default 2.5 * eps / steps.
        part_weight: of ``both``, in [0, 1].
        region: pixels that may change: ``all``, ``object`` (those with a part) or ``background`` (the others).

    Raises:
        ValueError: unknown goal or region, or a number out of range.
    """

    def __init__(
        self,
        threat: ThreatModel,
        goal: str = "parts",
        steps: int = 20,
        step_size: float | str | None = None,
        *,
        part_weight: float = 0.5,
        region: str = "all",
    ) -> None:
        threat.only("linf", "l2", of="PartPGD")
        whole_numbers("PartPGD", steps=steps)
        if goal not in GOALS:
            raise ValueError(unknown("goal of PartPGD", goal, GOALS))
        if region not in REGIONS:
            raise ValueError(unknown("region of PartPGD", region, REGIONS))
        if not 0 <= part_weight <= 1:
            raise ValueError(f"PartPGD's part_weight must lie in [0, 1], not {part_weight!r}")
        if goal == "two-stage" and steps < 2:
            raise ValueError("PartPGD's two-stage goal needs at least 2 steps")
        self.threat = threat
        self.goal = goal
        self.steps = steps
        self.step_size = step_length(threat, steps, step_size)
        self.part_weight = part_weight
        self.region = region

    @property
    def name(self) -> str:
        """How tables call it, such as ``parts-20-both``."""
        return f"parts-{self.steps}-{self.goal}" + ("" if self.region == "all" else f"-{self.region}")

    @property
    def passes(self) -> int:
        """Forward passes of an image."""
        return self.steps + 1 + int(self.goal == "inverse")

    @property
    def settings(self) -> dict[str, int | float | str | bool]:
        """Everything but threat model and seed that decides the outcome."""
        settings: dict[str, int | float | str | bool] = {
            "goal": self.goal,
            "steps": self.steps,
            "step_size": self.step_size,
            "region": self.region,
        }
        return settings | ({"part_weight": self.part_weight} if self.goal == "both" else {})

    def __call__(
        self,
        predict: PartPredict,
        images: Tensor,
        labels: Tensor,
        part_maps: Tensor,
        *,
        guides: Tensor | None = None,
        head: MaskHead | None = None,
        image_ids: Sequence[ImageId] | None = None,
        seed: int = 0,
    ) -> AttackResult:
        """Attack each image.

        Args:
            predict: images (B, 3, H, W) in [0, 1] -> :class:`PartPrediction`, in evaluation mode.
            images: (B, 3, H, W) float in [0, 1].
            labels: (B,) true classes.
            part_maps: (B, H, W) int64, 0 = background, 1 + p = part p, -1 = not labelled.
            guides: (B, H, W) part maps of other images, for ``guided`` and ``two-stage``.
            head: what the model answers to mask logits, for ``inverse``.
            image_ids: what the random start depends on; default: the pixels.
            seed: of the random starts.

        Raises:
            AttackError: see :mod:`partbox.attacks.base`; part maps or guides of another shape; ``guided`` without
                guides, ``inverse`` without head; an image without labelled part pixels, or masks that are not
                differentiable: the attack would be blind. An image whose gradient only happens to be zero, such as one
                with saturated masks, is noted in ``zero_gradient``.
        """
        check_inputs(images, labels, image_ids)
        self._check_maps(images, part_maps, guides)
        images, labels = plain(images), labels.long()
        check_mode(predict)
        if not len(images):  # a network need not take an empty batch
            return _Kept(images, labels, stop_when_fooled=False).result()
        ids = list(image_ids) if image_ids is not None else content_ids(images)
        allowed = region_mask(part_maps, self.region).to(images)
        aim = self._misread_masks(predict, head, images, labels) if self.goal == "inverse" else None
        kept = _Kept(images, labels, stop_when_fooled=self.goal in ("both", "two-stage", "inverse"))
        kept.queries += int(self.goal == "inverse")  # the clean masks
        candidates = images + (random_starts(self.threat, images, ids, seed=seed, restart=0) - images) * allowed
        for step in range(self.steps + 1):
            found = self._ascend(predict, candidates, labels, part_maps, guides, step, aim)
            kept.look(candidates, found, allowed, stage=self._stage(step))
            if step < self.steps:
                candidates = self._step(images, candidates, found.gradient, allowed)
        return kept.result()

    def perturb(
        self,
        predict: PartPredict,
        images: Tensor,
        labels: Tensor,
        part_maps: Tensor,
        *,
        image_ids: Sequence[ImageId],
        seed: int,
        random_start: bool = True,
    ) -> Tensor:
        """``steps`` passes from a random start; the last iterate, (B, 3, H, W). For training.

        An image without labelled pixels is attacked on its class, and may change everywhere.

        Raises:
            AttackError: as for calling; a goal that needs guides; a gradient of exactly zero for every image, since
                training on random noise would be called adversarial.
        """
        check_inputs(images, labels, image_ids)
        if self.goal in ("guided", "inverse"):
            raise AttackError(f"the {self.goal} goal is not for training: it needs more than the batch")
        images, labels = plain(images), labels.long()
        if not len(images):
            return images
        labelled = (part_maps != NOT_LABELLED).flatten(1).any(dim=1)
        allowed = region_mask(part_maps, self.region).to(images)
        allowed[~labelled] = 1
        starts = random_starts(self.threat, images, image_ids, seed=seed, restart=0) if random_start else images
        candidates = images + (starts - images) * allowed
        for step in range(self.steps):
            found = self._ascend(predict, candidates, labels, part_maps, None, step)
            if not bool(found.gradient.any()):
                raise AttackError("the parts' gradient is exactly zero for every image: the attack would be blind")
            candidates = self._step(images, candidates, found.gradient, allowed)
        return candidates

    def _step(self, images: Tensor, candidates: Tensor, gradient: Tensor, allowed: Tensor) -> Tensor:
        # No gradient, no move: outside the region the candidates stay the clean image that they started as.
        return self.threat.project(
            images, candidates + self.step_size * self.threat.ascent_direction(gradient * allowed)
        )

    def _check_maps(self, images: Tensor, part_maps: Tensor, guides: Tensor | None) -> None:
        expected = (len(images), *images.shape[2:])
        for name, maps in (("part_maps", part_maps), ("guides", guides)):
            if maps is not None and (tuple(maps.shape) != expected or maps.is_floating_point()):
                raise AttackError(f"{name} must be integers {expected}, not {maps.dtype} {tuple(maps.shape)}")
        if self.goal == "guided" and guides is None:
            raise AttackError("the guided goal needs guides: part maps (B, H, W) of other images")
        aim = guides if guides is not None and self.goal in ("guided", "two-stage") else part_maps
        blind = ~(aim != NOT_LABELLED).flatten(1).any(dim=1)
        if bool(blind.any()) and self.goal != "inverse":
            raise AttackError(
                f"{int(blind.sum())} images have no labelled part pixels: the attack would be blind on them"
            )

    def _misread_masks(self, predict: PartPredict, head: MaskHead | None, images: Tensor, labels: Tensor) -> Tensor:
        """Mask logits near those of the clean images that the head misreads, (B, 1 + P, h, w)."""
        if head is None:
            raise AttackError("the inverse goal needs the head: a function from mask logits to logits")
        with torch.no_grad():
            clean = predict(images).mask_logits
        radius = clean[0].numel() ** 0.5 if len(clean) else 0.0
        masks = clean.clone()
        for _ in range(MASK_STEPS):
            with torch.enable_grad():
                leaf = masks.detach().requires_grad_(True)
                value = cross_entropy(head(leaf), labels)
                if not value.requires_grad:
                    raise AttackError("the head does not depend on the masks through differentiable operations")
                (gradient,) = torch.autograd.grad(value.sum(), leaf)
            norms = gradient.flatten(1).norm(dim=1).clamp_min(1e-30)
            moved = masks + 2.5 * radius / MASK_STEPS * gradient / norms[:, None, None, None] - clean
            lengths = moved.flatten(1).norm(dim=1).clamp_min(1e-12)
            masks = clean + moved * (radius / lengths).clamp(max=1.0)[:, None, None, None]
        return masks.detach()

    def _stage(self, step: int) -> int:
        """0, or 1 once the two-stage goal aims at the class."""
        return int(self.goal == "two-stage" and step >= self.steps // 2)

    def _objective(
        self,
        found: PartPrediction,
        labels: Tensor,
        part_maps: Tensor,
        guides: Tensor | None,
        step: int,
        aim: Tensor | None,
    ) -> Tensor:
        if aim is not None:
            return -((found.mask_logits - aim) ** 2).flatten(1).mean(dim=1)
        if self._stage(step) == 1:
            return cross_entropy(found.logits, labels)
        if guides is not None and self.goal in ("guided", "two-stage"):
            return -part_cross_entropy(found.mask_logits, guides)
        parts, classes = part_cross_entropy(found.mask_logits, part_maps), cross_entropy(found.logits, labels)
        mixed = self.part_weight * parts + (1 - self.part_weight) * classes if self.goal == "both" else parts
        labelled = (part_maps != NOT_LABELLED).flatten(1).any(dim=1)
        return torch.where(labelled, mixed, classes)

    def _ascend(
        self,
        predict: PartPredict,
        candidates: Tensor,
        labels: Tensor,
        part_maps: Tensor,
        guides: Tensor | None,
        step: int,
        aim: Tensor | None = None,
    ) -> _Found:
        with torch.enable_grad():
            leaf = candidates.detach().requires_grad_(True)
            answer = PartPrediction(*predict(leaf))
            masks = answer.mask_logits
            found = PartPrediction(
                check_logits(answer.logits, labels, leaf), masks.to(torch.promote_types(masks.dtype, leaf.dtype))
            )
            if step == 0:
                _check_parts(masks.shape[1] - 1, part_maps, guides)
            value = self._objective(found, labels, part_maps, guides, step, aim)
            if not value.requires_grad:
                raise AttackError("parts and logits do not depend on the images through differentiable operations")
            (gradient,) = torch.autograd.grad(value.sum(), leaf, allow_unused=True)
        if gradient is None or not bool(torch.isfinite(gradient).all()):
            raise AttackError("the parts' gradient with respect to the images is missing or not finite")
        # Of the model, and so the same for every image; a zero from saturated masks is of an image and only noted.
        if not found.mask_logits.requires_grad and len(candidates) and not bool(gradient.any()):
            raise AttackError("the masks are not differentiable: the parts' gradient is exactly zero for every image")
        return _Found(found.logits.detach(), value.detach(), gradient)


def _check_parts(parts: int, *maps: Tensor | None) -> None:
    """Raises AttackError for a label that is no part of the model."""
    for one in maps:
        if one is not None and not NOT_LABELLED <= int(one.min()) <= int(one.max()) <= parts:
            raise AttackError(
                f"part maps hold 0 = background, 1 to {parts} = the model's parts and {NOT_LABELLED} = not labelled, "
                f"not {int(one.min())}..{int(one.max())}"
            )


class _Found(NamedTuple):
    logits: Tensor
    value: Tensor
    gradient: Tensor


class _Kept:
    """The image to return for each image of a batch."""

    def __init__(self, images: Tensor, labels: Tensor, *, stop_when_fooled: bool) -> None:
        self.labels, self.stop_when_fooled = labels, stop_when_fooled
        self.images = images.clone()
        self.fooled = torch.zeros_like(labels, dtype=torch.bool)
        self.margin = torch.full_like(labels, -torch.inf, dtype=images.dtype)
        self.queries = torch.zeros_like(labels)
        self._highest = torch.full_like(self.margin, -torch.inf)
        self._saw_only_zero = torch.ones_like(self.fooled)
        self._stage = 0

    def look(self, candidates: Tensor, found: _Found, allowed: Tensor, *, stage: int) -> None:
        """Take in one pass; values of different stages are not compared."""
        if stage != self._stage:
            self._stage, self._highest = stage, torch.full_like(self._highest, -torch.inf)
        margins = margin(found.logits, self.labels).to(self.margin)
        wrong = found.logits.argmax(dim=1) != self.labels  # also where the largest logits are equal
        better = found.value > self._highest
        if self.stop_when_fooled:
            better = (better | wrong) & ~self.fooled
        self.queries += 1
        self._saw_only_zero &= (found.gradient * allowed == 0).flatten(1).all(dim=1)
        self._highest = torch.where(better, found.value, self._highest)
        self.images[better] = candidates[better]
        self.margin[better] = margins[better]
        self.fooled[better] = wrong[better]

    def result(self) -> AttackResult:
        return AttackResult(self.images, self.fooled, self.queries, self.margin, self._saw_only_zero)
