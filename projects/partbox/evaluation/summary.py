"""From records to numbers."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from partbox.corruptions import BENCHMARK, mean_corruption_error, mean_error, mean_performance, relative_performance
from partbox.corruptions.kinds import SEVERITIES

from .image_evaluator import IN_PERCENT, Performance
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


def _of_perturbation(
    perturbation: Perturbation, records: Sequence[Record], clean_right: Mapping[int | str, bool]
) -> dict[str, Any]:
    # Corruptions and noise are no adversary: an image that they happen to put right counts as right.
    needed = clean_right if perturbation.role == "attack" else dict.fromkeys(clean_right, True)
    verdicts = [not record.fooled and needed[record.image_id] for record in records]
    by_class: dict[int, list[bool]] = defaultdict(list)
    for record, right in zip(records, verdicts, strict=True):
        if record.label is not None:
            by_class[record.label].append(right)
    entry: dict[str, Any] = {
        "images": len(records),
        "mean_queries": sum(record.queries for record in records) / len(records),
        "largest_distance": max(record.distance for record in records),
        "zero_gradient_images": sum(record.zero_gradient and not record.fooled for record in records),
    }
    if by_class:
        entry["correct"] = sum(verdicts)
        entry["accuracy"] = sum(verdicts) / len(records)
        entry["accuracy_by_class"] = {label: sum(right) / len(right) for label, right in _by_text(by_class)}
    objects = [record.objects for record in records if record.objects is not None]
    if objects:
        entry["objects"] = sum(objects)
        entry["objects_found"] = sum(record.found or 0 for record in records)
        entry["object_recall"] = entry["objects_found"] / entry["objects"] if entry["objects"] else None
    false = [record.false_objects for record in records if record.false_objects is not None]
    if false:
        entry["false_objects"] = sum(false)
        entry["false_objects_per_image"] = sum(false) / len(false)
    return entry


def _by_text(values: Mapping[int, list[bool]]) -> list[tuple[str, list[bool]]]:
    return [(str(label), values[label]) for label in sorted(values)]


def summarize(records: Sequence[Record], perturbations: Sequence[Perturbation]) -> dict[str, Any]:
    """The numbers of an evaluation that follow from verdicts; shares in [0, 1].

    The accuracy under one attack counts the images that are right on the clean image and under that attack, the
    accuracy under a corruption those that are right under it. ``robust_accuracy`` counts, for each threat model, the
    images that are right on the clean image and under every one of its attacks.

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
    results: dict[str, Any] = {"images": len(clean)}
    results["by_perturbation"] = {p.name: _of_perturbation(p, groups[p.name], clean_right) for p in perturbations}
    if all(record.label is not None for record in clean):
        results.update(_of_classifier(clean, groups, perturbations))
        results["corruptions"] = _of_corruptions(results, perturbations)
    results["warnings"] = _warnings(results)
    return results


def _of_classifier(
    clean: Sequence[Record], groups: Mapping[str, list[Record]], perturbations: Sequence[Perturbation]
) -> dict[str, Any]:
    counts = Counter(record.label for record in clean)
    by_threat: dict[str, list[Record]] = defaultdict(list)
    for perturbation in perturbations:
        if perturbation.threat is not None and perturbation.role == "attack":
            by_threat[str(perturbation.threat)] += groups[perturbation.name]
    return {
        "clean_accuracy": _accuracy(clean),
        "majority_share": max(counts.values()) / len(clean),
        "chance": 1 / max(1, len(counts)),
        "robust_accuracy": {
            threat: sum(worst_case([*clean, *attacked]).values()) / len(clean) for threat, attacked in by_threat.items()
        },
    }


def _of_corruptions(results: Mapping[str, Any], perturbations: Sequence[Perturbation]) -> dict[str, Any] | None:
    """Accuracy by kind and severity; means where all 15 benchmark kinds are there at all 5 severities."""
    accuracy: dict[str, dict[int, float]] = defaultdict(dict)
    for perturbation in perturbations:
        if perturbation.corruption is not None:
            kind, severity = perturbation.corruption
            accuracy[kind][severity] = results["by_perturbation"][perturbation.name]["accuracy"]
    if not accuracy:
        return None
    found: dict[str, Any] = {
        "accuracy": {
            kind: {str(one): values[one] for one in sorted(values)} for kind, values in sorted(accuracy.items())
        }
    }
    complete = {kind: [values[one] for one in SEVERITIES] for kind, values in accuracy.items() if len(values) == 5}
    if set(BENCHMARK) <= set(complete):
        errors = {kind: [1 - one for one in complete[kind]] for kind in BENCHMARK}
        found["kinds_averaged"] = list(BENCHMARK)
        found["mean_error"] = mean_error(errors)
        found["mean_corruption_error"] = mean_corruption_error(errors)
        found["mean_corruption_error_baseline"] = "AlexNet on ImageNet-C; comparable with others on ImageNet-C only"
        found["mean_accuracy"] = mean_performance(complete)
        if results["clean_accuracy"]:
            found["relative_accuracy"] = relative_performance(complete, results["clean_accuracy"])
    return found


def performance_under_corruptions(
    by_perturbation: Mapping[str, Mapping[str, Any]],
    perturbations: Sequence[Perturbation],
    performances: Iterable[Performance] = IN_PERCENT,
) -> dict[str, Any]:
    """AP and mIoU, as shares, by kind and severity of corruption; mPC and rPC where all 75 benchmark cells are there.

    Args:
        by_perturbation: entries of the results, with the evaluators' numbers.
        perturbations: of the evaluation.
        performances: which of the numbers, and their unit.

    Returns:
        A table for each number. One that is no share of what was said to be full (an evaluator of one's own may count
        in another unit) has no mPC or rPC, and ``not_averaged`` with the reason.
    """
    found: dict[str, Any] = {}
    for entry, metric, full in dict.fromkeys(performances):
        cells: dict[str, dict[int, float]] = defaultdict(dict)
        for one in perturbations:
            value = by_perturbation[one.name].get(entry, {}).get(metric)
            if one.corruption is not None and value is not None:
                cells[one.corruption[0]][one.corruption[1]] = value / full
        if not cells:
            continue
        name = f"{entry} {metric}"
        found[name] = {
            "by_kind": {
                kind: {str(one): values[one] for one in sorted(values)} for kind, values in sorted(cells.items())
            }
        }
        complete = {kind: [values[one] for one in SEVERITIES] for kind, values in cells.items() if len(values) == 5}
        clean = by_perturbation["clean"].get(entry, {}).get(metric)
        if set(BENCHMARK) <= set(complete):
            found[name] |= {"mPC": None, "rPC": None}
            try:
                found[name]["mPC"] = mean_performance(complete)
                found[name]["rPC"] = relative_performance(complete, clean / full) if clean else None
            except ValueError as error:  # the last step of hours of work: said, not raised
                found[name]["not_averaged"] = str(error)
    return found


def _warnings(results: dict[str, Any]) -> list[str]:
    found = []
    if "clean_accuracy" in results and results["clean_accuracy"] < results["majority_share"]:
        found.append("clean accuracy is below always answering the most frequent class: a broken run")
    for name, values in results["by_perturbation"].items():
        if values["zero_gradient_images"]:
            found.append(
                f"{name}: {values['zero_gradient_images']} images counted as robust had exactly zero gradients in "
                "every step; their robustness is not shown"
            )
    return found
