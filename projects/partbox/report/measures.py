"""The numbers of models with their intervals, from results and records alone."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from partbox.progress import track

from .intervals import Interval, Resampling, iou_intervals, ratio_interval
from .models import Model
from .part_overlaps import EVALUATORS, Overlaps, read_overlaps
from .result_files import Run, right_images, role_of, threat_of


@dataclass(frozen=True)
class Measure:
    """A number that a perturbation has in ``results.json``.

    Attributes:
        key: its place in the perturbation's entry, such as ``bbox.AP``.
        title: with its unit as shown.
        factor: from the number of the file to the one shown, which is in percent.
    """

    key: str
    title: str
    factor: float


ACCURACY = Measure("accuracy", "accuracy %", 100.0)
MEASURES = (
    ACCURACY,
    Measure("bbox.AP", "box AP", 1.0),
    Measure("bbox.AP50", "box AP50", 1.0),
    Measure("segm.AP", "mask AP", 1.0),
    Measure("sem_seg.mIoU", "mIoU %", 100.0),
    Measure("object_recall", "objects found %", 100.0),
    Measure("part_segmentation.mIoU", "part mIoU %", 100.0),
    Measure("part_box.AP", "part box AP", 1.0),
)
# of which one a model is drawn as a curve
MAIN = ("accuracy", "bbox.AP", "sem_seg.mIoU")
NO_LABELS = "no interval: the records hold the boxes found, not the labels that AP compares them with"
NO_RECORDS = "no interval: no records.jsonl beside the results"


@dataclass(frozen=True)
class Value:
    """A number, or the mean of one over the runs of a model.

    Attributes:
        number: as in ``results.json``.
        factor: to the number shown, in percent.
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


def entry_value(entry: Mapping[str, Any], key: str) -> Any:
    """What stands under a dotted key; None without it."""
    value: Any = entry
    for name in key.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def threats_of(run: Run) -> dict[str, list[str]]:
    """The attacks of each threat model, in the order of the evaluation."""
    found: dict[str, list[str]] = {}
    for name, entry in run.entries.items():
        if role_of(entry["settings"]) == "attack":
            found.setdefault(str(threat_of(name, entry["settings"])), []).append(name)
    return found


