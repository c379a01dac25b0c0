"""What the attacks with gradients and those without each made of a classifier's images.

Gradients that mislead leave images that an attack without gradients fools. In a worst case over all attacks that shows
nowhere, so the self-checks need the verdicts of both kinds apart.
"""

from __future__ import annotations

from collections.abc import Sequence

from partbox.attacks.foolbox_attack import follows_gradients

from .perturbations import Perturbation
from .records import Record
from .self_checks import Check, judge, tolerated
from .summary import worst_case

BLACK_BOXES = ("square", "rays")  # names of perturbations, and how their credit begins in an ensemble


def is_black_box(attack: Perturbation) -> bool:
    """Whether an attack on a classifier follows no gradient; an ensemble such as AutoAttack does."""
    name = attack.settings.get("name")
    return name in BLACK_BOXES or (name == "foolbox" and not follows_gradients(str(attack.settings["attack"])))


def _credit_of_black_box(record: Record) -> bool:
    """Whether the attack of an ensemble that fooled an image follows no gradient."""
    return record.fooled and record.fooled_by.startswith(BLACK_BOXES)


def without_black_box(records: Sequence[Record], attacks: Sequence[Perturbation]) -> dict[int | str, bool]:
    """Whether each image is right on the clean image and under every attack with gradients.

    Without such attacks: under every attack, so that the checks look for what they missed.

    Args:
        records: of the clean images and of at least these attacks.
        attacks: of one threat model.
    """
    white = {attack.name for attack in attacks if not is_black_box(attack)}
    wanted = {"clean", *(white or {attack.name for attack in attacks})}
    chosen = [record for record in records if record.perturbation in wanted]
    if not white:
        return worst_case(chosen)
    return worst_case([record for record in chosen if not _credit_of_black_box(record)])


def compare_black_box(records: Sequence[Record], attacks: Sequence[Perturbation]) -> list[Check]:
    """The evaluation's own attacks without gradients fool no images that those with gradients leave.

    All images of the evaluation count, not only those that the other checks look at.

    Args:
        records: of the whole evaluation.
        attacks: of one threat model.

    Returns:
        One check, ``own black box``; none where the evaluation has only one kind of attack, or is not of a classifier.
    """
    if any(record.label is None for record in records) or all(is_black_box(attack) for attack in attacks):
        return []
    blind = {attack.name for attack in attacks if is_black_box(attack)}
    names = {attack.name for attack in attacks}
    ensembles = [attack for attack in attacks if "square" in str(attack.settings.get("attacks", ""))]
    if not blind and not ensembles:
        return []
    right = without_black_box(records, attacks)
    fallen: dict[int | str, str] = {}
    for record in records:
        fell = record.perturbation in blind and record.fooled
        if right[record.image_id] and (fell or (record.perturbation in names and _credit_of_black_box(record))):
            fallen.setdefault(record.image_id, record.perturbation)
    count, left = len(fallen), sum(right.values())
    reason = (
        f"{count} of {left} images that the attacks with gradients leave fall to the evaluation's own attack without "
        f"({', '.join(sorted(set(fallen.values())))}): the gradients mislead"
    )
    values = {"images": left, "fooled": count}
    return [judge("own black box", count <= tolerated(left, len(right)), reason, values)]
