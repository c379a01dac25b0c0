"""Auto-PGD (Croce & Hein 2020, arXiv 2003.01690): projected gradient ascent that chooses its own step size."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from itertools import accumulate
from typing import ClassVar, Self

import torch
from torch import Tensor

from partbox.suggestions import unknown

from .base import Ascent, Attack, Predict, Search, ascend, forward, take, whole_numbers
from .draws import ImageId, boundary_starts
from .l1 import changed_coordinates, sparse_direction
from .objectives import OBJECTIVES, Objective, margin, replaced_dlr, targeted_dlr
from .threat import ThreatModel, per_image

TARGETED = "dlr-targeted"
MOMENTUM = 0.75  # share of the new step; the rest is the previous move (paper: alpha)
ENOUGH_INCREASES = 0.75  # share of steps in a window that must raise the loss (paper: rho)
WIDER = ((3.0, 0.3), (2.0, 0.3))  # l1: radii times eps, and shares of the steps, before the ball itself


def checkpoint_windows(steps: int) -> list[int]:
    """Lengths of the windows after which the step size is looked at; their sum is at most ``steps``.

    The first has 22 % of the steps, each next one 3 % less, none under 6 % (paper section 3.2; rounded as in the
    official implementation).
    """
    window, shrink, shortest = max(int(0.22 * steps), 1), max(int(0.03 * steps), 1), max(int(0.06 * steps), 1)
    windows: list[int] = []
    while sum(windows) + window <= steps:
        windows.append(window)
        window = max(window - shrink, shortest)
    return windows


class APGD(Attack):
    """APGD with the settings of the official AutoAttack.

    An image leaves the run as soon as it is fooled, which changes no verdict. Not so of models with random answers
    (``average`` above 1): one may be wrong once by luck, so the whole run is done and a fresh answer decides.

    In l1 (Croce & Hein 2021, arXiv 2103.01208) a step changes the few coordinates with the largest gradients, and a run
    goes from a ball of 3 eps over one of 2 eps to that of eps.

    Args:
        threat: norm and eps in [0, 1] pixel space.
        steps: of a run, >= 1.
        loss: ``ce``, ``dlr`` (or ``margin``), or ``dlr-targeted``: one run towards each of the likeliest wrong classes.
        restarts: runs from different random starts (for each target class), >= 1.
        targets: wrong classes that ``dlr-targeted`` aims at, at most: min(targets, K - 1) with K classes.
        average: gradients and losses averaged over this many passes, for models with random answers (EOT).

    Raises:
        ValueError: a number below 1, or an unknown loss.
    """

    def __init__(
        self,
        threat: ThreatModel,
        steps: int = 100,
        loss: str = "ce",
        *,
        restarts: int = 1,
        targets: int = 9,
        average: int = 1,
    ) -> None:
        whole_numbers("APGD", steps=steps, restarts=restarts, targets=targets, average=average)
        if loss != TARGETED and loss not in OBJECTIVES:
            raise ValueError(unknown("loss of APGD", loss, [*OBJECTIVES, TARGETED]))
        self.threat = threat
        self.steps = steps
        self.loss = loss
        self.restarts = restarts
        self.targets = targets
        self.average = average

    @property
    def name(self) -> str:
        name = "apgd-t" if self.loss == TARGETED else f"apgd-{self.loss}"
        return name + (f"x{self.restarts}" if self.restarts > 1 else "")

    @property
    def passes(self) -> int:
        runs = self.restarts * (self.targets if self.loss == TARGETED else 1)
        each = sum(steps + 1 for _, steps in self.stages) * self.average
        return 1 + runs * (each + int(self.average > 1))  # the fresh answer

    @property
    def stages(self) -> list[tuple[float, int]]:
        """Radius in units of eps and steps of each part of a run."""
        if self.threat.norm != "l1" or self.steps < 3:
            return [(1.0, self.steps)]
        wider = [(times, min(math.ceil(share * self.steps), (self.steps - 1) // 2)) for times, share in WIDER]
        return [*wider, (1.0, self.steps - sum(steps for _, steps in wider))]

    @property
    def settings(self) -> dict[str, int | float | str | bool]:
        settings: dict[str, int | float | str | bool] = {
            "steps": self.steps,
            "loss": self.loss,
            "restarts": self.restarts,
            "average": self.average,
        }
        return settings | ({"targets": self.targets} if self.loss == TARGETED else {})

    def search(self, predict: Predict, search: Search, image_ids: Sequence[ImageId], seed: int) -> None:
        classes = search.clean_logits.shape[1]
        if "dlr" in self.loss:
            replaced = replaced_dlr(classes, targeted=self.loss == TARGETED)
            search.notes += [replaced] if replaced else []
        if self.loss != TARGETED:
            for restart in range(self.restarts):
                self._restart(predict, search, image_ids, seed, restart, None)
            return
        for rank in range(1, min(self.targets, classes - 1) + 1):
            targets = search.clean_logits.argsort(dim=1, descending=True, stable=True)[:, rank]
            for restart in range(self.restarts):
                number = (rank - 1) * self.restarts + restart
                self._restart(predict, search, image_ids, seed, number, targets)

    def _restart(
        self,
        predict: Predict,
        search: Search,
        image_ids: Sequence[ImageId],
        seed: int,
        restart: int,
        targets: Tensor | None,
    ) -> None:
        """One run on the images that remain; ``restart`` tells its random starts from others."""
        rows = search.remaining
        if not len(rows):
            return
        clean, aims = take(search.clean, rows), None if targets is None else targets[rows]
        every = torch.arange(len(rows), device=rows.device)
        *wider, (_, steps) = self.stages
        widest = self.threat.scaled(self.stages[0][0])
        ids = [image_ids[row] for row in rows.tolist()]
        starts = boundary_starts(widest, clean, ids, seed=seed, restart=restart)
        for times, first_steps in wider:  # what is found there is too far away, and only a start
            part, threat = search.part(rows), self.threat.scaled(times)
            starts = threat.project(clean, starts)
            starts = self._run(predict, part, every, starts, aims, threat=threat, steps=first_steps, leave=False).best
            search.spent(rows, part)
        if wider:
            starts = self.threat.project(clean, starts)
        if self.average == 1:
            self._run(predict, search, rows, starts, aims, steps=steps)
            return
        part = search.part(rows)
        self._run(predict, part, every, starts, aims, steps=steps, leave=False)
        logits = forward(predict, part.images, part.labels)
        part.queries += 1
        part.fooled, part.margin = logits.argmax(dim=1) != part.labels, margin(logits, part.labels)
        search.merge(rows, part)

    def _run(
        self,
        predict: Predict,
        search: Search,
        rows: Tensor,
        starts: Tensor,
        targets: Tensor | None,
        *,
        threat: ThreatModel | None = None,
        steps: int | None = None,
        leave: bool = True,
    ) -> _Run:
        """One run on images ``rows`` from ``starts``, towards ``targets`` (len(rows),) where given.

        Args:
            predict: see :meth:`Attack.__call__`.
            search: takes in what is found.
            rows: (R,) images of ``search``.
            starts: (R, C, H, W).
            targets: (R,) classes, or None.
            threat: default: the attack's.
            steps: default: the attack's.
            leave: images that are fooled leave the run.
        """
        threat, steps = threat or self.threat, self.steps if steps is None else steps
        kind = _SparseRun if threat.norm == "l1" else _Run
        run = kind.begin(threat, rows, take(search.clean, rows), starts, search.labels[rows], targets)
        run.begin_ascent(self._look(predict, search, run))
        run = run.of(search.fooled) if leave else run
        ends = set(accumulate(kind.windows(steps)))
        start_of_window = 0
        for step in range(1, steps + 1):
            if not len(run.rows):
                break
            run.move(threat, MOMENTUM if step > 1 else 1.0)
            if step == steps and leave:
                self._look_without_gradient(predict, search, run)
                break
            run.ascend(self._look(predict, search, run))
            run = run.of(search.fooled) if leave else run
            if step in ends:
                run.adapt_step(window=step - start_of_window)
                start_of_window = step
        return run

    def _objective(self, targets: Tensor | None) -> Objective:
        if targets is None:
            return OBJECTIVES[self.loss]
        return lambda logits, labels: targeted_dlr(logits, labels, targets)

    def _look(self, predict: Predict, search: Search, run: _Run) -> Ascent:
        """Loss and gradient at the current images; verdicts go into ``search``."""
        objective = self._objective(run.targets)
        passes = [ascend(predict, objective, run.current, run.labels) for _ in range(self.average)]
        found = passes[0] if self.average == 1 else _mean(passes)
        search.look(run.rows, run.current, found.logits, found.loss)
        search.queries[run.rows] += found.passes - 1
        search.saw_gradients(run.rows, found.zero)
        return found

    def _look_without_gradient(self, predict: Predict, search: Search, run: _Run) -> None:
        """The last images: nobody follows their gradient any more."""
        logits = forward(predict, run.current, run.labels)
        search.look(run.rows, run.current, logits, self._objective(run.targets)(logits, run.labels))


def _mean(passes: Sequence[Ascent]) -> Ascent:
    """Averaged loss and gradient; the verdict is that of one answer, as when the model is used."""
    return Ascent(
        passes[-1].logits,
        torch.stack([one.loss for one in passes]).mean(dim=0),
        torch.stack([one.gradient for one in passes]).mean(dim=0),
        torch.stack([one.zero for one in passes]).all(dim=0),
        torch.stack([one.passes for one in passes]).sum(dim=0),
    )


@dataclass
class _Run:
    """State of the images of one run that are not fooled yet, an entry an image.

    ``previous`` is where the image was before ``current``; ``best`` has the highest loss so far.
    """

    rows: Tensor
    clean: Tensor
    labels: Tensor
    targets: Tensor | None
    current: Tensor
    previous: Tensor
    gradient: Tensor
    best: Tensor
    best_gradient: Tensor
    best_loss: Tensor
    last_loss: Tensor
    step: Tensor
    increases: Tensor
    best_at_check: Tensor
    halved_at_check: Tensor

    FIRST_STEP: ClassVar[float] = 2.0  # times eps

    @staticmethod
    def windows(steps: int) -> list[int]:
        """See :func:`checkpoint_windows`."""
        return checkpoint_windows(steps)

    @classmethod
    def begin(
        cls,
        threat: ThreatModel,
        rows: Tensor,
        clean: Tensor,
        starts: Tensor,
        labels: Tensor,
        targets: Tensor | None,
        **more: Tensor,
    ) -> Self:
        """At the starts, before the first pass."""
        zero = torch.zeros_like(labels, dtype=clean.dtype)
        return cls(
            rows=rows,
            clean=clean,
            labels=labels,
            targets=targets,
            current=starts,
            previous=starts,
            gradient=starts,
            best=starts,
            best_gradient=starts,
            best_loss=zero,
            # As in the official implementation, the first step's loss is compared with 0 and not with the start's.
            last_loss=zero,
            step=torch.full_like(zero, cls.FIRST_STEP * threat.eps),
            increases=torch.zeros_like(labels),
            best_at_check=zero,
            # As in the official implementation: the first check never halves for lack of improvement alone.
            halved_at_check=torch.ones_like(labels, dtype=torch.bool),
            **more,
        )

    def of(self, fooled: Tensor) -> Self:
        """The state without the images that are ``fooled``, (B,) of the whole batch."""
        gone = fooled[self.rows]
        if not bool(gone.any()):
            return self
        going = (~gone).nonzero().squeeze(1)
        return replace(
            self,
            **{
                field.name: take(value, going)
                for field in fields(self)
                if (value := getattr(self, field.name)) is not None
            },
        )

    def begin_ascent(self, found: Ascent) -> None:
        """Loss and gradient at the starts."""
        self.gradient = self.best_gradient = found.gradient
        self.best_loss = self.best_at_check = found.loss

    def ascend(self, found: Ascent) -> None:
        """Loss and gradient at the images after a step."""
        self.gradient = found.gradient
        self.increases = self.increases + (found.loss > self.last_loss)
        self.last_loss = found.loss
        better = found.loss > self.best_loss
        choose = per_image(better, self.current)
        self.best = torch.where(choose, self.current, self.best)
        self.best_gradient = torch.where(choose, found.gradient, self.best_gradient)
        self.best_loss = torch.where(better, found.loss, self.best_loss)

    def move(self, threat: ThreatModel, share: float) -> None:
        """A step along the gradient with momentum (paper, equation 3): ``share`` of it, the rest of the last move."""
        size = per_image(self.step, self.current)
        target = threat.project(self.clean, self.current + size * threat.ascent_direction(self.gradient))
        moved = self.current + (target - self.current) * share + (self.current - self.previous) * (1 - share)
        self.previous, self.current = self.current, threat.project(self.clean, moved)

    def adapt_step(self, window: int) -> None:
        """Halve the step where a window brought too little, and go back to the best image there (paper section 3.2)."""
        few = self.increases <= ENOUGH_INCREASES * window
        stuck = ~self.halved_at_check & (self.best_at_check >= self.best_loss)
        halve = few | stuck
        self.halved_at_check, self.best_at_check = halve, self.best_loss
        self.increases = torch.zeros_like(self.increases)
        self.step = torch.where(halve, self.step / 2, self.step)
        choose = per_image(halve, self.current)
        self.current = torch.where(choose, self.best, self.current)
        self.gradient = torch.where(choose, self.best_gradient, self.gradient)


@dataclass
class _SparseRun(_Run):
    """A run in l1: sparse steps, no momentum, a step size that follows how many coordinates are changed.

    ``share`` of the coordinates move in a step; ``changed``, a number, were changed at the last check; the
    largest step is ``first_step``.
    """

    share: Tensor
    changed: Tensor
    first_step: Tensor

    FIRST_STEP: ClassVar[float] = 1.0
    SHRINK: ClassVar[float] = 1.5  # of step and share
    SMALLEST: ClassVar[float] = 10.0  # the smallest step is the first over that
    SPARSER: ClassVar[float] = 0.95

    @staticmethod
    def windows(steps: int) -> list[int]:
        """4 % of the steps each."""
        window = max(int(0.04 * steps), 1)
        return [window] * (steps // window)

    @classmethod
    def begin(
        cls,
        threat: ThreatModel,
        rows: Tensor,
        clean: Tensor,
        starts: Tensor,
        labels: Tensor,
        targets: Tensor | None,
        **more: Tensor,
    ) -> Self:
        changed = changed_coordinates(clean, starts)
        share = changed / clean.shape[1:].numel() / cls.SHRINK
        first_step = torch.full_like(changed, cls.FIRST_STEP * threat.eps)
        sparse = {"share": share, "changed": changed, "first_step": first_step}
        return super().begin(threat, rows, clean, starts, labels, targets, **sparse, **more)

    def move(self, threat: ThreatModel, share: float) -> None:
        step = per_image(self.step, self.current) * sparse_direction(self.gradient, self.share)
        self.previous, self.current = self.current, threat.project(self.clean, self.current + step)

    def adapt_step(self, window: int) -> None:
        """Where the best image has become sparser: the largest step from there; elsewhere a smaller step."""
        changed = changed_coordinates(self.clean, self.best)
        sparser = changed < self.SPARSER * self.changed
        smaller = torch.maximum(self.step / self.SHRINK, self.first_step / self.SMALLEST)
        self.step = torch.where(sparser, self.first_step, smaller)
        self.share, self.changed = changed / self.clean.shape[1:].numel() / self.SHRINK, changed
        choose = per_image(sparser, self.current)
        self.current = torch.where(choose, self.best, self.current)
        self.gradient = torch.where(choose, self.best_gradient, self.gradient)
