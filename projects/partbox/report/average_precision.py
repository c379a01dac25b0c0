"""AP of resampled images: predictions are matched to labels once, and then counted as often as their image is drawn.

Matching and counting are those of pycocotools (``cocoeval.py``, all areas, 100 predictions an image and category): the
AP of the images as they are must be that of ``results.json``, else there is no interval.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from pycocotools import mask as coco_mask

from .result_files import BATCHES, ReportError, Run, role_of

IOUS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0.0, 1.0, 101)
MOST_PREDICTIONS = 100  # of an image and category
PARTS = "PartBoxEvaluator"
MOST_COUNTS = 10_000_000  # counted at once; bounds the memory


class Matches(NamedTuple):
    """Predictions of n images matched to the labelled objects of C categories.

    Attributes:
        image: (D,) row of each prediction's image.
        category: (D,).
        score: (D,).
        right: (D, 10) at each IoU.
        ignored: (D, 10) neither right nor false: on a crowd.
        labelled: (n, C) objects to be found.
    """

    image: np.ndarray
    category: np.ndarray
    score: np.ndarray
    right: np.ndarray
    ignored: np.ndarray
    labelled: np.ndarray


class _Matched(NamedTuple):
    """Predictions of one image, and its objects by category."""

    category: np.ndarray
    score: np.ndarray
    right: np.ndarray
    ignored: np.ndarray
    objects: Mapping[int, int]


def read_matches(run: Run) -> dict[tuple[str, str], Matches]:
    """By perturbation and group of ``results.json`` (``bbox``, ``segm``, ``part_box``), corruptions left out.

    Empty where the records have no labels: those of earlier versions, or of other evaluators than COCO's.

    Raises:
        ReportError: a file of the folder is damaged.
    """
    found: dict[tuple[str, str], dict[Any, _Matched | None]] = {}
    files = sorted((run.folder / BATCHES).glob("process-*.jsonl")) if run.folder is not None else []
    wanted = {name for name, entry in run.entries.items() if role_of(entry["settings"]) != "corruption"}
    for path in files:
        with open(path, "rb") as file:
            for number, line in enumerate(file, start=1):
                if not line.endswith(b"\n"):  # cut by a kill; the batch was done again elsewhere
                    break
                if b'"pred_boxes"' not in line:
                    continue
                try:
                    one = json.loads(line)
                    if one["perturbation"] not in wanted:
                        continue
                    for group, image, matched in _groups(one["measurements"]):
                        found.setdefault((one["perturbation"], group), {}).setdefault(image, matched)
                except (ValueError, KeyError, TypeError, zlib.error) as error:
                    raise ReportError(
                        f"{path}, line {number} is damaged ({error}): delete the file to redo its part"
                    ) from error
    return {
        key: _together({image: one for image, one in images.items() if one is not None})
        for key, images in found.items()
        if all(one is not None for one in images.values())
    }


def _groups(measurements: Mapping[str, Any]) -> Iterator[tuple[str, Any, _Matched | None]]:
    """Group, image and matches of each evaluator that compares boxes; no matches without labels."""
    for name, one in measurements.items():
        if not isinstance(one, Mapping) or "instances" not in one.get("output", {}):
            continue
        image = one["number"] if name == PARTS else one["image_id"]
        fields, labels = one["output"]["instances"]["fields"], one.get("labels")
        yield "part_box" if name == PARTS else "bbox", image, None if labels is None else _match(fields, labels, False)
        if "pred_masks" in fields and name != PARTS:
            kept = labels is not None and all("mask" in label for label in labels)
            yield "segm", image, _match(fields, labels or (), True) if kept else None


def _match(fields: Mapping[str, Any], labels: Sequence[Mapping[str, Any]], masks: bool) -> _Matched:
    classes, scores = _unpack(fields["pred_classes"]), _unpack(fields["scores"]).astype(np.float64)
    boxes = _unpack(fields["pred_boxes"]).copy()
    boxes[:, 2:] -= boxes[:, :2]  # in the precision of the file, as detectron2 does
    categories = sorted({*classes.tolist(), *(label["category"] for label in labels)})
    pieces: list[tuple[np.ndarray, ...]] = []
    for category in categories:
        its = np.flatnonzero(classes == category)
        its = its[np.argsort(-scores[its], kind="stable")][:MOST_PREDICTIONS]
        # what need not be found comes last: a prediction goes to an object first
        true = sorted((one for one in labels if one["category"] == category), key=lambda one: one["crowd"])
        crowd = np.array([one["crowd"] for one in true], dtype=bool)
        right = ignored = np.zeros((len(its), len(IOUS)), dtype=bool)
        if len(its) and len(true):
            found = [fields["pred_masks"][i] for i in its] if masks else boxes[its].astype(np.float64)
            wanted = [one["mask"] for one in true] if masks else np.array([one["bbox"] for one in true], np.float64)
            right, ignored = _assign(np.asarray(coco_mask.iou(found, wanted, crowd.astype(np.uint8).tolist())), crowd)
        pieces.append((np.full(len(its), category), scores[its], right, ignored))
    objects = {c: sum(one["category"] == c and not one["crowd"] for one in labels) for c in categories}
    empty = (np.zeros(0, dtype=np.int64), np.zeros(0), np.zeros((0, 10), dtype=bool), np.zeros((0, 10), dtype=bool))
    category, score, right, ignored = (np.concatenate(arrays) for arrays in zip(empty, *pieces, strict=True))
    return _Matched(category, score, right, ignored, objects)


def _assign(overlaps: np.ndarray, crowd: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Overlaps (D, G) of predictions, the surest first, with objects, crowds last -> right, ignored: (D, 10)."""
    right, ignored = np.zeros((2, len(overlaps), len(IOUS)), dtype=bool)
    near = np.flatnonzero(overlaps.max(axis=1) >= IOUS[0])
    for place, iou in enumerate(IOUS):
        taken = np.zeros(len(crowd), dtype=bool)
        for prediction in near:
            least, best = min(iou, 1 - 1e-10), -1
            for one, overlap in enumerate(overlaps[prediction]):
                if taken[one] and not crowd[one]:
                    continue
                if best >= 0 and not crowd[best] and crowd[one]:
                    break
                if overlap >= least:
                    least, best = overlap, one
            if best >= 0:
                taken[best] = True
                right[prediction, place], ignored[prediction, place] = not crowd[best], crowd[best]
    return right, ignored


