"""From records to numbers."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

from .perturbations import Perturbation
from .records import Record


def _accuracy(records: Sequence[Record]) -> float:
    return sum(not record.fooled for record in records) / len(records)


def worst_case(records: Sequence[Record]) -> dict[int | str, bool]:
    """Whether each image is right on the clean image AND under every attack."""
    right: dict[int | str, bool] = {}
    for record in records:
        right[record.image_id] = right.get(record.image_id, True) and not record.fooled
    return right


def _of_perturbation(records: Sequence[Record], clean_right: dict[int | str, bool]) -> dict[str, Any]:
    right = [record for record in records if not record.fooled and clean_right[record.image_id]]
    by_class: dict[int, list[bool]] = defaultdict(list)
    for record in records:
        by_class[record.label].append(not record.fooled and clean_right[record.image_id])
    return {
        "images": len(records),
        "correct": len(right),
        "accuracy": len(right) / len(records),
        "accuracy_by_class": {str(label): sum(values) / len(values) for label, values in sorted(by_class.items())},
        "mean_queries": sum(record.queries for record in records) / len(records),
        "largest_distance": max(record.distance for record in records),
        "zero_gradient_images": sum(record.zero_gradient and not record.fooled for record in records),
    }


def summarize(records: Sequence[Record], perturbations: Sequence[Perturbation]) -> dict[str, Any]:
    """Accuracies in [0, 1] of an evaluation.

    The accuracy under one attack counts the images that are right on the clean image and under that attack.
    ``robust_accuracy`` counts, for each threat model, those that are right under every one of its attacks.

    Raises:
        ValueError: a perturbation misses images that another one has.
    """
    groups: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        groups[record.perturbation].append(record)
    clean = groups["clean"]
    ids = {record.image_id for record in clean}
    if not ids:
        raise ValueError("no images were evaluated")
    for perturbation in perturbations:
        if {record.image_id for record in groups[perturbation.name]} != ids:
            raise ValueError(f"the perturbation {perturbation.name} was not run on the same images as clean")
    clean_right = {record.image_id: not record.fooled for record in clean}
    counts = Counter(record.label for record in clean)
    majority = max(counts.values()) / len(clean)
    by_threat: dict[str, list[Record]] = defaultdict(list)
    for perturbation in perturbations:
        if perturbation.threat is not None:
            by_threat[str(perturbation.threat)] += groups[perturbation.name]
    results = {
        "images": len(clean),
        "clean_accuracy": _accuracy(clean),
        "majority_share": majority,
        "chance": 1 / max(1, len(counts)),
        "by_perturbation": {p.name: _of_perturbation(groups[p.name], clean_right) for p in perturbations},
        "robust_accuracy": {
            threat: sum(worst_case(clean + attacked).values()) / len(clean) for threat, attacked in by_threat.items()
        },
    }
    results["warnings"] = _warnings(results)
    return results


def _warnings(results: dict[str, Any]) -> list[str]:
    found = []
    if results["clean_accuracy"] < results["majority_share"]:
        found.append("clean accuracy is below always answering the most frequent class: a broken run")
    for name, values in results["by_perturbation"].items():
        if values["zero_gradient_images"]:
            found.append(
                f"{name}: {values['zero_gradient_images']} images counted as robust had exactly zero gradients in "
                "every step; their robustness is not shown"
            )
    return found
