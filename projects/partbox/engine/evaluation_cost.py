"""What an evaluation costs, before it is made."""

from __future__ import annotations

from collections.abc import Sequence

from partbox.evaluation.detectron2_checks import most_passes as most_passes_of_detectron2
from partbox.evaluation.perturbations import Perturbation
from partbox.evaluation.self_checks import most_passes


def cost(perturbation: Perturbation, images: int, kind: str = "classifier") -> str:
    """Passes over an image that a perturbation takes, as a sentence; foolbox's attacks count in steps of their own."""
    # a detector is first asked what it finds on the clean image
    each = perturbation.passes + (perturbation.gradient_free and kind == "detector")
    passes = f"{each * images:,} passes over an image"
    if perturbation.settings["name"] == "foolbox":
        return f"at least {passes}, and as many more as foolbox's attack asks for"
    return f"at most {passes}"


def cost_lines(perturbations: Sequence[Perturbation], images: int, kind: str = "classifier") -> list[str]:
    """A line for each perturbation of a model of this kind."""
    return [f"  {perturbation.name}: {cost(perturbation, images, kind)}" for perturbation in perturbations]


def self_check_lines(
    perturbations: Sequence[Perturbation], images: int, *, surrogate: bool, kind: str = "classifier"
) -> list[str]:
    """A line for the self-checks of each threat model; they may cost more than the evaluation."""
    by_threat: dict[str, list[Perturbation]] = {}
    for one in perturbations:
        if one.role == "attack":
            by_threat.setdefault(str(one.threat), []).append(one)
    lines = []
    for threat, attacks in by_threat.items() if images else ():
        if kind == "classifier":
            steps = max(int(one.settings.get("steps", 20)) for one in attacks)
            most = most_passes(images, steps, surrogate=surrogate)
        else:
            most = most_passes_of_detectron2(attacks, images, kind, surrogate=surrogate)
        lines.append(f"  self-checks, {threat}: at most {most:,} passes over an image")
    return lines
