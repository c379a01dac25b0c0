"""Do attacks that make a detector see what is not there work? Cheap checks on a few images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from .perturbation_variants import with_settings
from .perturbations import Perturbation
from .self_checks import Check, judge
from .unattacked import noisy, pixels_in

if TYPE_CHECKING:
    from .detectron2_subject import DetectorSubject

FABRICATE = "fabricate"
NOISES = 5
STEPS = 30  # where every change is allowed
ALLOWED = 0.1  # share of the false objects under attack by which noise may do more


def check_fabrication(
    subject: DetectorSubject, samples: Sequence[Mapping[str, Any]], attacks: Sequence[Perturbation], *, seed: int = 0
) -> list[Check]:
    """Noise of the same size fabricates less, and where every change is allowed objects do appear.

    Args:
        subject: the detector, in evaluation mode.
        samples: of a mapper that keeps the labels.
        attacks: perturbations of one threat model with the goal ``fabricate``.
        seed: of all draws.
    """
    threat = attacks[0].threat
    assert threat is not None
    clean_images = [pixels_in(sample, subject.device) for sample in samples]
    attacked = max(_under(subject, samples, clean_images, one, seed) for one in attacks)
    noise = 0
    for draw in range(NOISES):
        pairs = zip(samples, clean_images, strict=True)
        images = [noisy(threat, image, one["image_id"], seed + 1000 * (draw + 1)) for one, image in pairs]
        noise = max(noise, _false(subject, samples, images))
    values = {"false_objects_under_noise": noise, "false_objects_under_attack": attacked}
    reason = f"random noise of the same size fabricates more objects ({noise}) than the attack ({attacked})"
    checks = [judge("fabricated: noise", noise - attacked <= ALLOWED * attacked, reason, values)]
    clean = _false(subject, samples, clean_images)
    large = max(_under(subject, samples, clean_images, _of_everything(one), seed) for one in attacks)
    values = {"false_objects": large, "false_objects_clean": clean}
    reason = (
        f"{large} false objects where every change is allowed and {clean} on the clean images: the attack does not work"
    )
    return [*checks, judge("fabricated: large eps", large > clean, reason, values)]


def most_passes(attacks: Sequence[Perturbation]) -> int:
    """Forward passes over each image that :func:`check_fabrication` takes."""
    return 1 + NOISES + sum(one.passes + _of_everything(one).passes for one in attacks)


def _of_everything(attack: Perturbation) -> Perturbation:
    return with_settings(attack, steps=STEPS, eps_of_everything=True)


def _under(
    subject: DetectorSubject,
    samples: Sequence[Mapping[str, Any]],
    clean_images: Sequence[Tensor],
    attack: Perturbation,
    seed: int,
) -> int:
    pairs = zip(samples, clean_images, strict=True)
    return _false(subject, samples, [subject.perturb(one, image, attack, seed)[1] for one, image in pairs])


def _false(subject: DetectorSubject, samples: Sequence[Mapping[str, Any]], images: Sequence[Tensor]) -> int:
    pairs = zip(samples, images, strict=True)
    return sum(subject.count_false(sample, subject.output(sample, image)) for sample, image in pairs)
