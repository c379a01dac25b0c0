"""Numbers over kinds and severities of corruptions.

"Benchmark kinds" are the 15 of noise, blur, weather and digital (:data:`partbox.corruptions.BENCHMARK`), each at 5
severities: what ImageNet-C and the detection benchmark average over. Errors and performances are shares in [0, 1].
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from partbox.suggestions import did_you_mean

from .kinds import BENCHMARK, KINDS, SEVERITIES

ALEXNET_ERROR: dict[str, float] = {
    "gaussian_noise": 0.886428,
    "shot_noise": 0.894468,
    "impulse_noise": 0.922640,
    "defocus_blur": 0.819880,
    "glass_blur": 0.826268,
    "motion_blur": 0.785948,
    "zoom_blur": 0.798360,
    "snow": 0.866816,
    "frost": 0.826572,
    "fog": 0.819324,
    "brightness": 0.564592,
    "contrast": 0.853204,
    "elastic_transform": 0.646056,
    "pixelate": 0.717840,
    "jpeg_compression": 0.606500,
    "speckle_noise": 0.845388,
    "gaussian_blur": 0.787108,
    "spatter": 0.717512,
    "saturate": 0.658248,
}
"""Error of AlexNet on ImageNet-C, mean over the severities: mCE's baseline (authors' code, hendrycks/robustness)."""

Table = Mapping[str, Sequence[float]]  # kind -> value at severities 1 to 5


def corruption_error(errors: Sequence[float], kind: str, baseline: Mapping[str, float] = ALEXNET_ERROR) -> float:
    """CE of one kind: errors at severities 1 to 5 over those of the baseline (arXiv 1903.12261, section 4.1).

    Raises:
        ValueError: not five errors in [0, 1], or a kind without baseline.
    """
    _check({kind: errors}, [kind])
    if kind not in baseline:
        raise ValueError(f"the baseline has no error for {kind}")
    return float(np.sum(errors) / (len(SEVERITIES) * baseline[kind]))


def mean_corruption_error(errors: Table, baseline: Mapping[str, float] = ALEXNET_ERROR) -> float:
    """The mean of CE over the 15 benchmark kinds, mCE; 1 = as good as AlexNet. It only has a meaning on ImageNet-C.

    Raises:
        ValueError: a benchmark kind or a severity is missing, or a value is no share.
    """
    _check(errors, BENCHMARK)
    return float(np.mean([corruption_error(errors[kind], kind, baseline) for kind in BENCHMARK]))


def mean_error(errors: Table) -> float:
    """The plain mean over the 15 benchmark kinds and 5 severities, not normalised by any baseline (as for CIFAR-C).

    Raises:
        ValueError: see :func:`mean_corruption_error`.
    """
    _check(errors, BENCHMARK)
    return float(np.mean([errors[kind] for kind in BENCHMARK]))


def mean_performance(performances: Table) -> float:
    """MPC: mean AP, mIoU or accuracy over the 15 benchmark kinds and 5 severities (arXiv 1907.07484, eq. 1).

    Raises:
        ValueError: see :func:`mean_corruption_error`.
    """
    return mean_error(performances)


def relative_performance(performances: Table, clean: float) -> float:
    """RPC: :func:`mean_performance` over the performance on clean images (arXiv 1907.07484, eq. 2).

    Raises:
        ValueError: see :func:`mean_corruption_error`; a clean performance that is not above 0.
    """
    if not 0 < clean <= 1:
        raise ValueError(f"rPC needs a clean performance in (0, 1], not {clean}")
    return mean_performance(performances) / clean


def _check(table: Table, needed: Sequence[str]) -> None:
    unknown = sorted(set(table) - set(KINDS))
    if unknown:
        raise ValueError(f"unknown corruptions: {', '.join(unknown)}{did_you_mean(unknown[0], KINDS)}")
    missing = [kind for kind in needed if kind not in table]
    if missing:
        raise ValueError(f"these benchmark corruptions are missing: {', '.join(missing)}")
    for kind in needed:
        values = np.asarray(table[kind], dtype=float)
        if values.shape != (len(SEVERITIES),):
            raise ValueError(f"{kind} needs one value for each severity from 1 to 5, not {len(table[kind])}")
        if not bool(np.all((values >= 0) & (values <= 1))):
            raise ValueError(f"{kind}: a value is a share in [0, 1], not {values.tolist()}")
