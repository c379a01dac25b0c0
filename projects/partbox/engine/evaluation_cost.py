"""What an evaluation costs, before it is made."""

from __future__ import annotations

from collections.abc import Sequence

from partbox.evaluation.perturbations import Perturbation
from partbox.evaluation.self_checks import most_passes


def cost(perturbation: Perturbation, images: int) -> str:
    """Passes over an image that a perturbation takes, as a sentence; foolbox's attacks count in steps of their own."""
    passes = f"{perturbation.passes * images:,} passes over an image"
    if perturbation.settings["name"] == "foolbox":
        return f"at least {passes}, and as many more as foolbox's attack asks for"
    return f"at most {passes}"


def cost_lines(perturbations: Sequence[Perturbation], images: int) -> list[str]:
    """A line for each perturbation."""
    return [f"  {perturbation.name}: {cost(perturbation, images)}" for perturbation in perturbations]


def self_check_lines(perturbations: Sequence[Perturbation], images: int, *, surrogate: bool) -> list[str]:
    """A line for the self-checks of each threat model of a classifier; they may cost more than the evaluation."""
    steps: dict[str, int] = {}
    for one in perturbations:
        if one.role == "attack":
            steps[str(one.threat)] = max(steps.get(str(one.threat), 0), int(one.settings.get("steps", 20)))
    return [
        f"  self-checks, {threat}: at most {most_passes(images, count, surrogate=surrogate):,} passes over an image"
        for threat, count in steps.items()
        if images
    ]
