"""Does a detector's or segmenter's robustness look real? Cheap checks on a few images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from torch import Tensor

from partbox.attacks import AttackError, SegmentationPGD, Square, ThreatModel
from partbox.attacks.detector import NEEDS_OBJECTS

from .fabrication_checks import FABRICATE, check_fabrication
from .fabrication_checks import most_passes as most_passes_of_fabrication
from .perturbation_variants import with_settings
from .perturbations import Perturbation
from .self_checks import Check, judge
from .unattacked import noisy, pixels_in

if TYPE_CHECKING:
    from .detectron2_subject import DetectorSubject, Detectron2Subject

LOOKED_AT_TWICE = 4  # images that are looked at twice
NOISES = 5
QUERIES = 100
ALLOWED = 0.1  # share of what is right on the clean images by which a check may be missed
ALLOWED_PIXELS = 0.3  # the same where every change is allowed: not every pixel of a segmenter falls at once
PIXEL_LOSSES, PIXEL_STEPS = ("cospgd", "margin"), 100  # cross-entropy spends its steps on pixels that are wrong already


def check_detectron2(
    subject: Detectron2Subject, samples: Sequence[Mapping[str, Any]], attacks: Sequence[Perturbation], *, seed: int = 0
) -> list[Check]:
    """All checks under the attacks of one threat model.

    What is compared is the share of labelled objects that are found, or of labelled pixels that are right; of attacks
    that fabricate objects, which do not lower it, the false objects (``fabrication_checks.py``).

    Args:
        subject: the model, in evaluation mode.
        samples: of a mapper that keeps the labels.
        attacks: perturbations of one threat model.
        seed: of all draws.
    """
    attacks = [attack for attack in attacks if not attack.gradient_free]
    if not attacks:
        return [_deterministic(subject, samples)]
    checks = [_deterministic(subject, samples), _gradients(subject, samples, attacks[0], seed)]
    if not all(check.passed for check in checks):
        return checks
    fabricating = [attack for attack in attacks if attack.settings.get("goal") == FABRICATE]
    attacks = [attack for attack in attacks if attack.settings.get("goal") != FABRICATE]
    if fabricating:
        checks += check_fabrication(cast("DetectorSubject", subject), samples, fabricating, seed=seed)
    if not attacks:
        return checks
    clean = _share(subject, samples, [_image(subject, sample) for sample in samples])
    if not clean:
        return [*checks, Check("something to lose", False, _nothing_is_right(subject, samples))]
    attacked = min(_under(subject, samples, one, seed) for one in attacks)
    threat = attacks[0].threat
    assert threat is not None
    checks.append(_noise(subject, samples, threat, attacked, clean, seed))
    checks.append(_large_eps(subject, samples, attacks, clean, seed))
    checks.append(_more_steps(subject, samples, attacks, clean, attacked, seed))
    checks.append(_black_box(subject, samples, threat, attacked, clean, seed))
    if subject.surrogate is not None:
        checks.append(_transfer(subject, subject.surrogate, samples, attacks, clean, attacked, seed))
    return checks


def most_passes(attacks: Sequence[Perturbation], images: int, kind: str, *, surrogate: bool = False) -> int:
    """Forward passes over an image that :func:`check_detectron2` takes at most, those with a gradient counted once.

    Args:
        attacks: perturbations of one threat model.
        images: looked at.
        kind: of the model, ``detector`` or ``segmenter``.
        surrogate: whether there is another model.
    """
    passes = 2 * min(images, LOOKED_AT_TWICE)
    attacks = [attack for attack in attacks if not attack.gradient_free]
    if not attacks:
        return passes
    pixels = kind == "segmenter"
    passes += images * (with_settings(attacks[0], steps=1).passes + pixels)  # gradients
    fabricating = [attack for attack in attacks if attack.settings.get("goal") == FABRICATE]
    others = [attack for attack in attacks if attack.settings.get("goal") != FABRICATE]
    passes += images * most_passes_of_fabrication(fabricating) if fabricating else 0
    if not others:
        return passes
    threat = others[0].threat
    assert threat is not None
    large = [_on_pixels(others[0], loss) for loss in PIXEL_LOSSES] if pixels else list(map(_of_everything, others))
    each = 1 + NOISES + build_gradient_free(threat).passes + 1 + (not pixels)
    each += sum(one.passes for one in (*others, *large, *map(_longer, others), *(others if surrogate else ())))
    return passes + images * each


def _nothing_is_right(subject: Detectron2Subject, samples: Sequence[Mapping[str, Any]]) -> str:
    what = "labelled pixel is right" if subject.kind == "segmenter" else "labelled object is found"
    return f"no {what} on the {len(samples)} clean images looked at: whether the attack works cannot be seen"


def _image(subject: Detectron2Subject, sample: Mapping[str, Any]) -> Tensor:
    return pixels_in(sample, subject.device)


def _share(subject: Detectron2Subject, samples: Sequence[Mapping[str, Any]], images: Sequence[Tensor]) -> float:
    """Objects found of all objects, or pixels right of all labelled pixels."""
    pairs = zip(samples, images, strict=True)
    counts = [subject.count_right(sample, subject.output(sample, image)) for sample, image in pairs]
    return sum(right for right, _ in counts) / max(1, sum(total for _, total in counts))


def _under(subject: Detectron2Subject, samples: Sequence[Mapping[str, Any]], attack: Perturbation, seed: int) -> float:
    images = [subject.perturb(sample, _image(subject, sample), attack, seed)[1] for sample in samples]
    return _share(subject, samples, images)


def _deterministic(subject: Detectron2Subject, samples: Sequence[Mapping[str, Any]]) -> Check:
    """The same image twice: the same answer."""
    for sample in samples[:LOOKED_AT_TWICE]:
        image = _image(subject, sample)
        if not subject.same_output(subject.output(sample, image), subject.output(sample, image)):
            return Check("deterministic", False, "the model answers the same image differently each time")
    return Check("deterministic", True)


def _gradients(
    subject: Detectron2Subject, samples: Sequence[Mapping[str, Any]], attack: Perturbation, seed: int
) -> Check:
    """What the attack maximises has a finite gradient that is not exactly zero, where there is something to attack."""
    if subject.kind == "segmenter":  # a loss may give pixels that are wrong no weight in the first step
        samples = [one for one in samples if subject.count_right(one, subject.output(one, _image(subject, one)))[0]]
    elif attack.settings.get("goal") in NEEDS_OBJECTS:
        samples = [one for one in samples if subject.has_something_to_lose(one)]
    one_step = with_settings(attack, steps=1)
    try:
        found = [subject.perturb(sample, _image(subject, sample), one_step, seed)[0] for sample in samples]
    except AttackError as error:
        return Check("gradients", False, f"the model cannot be attacked: {error}")
    zero = sum(record.zero_gradient for record in found)
    values = {"images": len(found), "zero": zero}
    if zero > ALLOWED * len(found):
        reason = f"the gradient is exactly zero on {zero} of {len(found)} images: something in the model has none"
        return Check("gradients", False, reason, values)
    if subject.kind != "segmenter":
        return Check("gradients", True, values=values)
    counts = [subject.count_saturated(sample, _image(subject, sample)) for sample in samples]
    hidden, right = sum(one for one, _ in counts), sum(all_ for _, all_ in counts)
    values |= {"right_pixels": right, "saturated_pixels": hidden}
    reason = (
        f"the gradient of the cross-entropy is exactly zero on {hidden} of {right} pixels: saturated logits hide it"
    )
    return judge("gradients", hidden <= ALLOWED * right, reason, values)


def _noise(
    subject: Detectron2Subject,
    samples: Sequence[Mapping[str, Any]],
    threat: ThreatModel,
    attacked: float,
    clean: float,
    seed: int,
) -> Check:
    """Random images in the ball are weaker than the attack."""
    shares = []
    for draw in range(NOISES):
        images = [noisy(threat, _image(subject, one), one["image_id"], seed + 1000 * (draw + 1)) for one in samples]
        shares.append(_share(subject, samples, images))
    values = {"right_under_noise": min(shares), "right_under_attack": attacked}
    reason = "random noise of the same size does more harm than the attack"
    return judge("noise", attacked - min(shares) <= ALLOWED * clean, reason, values)


def _large_eps(
    subject: Detectron2Subject,
    samples: Sequence[Mapping[str, Any]],
    attacks: Sequence[Perturbation],
    clean: float,
    seed: int,
) -> Check:
    """Where every change is allowed little may be left.

    A segmenter is attacked with the losses that go for the pixels still right, whatever the evaluation used: an honest
    one keeps more than half of its pixels under a few steps on the cross-entropy, which is no fault of the model.
    """
    pixels = subject.kind == "segmenter"
    if pixels:
        everything = [_on_pixels(attacks[0], loss) for loss in PIXEL_LOSSES]
    else:
        everything = [_of_everything(one) for one in attacks]
    left = min(_under(subject, samples, one, seed) for one in everything)
    values = {"right": left, "right_clean": clean}
    reason = f"{left:.0%} stay right where every change is allowed: the attack does not work"
    return judge("large eps", left <= (ALLOWED_PIXELS if pixels else ALLOWED) * clean, reason, values)


def _of_everything(attack: Perturbation) -> Perturbation:
    """A detector's attack with every change allowed."""
    return with_settings(attack, steps=30, eps_of_everything=True)


