"""Does a classifier's robustness look real? Cheap checks on a few images that notice a failed attack.

An attack that fails looks like a robust model. Each check compares the verdicts of the evaluation with something that a
real robustness would survive (Carlini et al. 2019, arXiv 1902.06705; Pintor et al. 2022, arXiv 2106.09947).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from partbox.attacks import PGD, Attack, AttackError, Square, ThreatModel
from partbox.attacks.base import Predict
from partbox.attacks.draws import ImageId, random_starts
from partbox.attacks.objectives import margin

PredictOfRows = Callable[[Sequence[int]], Predict]
MORE_STEPS = 100  # of the longer attack, at least; with two restarts
QUERIES = 500  # of the black-box attack
NOISES = 20  # random images around each image
TOLERATED = 0.05  # share of the images (and one image, where more are looked at) by which a check may be missed
NO_GRADIENT = "the logits have no gradient with respect to the image at all"


@dataclass(frozen=True)
class Check:
    """Outcome of one check.

    Attributes:
        name: of the check.
        passed: whether nothing speaks against the result.
        reason: one sentence where it did not pass, else empty.
        values: what was counted.
    """

    name: str
    passed: bool
    reason: str = ""
    values: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"name": self.name, "passed": self.passed, "reason": self.reason, **self.values}


def tolerated(images: int, looked_at: int | None = None) -> int:
    """Images by which a check on so many may be missed: one or 5 %, and never all that were looked at."""
    few = max(1, int(TOLERATED * images))
    return few if looked_at is None else min(few, looked_at - 1)


def check_classifier(
    predict: Predict,
    images: Tensor,
    labels: Tensor,
    robust: Tensor,
    threat: ThreatModel,
    *,
    image_ids: Sequence[ImageId],
    steps: int = 20,
    seed: int = 0,
    surrogate: Predict | None = None,
    predict_of_rows: PredictOfRows | None = None,
) -> list[Check]:
    """All checks of a classifier under one threat model.

    Args:
        predict: images (B, 3, H, W) in [0, 1] -> logits (B, K), in evaluation mode.
        images: (B, 3, H, W) float in [0, 1].
        labels: (B,) true classes.
        robust: (B,) bool, right when clean and under every white-box attack of the evaluation; one that only a
            black-box attack fooled counts as robust, see :func:`partbox.evaluation.black_box.without_black_box`.
        threat: of that evaluation.
        image_ids: one an image.
        steps: of the longest gradient attack of the evaluation.
        seed: of all draws.
        surrogate: another model of the same task; adversarial images made on it must not be stronger.
        predict_of_rows: of a model whose answer depends on more than the image: the function for some of the images,
            and for a single one of them any number of versions of it. ``predict`` is that for all then.

    Returns:
        In this order: ``deterministic``, ``gradients``, ``large eps``, ``more steps``, ``monotone``, ``black box``,
        ``noise`` and, with a surrogate, ``transfer``. An attack that stops ends the list.
    """
    subject = _Subject(predict, images, labels, robust, threat, list(image_ids), seed, predict_of_rows)
    checks = [_deterministic(subject), _gradients(subject)]
    follow: list[Callable[[], Check]] = [
        lambda: _large_eps(subject),
        lambda: _more_steps(subject, steps),
        lambda: _monotone(subject, steps),
        lambda: _black_box(subject),
        lambda: _noise(subject),
    ]
    if surrogate is not None:
        follow.append(lambda: _transfer(subject, surrogate, steps))
    for check in follow:
        try:
            checks.append(check())
        except AttackError as error:  # the gradient check says what is wrong; this one could not be made
            checks.append(Check("attack", False, f"an attack of the checks stopped: {error}"))
            break
    return checks


def most_passes(images: int, steps: int, *, surrogate: bool) -> int:
    """Forward passes over an image that :func:`check_classifier` takes at most, those with a gradient counted once.

    Args:
        images: looked at.
        steps: of the longest gradient attack of the evaluation.
        surrogate: whether there is another model.
    """
    threat = ThreatModel("linf", 1.0)
    fixed = 4 + PGD(threat, 50).passes + Square(threat, queries=QUERIES).passes + NOISES
    longer = PGD(threat, max(MORE_STEPS, 5 * steps), restarts=2).passes
    return images * (fixed + longer + 3 * PGD(threat, steps).passes + (steps + 2 if surrogate else 0))


@dataclass(frozen=True)
class _Subject:
    predict: Predict
    images: Tensor
    labels: Tensor
    robust: Tensor
    threat: ThreatModel
    ids: list[ImageId]
    seed: int
    predict_of_rows: PredictOfRows | None = None

    def predict_of(self, rows: Sequence[int]) -> Predict:
        """The function for the images ``rows``."""
        return self.predict if self.predict_of_rows is None else self.predict_of_rows(rows)

    def right(self, images: Tensor) -> Tensor:
        """(B,) bool."""
        with torch.no_grad():
            return self.predict(images).argmax(dim=1) == self.labels

    def fooled_by(self, attack: Attack, rows: Tensor) -> int:
        """How many of the images ``rows`` an attack fools."""
        fooled = 0
        for part in rows.split(max(1, len(rows)) if self.predict_of_rows is None else 1):
            if not len(part):
                continue
            result = attack(
                self.predict_of(part.tolist()),
                self.images[part],
                self.labels[part],
                image_ids=[self.ids[row] for row in part.tolist()],
                seed=self.seed + 1,
            )
            fooled += int(result.fooled.sum())
        return fooled

    def tolerated(self, rows: Tensor) -> int:
        """By how many of the images ``rows`` a check may be missed."""
        return tolerated(len(rows), len(self.images))

    @property
    def survivors(self) -> Tensor:
        """Rows of the images that the evaluation calls robust."""
        return self.robust.nonzero().squeeze(1)


def _deterministic(subject: _Subject) -> Check:
    """The same image, alone and in a batch, twice: the same logits but for rounding."""
    with torch.no_grad():
        first, second = subject.predict(subject.images), subject.predict(subject.images)
        few = range(min(4, len(subject.images)))
        alone = torch.cat([subject.predict_of([i])(subject.images[i : i + 1]) for i in few])
    scale = first.abs().amax().clamp_min(1e-12)
    difference = float((first - second).abs().amax() / scale)
    in_batch = float((first[: len(alone)] - alone).abs().amax() / scale)
    values = {"difference": difference, "difference_alone": in_batch}
    if difference > 1e-4:
        return Check(
            "deterministic",
            False,
            "the model answers the same image differently each time: a single gradient says little, average over draws",
            values,
        )
    if in_batch > 1e-3:
        return Check(
            "deterministic", False, "the model's answer to an image depends on the other images of its batch", values
        )
    return Check("deterministic", True, values=values)


def _gradients(subject: _Subject) -> Check:
    """Cross-entropy and margin have a finite input gradient that is not exactly zero."""
    right = subject.right(subject.images).nonzero().squeeze(1)
    if not len(right):
        return Check("gradients", True, values={"images": 0})
    inputs = subject.images[right].clone().requires_grad_()
    labels = subject.labels[right]
    logits = subject.predict_of(right.tolist())(inputs)
    values: dict[str, Any] = {"images": len(right)}
    if not logits.requires_grad:
        return Check("gradients", False, NO_GRADIENT, values)
    losses = {"cross-entropy": functional.cross_entropy(logits, labels, reduction="sum")}
    losses["margin"] = margin(logits, labels).sum()
    for name, loss in losses.items():
        (gradient,) = torch.autograd.grad(loss, inputs, retain_graph=True, allow_unused=True)
        if gradient is None:  # only the parameters have one
            return Check("gradients", False, NO_GRADIENT, values)
        zero = int((gradient == 0).flatten(1).all(dim=1).sum())
        values[f"zero_{name}"] = zero
        if not bool(torch.isfinite(gradient).all()):
            return Check("gradients", False, f"the gradient of the {name} is not finite", values)
        if zero > subject.tolerated(right):
            why = (
                "saturated logits hide it"
                if name == "cross-entropy" and float(logits.detach().abs().max()) > 100
                else "something in the model has none, such as rounding"
            )
            reason = f"the gradient of the {name} is exactly zero on {zero} of {len(right)} images: {why}"
            return Check("gradients", False, reason, values)
    return Check("gradients", True, values=values)


def _large_eps(subject: _Subject) -> Check:
    """Where every image is allowed nothing may stay right."""
    size = subject.images[0].numel()
    everything = ThreatModel(subject.threat.norm, 1.0 if subject.threat.norm == "linf" else float(size**0.5))
    rows = subject.right(subject.images).nonzero().squeeze(1)
    left = len(rows) - subject.fooled_by(PGD(everything, 50), rows)
    reason = f"{left} of {len(rows)} images stay right where every change is allowed: the attack does not work"
    return judge("large eps", left <= subject.tolerated(rows), reason, {"images": len(rows), "still_right": left})


def _more_steps(subject: _Subject, steps: int) -> Check:
    """Images called robust survive a longer attack with other starts."""
    longer = max(MORE_STEPS, 5 * steps)
    rows = subject.survivors
    fooled = subject.fooled_by(PGD(subject.threat, longer, restarts=2), rows)
    reason = f"{fooled} of {len(rows)} robust images fall to {longer} steps and two restarts: the attack was too short"
    values = {"images": len(rows), "fooled": fooled, "steps": longer}
    return judge("more steps", fooled <= subject.tolerated(rows), reason, values)


def _monotone(subject: _Subject, steps: int) -> Check:
    """A larger eps fools no fewer images."""
    rows = subject.right(subject.images).nonzero().squeeze(1)
    fooled = [subject.fooled_by(PGD(subject.threat.scaled(factor), steps), rows) for factor in (0.5, 1.0, 2.0)]
    falls = max(fooled[0] - fooled[1], fooled[1] - fooled[2])
    reason = f"a larger eps fools fewer images ({fooled} at half, full and double eps): the attack gets stuck"
    return judge("monotone", falls <= subject.tolerated(rows), reason, {"images": len(rows), "fooled": fooled})


def _black_box(subject: _Subject) -> Check:
    """An attack without gradients finds nothing where the one with gradients failed."""
    rows = subject.survivors
    fooled = subject.fooled_by(Square(subject.threat, queries=QUERIES), rows)
    reason = f"{fooled} of {len(rows)} robust images fall to {QUERIES} queries without gradients: the gradients mislead"
    values = {"images": len(rows), "fooled": fooled, "queries": QUERIES}
    return judge("black box", fooled <= subject.tolerated(rows), reason, values)


def _noise(subject: _Subject) -> Check:
    """Random images in the ball find nothing where the attack failed."""
    rows = subject.survivors
    fooled = torch.zeros(len(subject.images), dtype=torch.bool, device=subject.images.device)
    for draw in range(NOISES if len(rows) else 0):
        noisy = random_starts(subject.threat, subject.images, subject.ids, seed=subject.seed + 2, restart=draw)
        fooled |= ~subject.right(noisy)
    count = int(fooled[rows].sum())
    reason = f"{count} of {len(rows)} robust images fall to {NOISES} random images in the ball: noise beats the attack"
    return judge("noise", count <= subject.tolerated(rows), reason, {"images": len(rows), "fooled": count})


def _transfer(subject: _Subject, surrogate: Predict, steps: int) -> Check:
    """Adversarial images of another model find nothing where the attack failed."""
    rows = subject.survivors
    count = 0
    if len(rows):
        ids = [subject.ids[row] for row in rows.tolist()]
        labels = subject.labels[rows]
        attack = PGD(subject.threat, steps)
        images = attack.perturb(surrogate, subject.images[rows], labels, image_ids=ids, seed=subject.seed + 3)
        with torch.no_grad():
            count = int((subject.predict_of(rows.tolist())(images).argmax(dim=1) != labels).sum())
    reason = f"{count} of {len(rows)} robust images fall to images made on another model: the own gradients mislead"
    return judge("transfer", count <= subject.tolerated(rows), reason, {"images": len(rows), "fooled": count})


def judge(name: str, passed: bool, reason: str, values: dict[str, Any]) -> Check:
    """A check with its reason only where it did not pass."""
    return Check(name, passed, "" if passed else reason, values)
