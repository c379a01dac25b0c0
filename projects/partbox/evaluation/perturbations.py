"""Perturbations of an evaluation: what happens to a batch of images before the model is asked."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from partbox.attacks import APGD, FAB, PGD, Attack, AttackResult, AutoAttack, PartPGD, Square, ThreatModel
from partbox.attacks.base import Predict, check_logits
from partbox.attacks.objectives import margin

Apply = Callable[..., AttackResult]


def no_attack(
    predict: Predict, images: Tensor, labels: Tensor, *, image_ids: Sequence[int | str] | None = None, seed: int = 0
) -> AttackResult:
    """The clean images in the form of an attack's result."""
    with torch.no_grad():
        logits = check_logits(predict(images), labels)
    return AttackResult(
        images=images,
        fooled=logits.argmax(dim=1) != labels,
        queries=torch.ones(len(images), dtype=torch.int64),
        loss=margin(logits, labels),
        zero_gradient=torch.zeros(len(images), dtype=torch.bool),
    )


@dataclass(frozen=True)
class Perturbation:
    """A named perturbation.

    Attributes:
        name: unique in an evaluation, such as ``pgd linf 8/255``.
        apply: called as an attack: ``(predict, images, labels, image_ids=, seed=) -> AttackResult``.
        settings: everything that defines it, as plain values for ``results.json``.
        threat: None for clean images.
        passes: passes over an image (forward, most of them backward too), unless an image leaves early because it is
            fooled, or needs the margin's gradient as well because the loss has none.
        on_parts: ``apply`` is called as a :class:`partbox.attacks.PartPGD`, with part predictions and part maps.
    """

    name: str
    apply: Apply
    settings: dict[str, Any]
    threat: ThreatModel | None
    passes: int
    on_parts: bool = False


def _clean(spec: dict[str, Any]) -> Perturbation:
    return Perturbation("clean", no_attack, {"name": "clean"}, None, 2)


ATTACKS: dict[str, Callable[..., Attack | PartPGD]] = {
    "parts": PartPGD,
    "pgd": PGD,
    "apgd": APGD,
    "fab": FAB,
    "square": Square,
    "autoattack": AutoAttack,
}
DEFAULTS: dict[str, dict[str, Any]] = {"pgd": {"steps": 20}}


def _attack(name: str, spec: dict[str, Any]) -> Perturbation:
    if "eps" not in spec:
        raise ValueError(f"the perturbation {name} needs an eps, such as 8/255")
    threat = ThreatModel(spec.pop("norm", "linf"), spec.pop("eps"))
    known = inspect.signature(ATTACKS[name]).parameters
    options = {key: spec.pop(key) for key in list(spec) if key in known and key != "threat"}
    if options.get("goal") == "guided":
        raise ValueError("goal guided needs the parts of other images: call partbox.attacks.PartPGD with guides")
    attack = ATTACKS[name](threat, **{**DEFAULTS.get(name, {}), **options})
    settings = {
        "name": name,
        "norm": threat.norm,
        "eps": threat.eps,
        **attack.settings,
        "pixel_space": "RGB in [0, 1] at the network's input size",
        "keeps": "the best iterate and restart of each image",
    }
    passes = attack.passes + 1  # predicting the result
    return Perturbation(f"{attack.name} {threat}", attack, settings, threat, passes, on_parts=name == "parts")


BUILDERS: dict[str, Callable[[dict[str, Any]], Perturbation]] = {
    "clean": _clean,
    **{name: functools.partial(_attack, name) for name in ATTACKS},
}


def build_perturbation(spec: Mapping[str, Any]) -> Perturbation:
    """Build one perturbation from its configuration.

    Raises:
        ValueError: unknown name, unknown or missing key, or a setting out of range.
    """
    if not isinstance(spec, Mapping) or "name" not in spec:
        raise ValueError(f"a perturbation is a mapping with a name, such as {{name: clean}}, not {spec!r}")
    rest = dict(spec)
    name = rest.pop("name")
    if name not in BUILDERS:
        raise ValueError(f"unknown perturbation {name!r}; known: {', '.join(BUILDERS)}")
    perturbation = BUILDERS[name](rest)
    if rest:
        raise ValueError(f"the perturbation {name} has no setting {', '.join(map(repr, rest))}")
    return perturbation


def build_perturbations(specs: Sequence[Mapping[str, Any]]) -> list[Perturbation]:
    """Build all perturbations of an evaluation; ``clean`` comes first, and is added where it is missing.

    Raises:
        ValueError: see :func:`build_perturbation`; two perturbations that nothing tells apart by name.
    """
    perturbations = [build_perturbation(spec) for spec in specs]
    perturbations.sort(key=lambda perturbation: perturbation.threat is not None)
    if not perturbations or perturbations[0].threat is not None:
        perturbations.insert(0, build_perturbation({"name": "clean"}))
    names = [perturbation.name for perturbation in perturbations]
    repeated = {name for name in names if names.count(name) > 1}
    if repeated:
        raise ValueError(
            f"perturbations must differ in name, steps, norm or eps; repeated: {', '.join(sorted(repeated))}"
        )
    return perturbations
