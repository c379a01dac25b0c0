"""One evaluation: a dataset under each perturbation, seen by each evaluator."""

from __future__ import annotations

import logging
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from detectron2.evaluation import DatasetEvaluator

from partbox.attacks import attack_mode
from partbox.attacks.draws import ImageId
from partbox.data.loader import subset
from partbox.progress import Progress

from .batches import Batches, LoadedBatches
from .black_box import compare_black_box, without_black_box
from .detectron2_checks import most_passes as most_passes_of_detectron2
from .examples import Example, as_rgb, check_channel_order, choose_examples
from .image_evaluator import ImageEvaluator, image_evaluators
from .perturbations import Perturbation
from .records import Record
from .self_checks import Check, most_passes
from .stamp import check_unique, image_ids_of, stamp_of
from .store import RecordStore, Unit
from .subject import Batch, ClassifierSubject, Seen, Subject
from .summary import performance_under_corruptions, summarize

logger = logging.getLogger(__name__)


@dataclass
class Evaluation:
    """Outcome of an evaluation.

    Attributes:
        results: accuracies and the evaluators' metrics, plain values; computed from the records alone.
        records: one an image and perturbation, by perturbation in the order of the images.
        examples: a few images for pictures by perturbation, the same in the same order under each.
    """

    results: dict[str, Any]
    records: list[Record]
    examples: dict[str, list[Example]] = field(default_factory=dict)


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
        keep_examples: images to keep with what the model finds in them, the same under each perturbation, see
            :func:`partbox.evaluation.examples.choose_examples`.
        progress: show a progress bar with the time left.
        store: keeps finished batches; those that it has already are not done again. Those of another evaluation
            (other images, batches, seed, perturbations, evaluators, weights, versions of the packages) are refused.

    Raises:
        ValueError: no clean images among the perturbations; an attack on a model that does not look at the image
            (oracle extractor), or on the parts of one that has none; no images, one without id or two of one id; see
            also :func:`partbox.evaluation.summary.summarize`.
        RecordsError: records cannot be written, or the store holds those of another evaluation.
        ImageError: an image cannot be read, or not under a corruption; of a part dataset a PartDatasetError.
    """
    _check_perturbations(perturbations)
    parts, subject = _numbered(batches), as_subject(model)
    subject.check(perturbations)
    image_ids_of(parts.records)
    store = store if store is not None else RecordStore()
    ready = image_evaluators(evaluators, parts.records)
    examples = choose_examples(parts.records, keep_examples, seed=seed, perturbations=len(perturbations))
    work(subject, parts, perturbations, ready, store, seed=seed, examples=examples, progress=progress)
    return conclude(len(parts), perturbations, ready, store, subject, examples)


def _check_perturbations(perturbations: Sequence[Perturbation]) -> None:
    """Raises ValueError where one is missing or twice, which would show after all the work only, or nowhere."""
    names = [one.name for one in perturbations]
    if "clean" not in names:
        raise ValueError("the clean images are missing: build_perturbations, which takes a list, adds them")
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ValueError(f"perturbations must differ in name; repeated: {', '.join(repeated)}")


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
    examples: Sequence[ImageId] = (),
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
        examples: images to keep for pictures.
        progress: show a progress bar with the time left.
        part: (i, n): do only every n-th batch from the i-th on, as one of n processes.

    Raises:
        ValueError: two images have one id.
        RecordsError: records cannot be written, or the store holds those of another evaluation.
    """
    mappers = {one.name: subject.mapper(batches.mapper, one, seed) for one in perturbations}  # one may be refused
    store.claim(stamp_of(subject, batches, perturbations, evaluators, seed))
    done = store.finished()
    mine = units_of(len(batches), perturbations)[part[0] :: part[1]]
    pictures = _Pictures(subject, batches, examples)
    with attack_mode(subject.module), _progress(batches, perturbations, mine, done, shown=progress) as bar:
        for perturbation in perturbations:
            its = [unit for unit in mine if unit[0] == perturbation.name]
            # A batch is seen again where its records are there and its pictures are not (full disk, damage).
            lost = {unit for unit in its if unit in done and not pictures.are_in(store, unit)}
            if lost:
                logger.info("%s: %d finished batches are seen again for their pictures", perturbation.name, len(lost))
            missing = [unit[1] for unit in its if unit not in done or unit in lost]
            for number, batch in zip(missing, _loaded(batches, missing, mappers[perturbation.name]), strict=True):
                unit = (perturbation.name, number)
                passes = float(perturbation.passes * len(batch))
                bar.begin(perturbation.name, weight=passes, passes=passes if unit not in done else 0)
                seen = subject.see(batch, perturbation, seed)
                # Before the records, so that a finished batch has its pictures, whoever looks; those that cannot be
                # written lose no batch.
                try:
                    pictures.keep(store, unit, batch, seen)
                finally:
                    if unit not in done:
                        store.append(unit, _measured(seen.records, batch, seen.outputs, evaluators))
                        bar.step()


