"""Perturbations of an evaluation: what happens to a batch of images before the model is asked."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from partbox.attacks import (
    APGD,
    FAB,
    PGD,
    AcceleratedAttack,
    Attack,
    AutoAttack,
    DetectorPGD,
    FoolboxAttack,
    PartPGD,
    RayS,
    SegmentationPGD,
    Square,
    ThreatModel,
)
from partbox.attacks.foolbox_attack import follows_gradients
from partbox.corruptions import BENCHMARK, GROUPS, KINDS, SEVERITIES
from partbox.corruptions.corrupt import check_kind
from partbox.suggestions import did_you_mean, nearest, unknown

from .unattacked import corrupt_batch, no_attack, noise

Apply = Callable[..., Any]


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
        corruption: (kind, severity) of a corruption; None for clean images and attacks.
        role: ``clean``, ``corruption``, ``noise`` or ``attack``.
        target: what an attack attacks: ``classifier``, ``detector`` or ``segmenter``.
        gradient_free: a classifier's attack that can attack a detector too: "is the object still found?".
    """

    name: str
    apply: Apply
    settings: dict[str, Any]
    threat: ThreatModel | None
    passes: int
    on_parts: bool = False
    corruption: tuple[str, int] | None = None
    role: str = "attack"
    target: str = "classifier"
    gradient_free: bool = False

    def attacks(self, kind: str) -> bool:
        """Whether this is an attack that a model of this kind can be attacked with."""
        return self.target == kind or (self.gradient_free and kind == "detector")


def _clean(spec: dict[str, Any]) -> Perturbation:
    return Perturbation("clean", no_attack, {"name": "clean"}, None, 2, role="clean")


def _threat(name: str, spec: dict[str, Any]) -> ThreatModel:
    """The threat model of a perturbation, whose norm and eps are taken out of ``spec``.

    Raises:
        ValueError: no eps, or no threat model.
    """
    if "eps" not in spec:
        raise ValueError(f"the perturbation {name} needs an eps, such as 8/255")
    try:
        return ThreatModel(spec.pop("norm", "linf"), spec.pop("eps"))
    except ValueError as error:
        raise ValueError(f"the perturbation {name}: {error}") from error


def _noise(spec: dict[str, Any]) -> Perturbation:
    """Uniform noise of the size of an attack: what a robust and a fragile model alike should hardly notice."""
    threat = _threat("noise", spec)
    settings = {"name": "noise", "norm": threat.norm, "eps": threat.eps, "draw": "uniform in the ball, one an image"}
    return Perturbation(f"noise {threat}", functools.partial(noise, threat), settings, threat, 2, role="noise")


ATTACKS: dict[str, Callable[..., Attack | PartPGD | DetectorPGD | SegmentationPGD]] = {
    "parts": PartPGD,
    "pgd": PGD,
    "apgd": APGD,
    "fab": FAB,
    "square": Square,
    "rays": RayS,
    "foolbox": FoolboxAttack,
    "autoattack": AutoAttack,
    "detector-pgd": DetectorPGD,
    "segmentation-pgd": SegmentationPGD,
}
GRADIENT_FREE = ("square", "rays", "foolbox")  # they ask a detector whether an object is still found
TARGETS = {"detector-pgd": "detector", "segmentation-pgd": "segmenter"}
DEFAULTS: dict[str, dict[str, Any]] = {"pgd": {"steps": 20}}


def _attack(name: str, spec: dict[str, Any]) -> Perturbation:
    threat = _threat(name, spec)
    known = inspect.signature(ATTACKS[name]).parameters
    options = {key: spec.pop(key) for key in list(spec) if key in known and key != "threat"}
    for key, value in options.items():
        if isinstance(known[key].default, bool):
            _check_flag(key, value)
    attack = ATTACKS[name](threat, **{**DEFAULTS.get(name, {}), **options})
    if isinstance(attack, Attack):
        attack = _accelerated(attack, spec)
    settings = {
        "name": name,
        "norm": threat.norm,
        "eps": threat.eps,
        **attack.settings,
        "pixel_space": "[0, 1] at the network's input size, in its channel order",
        "keeps": "the best iterate and restart of each image",
    }
    passes = attack.passes + 1  # predicting the result
    return Perturbation(
        f"{attack.name} {threat}",
        attack,
        settings,
        threat,
        passes,
        on_parts=name == "parts",
        target=TARGETS.get(name, "classifier"),
        gradient_free=name in GRADIENT_FREE and _asks_only(attack),
    )


def _check_flag(key: str, value: object) -> None:
    """Raises ValueError for a text such as "false", which would count as true."""
    if not isinstance(value, bool):
        raise ValueError(f"{key} is true or false, not {value!r}")


def _asks_only(attack: Any) -> bool:
    """Whether an attack looks at answers alone, and at those of one model."""
    if isinstance(attack, FoolboxAttack):
        return not follows_gradients(attack.attack)
    return not isinstance(attack, AcceleratedAttack)


def _accelerated(attack: Attack, spec: dict[str, Any]) -> Attack:
    """The attack as it is, or searching with a faster form: ``precision``, ``compiled``, ``fold_batch_norm``."""
    precision = spec.pop("precision", "float32")
    forms = {key: spec.pop(key, False) for key in ("compiled", "fold_batch_norm")}
    for key, value in forms.items():
        _check_flag(key, value)
    if precision == "float32" and not any(forms.values()):
        return attack
    return AcceleratedAttack(attack, precision=precision, **forms)


