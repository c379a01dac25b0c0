"""Intervals against loops written for clarity, closed formulas, and how often they hold the truth."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from partbox.report import intervals
from partbox.report.intervals import (
    Interval,
    Resampling,
    draws,
    interval_of,
    intervals_of_classes,
    iou_resamples,
    ratio_interval,
)

PLAN = Resampling(seed=3, resamples=4000)


def loop(numerators: np.ndarray, denominators: np.ndarray, resamples: int, seed: int) -> tuple[float, float]:
    """Image by image, run by run: what the fast form computes."""
    draw = np.random.RandomState(seed)
    runs, images = numerators.shape
    values = []
    for _ in range(resamples):
        chosen = draw.randint(0, images, images)
        those = draw.randint(0, runs, runs - 1) if runs > 1 else [0]
        values.append(np.mean([numerators[k, chosen].sum() / denominators[k, chosen].sum() for k in those]))
    low, high = np.percentile(values, [2.5, 97.5])
    return low, high


@pytest.mark.parametrize("runs", [1, 2, 5])
def test_shares_agree_with_a_loop_over_images(runs: int) -> None:
    draw = np.random.default_rng(runs)
    right = (draw.random((runs, 150)) < 0.3 + 0.05 * np.arange(runs)[:, None]).astype(float)
    found = ratio_interval(right, np.ones_like(right), PLAN)
    low, high = loop(right, np.ones_like(right), 4000, seed=9)
    assert found.over == ("images" if runs == 1 else "images and seeds")
    assert found.low == pytest.approx(low, abs=0.012)
    assert found.high == pytest.approx(high, abs=0.012)


def test_objects_found_of_objects_agree_with_a_loop_over_images() -> None:
    draw = np.random.default_rng(0)
    objects = draw.integers(0, 9, (1, 60))
    found = draw.binomial(objects, 0.6)
    interval = ratio_interval(found.astype(float), objects.astype(float), PLAN)
    low, high = loop(found, objects, 4000, seed=1)
    assert (interval.low, interval.high) == pytest.approx((low, high), abs=0.012)
    # images, not objects, are drawn: of 300 objects taken alone the interval would be another one
    assert not interval.low < found.sum() / objects.sum() - 0.2


def test_one_run_has_the_width_of_the_binomial() -> None:
    right = np.zeros((1, 400))
    right[0, :120] = 1
    found = ratio_interval(right, np.ones_like(right), Resampling(0, 20000))
    expected = 1.96 * np.sqrt(0.3 * 0.7 / 400)
    assert (found.high - found.low) / 2 == pytest.approx(expected, rel=0.03)


def test_the_interval_of_one_run_holds_the_truth_in_95_of_100_experiments() -> None:
    draw, hits = np.random.default_rng(0), 0
    for _ in range(600):
        right = (draw.random((1, 120)) < 0.3).astype(float)
        found = ratio_interval(right, np.ones_like(right), Resampling(1, 400))
        hits += found.low <= 0.3 <= found.high
    assert 0.92 <= hits / 600 <= 0.97


@pytest.mark.parametrize("runs", [2, 4, 10])
def test_the_interval_over_seeds_holds_the_truth_where_one_over_images_alone_does_not(runs: int) -> None:
    """Accuracy of a training varies with its seed as much as with the images."""
    draw, hits, alone = np.random.default_rng(0), 0, 0
    for _ in range(300):
        easy = draw.normal(0, 0.1, 100)
        shares = np.clip(0.5 + draw.normal(0, 0.08, runs)[:, None] + easy, 0, 1)
        right = (draw.random((runs, 100)) < shares).astype(float)
        found = ratio_interval(right, np.ones_like(right), Resampling(1, 300))
        hits += found.low <= 0.5 <= found.high
        single = ratio_interval(right.mean(axis=0, keepdims=True), np.ones((1, 100)), Resampling(1, 300))
        alone += single.low <= 0.5 <= single.high
    assert 0.9 <= hits / 300 <= 0.99
    assert alone < hits - 45


def test_two_seeds_that_differ_have_the_spread_of_their_mean() -> None:
    """All images alike within a run: what is left is the difference of the seeds, whose variance is d^2 / 4."""
    right = np.zeros((2, 1000))
    right[0], right[1, :500] = 1, 1
    found = ratio_interval(right, np.ones_like(right), PLAN)
    assert found.low == pytest.approx(0.5, abs=0.05)
    assert found.high == 1


@pytest.mark.parametrize("value", [0.0, 1.0])
@pytest.mark.parametrize("runs", [1, 3])
def test_where_all_images_agree_the_exact_interval_stands_in(value: float, runs: int) -> None:
    found = ratio_interval(np.full((runs, 60), value), np.ones((runs, 60)), PLAN)
    exact = stats.binomtest(int(60 * value), 60).proportion_ci(0.95, "exact")
    assert found.over == "exact"
    assert (found.low, found.high) == pytest.approx((exact.low, exact.high))


def test_nothing_is_made_up_where_nothing_can_be_said() -> None:
    assert ratio_interval(np.zeros((1, 0)), np.ones((1, 0)), PLAN) is None
    assert ratio_interval(np.zeros((1, 5)), np.zeros((1, 5)), PLAN) is None
    objects = np.array([[3.0, 4.0]])
    assert ratio_interval(0 * objects, objects, PLAN) is None
    assert ratio_interval(objects, objects, PLAN) is None


def test_draws_depend_on_the_seed_and_not_on_the_order_of_images(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = np.random.default_rng(0)
    right = (draw.random((2, 80)) < 0.4).astype(float)
    one, order = np.ones_like(right), draw.permutation(80)
    found = ratio_interval(right, one, PLAN)
    assert ratio_interval(right[:, order], one, PLAN) == found
    assert ratio_interval(right, one, Resampling(4, 4000)) != found
    monkeypatch.setattr(intervals, "MOST_COUNTS", 7)  # a piece at a time
    pieces = ratio_interval(right, one, PLAN)
    assert (pieces.low, pieces.high) == pytest.approx((found.low, found.high), abs=0.02)


def test_a_resampling_that_cannot_give_an_interval_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 100"):
        Resampling(0, 99)
    with pytest.raises(ValueError, match="negative"):
        Resampling(-1)


def iou_intervals(
    overlaps: np.ndarray, unions: np.ndarray, labelled: np.ndarray, plan: Resampling, *, without_first: bool
) -> tuple[Interval | None, list[Interval | None]]:
    mean, each = iou_resamples(overlaps, unions, labelled, plan, without_first=without_first)
    return interval_of(mean, plan), intervals_of_classes(each, (labelled > 0).sum(axis=1).min(axis=0), plan)


def random_pixels(runs: int, images: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Overlap, union and labelled pixels (K, n, C) of three classes; the third is rare."""
    draw = np.random.default_rng(seed)
    labelled = draw.integers(1, 50, (runs, images, 3)).astype(float)
    labelled[:, 2:, 2] = 0
    labelled[:] = labelled[:1]  # the same images in each run
    overlaps = np.floor(labelled * draw.random(labelled.shape))
    return overlaps, labelled + draw.integers(0, 20, labelled.shape), labelled


