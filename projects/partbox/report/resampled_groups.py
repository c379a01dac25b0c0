"""What mIoU and AP of a model are in resamples of the images, for as much as its records hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from .average_precision import Matches, read_matches, resampled_ap
from .intervals import (
    Interval,
    Resampling,
    draws,
    interval_of,
    intervals_of_classes,
    iou_resamples,
    mean_of_known,
)
from .models import Model
from .part_overlaps import EVALUATORS, Overlaps, read_overlaps
from .result_files import Run, entry_value, role_of

AP_GROUPS = ("bbox", "segm", "part_box")
PARTS = "part_segmentation"  # whose first class is the background, which is left out of the mean
NO_RECORDS = "no interval: no records.jsonl beside the results"
NO_PIXELS = "no interval: records/ does not hold this evaluation's pixels"
NO_LABELS = (
    "no interval: records/ does not hold the labels that AP compares the boxes found with (those of earlier versions, "
    "and of other evaluators than COCO's, do not)"
)
NO_CELLS = "no interval: AP is not resampled under single corruptions, of which there are up to 95"
NO_WIDTH = "no interval: it is the same in every resample"


@dataclass(frozen=True)
class Resampled:
    """A group of numbers of a model under a perturbation.

    Attributes:
        metrics: (B, K) of B resamples and K runs, by the name of the metric.
        classes: an interval of each class; empty where nobody asks for it.
        labelled: (C,) images with labels of each class.
        images: that were resampled.
    """

    metrics: Mapping[str, np.ndarray]
    classes: Sequence[Interval | None]
    labelled: np.ndarray
    images: int


@dataclass
class ResampledGroups:
    """Of all models; what is read from the records of a model is kept only until it is resampled."""

    resampling: Resampling
    _known: dict[str, dict[tuple[str, str], Resampled]] = field(default_factory=dict)

    def of(self, model: Model, perturbation: str, group: str) -> Resampled | None:
        """A group (``part_segmentation``, ``sem_seg``, ``bbox``, ``segm``, ``part_box``) under a perturbation; None
        where the records do not hold it, or give other numbers than the results.
        """
        if model.name not in self._known:
            self._known[model.name] = self._read(model)
        return self._known[model.name].get((perturbation, group))

    def interval(self, model: Model, perturbation: str, group: str, metric: str) -> tuple[Interval | None, str]:
        """Of a metric; and why there is none."""
        if any(run.records is None for run in model.runs):
            return None, NO_RECORDS
        found = self.of(model, perturbation, group)
        if found is None or metric not in found.metrics:
            if group not in AP_GROUPS:
                return None, NO_PIXELS
            single = role_of(model.first.entries[perturbation]["settings"]) == "corruption"
            return None, NO_CELLS if single else NO_LABELS
        interval = interval_of(found.metrics[metric], self.resampling)
        return interval, "" if interval else NO_WIDTH

    def mean_interval(
        self, model: Model, perturbations: Sequence[str], group: str, metric: str
    ) -> tuple[Interval | None, str]:
        """Of the mean of a metric over perturbations, in each resample over the same images; and why there is none."""
        if any(run.records is None for run in model.runs):
            return None, NO_RECORDS
        found = [self.of(model, name, group) for name in perturbations]
        known = [one.metrics[metric] for one in found if one is not None and metric in one.metrics]
        if not known or len(known) < len(found):
            return None, NO_CELLS if group in AP_GROUPS else NO_PIXELS
        interval = interval_of(np.mean(known, axis=0), self.resampling)
        return interval, "" if interval else NO_WIDTH

    def _read(self, model: Model) -> dict[tuple[str, str], Resampled]:
        if any(run.records is None for run in model.runs):
            return {}
        known: dict[tuple[str, str], Resampled] = {}
        pixels = [read_overlaps(run) for run in model.runs]
        for name in model.first.entries:
            for group, evaluator in EVALUATORS.items():
                overlaps = [one.get((name, evaluator)) for one in pixels]
                its = [one for one in overlaps if one is not None]
                if len(its) == len(model.runs) and all(
                    _gives(one, run, name, group) for one, run in zip(its, model.runs, strict=True)
                ):
                    self._add_iou(known, model, name, group, its)
        del pixels
        matches = [read_matches(run) for run in model.runs]
        for key in matches[0]:
            of_runs = [one[key] for one in matches if key in one]
            if len(of_runs) == len(model.runs):
                self._add_ap(known, model, key, of_runs)
        return known

    def _add_iou(
        self,
        known: dict[tuple[str, str], Resampled],
        model: Model,
        perturbation: str,
        group: str,
        its: Sequence[Overlaps],
    ) -> None:
        if len({one.overlaps.shape[1] for one in its}) > 1:
            return
        classes = max(one.overlaps.shape[2] for one in its)
        wide = [[np.pad(array, ((0, 0), (0, 0), (0, classes - array.shape[2]))) for array in one] for one in its]
        together = Overlaps(*(np.concatenate(arrays) for arrays in zip(*wide, strict=True)))
        mean, each = iou_resamples(*together, self.resampling, without_first=group == PARTS)
        labelled = (together.labelled > 0).sum(axis=1).min(axis=0)
        single = role_of(model.first.entries[perturbation]["settings"]) == "corruption"
        of_classes = [] if single else intervals_of_classes(each, labelled, self.resampling)
        known[perturbation, group] = Resampled({"mIoU": mean}, of_classes, labelled, together.overlaps.shape[1])

    def _add_ap(
        self,
        known: dict[tuple[str, str], Resampled],
        model: Model,
        key: tuple[str, str],
        its: Sequence[Matches],
    ) -> None:
        """Nothing where matches do not give the AP of their run's results, or are of other images than another's."""
        images = len(its[0].labelled)
        if any(not np.array_equal(one.labelled, its[0].labelled) for one in its):
            return
        if not all(_gives_ap(one, run, *key) for one, run in zip(its, model.runs, strict=True)):
            return
        drawn = draws(images, self.resampling)
        whole, half = (np.stack(one, axis=1) for one in zip(*(resampled_ap(one, drawn) for one in its), strict=True))
        # in percent, as in the results
        metrics = {"AP": 100 * mean_of_known(whole), "AP50": 100 * mean_of_known(half)}
        labelled = (its[0].labelled > 0).sum(axis=0)
        known[key] = Resampled(metrics, intervals_of_classes(100 * whole, labelled, self.resampling), labelled, images)


def _gives(overlaps: Overlaps, run: Run, perturbation: str, group: str) -> bool:
    """Whether pixels give the mIoU of the results; else they are of another evaluation, or another part level."""
    overlap, union, labelled = (one.sum(axis=(0, 1)) for one in overlaps)
    seen = labelled > 0
    if group == PARTS:
        seen[0] = False
    stated = entry_value(run.entries[perturbation], f"{group}.mIoU")
    if stated is None or not seen.any():
        return False
    return bool(np.isclose((overlap / np.maximum(union, 1))[seen].mean(), stated, rtol=0, atol=1e-9))


def _gives_ap(matches: Matches, run: Run, perturbation: str, group: str) -> bool:
    """Whether matches give the AP and AP50 of the results; else they are of another evaluation, or other rules."""
    stated = [entry_value(run.entries[perturbation], f"{group}.{metric}") for metric in ("AP", "AP50")]
    if any(one is None for one in stated):
        return False
    ones = np.ones((1, len(matches.labelled)), dtype=np.int64)
    found = [100 * float(mean_of_known(one)[0]) for one in resampled_ap(matches, ones)]
    return bool(np.allclose(found, stated, rtol=0, atol=1e-6))
