"""Fast adaptive boundary attack (Croce & Hein 2020, arXiv 1907.02044): the smallest fooling perturbation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .base import (
    Attack,
    AttackError,
    Predict,
    Search,
    check_inputs,
    check_logits,
    check_mode,
    forward,
    in_layout_of,
    plain,
    take,
    whole_numbers,
)
from .draws import ImageId, boundary_starts, content_ids
from .hyperplane import step_to_hyperplane
from .objectives import TINY, margin, targeted_margin
from .threat import ThreatModel, per_image

BIAS_LIMIT = 0.1  # largest share of the step that starts at the clean image (paper: alpha_max)
OVERSHOOT = 1.05  # steps go this much beyond the linearised boundary (paper: eta)
BACKWARD = 0.9  # a fooling image is drawn back to this share of its distance (paper: beta)


class FAB(Attack):
    """FAB with the settings of the official AutoAttack.

    It looks for the fooling image nearest to the clean one; the verdict asks whether that lies within eps, so an image
    leaves as soon as one within eps is found. :meth:`nearest` goes on to the end and returns the distances.

    Args:
        threat: norm and eps in [0, 1] pixel space.
        steps: of a run, >= 1.
        targeted: linearise the boundary towards one of the likeliest wrong classes at a time (one backward pass a step)
            instead of towards all of them (K - 1 backward passes a step).
        targets: wrong classes to aim at, at most: min(targets, K - 1) with K classes.
        restarts: the first from the clean image, later ones from random starts; >= 1.

    Raises:
        ValueError: a number below 1.
    """

    def __init__(
        self, threat: ThreatModel, steps: int = 100, *, targeted: bool = False, targets: int = 9, restarts: int = 1
    ) -> None:
        threat.only("linf", "l2", of="FAB")
        whole_numbers("FAB", steps=steps, targets=targets, restarts=restarts)
        self.threat = threat
        self.steps = steps
        self.targeted = targeted
        self.targets = targets
        self.restarts = restarts

    @property
    def name(self) -> str:
        return ("fab-t" if self.targeted else "fab") + (f"x{self.restarts}" if self.restarts > 1 else "")

    @property
    def passes(self) -> int:
        return 1 + 2 * self.steps * self.restarts * (self.targets if self.targeted else 1)

    @property
    def settings(self) -> dict[str, int | float | str | bool]:
        settings: dict[str, int | float | str | bool] = {
            "steps": self.steps,
            "restarts": self.restarts,
            "targeted": self.targeted,
        }
        return settings | ({"targets": self.targets} if self.targeted else {})

    def search(self, predict: Predict, search: Search, image_ids: Sequence[ImageId], seed: int) -> None:
        for starts in self._starts(search.clean_logits):
            rows = search.remaining
            if not len(rows):
                return
            chase = self._chase(
                predict,
                take(search.clean, rows),
                search.labels[rows],
                starts.targets[rows] if starts.targets is not None else None,
                self._start(take(search.clean, rows), [image_ids[row] for row in rows.tolist()], seed, starts),
                stop_within=self.threat.eps,
            )
            search.queries[rows] += chase.queries
            search.saw_gradients(rows, chase.blind)
            found = chase.distance <= self.threat.eps
            search.accept(rows[found], chase.nearest[found], chase.margin[found])

    def nearest(
        self,
        predict: Predict,
        images: Tensor,
        labels: Tensor,
        *,
        image_ids: Sequence[ImageId] | None = None,
        seed: int = 0,
    ) -> tuple[Tensor, Tensor]:
        """The nearest fooling images found, whatever their distance.

        Returns:
            Images (B, C, H, W), the clean one where none was found, and their distances (B,) in the threat's norm. A
            distance is 0 where the clean image is misclassified, and inf where none was found.
        """
        check_inputs(images, labels, image_ids)
        images, labels = plain(images), labels.long()
        ids = list(image_ids) if image_ids is not None else content_ids(images)
        check_mode(predict)
        if not len(images):
            return images.clone(), torch.zeros_like(labels, dtype=images.dtype)
        logits = forward(predict, images, labels)
        nearest, distance = images.clone(), torch.full_like(labels, torch.inf, dtype=images.dtype)
        distance[logits.argmax(dim=1) != labels] = 0.0
        rows = (distance > 0).nonzero().squeeze(1)
        if not len(rows):
            return nearest, distance
        for starts in self._starts(logits):
            chase = self._chase(
                predict,
                take(images, rows),
                labels[rows],
                starts.targets[rows] if starts.targets is not None else None,
                self._start(take(images, rows), [ids[row] for row in rows.tolist()], seed, starts),
                stop_within=-1.0,
            )
            nearer = chase.distance < distance[rows]
            nearest[rows[nearer]] = chase.nearest[nearer]
            distance[rows[nearer]] = chase.distance[nearer]
        return nearest, distance

    def _starts(self, clean_logits: Tensor) -> Iterator[_Start]:
        """Each run: its target classes (B,) and whether and how it starts at random."""
        order = clean_logits.argsort(dim=1, descending=True, stable=True)
        ranks = range(1, min(self.targets, order.shape[1] - 1) + 1) if self.targeted else [0]
        for rank in ranks:
            for restart in range(self.restarts):
                yield _Start(order[:, rank] if self.targeted else None, restart > 0, rank * self.restarts + restart)

    def _start(self, clean: Tensor, ids: Sequence[ImageId], seed: int, start: _Start) -> Tensor:
        if not start.random:
            return clean
        return boundary_starts(self.threat.scaled(0.5), clean, ids, seed=seed, restart=start.number)

    def _chase(
        self,
        predict: Predict,
        clean: Tensor,
        labels: Tensor,
        targets: Tensor | None,
        starts: Tensor,
        stop_within: float,
    ) -> _Chase:
        """One run from ``starts``, on images that are classified rightly."""
        chase = _Chase(clean, labels)
        rows = torch.arange(len(labels), device=labels.device)
        current = starts
        for _ in range(self.steps):
            gaps, gradients = self._boundaries(predict, current, labels, targets)
            chase.queries[rows] += 1
            chase.blind[rows] &= (gradients == 0).flatten(1).all(dim=1)
            current = self._step(clean, current, gaps, gradients)
            logits = forward(predict, current, labels)
            chase.queries[rows] += 1
            fooled = logits.argmax(dim=1) != labels
            if not bool(fooled.any()):
                continue
            distance = self.threat.distance(clean, current)
            chase.see(rows[fooled], current[fooled], distance[fooled], margin(logits[fooled], labels[fooled]))
            drawn_back = clean + (current - clean) * BACKWARD
            current = torch.where(per_image(fooled, current), drawn_back, current)
            going = ~(fooled & (distance <= stop_within))
            if not bool(going.all()):
                rows, clean, labels = rows[going], take(clean, going), labels[going]
                current = take(current, going)
                targets = None if targets is None else targets[going]
                if not len(rows):
                    break
        return chase

    def _boundaries(
        self, predict: Predict, images: Tensor, labels: Tensor, targets: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Logit differences (B, J) to other classes, negative while unfooled, and their gradients (B, J, C, H, W)."""
        with torch.enable_grad():
            leaf = images.detach().requires_grad_(True)
            logits = check_logits(predict(leaf), labels, leaf)
            if not logits.requires_grad:
                raise AttackError("the logits do not depend on the images through differentiable operations")
            if targets is not None:
                gaps = targeted_margin(logits, labels, targets).to(images.dtype)
                return gaps.detach()[:, None], _gradients([gaps], leaf)
            others = _other_classes(logits.shape[1], labels)
            gaps = (logits.gather(1, others) - logits.gather(1, labels[:, None])).to(images.dtype)
            return gaps.detach(), _gradients(list(gaps.unbind(1)), leaf)

    def _step(self, clean: Tensor, current: Tensor, gaps: Tensor, gradients: Tensor) -> Tensor:
        """From the linearised boundary nearest to ``current``: over it, with a pull to the clean image (eq. 8)."""
        flat = gradients.flatten(2)
        sizes = flat.abs().sum(dim=2) if self.threat.norm == "linf" else flat.norm(dim=2)
        nearest = (gaps.abs() / (sizes + TINY)).argmin(dim=1)
        chosen = torch.arange(len(nearest), device=nearest.device), nearest
        normals = flat[chosen]
        here, origin = current.flatten(1), clean.flatten(1)
        offsets = (normals * here).sum(dim=1) - gaps[chosen]
        steps = step_to_hyperplane(torch.cat([here, origin]), normals.repeat(2, 1), offsets.repeat(2), self.threat.norm)
        from_here, from_origin = steps.chunk(2)
        norm = torch.linalg.vector_norm(steps, ord=torch.inf if self.threat.norm == "linf" else 2, dim=1)
        size_here, size_origin = norm.clamp_min(1e-8).chunk(2)
        bias = (size_here / (size_here + size_origin)).clamp(0.0, BIAS_LIMIT)[:, None]
        moved = (here + OVERSHOOT * from_here) * (1 - bias) + (origin + OVERSHOOT * from_origin) * bias
        return in_layout_of(clean, moved.clamp(0.0, 1.0).view(current.shape))