def _longer(attack: Perturbation) -> Perturbation:
    """The attack with three times the steps."""
    return with_settings(attack, steps=3 * attack.settings["steps"])


def _on_pixels(attack: Perturbation, loss: str) -> Perturbation:
    """A segmenter's attack with every change allowed, on another loss."""
    large = with_settings(attack, steps=PIXEL_STEPS, eps_of_everything=True)
    assert large.threat is not None
    apply = SegmentationPGD(large.threat, loss, PIXEL_STEPS, ignore=attack.apply.ignore)  # type: ignore[attr-defined]
    return replace(large, apply=apply)


def _more_steps(
    subject: Detectron2Subject,
    samples: Sequence[Mapping[str, Any]],
    attacks: Sequence[Perturbation],
    clean: float,
    attacked: float,
    seed: int,
) -> Check:
    """Three times the steps change little."""
    left = min(_under(subject, samples, _longer(one), seed) for one in attacks)
    values = {"right": attacked, "right_with_three_times_the_steps": left}
    reason = f"three times the steps leave {left:.0%} instead of {attacked:.0%} right: the attack was too short"
    return judge("more steps", attacked - left <= ALLOWED * clean, reason, values)


def _black_box(
    subject: Detectron2Subject,
    samples: Sequence[Mapping[str, Any]],
    threat: ThreatModel,
    attacked: float,
    clean: float,
    seed: int,
) -> Check:
    """An attack without gradients, on the surest object or on all pixels, leaves no less than the gradient attack."""
    left = _under(subject, samples, build_gradient_free(threat), seed)
    values = {"right": left, "right_under_attack": attacked, "queries": QUERIES}
    reason = f"{QUERIES} queries without gradients leave {left:.0%} right, the attack with gradients {attacked:.0%}"
    return judge("black box", attacked - left <= ALLOWED * clean, reason, values)


def _transfer(
    subject: Detectron2Subject,
    surrogate: Detectron2Subject,
    samples: Sequence[Mapping[str, Any]],
    attacks: Sequence[Perturbation],
    clean: float,
    attacked: float,
    seed: int,
) -> Check:
    """Images that are attacked on another model do no more harm than those that are attacked on this one."""
    shares = []
    for one in attacks:
        images = [surrogate.perturb(sample, _image(subject, sample), one, seed)[1] for sample in samples]
        shares.append(_share(subject, samples, images))
    values = {"right": min(shares), "right_under_attack": attacked}
    reason = (
        f"images made on another model leave {min(shares):.0%} right, those made on this one {attacked:.0%}: "
        "the own gradients mislead"
    )
    return judge("transfer", attacked - min(shares) <= ALLOWED * clean, reason, values)


def build_gradient_free(threat: ThreatModel) -> Perturbation:
    """Square with a few queries as a perturbation."""
    attack = Square(threat, queries=QUERIES)
    return Perturbation(attack.name, attack, attack.settings, threat, attack.passes, gradient_free=True)
