"""Accuracy and loss against the strength of an attack: its radius, its steps, the passes that it has spent."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .records import Record

AXES = {"passes": "forward passes", "steps": "steps", "eps": "eps"}
MOST_POINTS = 100  # of a curve against passes
# Of these a record holds the passes spent in all, and not those until the image was fooled.
ALL_PASSES = ("parts", "foolbox")
# Settings that follow an axis: a step size is a share of eps, divided by the steps.
FOLLOWING = {"eps": ("eps", "step_size"), "steps": ("steps", "step_size")}
# Of detectors and segmenters: evaluator's entry, metric.
METRICS = (("bbox", "AP"), ("segm", "AP"), ("sem_seg", "mIoU"))


@dataclass(frozen=True)
class Curve:
    """A quantity against the strength of an attack.

    Attributes:
        attack: its name, such as ``pgd-20 linf 8/255``; that of the strongest of several, without eps where it varies.
        axis: one of AXES.
        quantity: ``robust_accuracy`` in [0, 1]; ``loss``, the mean over the images of what records hold; or an
            evaluator's metric, such as ``bbox_AP``.
        points: (x, y), by x; x = 0 is the clean image.
    """

    attack: str
    axis: str
    quantity: str
    points: tuple[tuple[float, float], ...]


def attack_curves(results: Mapping[str, Any], records: Iterable[Record]) -> list[Curve]:
    """The curves of an evaluation.

    Against passes: one for each attack on a classifier, the share of images that are right on the clean image and
    that the attack has not fooled within so many forward passes, from the records' ``queries``. Against eps: one for
    each group of attacks that differ in nothing else. Against steps: likewise, where there are at least two.

    Args:
        results: the entry ``results`` of ``results.json``.
        records: of all perturbations.
    """
    by_name: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        by_name[record.perturbation].append(record)
    entries: Mapping[str, Mapping[str, Any]] = results["by_perturbation"]
    attacks = {name: entry for name, entry in entries.items() if is_attack(entry)}
    curves = [
        Curve(name, "passes", "robust_accuracy", _against_passes(by_name["clean"], by_name[name]))
        for name, entry in attacks.items()
        if "accuracy" in entry and entry["settings"]["name"] not in ALL_PASSES
    ]
    for axis in ("eps", "steps"):
        for names in _groups(attacks, axis):
            strengths = {float(attacks[name]["settings"][axis]): name for name in names}
            if axis == "eps" or len(strengths) > 1:
                curves += _against(axis, strengths, entries, by_name)
    return curves


def is_attack(entry: Mapping[str, Any]) -> bool:
    """Whether an entry of ``by_perturbation`` is that of an attack; noise of the same size is none."""
    return "eps" in entry["settings"] and entry["settings"]["name"] != "noise"


def _against_passes(clean: Sequence[Record], attacked: Sequence[Record]) -> tuple[tuple[float, float], ...]:
    right = {record.image_id: not record.fooled for record in clean}
    ends = [record.queries if record.fooled else None for record in attacked if right[record.image_id]]
    spent = sorted({record.queries for record in attacked})
    if len(spent) > MOST_POINTS:
        spent = [spent[round(i * (len(spent) - 1) / (MOST_POINTS - 1))] for i in range(MOST_POINTS)]
    shares = [(float(x), sum(end is None or end > x for end in ends) / len(attacked)) for x in spent]
    return ((0.0, len(ends) / len(attacked)), *shares)


def _groups(attacks: Mapping[str, Mapping[str, Any]], axis: str) -> list[list[str]]:
    """Names of attacks that differ in the axis alone, and in what follows it."""
    groups: dict[str, list[str]] = defaultdict(list)
    for name, entry in attacks.items():
        settings = entry["settings"]
        if isinstance(settings.get(axis), int | float):
            key = {setting: value for setting, value in settings.items() if setting not in FOLLOWING[axis]}
            groups[repr(sorted(key.items(), key=lambda item: item[0]))].append(name)
    return list(groups.values())


def _against(
    axis: str,
    strengths: Mapping[float, str],
    entries: Mapping[str, Mapping[str, Any]],
    by_name: Mapping[str, Sequence[Record]],
) -> list[Curve]:
    ordered = [(0.0, "clean"), *sorted(strengths.items())]
    strongest = ordered[-1][1]
    attack = strongest.rsplit(" ", 1)[0] if axis == "eps" else strongest  # its name ends with eps
    found: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for strength, name in ordered:
        for quantity, value in _quantities(entries[name], by_name[name]).items():
            found[quantity].append((strength, value))
    return [Curve(attack, axis, name, tuple(points)) for name, points in found.items() if points[-1][0] > 0]


def _quantities(entry: Mapping[str, Any], records: Sequence[Record]) -> dict[str, float]:
    values: dict[str, float] = {}
    if "accuracy" in entry:
        values["robust_accuracy"] = entry["accuracy"]
    losses = [record.loss for record in records if record.loss is not None]
    if losses and len(losses) == len(records):
        values["loss"] = sum(losses) / len(losses)
    for evaluator, metric in METRICS:
        value = entry.get(evaluator, {}).get(metric)
        if value is not None and value == value:  # AP is NaN where no object is labelled
            values[f"{evaluator}_{metric}"] = float(value)
    return values
