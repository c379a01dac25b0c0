"""One evaluation: a dataset under each perturbation, seen by each evaluator."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from detectron2.evaluation import DatasetEvaluator

from partbox.attacks import attack_mode
from partbox.data.loader import subset
from partbox.progress import Progress

from .batches import Batches, LoadedBatches
from .black_box import compare_black_box, without_black_box
from .image_evaluator import ImageEvaluator, image_evaluators
from .perturbations import Perturbation
from .records import Record
from .self_checks import Check, most_passes
from .stamp import check_unique, stamp_of
from .store import RecordStore, Unit
from .subject import Batch, ClassifierSubject, Subject
from .summary import performance_under_corruptions, summarize


@dataclass
class Evaluation:
    """Outcome of an evaluation.

    Attributes:
        results: accuracies and the evaluators' metrics, plain values; computed from the records alone.
        records: one an image and perturbation, by perturbation in the order of the images.
        examples: arrays of the first few images of each perturbation, for pictures.
    """

    results: dict[str, Any]
    records: list[Record]
    examples: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)


def evaluate(
    model: Any,
    batches: Batches | Iterable[Batch],
    perturbations: Sequence[Perturbation],
    evaluators: Sequence[DatasetEvaluator] = (),
    *,
    seed: int = 0,
    keep_examples: int = 0,
    progress: bool = True,
    store: RecordStore | None = None,
) -> Evaluation:
    """Run every perturbation over all batches and compute the numbers.

    Args:
        model: a :class:`partbox.modeling.PartClassifier`, or a :class:`partbox.evaluation.subject.Subject`; its mode is
            restored afterwards.
        batches: the images, as :class:`partbox.evaluation.batches.RecordBatches`, or lists of samples with ``image``,
            ``label`` and ``image_id``.
        perturbations: from :func:`partbox.evaluation.perturbations.build_perturbations`.
        evaluators: detectron2 evaluators; they see the outputs on the perturbed images.
        seed: of every random draw.
        keep_examples: images of each perturbation to keep with their predictions, from the first batch.
        progress: show a progress bar with the time left.
        store: keeps finished batches; those that it has already are not done again. Those of another evaluation
            (other images, batches, seed, perturbations, evaluators, weights, versions of the packages) are refused.

    Raises:
        ValueError: an attack on a model that does not look at the image (oracle extractor), or on the parts of one
            that has none; two images of one id; see also :func:`partbox.evaluation.summary.summarize`.
        RecordsError: records cannot be written, or the store holds those of another evaluation.
        ImageError: an image cannot be read, or not under a corruption; of a part dataset a PartDatasetError.
    """
    parts = _numbered(batches)
    store = store if store is not None else RecordStore()
    ready = image_evaluators(evaluators, parts.records)
    subject = as_subject(model)
    subject.check(perturbations)
    work(subject, parts, perturbations, ready, store, seed=seed, keep_examples=keep_examples, progress=progress)
    return conclude(len(parts), perturbations, ready, store, subject)


def _remark(subject: Subject, results: dict[str, Any], perturbations: Sequence[Perturbation]) -> None:
    """Put what the model under test says about itself into the results.

    ``results["oracle"]`` says why the numbers are an upper bound and no defence, where they are. It is a warning too,
    and under attack so is everything else that the model says, so that every table shows it.
    """
    oracle = getattr(subject, "oracle", "")
    if oracle:
        results["oracle"] = oracle
    attacked = any(perturbation.role == "attack" for perturbation in perturbations)
    remarks = getattr(subject, "remarks", ()) if attacked else [oracle] * bool(oracle)
    results["warnings"] += list(remarks)


def _numbered(batches: Any) -> Batches:
    numbered: Batches = batches if hasattr(batches, "load") else LoadedBatches(batches)
    return numbered


def as_subject(model: Any) -> Subject:
    """The model under test; a part classifier is wrapped."""
    subject: Subject = model if hasattr(model, "see") else ClassifierSubject(model)
    return subject


def units_of(batches: int, perturbations: Sequence[Perturbation]) -> list[Unit]:
    """The whole work of an evaluation, in order."""
    return [(perturbation.name, number) for perturbation in perturbations for number in range(batches)]


def work(
    subject: Subject,
    batches: Batches,
    perturbations: Sequence[Perturbation],
    evaluators: Sequence[ImageEvaluator],
    store: RecordStore,
    *,
    seed: int = 0,
    keep_examples: int = 0,
    progress: bool = True,
    part: tuple[int, int] = (0, 1),
) -> None:
    """Do the batches that the store does not have yet.

    Args:
        subject: the model under test.
        batches: all images.
        perturbations: all perturbations.
        evaluators: what measures each image.
        store: gets each batch as soon as it is finished.
        seed: of every random draw.
        keep_examples: images of the first batch to keep for pictures.
        progress: show a progress bar with the time left.
        part: (i, n): do only every n-th batch from the i-th on, as one of n processes.

    Raises:
        ValueError: two images have one id.
        RecordsError: records cannot be written, or the store holds those of another evaluation.
    """
    store.claim(stamp_of(subject, batches, perturbations, evaluators, seed))
    done = store.finished()
    mine = units_of(len(batches), perturbations)[part[0] :: part[1]]
    with attack_mode(subject.module), _progress(batches, perturbations, mine, done, shown=progress) as bar:
        for perturbation in perturbations:
            first = (perturbation.name, 0)
            pictures = keep_examples > 0 and first in mine and store.load_examples(perturbation.name) is None
            # The first batch is seen again where its records are there and its pictures are not (full disk, damage).
            missing = [
                unit[1]
                for unit in mine
                if unit[0] == perturbation.name and (unit not in done or (pictures and unit == first))
            ]
            mapper = subject.mapper(batches.mapper, perturbation, seed)
            for number, batch in zip(missing, _loaded(batches, missing, mapper), strict=True):
                unit = (perturbation.name, number)
                passes = float(perturbation.passes * len(batch))
                bar.begin(perturbation.name, weight=passes, passes=passes if unit not in done else 0)
                seen = subject.see(batch, perturbation, seed)
                if unit not in done:
                    store.append(unit, _measured(seen.records, batch, seen.outputs, evaluators))
                    bar.step()
                if pictures and unit == first:  # after the records: pictures that cannot be written lose no batch
                    store.save_examples(perturbation.name, seen.examples(keep_examples))


def _progress(
    batches: Batches, perturbations: Sequence[Perturbation], mine: Sequence[Unit], done: Container[Unit], *, shown: bool
) -> Progress:
    """The progress of this process: a batch counts as many passes as its perturbation takes at most."""
    passes = {one.name: one.passes for one in perturbations}
    sizes = batches.sizes
    cost = {unit: float(passes[unit[0]] * sizes[unit[1]]) for unit in mine}
    before = [unit for unit in mine if unit in done]
    weights = sum(cost.values()), sum(cost[unit] for unit in before)
    return Progress(len(mine), "evaluation", "batch", done=len(before), weights=weights, shown=shown)


def _loaded(batches: Batches, numbers: Sequence[int], mapper: Any) -> Iterator[Batch]:
    if numbers:  # a loader of nothing would start its processes all the same
        yield from batches.load(numbers, mapper)


def _measured(
    records: Sequence[Record], batch: Batch, outputs: Sequence[Any], evaluators: Sequence[ImageEvaluator]
) -> list[Record]:
    complete = []
    for record, sample, output in zip(records, batch, outputs, strict=True):
        found = {one.name: one.measure(sample, output) for one in evaluators}
        complete.append(replace(record, measurements=found))
    return complete


def missing_units(batches: int, perturbations: Sequence[Perturbation], store: RecordStore) -> int:
    """How many batches are not finished."""
    done = store.finished()
    return sum(unit not in done for unit in units_of(batches, perturbations))


def conclude(
    batches: int,
    perturbations: Sequence[Perturbation],
    evaluators: Sequence[ImageEvaluator],
    store: RecordStore,
    subject: Subject | None = None,
) -> Evaluation:
    """The numbers of a finished evaluation, from its records alone; what ``subject`` says about itself beside them.

    Raises:
        ValueError: batches are missing, or an image id occurs twice.
    """
    done = store.finished()
    missing = [unit for unit in units_of(batches, perturbations) if unit not in done]
    if missing:
        raise ValueError(
            f"{len(missing)} batches are not finished, the first is number {missing[0][1]} of {missing[0][0]}"
        )
    records = [record for unit in units_of(batches, perturbations) for record in done[unit]]
    results = summarize(records, perturbations)
    for perturbation in perturbations:
        its = [record for record in records if record.perturbation == perturbation.name]
        check_unique([record.image_id for record in its])
        entry = results["by_perturbation"][perturbation.name]
        entry["settings"] = perturbation.settings
        entry["notes"] = sorted({note for record in its for note in record.notes})
        for evaluator in evaluators:
            measured = [record.measurements[evaluator.name] for record in its]
            entry.update(evaluator.combine([one for one in measured if one is not None]) or {})
    scores = [score for evaluator in evaluators for score in evaluator.performances]
    under_corruptions = performance_under_corruptions(results["by_perturbation"], perturbations, scores)
    if under_corruptions:
        results["performance_under_corruptions"] = under_corruptions
    results["warnings"] += [
        f"{name} under corruptions is not averaged: {table['not_averaged']}"
        for name, table in under_corruptions.items()
        if "not_averaged" in table
    ]
    if subject is not None:
        _remark(subject, results, perturbations)
    return Evaluation(results, records, {one.name: store.load_examples(one.name) or {} for one in perturbations})


def self_checks(
    subject: Subject,
    batches: Batches,
    perturbations: Sequence[Perturbation],
    evaluation: Evaluation,
    *,
    images: int,
    seed: int = 0,
    progress: bool = True,
) -> None:
    """Check on a few images whether the attacks worked; the outcome goes into the evaluation's results.

    ``results["self_checks"]`` has the checks of each threat model, ``results["unreliable"]`` a sentence for each that
    failed, which is a warning too.

    Args:
        subject: the model under test.
        batches: all images.
        perturbations: all perturbations.
        evaluation: finished.
        images: how many are looked at, drawn with ``seed``.
        seed: of all draws.
        progress: show a progress bar with the time left.
    """
    by_threat: dict[str, list[Perturbation]] = {}
    for perturbation in perturbations:
        if perturbation.role == "attack":
            by_threat.setdefault(str(perturbation.threat), []).append(perturbation)
    chosen = subset(batches.records, images, seed=seed)
    samples = [batches.mapper(record) for record in chosen]
    found: dict[str, list[Check]] = {}
    bar = Progress(len(by_threat), "self-checks", "threat model", shown=progress)
    with attack_mode(subject.module), bar:
        for threat, attacks in by_threat.items():
            bar.begin(threat, passes=_passes_of_checks(subject, attacks, len(chosen)))
            # An image that only an attack without gradients fools speaks against the gradients: it must not be hidden.
            verdicts = without_black_box(evaluation.records, attacks)
            robust = [verdicts[record["image_id"]] for record in chosen]
            found[threat] = subject.self_checks(samples, attacks, robust, seed)
            found[threat] += compare_black_box(evaluation.records, attacks)
            bar.step()
    reasons = [f"{threat}: {one.reason}" for threat, checks in found.items() for one in checks if not one.passed]
    evaluation.results["self_checks"] = {
        threat: [check.to_json() for check in checks] for threat, checks in found.items()
    }
    evaluation.results["unreliable"] = reasons
    evaluation.results["warnings"] += [f"unreliable, {reason}" for reason in reasons]


def _passes_of_checks(subject: Subject, attacks: Sequence[Perturbation], images: int) -> float:
    """Passes over an image that the checks of a threat model take at most; 0 where nobody knows."""
    if subject.kind != "classifier":
        return 0.0
    steps = max(int(attack.settings.get("steps", 20)) for attack in attacks)
    return float(most_passes(images, steps, surrogate=getattr(subject, "surrogate", None) is not None))
