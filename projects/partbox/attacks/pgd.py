"""Projected gradient descent (Madry et al. 2018, arXiv 1706.06083), linf and l2."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from .base import Attack, AttackError, Predict, Search, ascend, check_inputs, forward, plain, take, whole_numbers
from .draws import ImageId, random_starts
from .objectives import Objective, get_objective
from .threat import ThreatModel, step_length


class PGD(Attack):
    """Iterated steepest ascent on a loss, projected onto the threat model after each step.

    Calling it is the evaluation form: the best iterate and the best restart of each image count, and an image that
    is fooled leaves the batch at once. :meth:`perturb` is the training form: a fixed number of steps, last iterate.

    Args:
        threat: norm and eps in [0, 1] pixel space.
        steps: gradient steps of a restart, >= 1.
        step_size: length of a step in the threat's norm and pixel space; default 2.5 * eps / steps (Madry et al.).
        restarts: independent runs, >= 1.
        random_start: start from a random allowed image; without it only one restart makes sense.
        loss: name of what is maximised, see ``partbox.attacks.objectives``.

    Raises:
        ValueError: a number out of range, or restarts without random starts.
    """

    def __init__(
        self,
        threat: ThreatModel,
        steps: int = 10,
        step_size: float | str | None = None,
        restarts: int = 1,
        *,
        random_start: bool = True,
        loss: str = "ce",
    ) -> None:
        threat.only("linf", "l2", of="PGD")
        whole_numbers("PGD", steps=steps, restarts=restarts)
        if restarts > 1 and not random_start:
            raise ValueError("restarts without random starts would repeat the same run: set random_start=True")
        self.threat = threat
        self.steps = steps
        self.step_size = step_length(threat, steps, step_size)
        self.restarts = restarts
        self.random_start = random_start
        self.loss = loss
        self.objective = get_objective(loss)

    @property
    def name(self) -> str:
        restarts = f"x{self.restarts}" if self.restarts > 1 else ""
        return f"pgd-{self.steps}{restarts}" + ("" if self.loss == "ce" else f"-{self.loss}")

    @property
    def passes(self) -> int:
        return 1 + self.restarts * (self.steps + 1)

    @property
    def settings(self) -> dict[str, int | float | str | bool]:
        return {
            "steps": self.steps,
            "step_size": self.step_size,
            "restarts": self.restarts,
            "random_start": self.random_start,
            "loss": self.loss,
        }

    def search(self, predict: Predict, search: Search, image_ids: Sequence[ImageId], seed: int) -> None:
        for restart in range(self.restarts):
            rows = search.remaining
            if not len(rows):
                return
            ids = [image_ids[row] for row in rows.tolist()]
            candidates = self._start(take(search.clean, rows), ids, seed, restart)
            self._run(predict, search, rows, candidates)

    def _run(self, predict: Predict, search: Search, rows: Tensor, candidates: Tensor) -> None:
        """One restart on the images ``rows``."""
        clean, labels = take(search.clean, rows), search.labels[rows]
        for _ in range(self.steps):
            found = ascend(predict, self.objective, candidates, labels)
            wrong = search.look(rows, candidates, found.logits, found.loss)
            search.queries[rows] += found.passes - 1
            search.saw_gradients(rows, found.zero)
            gradient = found.gradient
            if bool(wrong.any()):
                going = (~wrong).nonzero().squeeze(1)
                if not len(going):
                    return
                rows, labels, clean = rows[going], labels[going], take(clean, going)
                candidates, gradient = take(candidates, going), take(gradient, going)
            candidates = self._step(clean, candidates, gradient)
        logits = forward(predict, candidates, labels)
        search.look(rows, candidates, logits, self.objective(logits, labels))

    def _start(self, images: Tensor, ids: Sequence[ImageId], seed: int, restart: int) -> Tensor:
        if not self.random_start:
            return images.clone()
        return random_starts(self.threat, images, ids, seed=seed, restart=restart)

    def _step(self, images: Tensor, candidates: Tensor, gradient: Tensor) -> Tensor:
        return self.threat.project(images, candidates + self.step_size * self.threat.ascent_direction(gradient))

    def perturb(
        self,
        predict: Predict,
        images: Tensor,
        labels: Tensor,
        *,
        image_ids: Sequence[ImageId],
        seed: int,
        objective: Objective | None = None,
        starts: Tensor | None = None,
    ) -> Tensor:
        """``steps`` forward and input-gradient passes; the last iterate, (B, C, H, W). For training.

        Args:
            predict: see :meth:`Attack.__call__`.
            images: (B, C, H, W) float in [0, 1].
            labels: (B,) true classes.
            image_ids: what the random draw of each image depends on.
            seed: of the draws.
            objective: what to maximise, (logits (B, K), labels (B,)) -> (B,); default: the attack's loss.
            starts: (B, C, H, W) where to start; default: the attack's start.

        Raises:
            AttackError: see ``partbox.attacks.base``; also when no image of the batch has any gradient, since training
                on random noise would be called adversarial.
        """
        check_inputs(images, labels, image_ids)
        images, labels = plain(images), labels.long()
        objective = objective or self.objective
        candidates = self._start(images, image_ids, seed, restart=0) if starts is None else starts
        for _ in range(self.steps):
            found = ascend(predict, objective, candidates, labels)
            if bool(found.zero.all()):
                raise AttackError(
                    "the gradient is exactly zero for every image of the batch: the attack would be blind"
                )
            candidates = self._step(images, candidates, found.gradient)
        return candidates
