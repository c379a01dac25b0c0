"""Confidence intervals by resampling images, and seeds where there are several.

The interval is that of the percentile bootstrap (Efron & Tibshirani 1993, chapter 13) over images: how much a number
would move on other images of the same kind. Where a model was trained with several seeds, images and seeds are both
resampled: all seeds saw the same images, so each resample draws images once for all seeds, and seeds beside them (the
crossed, or "pigeonhole", bootstrap: Owen 2007, https://doi.org/10.1214/07-AOAS122). Of K seeds K - 1 are drawn (Rao &
Wu 1988): drawing K of so few would give an interval that is too narrow by a factor of sqrt(1 - 1 / K).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

CONFIDENCE = 0.95
MOST_COUNTS = 5_000_000  # drawn at once; bounds the memory
FEWEST = 2  # images with labels of a class, for an interval of its number


@dataclass(frozen=True)
class Interval:
    """A 95 % interval.

    Attributes:
        low, high: ends, in the unit of the number.
        over: ``images``, ``images and seeds``; ``exact`` where all images agree, see :func:`ratio_interval`.
    """

    low: float
    high: float
    over: str


@dataclass(frozen=True)
class Resampling:
    """How to resample.

    Attributes:
        seed: of all draws; the draws of one interval do not depend on what else is computed.
        resamples: how many, at least 100.
    """

    seed: int = 0
    resamples: int = 2000

    def __post_init__(self) -> None:
        if self.resamples < 100:
            raise ValueError(f"at least 100 resamples are needed for a 95 % interval, not {self.resamples}")
        if self.seed < 0:
            raise ValueError(f"the seed of the resamples must not be negative, it is {self.seed}")


def ratio_interval(
    numerators: np.ndarray, denominators: np.ndarray, resampling: Resampling, *, counts: bool = False
) -> Interval | None:
    """Interval of a ratio of sums over images, averaged over runs: accuracy (denominators 1), objects found of objects.

    Where every image of every run is right (or wrong), all resamples are the same and say nothing. For plain shares the
    exact binomial interval (Clopper & Pearson 1934) of the number of images stands in; other ratios have none.

    Args:
        numerators: (K, n) of K runs and the same n images in each.
        denominators: (K, n).
        resampling: how.
        counts: the numerators are numbers of something in each image, and no shares: they have no exact interval.

    Returns:
        None where nothing can be said: no image, a denominator of 0, or resamples that are all the same without being
        a share of 0 or 1.
    """
    runs, images = numerators.shape
    if not images or not np.all(denominators.sum(axis=1) > 0):
        return None
    shares = not counts and bool(np.all(denominators == 1))
    for agreed, ends in ((0.0, _none_right(images)), (1.0, _all_right(images))):
        if np.all(numerators == agreed * denominators):
            return Interval(*ends, "exact") if shares else None
    rows = np.concatenate([numerators, denominators]).T
    # Images that look alike can be drawn together: the same distribution, in a fraction of the time.
    distinct, times = np.unique(rows, axis=0, return_counts=True)
    sums = _resampled_sums(distinct, times, resampling)
    with np.errstate(invalid="ignore", divide="ignore"):
        values = sums[:, :runs] / sums[:, runs:]
    return interval_of(values, resampling)


def iou_resamples(
    overlaps: np.ndarray, unions: np.ndarray, labelled: np.ndarray, resampling: Resampling, *, without_first: bool
) -> tuple[np.ndarray, np.ndarray]:
    """The mean IoU over the classes that occur in the labels, and the IoU of each class, of every resample.

    Args:
        overlaps, unions, labelled: (K, n, C) pixels of K runs, n images, C classes.
        resampling: how; the same n images under two perturbations are drawn alike.
        without_first: leave the first class, the background, out of the mean.

    Returns:
        (B, K) and (B, K, C); NaN where a resample has no label.
    """
    runs, images, classes = overlaps.shape
    rows = np.concatenate([np.moveaxis(one, 1, 0).reshape(images, -1) for one in (overlaps, unions, labelled)], axis=1)
    sums = _resampled_sums(rows, np.ones(images, dtype=np.int64), resampling).reshape(-1, 3, runs, classes)
    iou = np.where(sums[:, 2] > 0, sums[:, 0] / np.maximum(sums[:, 1], 1), np.nan)
    return mean_of_known(iou[..., 1:] if without_first else iou), iou


def mean_of_known(values: np.ndarray) -> np.ndarray:
    """Mean over the last axis without NaN; NaN where there is nothing else."""
    known = ~np.isnan(values)
    mean: np.ndarray = np.where(known, values, 0).sum(axis=-1) / np.maximum(known.sum(axis=-1), 1)
    return np.where(known.any(axis=-1), mean, np.nan)


def intervals_of_classes(each: np.ndarray, images: np.ndarray, resampling: Resampling) -> list[Interval | None]:
    """An interval for each class.

    Args:
        each: (B, K, C).
        images: (C,) how many have labels of it. Of a single one nothing can be said: a resample has it or has not.
    """
    return [interval_of(each[..., i], resampling) if images[i] >= FEWEST else None for i in range(each.shape[-1])]


def draws(images: int, resampling: Resampling) -> np.ndarray:
    """(B, n) how often each image is in each resample."""
    generator = np.random.default_rng(resampling.seed)
    drawn: np.ndarray = generator.multinomial(images, np.full(images, 1 / images), size=resampling.resamples)
    return drawn


def _resampled_sums(rows: np.ndarray, times: np.ndarray, resampling: Resampling) -> np.ndarray:
    """(B, F) sums of (R, F) rows over B resamples of all images; row r stands for ``times[r]`` images."""
    generator = np.random.default_rng(resampling.seed)
    images = int(times.sum())
    at_once = max(MOST_COUNTS // len(rows), 1)
    pieces = []
    for start in range(0, resampling.resamples, at_once):
        size = min(at_once, resampling.resamples - start)
        drawn = generator.multinomial(images, times / images, size=size)
        pieces.append(drawn.astype(np.float64) @ rows.astype(np.float64))
    return np.concatenate(pieces)


def interval_of(values: np.ndarray, resampling: Resampling) -> Interval | None:
    """Interval of the mean over runs.

    Args:
        values: (B, K) of B resamples and K runs, NaN where a resample has no value.
        resampling: how.

    Returns:
        None where no resample has a value, or all have the same: no width is no certainty.
    """
    runs = values.shape[1]
    if runs > 1:
        # another stream than that of the images: seeds are drawn independently of them
        generator = np.random.default_rng([resampling.seed, 1])
        weights = generator.multinomial(runs - 1, [1 / runs] * runs, size=len(values)) / (runs - 1)
        values = np.where(weights > 0, values * weights, 0.0).sum(axis=1, keepdims=True)
    numbers = values[~np.isnan(values).any(axis=1), 0]
    if not len(numbers) or np.ptp(numbers) <= 1e-12 * np.abs(numbers).max():
        return None
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(numbers, [tail, 1 - tail])
    return Interval(float(low), float(high), "images and seeds" if runs > 1 else "images")


def _none_right(images: int) -> tuple[float, float]:
    """Clopper-Pearson for 0 of n."""
    return 0.0, 1 - ((1 - CONFIDENCE) / 2) ** (1 / images)


def _all_right(images: int) -> tuple[float, float]:
    low, high = _none_right(images)
    return 1 - high, 1 - low
