"""The numbers of models with their intervals, from results and records alone."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from partbox.progress import track

from .intervals import Interval, Resampling, ratio_interval
from .models import Model
from .resampled_groups import AP_GROUPS, NO_RECORDS, NO_WIDTH, ResampledGroups
from .result_files import ImageId, Run, entry_value, right_images, role_of, threat_of


@dataclass(frozen=True)
class Measure:
    """A number that a perturbation has in ``results.json``.

    Attributes:
        key: its place in the perturbation's entry, such as ``bbox.AP``.
        title: with its unit as shown.
        factor: from the number of the file to the one shown.
        counts, of: fields of a record whose sums over the images it is the ratio of; without ``of`` it is a number an
            image.
    """

    key: str
    title: str
    factor: float
    counts: str = ""
    of: str = ""


ACCURACY = Measure("accuracy", "accuracy %", 100.0)
FALSE_OBJECTS = Measure("false_objects_per_image", "false objects an image", 1.0, "false_objects")
MEASURES = (
    ACCURACY,
    Measure("bbox.AP", "box AP", 1.0),
    Measure("bbox.AP50", "box AP50", 1.0),
    Measure("segm.AP", "mask AP", 1.0),
    Measure("sem_seg.mIoU", "mIoU %", 100.0),
    Measure("object_recall", "objects found %", 100.0, "found", "objects"),
    FALSE_OBJECTS,
    Measure("part_segmentation.mIoU", "part mIoU %", 100.0),
    Measure("part_box.AP", "part box AP", 1.0),
)
# of which one a model is drawn as a curve
MAIN = ("accuracy", "bbox.AP", "sem_seg.mIoU")
AP_OF = "AP-"  # what the AP of a single category begins with


@dataclass(frozen=True)
class Value:
    """A number, or the mean of one over the runs of a model.

    Attributes:
        number: as in ``results.json``.
        factor: to the number shown.
        interval: in the unit of ``number``.
        no_interval: why there is none.
        by_run: the number of each run.
    """

    number: float
    factor: float
    interval: Interval | None
    no_interval: str = ""
    by_run: tuple[float, ...] = ()

    @property
    def percent(self) -> float:
        """The number in the unit shown, which makes rows of all measures sort together."""
        return self.number * self.factor

    @property
    def shown(self) -> str:
        return f"{self.percent:.1f}"

    @property
    def ends(self) -> tuple[str, str] | None:
        """Of the interval, as shown."""
        if self.interval is None:
            return None
        return f"{self.interval.low * self.factor:.1f}", f"{self.interval.high * self.factor:.1f}"


def threats_of(run: Run) -> dict[str, list[str]]:
    """The attacks of each threat model, in the order of the evaluation."""
    found: dict[str, list[str]] = {}
    for name, entry in run.entries.items():
        if role_of(entry["settings"]) == "attack":
            found.setdefault(str(threat_of(name, entry["settings"])), []).append(name)
    return found


def attacks_by_threat(models: Sequence[Model]) -> dict[str, dict[tuple[str, ...], list[str]]]:
    """By threat model the attacks, without eps, that were used together, and the names of the models they met."""
    found: dict[str, dict[tuple[str, ...], list[str]]] = {}
    for model in models:
        for threat, attacks in threats_of(model.first).items():
            used = tuple(sorted(name.removesuffix(threat).strip() for name in attacks))
            found.setdefault(threat, {}).setdefault(used, []).append(model.name)
    return found


def unreliable_threats(model: Model) -> dict[str, list[str]]:
    """What self-checks that failed say, by the threat model whose numbers it speaks against."""
    found: dict[str, list[str]] = {}
    for run in model.runs:
        threats = threats_of(run)
        for reason in run.results.get("unreliable", []):
            # a reason begins with its threat model; one that does not speaks against every attack
            named = [threat for threat in threats if reason.startswith(f"{threat}: ")] or list(threats)
            for threat in named:
                found.setdefault(threat, []).append(f"{run.name}: unreliable, {reason}")
    return found


def is_unreliable(model: Model, perturbation: str) -> bool:
    """Whether a self-check speaks against the numbers of a model under an attack."""
    settings = model.first.entries[perturbation]["settings"]
    return role_of(settings) == "attack" and str(threat_of(perturbation, settings)) in unreliable_threats(model)


def class_names_of(run: Run, group: str) -> list[str]:
    """The parts or classes that a mean IoU or AP of a run is over; empty where the run has no such mean."""
    entry = run.entries["clean"].get(group) or {}
    if group in AP_GROUPS:
        return [key.removeprefix(AP_OF) for key in entry if key.startswith(AP_OF)]
    return list(entry.get("IoU") or {})


@dataclass
class Measured:
    """Numbers of models, each interval computed once.

    Attributes:
        models: all, of different names.
        resampling: how intervals are computed.
    """

    models: Sequence[Model]
    resampling: Resampling
    _values: dict[tuple[str, ...], Value | None] = field(default_factory=dict)
    _verdicts: dict[tuple[str, str], np.ndarray] = field(default_factory=dict)
    _images: dict[str, list[ImageId]] = field(default_factory=dict)
    groups: ResampledGroups = field(init=False)

    def __post_init__(self) -> None:
        self.groups = ResampledGroups(self.resampling)

    def prepare(self) -> None:
        """Compute every number under every perturbation: with many images minutes, so it says how far it is."""
        pairs = [(model, name) for model in self.models for name in model.runs[0].entries]
        for model, name in track(pairs, len(pairs), "computing intervals", "perturbation"):
            for measure in MEASURES:
                self.value(model, name, measure)

    def value(self, model: Model, perturbation: str, measure: Measure) -> Value | None:
        """A measure under a perturbation; None where a run of the model does not have it."""
        return self._once((model.name, perturbation, measure.key), lambda: self._value(model, perturbation, measure))

    def worst_case(self, model: Model, threat: str) -> Value | None:
        """Right on the clean image and under every attack of a threat model; of classifiers."""

        def compute() -> Value | None:
            numbers = [run.results.get("robust_accuracy", {}).get(threat) for run in model.runs]

            def right(run: Run) -> np.ndarray:
                return np.logical_and.reduce([self._right(run, name) for name in threats_of(run)[threat]])

            return self._shares(model, numbers, right)

        return self._once((model.name, "worst case", threat), compute)

    def mean_under_corruptions(self, model: Model, measure: Measure) -> Value | None:
        """MPC: the mean over the 75 benchmark cells, as a share; None where not all were measured."""

        def compute() -> Value | None:
            if measure == ACCURACY:
                numbers = [entry_value(run.results, "corruptions.mean_accuracy") for run in model.runs]
                return self._shares(
                    model, numbers, lambda run: np.mean([self._right(run, n) for n in cells_of(run)], 0)
                )
            name = measure.key.replace(".", " ")
            tables = [run.results.get("performance_under_corruptions", {}).get(name, {}) for run in model.runs]
            numbers = [table.get("mPC") for table in tables]
            if any(number is None for number in numbers):
                return None
            cells = cells_of(model.first)
            of_cells = [entry_value(model.first.entries[cell], measure.key) for cell in cells]
            if None in of_cells or abs(statistics.fmean(of_cells) * measure.factor / 100 - numbers[0]) > 1e-9:
                return _mean(numbers, 100.0, None, "no interval: more corruptions were evaluated than are averaged")
            interval, reason = self.groups.mean_interval(model, cells, *measure.key.split("."))
            return _mean(numbers, 100.0, interval, reason)

        return self._once((model.name, "corruptions", measure.key), compute)

    def of_class(self, model: Model, perturbation: str, label: int) -> Value | None:
        """Accuracy on the images of one class."""

        def compute() -> Value | None:
            numbers = [run.entries[perturbation].get("accuracy_by_class", {}).get(str(label)) for run in model.runs]
            return self._shares(model, numbers, lambda run: self._right(run, perturbation)[self._labels(run) == label])

        return self._once((model.name, perturbation, "class", str(label)), compute)

    def images_of_class(self, model: Model, label: int) -> int | None:
        """How many images of a class there are; None without records."""
        return None if model.first.records is None else int((self._labels(model.first) == label).sum())

    def images_of(self, model: Model, measure: Measure) -> int:
        """How many images a measure rests on: those without labels of parts have no part in some."""
        group = measure.key.split(".")[0]
        stated = entry_value(model.first.entries["clean"], f"{group}.images")
        if isinstance(stated, int):
            return stated
        if measure == FALSE_OBJECTS and model.first.records is not None:
            return int(self._judged(model.first, "clean", measure.counts).sum())
        found = self.groups.of(model, "clean", group) if "." in measure.key else None
        return found.images if found is not None else int(model.first.document["dataset"]["images"])

    def of_parts(self, model: Model, perturbation: str, group: str) -> dict[str, Value]:
        """IoU (``part_segmentation``, ``sem_seg``) or AP (``bbox``, ``segm``, ``part_box``) of each part or class."""
        entries = [run.entries[perturbation].get(group) or {} for run in model.runs]
        if group in AP_GROUPS:
            tables = [
                {key.removeprefix(AP_OF): one for key, one in its.items() if key.startswith(AP_OF)} for its in entries
            ]
            factor = 1.0
        else:
            tables, factor = [its.get("IoU") or {} for its in entries], 100.0
        names = list(tables[0])
        found = None if any(run.records is None for run in model.runs) else self.groups.of(model, perturbation, group)
        intervals: dict[str, Interval | None] = {}
        if found is not None:
            # of AP every class is in the results, of IoU those that occur in the labels, in the order of the channels
            places = list(range(len(names))) if group in AP_GROUPS else np.flatnonzero(found.labelled).tolist()
            if group in AP_GROUPS or len(places) == len(names):
                pairs = zip(names, places, strict=True)
                intervals = {name: found.classes[place] for name, place in pairs if place < len(found.classes)}
        values = {}
        for name in names:
            value = _mean([table.get(name) for table in tables], factor, intervals.get(name), "")
            if value is not None:
                values[name] = value
        return values

    def _once(self, key: tuple[str, ...], compute: Callable[[], Value | None]) -> Value | None:
        if key not in self._values:
            self._values[key] = compute()
        return self._values[key]

    def _value(self, model: Model, perturbation: str, measure: Measure) -> Value | None:
        if any(perturbation not in run.entries for run in model.runs):
            return None
        numbers = [entry_value(run.entries[perturbation], measure.key) for run in model.runs]
        if any(number is None for number in numbers):
            return None
        if measure == ACCURACY:
            return self._shares(model, numbers, lambda run: self._right(run, perturbation))
        if "." in measure.key:
            interval, reason = self.groups.interval(model, perturbation, *measure.key.split("."))
        else:
            interval, reason = self._of_counts(model, perturbation, measure)
        return _mean(numbers, measure.factor, interval, reason)

    def _shares(
        self, model: Model, numbers: Sequence[float | None], right: Callable[[Run], np.ndarray]
    ) -> Value | None:
        """A share of the images with its interval; ``right`` gives each image's part of it, (n,)."""
        if any(number is None for number in numbers):
            return None
        if any(run.records is None for run in model.runs):
            return _mean(numbers, 100.0, None, NO_RECORDS)
        shares = np.array([right(run) for run in model.runs], dtype=np.float64)
        interval = ratio_interval(shares, np.ones_like(shares), self.resampling)
        return _mean(numbers, 100.0, interval, NO_WIDTH)

    def _of_counts(self, model: Model, perturbation: str, measure: Measure) -> tuple[Interval | None, str]:
        """Of objects found, or false objects, in each image; and why there is no interval."""
        if any(run.records is None for run in model.runs):
            return None, NO_RECORDS
        found = np.array([self._counts(run, perturbation, measure.counts) for run in model.runs])
        if measure.of:
            objects = np.array([self._counts(run, perturbation, measure.of) for run in model.runs])
        else:  # a number an image: of the images that were judged
            objects = np.array([self._judged(run, perturbation, measure.counts) for run in model.runs], np.float64)
        return ratio_interval(found, objects, self.resampling, counts=not measure.of), NO_WIDTH

    def _counts(self, run: Run, perturbation: str, name: str) -> np.ndarray:
        """(n,) a count of each image's record."""
        records = (run.records or {})[perturbation]
        return np.array([getattr(records[image], name) or 0 for image in self._order(run)], np.float64)

    def _judged(self, run: Run, perturbation: str, name: str) -> np.ndarray:
        """(n,) whether each image's record has a count: without labels there is nothing to count against."""
        records = (run.records or {})[perturbation]
        return np.array([getattr(records[image], name) is not None for image in self._order(run)], bool)

    def _order(self, run: Run) -> list[ImageId]:
        """The images of a run, in one order for all runs and processes."""
        if run.name not in self._images:
            self._images[run.name] = sorted((run.records or {})["clean"], key=lambda one: (isinstance(one, str), one))
        return self._images[run.name]

    def _right(self, run: Run, perturbation: str) -> np.ndarray:
        """(n,) whether each image is right."""
        key = (run.name, perturbation)
        if key not in self._verdicts:
            right = right_images(run, perturbation)
            self._verdicts[key] = np.array([right[image] for image in self._order(run)], dtype=bool)
        return self._verdicts[key]

    def _labels(self, run: Run) -> np.ndarray:
        """(n,) true classes; -1 where there is none."""
        key = (run.name, "")  # no perturbation has an empty name
        if key not in self._verdicts:
            clean = (run.records or {})["clean"]
            labels = [clean[image].label for image in self._order(run)]
            self._verdicts[key] = np.array([-1 if label is None else label for label in labels])
        return self._verdicts[key]


def cells_of(run: Run) -> list[str]:
    """The perturbations that mPC is the mean of: corruptions, of a classifier those of the benchmark."""
    averaged = entry_value(run.results, "corruptions.kinds_averaged")
    return [
        name
        for name, entry in run.entries.items()
        if role_of(entry["settings"]) == "corruption" and (averaged is None or entry["settings"]["kind"] in averaged)
    ]


def _mean(numbers: Sequence[float | None], factor: float, interval: Interval | None, no_interval: str) -> Value | None:
    known = [number for number in numbers if number is not None]
    if len(known) < len(numbers) or not known:
        return None
    # of one run the very number of the file
    number = known[0] if len(known) == 1 else statistics.fmean(known)
    return Value(number, factor, interval, no_interval if interval is None else "", tuple(known))