@pytest.mark.parametrize("runs", [1, 3])
@pytest.mark.parametrize("without_first", [False, True])
def test_mean_iou_agrees_with_a_loop_over_images(runs: int, without_first: bool) -> None:
    overlaps, unions, labelled = random_pixels(runs, 40, seed=2)
    mean, each = iou_intervals(overlaps, unions, labelled, PLAN, without_first=without_first)
    draw, values = np.random.RandomState(5), []
    for _ in range(3000):
        chosen = draw.randint(0, 40, 40)
        those = draw.randint(0, runs, runs - 1) if runs > 1 else [0]
        of_runs = []
        for k in those:
            ious = [
                overlaps[k, chosen, c].sum() / unions[k, chosen, c].sum()
                for c in range(int(without_first), 3)
                if labelled[k, chosen, c].sum()
            ]
            of_runs.append(np.mean(ious))
        values.append(np.mean(of_runs))
    assert (mean.low, mean.high) == pytest.approx(tuple(np.percentile(values, [2.5, 97.5])), abs=0.01)
    assert each[0].low < overlaps[:, :, 0].sum() / unions[:, :, 0].sum() < each[0].high


def test_a_class_without_labels_has_no_interval() -> None:
    overlaps, unions, labelled = random_pixels(1, 10, seed=0)
    labelled[..., 1] = 0
    _, each = iou_intervals(overlaps, unions, labelled, PLAN, without_first=True)
    assert each[1] is None
    assert each[0] is not None


def test_a_class_of_a_single_image_has_no_interval() -> None:
    """A resample has that image or has it not: the width would be that of chance hits in other images alone."""
    overlaps, unions, labelled = random_pixels(1, 30, seed=1)
    labelled[:, 1:, 2], overlaps[:, 1:, 2] = 0, 0
    _, each = iou_intervals(overlaps, unions, labelled, PLAN, without_first=False)
    assert each[2] is None
    labelled[:, 5, 2] = 7
    _, each = iou_intervals(overlaps, unions, labelled, PLAN, without_first=False)
    assert each[2] is not None


def test_no_width_is_no_certainty() -> None:
    """One image, or images that are all alike: every resample gives the same number."""
    overlaps, unions, labelled = random_pixels(1, 1, seed=0)
    mean, _ = iou_intervals(overlaps, unions, labelled, PLAN, without_first=False)
    assert mean is None
    assert ratio_interval(np.array([[3.0]]), np.array([[5.0]]), PLAN) is None
    assert ratio_interval(np.full((1, 9), 0.5), np.ones((1, 9)), PLAN) is None


def test_counts_are_no_shares() -> None:
    """No false object in 50 images is not "0 of 50": an image can have many."""
    assert ratio_interval(np.zeros((1, 50)), np.ones((1, 50)), PLAN, counts=True) is None
    assert ratio_interval(np.ones((1, 50)), np.ones((1, 50)), PLAN, counts=True) is None
    draw = np.random.default_rng(0)
    false = draw.poisson(2.5, (1, 200)).astype(float)
    found = ratio_interval(false, np.ones_like(false), Resampling(0, 20000), counts=True)
    expected = 1.96 * false.std() / np.sqrt(200)
    assert (found.high - found.low) / 2 == pytest.approx(expected, rel=0.03)


def test_two_perturbations_are_resampled_alike() -> None:
    """The same images are drawn for both, so that a mean over them is one over images."""
    first, second = random_pixels(1, 30, seed=1), random_pixels(1, 30, seed=4)
    means = [iou_resamples(*one, PLAN, without_first=False)[0][:, 0] for one in (first, second)]
    drawn = draws(30, PLAN)
    for pixels, mean in zip((first, second), means, strict=True):
        ious = [(drawn @ pixels[0][0, :, c]) / (drawn @ pixels[1][0, :, c]) for c in range(3)]
        seen = [drawn @ pixels[2][0, :, c] > 0 for c in range(3)]
        expected = np.nanmean(np.where(seen, ious, np.nan), axis=0)
        assert mean == pytest.approx(expected)
