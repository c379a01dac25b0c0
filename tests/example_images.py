"""Example images for tests, and their comparison."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields

import numpy as np

from partbox.evaluation.examples import Example


def example(image_id: int | str = 1, size: tuple[int, int] = (6, 8), **changes) -> Example:
    """A classifier's image of noise without parts."""
    values = {
        "image_id": image_id,
        "image": np.random.default_rng(len(str(image_id))).integers(0, 256, (*size, 3), np.uint8),
        "label": 0,
        "prediction": 1,
        "confidence": 0.75,
        "correct": False,
        "part_map": None,
        "boxes": np.zeros((0, 4), np.float32),
        "scores": np.zeros(0, np.float32),
        "categories": np.zeros(0, np.int64),
    }
    return Example(**{**values, **changes})


def assert_same(one: Mapping[str, Sequence[Example]], other: Mapping[str, Sequence[Example]]) -> None:
    """Every field of every image under every perturbation is the same."""
    assert list(one) == list(other)
    for perturbation, its in one.items():
        for first, second in zip(its, other[perturbation], strict=True):
            for field in fields(Example):
                a, b = getattr(first, field.name), getattr(second, field.name)
                assert type(a) is type(b), field.name
                np.testing.assert_array_equal(a, b, err_msg=f"{perturbation} {first.image_id} {field.name}")