class _Pictures:
    """Which images of which batches are kept for pictures."""

    def __init__(self, subject: Subject, batches: Batches, examples: Sequence[ImageId]) -> None:
        # Samples in memory do not say their channel order; most of detectron2's models know what they expect.
        known = getattr(batches.mapper, "image_format", None) or getattr(subject.module, "input_format", None)
        self.image_format = known or "RGB"
        if examples:
            check_channel_order(self.image_format)
        wanted, start = set(examples), 0
        self._ids: list[set[ImageId]] = []
        for size in batches.sizes:
            of_batch = {batches.records[row]["image_id"] for row in range(start, start + size)}
            self._ids.append(of_batch & wanted)
            start += size

    def are_in(self, store: RecordStore, unit: Unit) -> bool:
        """Whether the store has what is wanted of the batch."""
        wanted = self._ids[unit[1]]
        return not wanted or wanted <= {one.image_id for one in store.load_examples(unit)}

    def keep(self, store: RecordStore, unit: Unit, batch: Batch, seen: Seen) -> None:
        """Put what is wanted of the batch into the store."""
        rows = [row for row, sample in enumerate(batch) if sample["image_id"] in self._ids[unit[1]]]
        if rows:
            store.save_examples(unit, [as_rgb(one, self.image_format) for one in seen.examples(rows)])


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
    examples: Sequence[ImageId] = (),
) -> Evaluation:
    """The numbers of a finished evaluation, from its records alone; what ``subject`` says about itself beside them.

    ``examples``: images that were kept for pictures; those that are not there under every perturbation are left out.

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
    return Evaluation(results, records, _examples(batches, perturbations, store, examples))


def _examples(
    batches: int, perturbations: Sequence[Perturbation], store: RecordStore, wanted: Sequence[ImageId]
) -> dict[str, list[Example]]:
    if not wanted:
        return {}
    found = {
        perturbation.name: {
            one.image_id: one for number in range(batches) for one in store.load_examples((perturbation.name, number))
        }
        for perturbation in perturbations
    }
    everywhere = [image_id for image_id in wanted if all(image_id in its for its in found.values())]
    if len(everywhere) < len(wanted):
        lost = len(wanted) - len(everywhere)
        logger.warning("Pictures of %d of %d images are not there: start again to make them", lost, len(wanted))
    return {name: [its[image_id] for image_id in everywhere] for name, its in found.items()}


def self_checks(
    model: Any,
    batches: Batches | Iterable[Batch],
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
        model, batches, perturbations: as :func:`evaluate` had them.
        evaluation: finished.
        images: how many are looked at, drawn with ``seed``.
        seed: of all draws.
        progress: show a progress bar with the time left.
    """
    subject, parts = as_subject(model), _numbered(batches)
    by_threat: dict[str, list[Perturbation]] = {}
    for perturbation in perturbations:
        if perturbation.role == "attack":
            by_threat.setdefault(str(perturbation.threat), []).append(perturbation)
    chosen = subset(parts.records, images, seed=seed)
    samples = [parts.mapper(record) for record in chosen]
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
    """Passes over an image that the checks of a threat model take at most."""
    surrogate = getattr(subject, "surrogate", None) is not None
    if subject.kind != "classifier":
        return float(most_passes_of_detectron2(attacks, images, subject.kind, surrogate=surrogate))
    steps = max(int(attack.settings.get("steps", 20)) for attack in attacks)
    return float(most_passes(images, steps, surrogate=surrogate))