def _corruption(spec: dict[str, Any]) -> Perturbation:
    missing = [key for key in ("kind", "severity") if key not in spec]
    if missing:
        raise ValueError(f"the perturbation corruption needs a {missing[0]}, such as {{kind: fog, severity: 3}}")
    return corruption(spec.pop("kind"), spec.pop("severity"))


def corruption(kind: str, severity: int) -> Perturbation:
    """A corruption, see :func:`partbox.corruptions.corrupt`.

    Raises:
        ValueError: an unknown kind, or a severity other than 1 to 5.
    """
    check_kind(kind, severity)
    settings = {
        "name": "corruption",
        "kind": kind,
        "severity": severity,
        "draw": "seeded by (evaluation seed, image id), the same at every severity",
    }
    apply = functools.partial(corrupt_batch, kind, severity)
    return Perturbation(f"{kind} {severity}", apply, settings, None, 2, corruption=(kind, severity), role="corruption")


BUILDERS: dict[str, Callable[[dict[str, Any]], Perturbation]] = {
    "clean": _clean,
    "corruption": _corruption,
    "noise": _noise,
    **{name: functools.partial(_attack, name) for name in ATTACKS},
}
FAMILY = "corruptions"


def _family(spec: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The single corruptions that ``{name: corruptions, kinds: benchmark, severities: [1, 2, 3, 4, 5]}`` stands for."""
    rest = dict(spec)
    rest.pop("name")
    kinds, severities = rest.pop("kinds", "benchmark"), rest.pop("severities", SEVERITIES)
    _refuse_unknown(FAMILY, rest, ("kinds", "severities"))
    named = {"benchmark": BENCHMARK, "all": KINDS, **GROUPS}
    if isinstance(kinds, str) and kinds not in named:
        hint = did_you_mean(kinds, named)
        raise ValueError(f"kinds of corruptions are a list of names or one of {', '.join(named)}, not {kinds!r}{hint}")
    if isinstance(severities, str) or not isinstance(severities, Sequence):
        raise ValueError(f"severities are a list such as [1, 3, 5], not {severities!r}")
    chosen = named[kinds] if isinstance(kinds, str) else kinds
    return [{"name": "corruption", "kind": kind, "severity": one} for kind in chosen for one in severities]


def settings_of(name: str) -> list[str]:
    """The settings that a perturbation reads, beside its name."""
    if name not in ATTACKS:
        return {"noise": ["norm", "eps"], "corruption": ["kind", "severity"]}.get(name, [])
    attack = ATTACKS[name]
    own = [key for key in inspect.signature(attack).parameters if key != "threat"]
    faster = (
        ["precision", "compiled", "fold_batch_norm"] if inspect.isclass(attack) and issubclass(attack, Attack) else []
    )
    return ["norm", "eps", *own, *faster]


def _refuse_unknown(name: str, given: Mapping[str, Any], known: Sequence[str]) -> None:
    """Raises ValueError for settings that a perturbation does not read."""
    strange = [key for key in given if key not in known]
    if strange:
        has = f"; it has {', '.join(known)}" if known else ""
        listed = ", ".join(map(repr, strange))
        raise ValueError(f"the perturbation {name} has no setting {listed}{has}{did_you_mean(strange[0], known)}")


def name_hint(spec: object) -> str:
    """``; write name instead of nam`` on a perturbation that has no name; empty where no key looks like one."""
    meant = nearest("name", spec) if isinstance(spec, Mapping) else []
    return f"; write name instead of {meant[0]}" if meant else ""


def build_perturbation(spec: Mapping[str, Any]) -> Perturbation:
    """Build one perturbation from its configuration.

    Raises:
        ValueError: unknown name, unknown or missing key, or a setting out of range.
    """
    if not isinstance(spec, Mapping) or "name" not in spec:
        text = f"a perturbation is a mapping with a name, such as {{name: clean}}, not {spec!r}"
        raise ValueError(f"{text}{name_hint(spec)}")
    rest = dict(spec)
    name = rest.pop("name")
    if not isinstance(name, str) or name not in BUILDERS:
        raise ValueError(unknown("perturbation", name, (*BUILDERS, FAMILY)))
    _refuse_unknown(name, rest, settings_of(name))
    return BUILDERS[name](rest)


def build_perturbations(specs: Sequence[Mapping[str, Any]]) -> list[Perturbation]:
    """Build all perturbations of an evaluation: clean (added where it is missing), corruptions, noise, attacks.

    ``{name: corruptions}`` stands for the 15 benchmark kinds at 5 severities.

    Raises:
        ValueError: see :func:`build_perturbation`; two perturbations that nothing tells apart by name.
    """
    single: list[Mapping[str, Any]] = []
    for spec in specs:
        single += _family(spec) if isinstance(spec, Mapping) and spec.get("name") == FAMILY else [spec]
    perturbations = [build_perturbation(spec) for spec in single]
    if not any(_order(perturbation) == 0 for perturbation in perturbations):
        perturbations.insert(0, build_perturbation({"name": "clean"}))
    perturbations.sort(key=_order)
    names = [perturbation.name for perturbation in perturbations]
    repeated = {name for name in names if names.count(name) > 1}
    if repeated:
        raise ValueError(
            f"perturbations must differ in name, steps, norm or eps; repeated: {', '.join(sorted(repeated))}"
        )
    return perturbations


def _order(perturbation: Perturbation) -> int:
    return ("clean", "corruption", "noise", "attack").index(perturbation.role)