def _together(images: Mapping[Any, _Matched]) -> Matches:
    """Matches of all images, in the order of their ids, as COCO breaks ties."""
    order = [images[image] for image in sorted(images, key=lambda one: (isinstance(one, str), one))]
    objects = [{c: count for c, count in one.objects.items() if count} for one in order]
    labelled = np.zeros((len(order), 1 + max((c for one in objects for c in one), default=0)))
    for row, of_image in enumerate(objects):
        for category, count in of_image.items():
            labelled[row, category] = count
    return Matches(
        image=np.repeat(np.arange(len(order)), [len(one.score) for one in order]),
        category=np.concatenate([one.category for one in order]),
        score=np.concatenate([one.score for one in order]),
        right=np.concatenate([one.right for one in order]),
        ignored=np.concatenate([one.ignored for one in order]),
        labelled=labelled,
    )


def resampled_ap(matches: Matches, drawn: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """AP and AP50 of each category, in [0, 1].

    Args:
        matches: of n images.
        drawn: (B, n) how often each image is in each of B resamples.

    Returns:
        (B, C) each; NaN where a resample has no object of the category.
    """
    categories = matches.labelled.shape[1]
    values = np.full((2, len(drawn), categories), np.nan)
    for category in np.flatnonzero(matches.labelled.sum(axis=0)):
        its = np.flatnonzero(matches.category == category)
        its = its[np.argsort(-matches.score[its], kind="stable")]
        hits = np.flatnonzero(matches.right[its].any(axis=1))
        its = its[: hits[-1] + 1] if len(hits) else its[:0]  # false ones below every right one change nothing
        at_once = max(MOST_COUNTS // max(len(its), 1), 1)
        for start in range(0, len(drawn), at_once):
            part = slice(start, start + at_once)
            objects = drawn[part] @ matches.labelled[:, category]
            by_iou = _ap(drawn[part][:, matches.image[its]], matches.right[its], matches.ignored[its], objects)
            values[0, part, category] = by_iou.mean(axis=1)
            values[1, part, category] = by_iou[:, 0]
    return values[0], values[1]


def _ap(times: np.ndarray, right: np.ndarray, ignored: np.ndarray, objects: np.ndarray) -> np.ndarray:
    """AP of one category at each IoU, (B, 10).

    Precision and recall need to be known at the right predictions alone: in between precision falls and recall stays.

    Args:
        times: (B, D) how often each prediction, the surest first, is there.
        right, ignored: (D, 10).
        objects: (B,) to be found.
    """
    found = np.zeros((len(times), len(IOUS)))
    everything = np.cumsum(times, axis=1)
    for place in range(len(IOUS)):
        hits = np.flatnonzero(right[:, place])
        if not len(hits):
            continue
        counted = everything
        if ignored[:, place].any():
            counted = np.cumsum(np.where(ignored[:, place], 0, times), axis=1)
        hit = np.cumsum(times[:, hits], axis=1)
        precision = hit / np.maximum(counted[:, hits], 1)
        best = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        reached = np.searchsorted(RECALLS, hit / np.maximum(objects, 1)[:, None], side="right")
        found[:, place] = (best * np.diff(reached, axis=1, prepend=0)).sum(axis=1) / len(RECALLS)
    return np.where(objects[:, None] > 0, found, np.nan)


def _unpack(packed: Mapping[str, Any]) -> np.ndarray:
    data = zlib.decompress(base64.b64decode(packed["zlib"]))
    return np.frombuffer(data, dtype=packed["dtype"]).reshape(packed["shape"])
