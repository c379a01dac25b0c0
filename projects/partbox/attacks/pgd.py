"""Projected gradient descent (Madry et al. 2018, arXiv 1706.06083), linf and l2."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .base import AttackError, AttackResult, Predict, check_inputs, check_logits, loss_and_useful_gradient
from .draws import ImageId, content_ids, random_starts
from .objectives import get_objective
from .threat import ThreatModel, parse_eps


class PGD:
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
        if steps < 1 or restarts < 1:
            raise ValueError(f"PGD needs steps >= 1 and restarts >= 1, not {steps} and {restarts}")
        if restarts > 1 and not random_start:
            raise ValueError("restarts without random starts would repeat the same run: set random_start=True")
        self.threat = threat
        self.steps = steps
        self.step_size = 2.5 * threat.eps / steps if step_size is None else parse_eps(step_size, "step size")
        for name, value in (("steps", steps), ("restarts", restarts)):
            if isinstance(value, bool) or not isinstance(value, int):
                raise ValueError(f"PGD's {name} must be a whole number, not {value!r}")
        if self.step_size == 0 and threat.eps > 0:
            raise ValueError("a step size of 0 never leaves the start")
        self.restarts = restarts
        self.random_start = random_start
        self.loss = loss
        self.objective = get_objective(loss)

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

        Args:
            predict: images (B, C, H, W) in [0, 1] -> logits (B, K), in evaluation mode.
            images: (B, C, H, W) float in [0, 1].
            labels: (B,) true classes.
            image_ids: what the random draw of each image depends on; default: its pixels.
            seed: of all draws.

        Raises:
            AttackError: see ``partbox.attacks.base``.
        """
        check_inputs(images, labels, image_ids)
        ids = list(image_ids) if image_ids is not None else content_ids(images)
        search = _BestIterate(images.detach(), labels)
        everything = torch.arange(len(images), device=images.device)
        if len(images):
            search.look(everything, images.detach(), self._evaluate(predict, images.detach(), labels))
        for restart in range(self.restarts):
            rows = everything[~search.fooled]
            if not len(rows):
                break
            self._run(predict, search, rows, [ids[row] for row in rows.tolist()], seed, restart)
        return search.result()

    def _evaluate(self, predict: Predict, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and objective without a gradient."""
        with torch.no_grad():
            logits = check_logits(predict(images), labels)
            return logits, self.objective(logits, labels)

    def _run(
        self, predict: Predict, search: _BestIterate, rows: Tensor, ids: list[ImageId], seed: int, restart: int
    ) -> None:
        """One restart on the images ``rows``; what it finds goes into ``search``."""
        candidates = self._start(search.clean[rows], ids, seed, restart)
        for _ in range(self.steps):
            logits, loss, gradient, again = loss_and_useful_gradient(
                predict, self.objective, candidates, search.labels[rows]
            )
            search.look(rows, candidates, (logits, loss))
            search.queries[rows[again]] += 1
            search.saw_gradient(rows, gradient)
            going = ~search.fooled[rows]
            rows, candidates, gradient = rows[going], candidates[going], gradient[going]
            if not len(rows):
                return
            candidates = self._step(search.clean[rows], candidates, gradient)
        search.look(rows, candidates, self._evaluate(predict, candidates, search.labels[rows]))

    def _start(self, images: Tensor, ids: Sequence[ImageId], seed: int, restart: int) -> Tensor:
        if not self.random_start:
            return images.clone()
        return random_starts(self.threat, images, ids, seed=seed, restart=restart)

    def _step(self, images: Tensor, candidates: Tensor, gradient: Tensor) -> Tensor:
        return self.threat.project(images, candidates + self.step_size * self.threat.ascent_direction(gradient))

    def perturb(
        self, predict: Predict, images: Tensor, labels: Tensor, *, image_ids: Sequence[ImageId], seed: int
    ) -> Tensor:
        """``steps`` forward and input-gradient passes; the last iterate, (B, C, H, W). For training.

        Raises:
            AttackError: see ``partbox.attacks.base``; also when no image of the batch has any gradient, since training
                on random noise would be called adversarial.
        """
        check_inputs(images, labels, image_ids)
        images = images.detach()
        candidates = self._start(images, image_ids, seed, restart=0)
        for _ in range(self.steps):
            _, _, gradient, _ = loss_and_useful_gradient(predict, self.objective, candidates, labels)
            if not bool(gradient.any()):
                raise AttackError(
                    "the gradient is exactly zero for every image of the batch: the attack would be blind"
                )
            candidates = self._step(images, candidates, gradient)
        return candidates


class _BestIterate:
    """Keeps, for each image, the first fooling image seen, or else the one with the highest loss."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        count = len(images)
        self.clean, self.labels = images, labels
        self.images = images.clone()
        self.fooled = torch.zeros(count, dtype=torch.bool, device=images.device)
        self.queries = torch.zeros(count, dtype=torch.int64, device=images.device)
        self.loss = images.new_full((count,), -torch.inf)
        self.gradients_seen = torch.zeros_like(self.queries)
        self.gradient_was_zero = torch.ones_like(self.fooled)

    def look(self, rows: Tensor, candidates: Tensor, outcome: tuple[Tensor, Tensor]) -> None:
        """Take in the outcome (logits, loss) of one forward pass on images ``rows``, none of them fooled yet."""
        logits, loss = outcome
        wrong = logits.argmax(dim=1) != self.labels[rows]
        better = wrong | (loss.to(self.loss) > self.loss[rows])
        chosen = rows[better]
        self.images[chosen] = candidates[better]
        self.loss[chosen] = loss[better].to(self.loss)
        self.fooled[rows[wrong]] = True
        self.queries[rows] += 1

    def saw_gradient(self, rows: Tensor, gradient: Tensor) -> None:
        """Note whether the gradient (B', C, H, W) of images ``rows`` was exactly zero."""
        self.gradients_seen[rows] += 1
        self.gradient_was_zero[rows] &= (gradient == 0).flatten(1).all(dim=1)

    def result(self) -> AttackResult:
        return AttackResult(
            images=self.images,
            fooled=self.fooled,
            queries=self.queries,
            loss=self.loss,
            zero_gradient=self.gradient_was_zero & (self.gradients_seen > 0),
        )
