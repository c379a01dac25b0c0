"""Decoding and measuring of masks, against pycocotools and numpy, one by one and many at once."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from part_dataset_files import compressed, uncompressed
from pycocotools import mask as mask_util

from partbox.data.part_json_masks import compress_rle, decode_counts, mask_area, mask_extents, mask_problem


def random_masks(count: int, seed: int) -> list[np.ndarray]:
    """Masks of many sizes and textures, none empty."""
    rng = np.random.default_rng(seed)
    masks = []
    while len(masks) < count:
        height, width = rng.integers(1, 40, 2)
        mask = rng.random((height, width)) < rng.choice([0.02, 0.5, 0.95, 1.0])
        if rng.random() < 0.5:
            mask[:, : rng.integers(0, width)] = False
        if mask.any():
            masks.append(np.asfortranarray(mask.astype(np.uint8)))
    return masks


def extent(mask: np.ndarray) -> list[int]:
    rows, columns = np.nonzero(mask)
    return [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


@pytest.mark.parametrize("encode", [compressed, uncompressed])
def test_extents(encode: Any) -> None:
    masks = random_masks(300, 0)
    rles = [encode(mask) for mask in masks]
    sizes = np.array([mask.shape[::-1] for mask in masks], dtype=np.float64)
    expected = [extent(mask) for mask in masks]
    many = mask_extents(rles, sizes, 1.0)
    assert many is not None
    assert many.tolist() == expected
    assert [mask_problem(rle, *mask.shape[::-1], 1.0) for rle, mask in zip(rles, masks, strict=True)] == [
        ("", tuple(box)) for box in expected
    ]
    assert [mask_area(rle, *mask.shape) for rle, mask in zip(rles, masks, strict=True)] == [m.sum() for m in masks]


def test_counts() -> None:
    for mask in random_masks(300, 1):
        assert decode_counts(compressed(mask)["counts"]).tolist() == uncompressed(mask)["counts"]
        assert (mask_util.decode(compress_rle(uncompressed(mask))) == mask).all()


def test_damaged_strings() -> None:
    """What is accepted, pycocotools decodes to the runs that were checked; both ways to check come to the same."""
    rng = np.random.default_rng(2)
    outcomes = []
    for mask in random_masks(3_000, 3):
        rle = compressed(mask)
        characters = list(rle["counts"])
        for _ in range(rng.integers(1, 4)):
            place = rng.integers(len(characters))
            characters[place] = chr(int(rng.choice([47, 48, 49, 63, 64, 79, 80, 111, 112, 200])))
        if rng.random() < 0.3:
            characters = characters[: rng.integers(len(characters) + 1)]
        height, width = mask.shape
        rle["counts"] = "".join(characters)
        problem, box = mask_problem(rle, width, height, 1.0)
        many = mask_extents([rle, compressed(mask)], np.array([[width, height]] * 2, dtype=np.float64), 1.0)
        assert (many is None) == bool(problem)
        outcomes.append(not problem)
        if many is not None:
            decoded = mask_util.decode(rle)
            assert tuple(many[0]) == box == tuple(extent(decoded))
    assert 10 < sum(outcomes) < 2_900


def test_polygons() -> None:
    rng = np.random.default_rng(4)
    segmentations = [
        [rng.uniform(0, 30, 2 * rng.integers(3, 12)).tolist() for _ in range(rng.integers(1, 4))] for _ in range(300)
    ]
    sizes = np.full((300, 2), 30.0)
    many = mask_extents(segmentations, sizes, 1.0)
    assert many is not None
    for polygons, box in zip(segmentations, many.tolist(), strict=True):
        points = np.concatenate(polygons).reshape(-1, 2)
        assert box == [*points.min(axis=0), *points.max(axis=0)]
        assert mask_problem(polygons, 30, 30, 1.0) == ("", tuple(box))


def test_figure_of_eight_has_no_signed_area_but_is_no_line() -> None:
    eight = [[0, 0, 10, 10, 10, 0, 0, 10]]
    assert mask_problem(eight, 10, 10, 1.0) == ("", (0.0, 0.0, 10.0, 10.0))
    assert mask_extents(eight, np.array([[10.0, 10.0]]), 1.0) is None  # "not sure": the precise path decides