def _gradients(gaps: list[Tensor], images: Tensor) -> Tensor:
    """Gradients (B, J, C, H, W) of J logit differences (B,).

    Raises:
        AttackError: one is missing or not finite.
    """
    found = []
    for number, gap in enumerate(gaps, start=1):
        (gradient,) = torch.autograd.grad(gap.sum(), images, retain_graph=number < len(gaps), allow_unused=True)
        if gradient is None:
            raise AttackError("the logits require a gradient but do not depend on the images")
        if not bool(torch.isfinite(gradient).all()):
            raise AttackError("the gradient with respect to the images is not finite")
        found.append(gradient)
    return torch.stack(found, dim=1)


def _other_classes(classes: int, labels: Tensor) -> Tensor:
    """(B, K - 1) all classes but the label."""
    every = torch.arange(classes - 1, device=labels.device).expand(len(labels), -1)
    return every + (every >= labels[:, None])


@dataclass(frozen=True)
class _Start:
    targets: Tensor | None
    random: bool
    number: int


class _Chase:
    """What one run found, an entry an image."""

    def __init__(self, clean: Tensor, labels: Tensor) -> None:
        self.nearest = clean.clone()
        self.distance = torch.full_like(labels, torch.inf, dtype=clean.dtype)
        self.margin = torch.full_like(self.distance, -torch.inf)
        self.queries = torch.zeros_like(labels)
        self.blind = torch.ones_like(labels, dtype=torch.bool)

    def see(self, rows: Tensor, images: Tensor, distance: Tensor, margins: Tensor) -> None:
        """Keep fooling images that are nearer than those known."""
        nearer = distance < self.distance[rows]
        chosen = rows[nearer]
        self.nearest[chosen], self.distance[chosen], self.margin[chosen] = (
            images[nearer],
            distance[nearer],
            margins[nearer].to(self.margin),
        )
