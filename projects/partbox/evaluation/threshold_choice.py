"""Above which score predicted parts are kept: chosen where the truth is known, to maximise F1."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from detectron2.structures import BoxMode
from pycocotools import mask as mask_util

from partbox.data.part_map import decode_mask

from .found_parts import FoundPart

CURVE_POINTS = 200  # of a curve that is written out


class ThresholdError(ValueError):
    """The labelled images do not say which threshold is right."""


@dataclass(frozen=True)
class Judged:
    """A found part beside the truth.

    Attributes:
        part: its index.
        score: of the model.
        right: whether it is a labelled part of its kind, which no part with a higher score has found already.
    """

    part: int
    score: float
    right: bool


def judge(found: Sequence[FoundPart], record: Mapping[str, Any], *, iou: float, masks: bool) -> list[Judged]:
    """Compare what was found in an image with its labels.

    In the order of the scores, each found part takes the labelled part of its kind that it overlaps most, by at least
    ``iou``, and that is still free, as COCO matches. So what is right above a threshold does not depend on what lies
    below it.

    Args:
        found: the parts.
        record: of a part dataset, with labels; with masks where masks are compared.
        iou: smallest overlap.
        masks: compare masks and not boxes.
    """
    judged = []
    for part in sorted({one.part for one in found}):
        mine = sorted((one for one in found if one.part == part), key=lambda one: -one.score)
        truth = [one for one in record["annotations"] if one["category_id"] == part]
        overlaps = _overlaps(mine, truth, record, masks=masks)
        free = np.ones(len(truth), dtype=bool)
        for one, row in zip(mine, overlaps, strict=True):
            candidates = np.where(free, row, -1.0)
            best = int(candidates.argmax()) if len(truth) else -1
            right = best >= 0 and candidates[best] >= iou
            if right:
                free[best] = False
            judged.append(Judged(part, one.score, bool(right)))
    return judged


def _overlaps(
    found: Sequence[FoundPart], truth: Sequence[Mapping[str, Any]], record: Mapping[str, Any], *, masks: bool
) -> np.ndarray:
    """IoU (found, truth)."""
    if not truth:
        return np.zeros((len(found), 0))
    given: Any
    wanted: Any
    if masks:
        size = record["height"], record["width"]
        planes = [decode_mask(one["segmentation"], *size).astype(np.uint8) for one in truth]
        given, wanted = [one.mask for one in found], [mask_util.encode(np.asfortranarray(plane)) for plane in planes]
    else:
        boxes = [BoxMode.convert(list(one["bbox"]), one["bbox_mode"], BoxMode.XYWH_ABS) for one in truth]
        given, wanted = np.array([one.box for one in found], dtype=np.float64), np.array(boxes, dtype=np.float64)
    overlaps: np.ndarray = mask_util.iou(given, wanted, [0] * len(truth))
    return overlaps


@dataclass(frozen=True)
class Curve:
    """What is kept, and how good it is, at each threshold; (T,) each, thresholds in falling order.

    Attributes:
        thresholds: scores of found parts; a part is kept if its score is at least the threshold.
        kept: number of parts.
        precision: share of the kept parts that are right.
        recall: share of the labelled parts that are found.
    """

    thresholds: np.ndarray
    kept: np.ndarray
    precision: np.ndarray
    recall: np.ndarray

    @property
    def f1(self) -> np.ndarray:
        """Harmonic mean of precision and recall; 0 where nothing is right."""
        total = self.precision + self.recall
        return np.divide(2 * self.precision * self.recall, total, out=np.zeros_like(total), where=total > 0)

    def best(self) -> float | None:
        """The threshold with the highest F1, the highest of several; None where nothing is right.

        It lies in the middle between the last score that is kept and the next one below (0 after the lowest), as
        nothing here says where between them it should be.
        """
        f1 = self.f1
        if not len(f1) or f1.max() <= 0:
            return None
        last, below = [*self.thresholds, 0.0][f1.argmax() :][:2]
        return round(float(last + below) / 2, 7)

    def to_json(self) -> dict[str, list[float]]:
        """At most about CURVE_POINTS of its points, the best among them."""
        if not len(self.thresholds):
            points = np.zeros(0, dtype=np.int64)
        else:
            spread = np.linspace(0, len(self.thresholds) - 1, CURVE_POINTS).round().astype(np.int64)
            points = np.unique([*spread, self.f1.argmax()])
        columns = {"threshold": self.thresholds, "precision": self.precision, "recall": self.recall, "f1": self.f1}
        return {name: [round(float(value), 6) for value in column[points]] for name, column in columns.items()}


def curve_of(judged: Sequence[Judged], labelled: int) -> Curve:
    """The curve over all scores that occur.

    Args:
        judged: found parts.
        labelled: number of labelled parts, found or not.
    """
    scores = np.array([one.score for one in judged], dtype=np.float64)
    order = np.argsort(-scores, kind="stable")
    scores = scores[order]
    right = np.cumsum(np.array([one.right for one in judged], dtype=np.float64)[order])
    last = np.flatnonzero(np.diff(scores, append=-1.0))  # of parts with the same score: all or none are kept
    kept = last + 1.0
    return Curve(scores[last], kept, right[last] / kept, right[last] / max(labelled, 1))


@dataclass(frozen=True)
class Thresholds:
    """Which found parts are kept.

    Attributes:
        common: the smallest score of every part that has no threshold of its own.
        of_part: part -> its own; None keeps nothing, because nothing of this part was right.
    """

    common: float
    of_part: Mapping[int, float | None]

    def keeps(self, part: int, score: float) -> bool:
        """Whether a found part is kept."""
        threshold = self.of_part.get(part, self.common)
        return threshold is not None and score >= threshold


def choose_thresholds(
    judged: Sequence[Judged], labelled: Mapping[int, int], *, per_part: bool, least: int
) -> Thresholds:
    """The threshold with the highest F1 over all parts together, and for each part if asked for.

    A part with fewer than ``least`` labels has the common threshold.

    Args:
        judged: found parts of all labelled images.
        labelled: part -> number of labels of it, found or not.
        per_part: whether parts have thresholds of their own.
        least: labels that a threshold needs.

    Raises:
        ThresholdError: fewer labels than ``least``, or nothing that was found is right.
    """
    total = sum(labelled.values())
    if total < least:
        raise ThresholdError(f"there are {total} labelled parts to choose a threshold by, at least {least} are needed")
    common = curve_of(judged, total).best()
    if common is None:
        raise ThresholdError(f"none of the {len(judged)} parts that the model found is right")
    own: dict[int, float | None] = {}
    if per_part:
        for part, count in sorted(labelled.items()):
            if count >= least:
                own[part] = curve_of([one for one in judged if one.part == part], count).best()
    return Thresholds(common, own)


def criterion(judged: Sequence[Judged], labelled: int, thresholds: Thresholds) -> dict[str, float]:
    """Precision, recall and F1 of what thresholds keep, over all parts together."""
    kept = [one for one in judged if thresholds.keeps(one.part, one.score)]
    right = sum(one.right for one in kept)
    total = len(kept) + labelled
    return {
        "precision": right / len(kept) if kept else 0.0,
        "recall": right / labelled if labelled else 0.0,
        "f1": 2 * right / total if total else 0.0,
    }
