"""mCE, mPC and rPC against hand-made tables."""

from __future__ import annotations

import numpy as np
import pytest

from partbox.corruptions import (
    ALEXNET_ERROR,
    BENCHMARK,
    KINDS,
    corruption_error,
    mean_corruption_error,
    mean_error,
    mean_performance,
    relative_performance,
)


def table(value=0.5, kinds=BENCHMARK) -> dict[str, list[float]]:
    return {kind: [value] * 5 for kind in kinds}


def test_alexnet_is_at_one():
    alexnet = {kind: [ALEXNET_ERROR[kind]] * 5 for kind in KINDS}
    assert mean_corruption_error(alexnet) == pytest.approx(1)
    assert set(ALEXNET_ERROR) == set(KINDS)


def test_ce_is_a_ratio_of_sums_over_severities():
    errors = [0.1, 0.2, 0.3, 0.4, 0.5]
    assert corruption_error(errors, "fog", {"fog": 0.6}) == pytest.approx(1.5 / (5 * 0.6))
    assert corruption_error(errors, "fog") == pytest.approx(0.3 / 0.819324)


def test_the_extra_kinds_count_nowhere():
    generator = np.random.default_rng(0)
    errors = {kind: generator.random(5).tolist() for kind in BENCHMARK}
    more = {**errors, **table(1.0, [kind for kind in KINDS if kind not in BENCHMARK])}
    for score in (mean_error, mean_corruption_error, mean_performance):
        assert score(more) == score(errors)
    assert mean_error(errors) == pytest.approx(np.mean(list(errors.values())))
    by_hand = np.mean([np.mean(errors[kind]) / ALEXNET_ERROR[kind] for kind in BENCHMARK])
    assert mean_corruption_error(errors) == pytest.approx(by_hand)


def test_rpc_is_relative_to_clean():
    assert relative_performance(table(0.2), 0.8) == pytest.approx(0.25)
    with pytest.raises(ValueError, match="clean performance"):
        relative_performance(table(0.2), 0)


def test_incomplete_tables_are_refused():
    incomplete = table()
    del incomplete["fog"]
    with pytest.raises(ValueError, match="missing: fog"):
        mean_corruption_error(incomplete)
    with pytest.raises(ValueError, match="one value for each severity"):
        mean_error({**table(), "fog": [0.1] * 4})
    with pytest.raises(ValueError, match="share in"):
        mean_error({**table(), "fog": [50.0] * 5})
    with pytest.raises(ValueError, match="share in"):
        mean_error({**table(), "fog": [float("nan")] * 5})
    with pytest.raises(ValueError, match="unknown corruptions: smoke"):
        mean_error({**table(), "smoke": [0.1] * 5})
    with pytest.raises(ValueError, match="no error for fog"):
        corruption_error([0.1] * 5, "fog", {})
