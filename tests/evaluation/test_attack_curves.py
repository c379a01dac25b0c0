"""Curves of an evaluation against counts by hand."""

from __future__ import annotations

import pytest

from partbox.evaluation.attack_curves import MOST_POINTS, Curve, attack_curves
from partbox.evaluation.records import Record


def record(image_id, perturbation, *, fooled, queries=1, loss=-1.0):
    return Record(image_id, perturbation, 0, 0, fooled, loss, queries, 0.0, False)


def settings(eps, steps=10, **more):
    return {"name": "pgd", "norm": "linf", "eps": eps, "steps": steps, "step_size": 2.5 * eps / steps, **more}


CLEAN = [record(i, "clean", fooled=i == 0, loss=-2.0) for i in range(4)]
ATTACK = [
    record(0, "pgd-10 linf 0.1", fooled=True, queries=1, loss=1.0),  # wrong before
    record(1, "pgd-10 linf 0.1", fooled=True, queries=3, loss=1.0),
    record(2, "pgd-10 linf 0.1", fooled=True, queries=7, loss=2.0),
    record(3, "pgd-10 linf 0.1", fooled=False, queries=12, loss=-1.0),
]


def results(*attacks):
    entries = {"clean": {"settings": {"name": "clean"}, "accuracy": 0.75}}
    return {"by_perturbation": {**entries, **dict(attacks)}}


def of(curves: list[Curve], axis: str, quantity: str = "robust_accuracy") -> dict[str, tuple]:
    return {curve.attack: curve.points for curve in curves if (curve.axis, curve.quantity) == (axis, quantity)}


def test_accuracy_falls_with_each_pass_that_fools_an_image():
    curves = attack_curves(
        results(("pgd-10 linf 0.1", {"settings": settings(0.1), "accuracy": 0.25})), [*CLEAN, *ATTACK]
    )
    assert of(curves, "passes") == {
        "pgd-10 linf 0.1": ((0.0, 0.75), (1.0, 0.75), (3.0, 0.5), (7.0, 0.25), (12.0, 0.25))
    }
    assert of(curves, "eps") == {"pgd-10 linf": ((0.0, 0.75), (0.1, 0.25))}
    assert of(curves, "eps", "loss") == {"pgd-10 linf": ((0.0, -2.0), (0.1, 0.75))}
    assert of(curves, "steps") == {}


@pytest.mark.parametrize("name", ["parts", "foolbox"])
def test_attacks_that_count_all_their_passes_have_no_curve_against_passes(name):
    """Of an image fooled at once they record what the whole search took: it would seem to have held out."""
    entry = {"settings": {**settings(0.1), "name": name}, "accuracy": 0.25}
    curves = attack_curves(results(("pgd-10 linf 0.1", entry)), [*CLEAN, *ATTACK])
    assert of(curves, "passes") == {}
    assert of(curves, "eps") == {"pgd-10 linf": ((0.0, 0.75), (0.1, 0.25))}


def test_attacks_that_differ_in_eps_alone_are_one_curve():
    attacks = [
        ("pgd-10 linf 0.2", {"settings": settings(0.2), "accuracy": 0.1}),
        ("pgd-10 linf 0.1", {"settings": settings(0.1), "accuracy": 0.5}),
        ("pgd-10x2 linf 0.2", {"settings": settings(0.2, restarts=2), "accuracy": 0.05}),
        ("pgd-20 linf 0.2", {"settings": settings(0.2, 20), "accuracy": 0.08}),
    ]
    records = [*CLEAN, *(record(i, name, fooled=False) for name, _ in attacks for i in range(4))]
    curves = attack_curves(results(*attacks), records)
    assert of(curves, "eps") == {
        "pgd-10 linf": ((0.0, 0.75), (0.1, 0.5), (0.2, 0.1)),
        "pgd-10x2 linf": ((0.0, 0.75), (0.2, 0.05)),
        "pgd-20 linf": ((0.0, 0.75), (0.2, 0.08)),
    }
    assert of(curves, "steps") == {"pgd-20 linf 0.2": ((0.0, 0.75), (10.0, 0.1), (20.0, 0.08))}


def test_corruptions_and_noise_are_no_attacks():
    others = [
        ("fog 3", {"settings": {"name": "corruption", "kind": "fog", "severity": 3}, "accuracy": 0.5}),
        ("noise linf 0.1", {"settings": {"name": "noise", "norm": "linf", "eps": 0.1}, "accuracy": 0.7}),
    ]
    assert attack_curves(results(*others), CLEAN) == []


def test_a_detector_has_curves_of_what_was_measured():
    entries = {
        "clean": {"settings": {"name": "clean"}, "bbox": {"AP": 40.0}},
        "detector-pgd-10-all linf 0.1": {
            "settings": settings(0.1, goal="all"),
            "bbox": {"AP": 5.0},
            "segm": {"AP": float("nan")},
        },
    }
    records = [
        Record(i, name, None, None, False, None if name == "clean" else 3.0, 1, 0.0, False)
        for name in entries
        for i in range(2)
    ]
    curves = attack_curves({"by_perturbation": entries}, records)
    assert of(curves, "eps", "bbox_AP") == {"detector-pgd-10-all linf": ((0.0, 40.0), (0.1, 5.0))}
    assert of(curves, "eps", "loss") == {"detector-pgd-10-all linf": ((0.1, 3.0),)}
    assert {curve.quantity for curve in curves} == {"bbox_AP", "loss"}


def test_long_curves_keep_their_ends():
    many = [record(i, "pgd-10 linf 0.1", fooled=True, queries=i + 1) for i in range(1, 500)]
    clean = [record(i, "clean", fooled=False) for i in range(1, 500)]
    found = attack_curves(results(("pgd-10 linf 0.1", {"settings": settings(0.1), "accuracy": 0.0})), [*clean, *many])
    points = of(found, "passes")["pgd-10 linf 0.1"]
    assert len(points) == MOST_POINTS + 1
    assert points[0] == (0.0, 1.0)
    assert points[-1] == (500.0, 0.0)
    assert all(y == pytest.approx(1 - sum(queries <= x for queries in range(2, 501)) / 499) for x, y in points)
