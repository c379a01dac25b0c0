"""The threshold of pseudo-labels: matching, the curve, and the choice on cases whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest
from detectron2.structures import BoxMode
from part_dataset_files import compressed

from partbox.evaluation.found_parts import FoundPart
from partbox.evaluation.threshold_choice import (
    CURVE_POINTS,
    Judged,
    ThresholdError,
    Thresholds,
    choose_thresholds,
    criterion,
    curve_of,
    judge,
)


def record(*boxes: tuple[int, list[float]]) -> dict:
    annotations = [{"category_id": part, "bbox": box, "bbox_mode": BoxMode.XYWH_ABS} for part, box in boxes]
    return {"height": 40, "width": 80, "annotations": annotations}


def found(part: int, score: float, *box: float) -> FoundPart:
    return FoundPart(part, score, box)


def judged(*scores: tuple[float, bool], part: int = 0) -> list[Judged]:
    return [Judged(part, score, right) for score, right in scores]


KNOWN = judged(
    (0.9, True), (0.8, True), (0.7, False), (0.6, True), (0.5, False), (0.4, False), (0.3, False), (0.2, True)
)


def test_the_known_best_is_chosen():
    """Of 5 labels: F1 is 2/6, 4/7, 4/8, 6/9, 6/10, 6/11, 6/12, 8/13 as one prediction after the other is let in."""
    curve = curve_of(KNOWN, 5)
    assert curve.thresholds.tolist() == [0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2]
    assert curve.f1.tolist() == pytest.approx([2 / 6, 4 / 7, 4 / 8, 6 / 9, 6 / 10, 6 / 11, 6 / 12, 8 / 13])
    chosen = choose_thresholds(KNOWN, {0: 5}, per_part=False, least=5)
    assert chosen == Thresholds(0.55, {}), "in the middle between the last that is kept and the next"
    assert criterion(KNOWN, 5, chosen) == pytest.approx({"precision": 3 / 4, "recall": 3 / 5, "f1": 2 / 3})


def test_the_curve_is_the_criterion_at_every_threshold():
    rng = np.random.default_rng(0)
    some = [Judged(0, round(float(score), 1), bool(rng.random() < score)) for score in rng.random(60)]
    curve = curve_of(some, 45)
    assert len(curve.thresholds) == len({one.score for one in some})
    for row, threshold in enumerate(curve.thresholds):
        at = criterion(some, 45, Thresholds(threshold, {}))
        assert (curve.precision[row], curve.recall[row], curve.f1[row]) == pytest.approx(tuple(at.values()))
    best = max(curve.thresholds, key=lambda t: (criterion(some, 45, Thresholds(t, {}))["f1"], t))
    assert curve.best() == pytest.approx(best - 0.05), "scores have one decimal"
    assert criterion(some, 45, Thresholds(curve.best(), {})) == criterion(some, 45, Thresholds(best, {}))


def test_of_equal_thresholds_the_highest_is_taken_and_equal_scores_are_not_told_apart():
    assert curve_of(judged((0.9, True), (0.5, True), (0.5, False), (0.4, False)), 2).best() == 0.45  # 2/3 and 4/5
    assert curve_of(judged((0.9, True), (0.5, False), (0.4, True)), 1).best() == 0.7
    tied = judged((0.9, True), (0.8, False), (0.7, True), (0.6, False), (0.5, True))  # 2/5, 2/6, 4/7, 4/8, 6/9
    assert curve_of(tied, 4).best() == 0.25, "nothing lies below it"
    assert curve_of(judged((0.9, True), (0.8, False), (0.7, False), (0.6, False), (0.5, True)), 1).best() == 0.85
    assert curve_of([], 4).best() is None
    assert curve_of(judged((0.3, False)), 4).best() is None


def test_parts_have_thresholds_of_their_own_where_there_are_labels_enough():
    other = judged((0.95, False), (0.35, True), (0.3, True), (0.25, True), part=1)
    rare, wrong = judged((0.5, True), part=2), judged((0.99, False), (0.98, False), part=3)
    chosen = choose_thresholds([*KNOWN, *other, *rare, *wrong], {0: 5, 1: 3, 2: 1, 3: 3}, per_part=True, least=3)
    assert chosen.of_part == {0: 0.55, 1: 0.125, 3: None}
    assert chosen.keeps(1, 0.125)
    assert not chosen.keeps(1, 0.1249)
    assert not chosen.keeps(0, 0.5)
    assert not chosen.keeps(3, 1.0), "nothing of it was right"
    assert chosen.keeps(2, chosen.common), "too rare: the common one"
    assert not chosen.keeps(2, chosen.common - 1e-6)


def test_too_little_to_choose_by_is_refused():
    with pytest.raises(ThresholdError, match="there are 5 labelled parts to choose a threshold by, at least 6"):
        choose_thresholds(KNOWN, {0: 5}, per_part=False, least=6)
    with pytest.raises(ThresholdError, match="none of the 1 parts that the model found is right"):
        choose_thresholds(judged((0.9, False)), {0: 5}, per_part=True, least=1)


def test_a_part_is_right_once_and_the_surest_takes_it():
    truth = record((0, [0, 0, 10, 10]), (0, [20, 0, 10, 10]), (1, [0, 0, 10, 10]))
    parts = [
        found(0, 0.5, 0, 0, 10, 10),  # right, and yet too late
        found(0, 0.9, 1, 0, 10, 10),
        found(0, 0.4, 20, 0, 10, 10),
        found(1, 0.8, 20, 0, 10, 10),  # there is a part, of another kind
        found(2, 0.8, 20, 0, 10, 10),
    ]
    verdicts = {(one.part, one.score): one.right for one in judge(parts, truth, iou=0.5, masks=False)}
    assert verdicts == {(0, 0.9): True, (0, 0.5): False, (0, 0.4): True, (1, 0.8): False, (2, 0.8): False}
    assert judge(parts[:1], record(), iou=0.5, masks=False) == [Judged(0, 0.5, False)]
    assert judge([], truth, iou=0.5, masks=False) == []


@pytest.mark.parametrize(("iou", "right"), [(0.5, True), (0.501, False)])
def test_the_overlap_counts_from_its_limit_on(iou, right):
    assert judge([found(0, 0.5, 0, 0, 5, 10)], record((0, [0, 0, 10, 10])), iou=iou, masks=False)[0].right == right


def test_masks_are_compared_as_masks():
    corner = np.zeros((40, 80), dtype=np.uint8, order="F")
    corner[:10, :10] = np.triu(np.ones((10, 10)))
    other = np.zeros_like(corner)
    other[:10, :10] = np.tril(np.ones((10, 10)))
    truth = record((0, [0, 0, 10, 10]))
    truth["annotations"][0]["segmentation"] = compressed(corner)
    same, opposite = (FoundPart(0, 0.5, (0, 0, 10, 10), compressed(mask)) for mask in (corner, other))
    assert judge([same], truth, iou=0.99, masks=True)[0].right
    assert not judge([opposite], truth, iou=0.5, masks=True)[0].right
    assert judge([opposite], truth, iou=0.99, masks=False)[0].right


def test_the_written_curve_is_short_and_has_the_best_point():
    rng = np.random.default_rng(1)
    some = [Judged(0, float(score), bool(rng.random() < score)) for score in rng.random(5_000)]
    curve = curve_of(some, 3_000)
    written = curve.to_json()
    assert CURVE_POINTS <= len(written["threshold"]) <= CURVE_POINTS + 1
    assert max(written["f1"]) == pytest.approx(curve.f1.max(), abs=1e-6)
    assert {len(column) for column in written.values()} == {len(written["threshold"])}
    assert curve_of([], 3).to_json() == {"threshold": [], "precision": [], "recall": [], "f1": []}