@dataclass
class Measured:
    """Numbers of models, each interval computed once.

    Attributes:
        models: all.
        resampling: how intervals are computed.
    """

    models: Sequence[Model]
    resampling: Resampling
    _values: dict[tuple[str, ...], Value | None] = field(default_factory=dict)
    _overlaps: dict[str, dict[tuple[str, str], Overlaps]] = field(default_factory=dict)

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

            def right(run: Run) -> list[dict[Any, bool]]:
                return [right_images(run, name) for name in threats_of(run)[threat]]

            return self._shares(model, numbers, lambda run: {i: all(o[i] for o in right(run)) for i in _images(run)})

        return self._once((model.name, "worst case", threat), compute)

    def mean_under_corruptions(self, model: Model, measure: Measure) -> Value | None:
        """MPC: the mean over the 75 benchmark cells, as a share; None where not all were measured."""

        def compute() -> Value | None:
            if measure == ACCURACY:
                numbers = [entry_value(run.results, "corruptions.mean_accuracy") for run in model.runs]
                return self._shares(model, numbers, _share_of_corruptions)
            name = measure.key.replace(".", " ")
            tables = [run.results.get("performance_under_corruptions", {}).get(name, {}) for run in model.runs]
            return _mean([table.get("mPC") for table in tables], 100.0, None, _why_no_interval(model, measure.key))

        return self._once((model.name, "corruptions", measure.key), compute)

    def of_class(self, model: Model, perturbation: str, label: int) -> Value | None:
        """Accuracy on the images of one class."""

        def compute() -> Value | None:
            numbers = [run.entries[perturbation].get("accuracy_by_class", {}).get(str(label)) for run in model.runs]

            def right(run: Run) -> dict[Any, bool]:
                assert run.records is not None
                its = {image for image, one in run.records["clean"].items() if one.label == label}
                return {image: value for image, value in right_images(run, perturbation).items() if image in its}

            return self._shares(model, numbers, right)

        return self._once((model.name, perturbation, "class", str(label)), compute)

    def iou_of_parts(self, model: Model, perturbation: str, group: str) -> dict[str, Value]:
        """IoU of each part or class of a segmentation (``part_segmentation`` or ``sem_seg``), with intervals."""
        tables = [entry_value(run.entries[perturbation], f"{group}.IoU") for run in model.runs]
        if any(table is None for table in tables):
            return {}
        found = self._overlaps_of(model, perturbation, group)
        names = list(tables[0])
        intervals: dict[str, Interval | None] = dict.fromkeys(names)
        if found is not None:
            # only classes that occur in the labels are in the results, in the order of the channels
            seen = np.flatnonzero(found.labelled.sum(axis=(0, 1)) > 0)
            if len(seen) == len(names):
                _, each = iou_intervals(*found, self.resampling, without_first=group == "part_segmentation")
                intervals = {name: each[channel] for name, channel in zip(names, seen, strict=True)}
        reason = "" if found is not None else _why_no_interval(model, f"{group}.IoU")
        values = {}
        for name in names:
            value = _mean([table.get(name) for table in tables], 100.0, intervals[name], reason)
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
            return self._shares(model, numbers, lambda run: right_images(run, perturbation))
        interval, reason = None, _why_no_interval(model, measure.key)
        if measure.key == "object_recall" and not reason:
            interval = self._recall(model, perturbation)
            reason = "" if interval else "no interval: every image agrees, and of objects no exact one is known"
        elif measure.key.endswith(".mIoU") and not reason:
            group = measure.key.removesuffix(".mIoU")
            overlaps = self._overlaps_of(model, perturbation, group)
            if overlaps is None:
                reason = "no interval: records/ does not hold this evaluation's pixels"
            else:
                parts = group == "part_segmentation"
                interval, _ = iou_intervals(*overlaps, self.resampling, without_first=parts)
        return _mean(numbers, measure.factor, interval, reason)

    def _shares(
        self, model: Model, numbers: Sequence[float | None], right: Callable[[Run], Mapping[Any, float]]
    ) -> Value | None:
        """A share of the images with its interval; ``right`` gives each image's part of it."""
        if any(number is None for number in numbers):
            return None
        reason = _why_no_interval(model, "accuracy")
        if reason:
            return _mean(numbers, 100.0, None, reason)
        shares = _table(model, right)
        interval = ratio_interval(shares, np.ones_like(shares), self.resampling)
        return _mean(numbers, 100.0, interval, "" if interval else "no interval: no images")

    def _recall(self, model: Model, perturbation: str) -> Interval | None:
        def counts(which: str) -> np.ndarray:
            return _table(
                model,
                lambda run: {i: getattr(one, which) or 0 for i, one in (run.records or {})[perturbation].items()},
            )

        return ratio_interval(counts("found"), counts("objects"), self.resampling)

    def _overlaps_of(self, model: Model, perturbation: str, group: str) -> Overlaps | None:
        """Pixels of all runs of a model, the same images in each; None where they are not there."""
        found = []
        for run in model.runs:
            if run.name not in self._overlaps:
                self._overlaps[run.name] = read_overlaps(run)
            overlaps = self._overlaps[run.name].get((perturbation, EVALUATORS[group]))
            if overlaps is None or not _gives(overlaps, run, perturbation, group):
                return None
            found.append(overlaps)
        if len({one.overlaps.shape[1] for one in found}) > 1:
            return None
        classes = max(one.overlaps.shape[2] for one in found)
        wide = [[np.pad(array, ((0, 0), (0, 0), (0, classes - array.shape[2]))) for array in one] for one in found]
        return Overlaps(*(np.concatenate(arrays) for arrays in zip(*wide, strict=True)))


def _gives(overlaps: Overlaps, run: Run, perturbation: str, group: str) -> bool:
    """Whether pixels give the mIoU of the results; else they are of another evaluation, or another part level."""
    overlap, union, labelled = (one.sum(axis=(0, 1)) for one in overlaps)
    seen = labelled > 0
    if group == "part_segmentation":
        seen[0] = False
    stated = entry_value(run.entries[perturbation], f"{group}.mIoU")
    if stated is None or not seen.any():
        return False
    return bool(np.isclose((overlap / np.maximum(union, 1))[seen].mean(), stated, rtol=0, atol=1e-9))


def _images(run: Run) -> Sequence[Any]:
    return list((run.records or {})["clean"])


def _table(model: Model, values: Callable[[Run], Mapping[Any, float]]) -> np.ndarray:
    """(K, n): a value of each run and image, images in one order."""
    columns = [values(run) for run in model.runs]
    return np.array([[column[image] for image in columns[0]] for column in columns], dtype=np.float64)


def _share_of_corruptions(run: Run) -> dict[Any, float]:
    """Of each image, under how much of the 15 benchmark kinds at 5 severities it is right."""
    kinds = run.results["corruptions"]["kinds_averaged"]
    names = [
        name
        for name, entry in run.entries.items()
        if role_of(entry["settings"]) == "corruption" and entry["settings"]["kind"] in kinds
    ]
    right = [right_images(run, name) for name in names]
    return {image: sum(one[image] for one in right) / len(names) for image in _images(run)}


def _why_no_interval(model: Model, key: str) -> str:
    if any(run.records is None for run in model.runs):
        return NO_RECORDS
    if key == "object_recall" or key == "accuracy" or key.endswith("IoU"):
        return ""
    return NO_LABELS


def _mean(numbers: Sequence[float | None], factor: float, interval: Interval | None, no_interval: str) -> Value | None:
    known = [number for number in numbers if number is not None]
    if len(known) < len(numbers) or not known:
        return None
    # of one run the very number of the file
    number = known[0] if len(known) == 1 else statistics.fmean(known)
    return Value(number, factor, interval, no_interval if interval is None else "", tuple(known))
