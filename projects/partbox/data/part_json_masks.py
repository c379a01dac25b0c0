"""Checks of segmentations: polygons and COCO run-length encodings (RLE), one by one and many at once.

pycocotools decodes compressed RLE in C and trusts it: a wrong string is read past its end or gives other pixels without
a word. So the strings are decoded here, and pycocotools only ever sees ones that fit their image.

An *extent* is the tight bounding box of a mask, [x0, y0, x1, y1] in pixels; x1 and y1 are exclusive.
"""

from __future__ import annotations

from itertools import chain
from typing import Any

import numpy as np
from pycocotools import mask as mask_util

from .part_json_entry import NUMBER_LIMIT, describe, float_array, is_number

Extent = tuple[float, float, float, float]
_EMPTY: Extent = (0.0, 0.0, 0.0, 0.0)

_LONGEST_GROUP = 7  # characters of one number in a compressed RLE: 7 x 5 bits hold any count below 2**34
_SURE_AREA = 1e-3  # twice the signed area (square pixels) above which a polygon is surely not degenerate
_COLLINEAR = 1e-6  # largest cross product (square pixels) at which a polygon's points count as one line


# ---------------------------------------------------------------- one segmentation, precisely


def mask_problem(segmentation: object, width: int, height: int, tolerance: float) -> tuple[str, Extent]:
    """What is wrong with a segmentation ("" if nothing), and its extent.

    Args:
        segmentation: list of polygons [x0, y0, x1, y1, ...] in pixels, or an RLE {"size": [h, w], "counts": ...} whose
            counts are a list (uncompressed) or a string (compressed).
        width, height: of the image, in pixels.
        tolerance: pixels by which polygons may leave the image.
    """
    if type(segmentation) is list:
        return _polygons_problem(segmentation, width, height, tolerance)
    if type(segmentation) is dict:
        return _rle_problem(segmentation, width, height)
    return f"must be a list of polygons or an RLE object, is {describe(segmentation)}", _EMPTY


def _polygons_problem(polygons: list[Any], width: int, height: int, tolerance: float) -> tuple[str, Extent]:
    if not polygons:
        return "must hold at least one polygon", _EMPTY
    extents = []
    for index, polygon in enumerate(polygons):
        problem = _polygon_problem(polygon, width, height, tolerance)
        if problem:
            return f"polygon {index} {problem}", _EMPTY
        extents.append((min(polygon[::2]), min(polygon[1::2]), max(polygon[::2]), max(polygon[1::2])))
    x0, y0, x1, y1 = zip(*extents, strict=True)
    return "", (float(min(x0)), float(min(y0)), float(max(x1)), float(max(y1)))


def _polygon_problem(polygon: object, width: int, height: int, tolerance: float) -> str:
    if type(polygon) is not list:
        return f"must be a list of numbers, is {describe(polygon)}"
    for number in polygon:
        if not is_number(number):
            return f"must hold finite numbers, one is {describe(number)}"
    if len(polygon) % 2:
        return f"has an odd number of coordinates ({len(polygon)})"
    if len(polygon) < 6:
        return f"has {len(polygon) // 2} points, needs at least 3"
    points = np.array(polygon, dtype=np.float64).reshape(-1, 2)
    low, high = points.min(axis=0), points.max(axis=0)
    if (low < -tolerance).any() or (high > np.array([width, height]) + tolerance).any():
        return f"leaves its image of {width} x {height} pixels"
    return "" if encloses_area(points, width, height) else "is degenerate: it encloses no area of the image"


def encloses_area(points: np.ndarray, width: int, height: int) -> bool:
    """Whether a polygon of (n, 2) points encloses some area of an image of (width, height) pixels."""
    if len(points) < 3:
        return False
    low, high = np.maximum(points.min(axis=0), 0), np.minimum(points.max(axis=0), [width, height])
    return bool((high > low).all()) and not _is_line(points)


def _is_line(points: np.ndarray) -> bool:
    """Whether (n, 2) points lie on one line."""
    offsets = points - points[0]
    if abs(_cross(offsets, np.roll(offsets, -1, axis=0)).sum()) > _SURE_AREA:
        return False
    farthest = offsets[(offsets**2).sum(axis=1).argmax()]
    return bool(np.abs(_cross(offsets, farthest[None])).max() <= _COLLINEAR)


def _cross(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return first[:, 0] * second[:, 1] - first[:, 1] * second[:, 0]


def _rle_problem(rle: dict[str, Any], width: int, height: int) -> tuple[str, Extent]:
    size = rle.get("size")
    if type(size) is not list or len(size) != 2 or any(type(side) is not int for side in size):
        return f"RLE size must be [height, width], is {describe(size)}", _EMPTY
    if size != [height, width]:
        return f"RLE size [height, width] is {size}, the image's is [{height}, {width}]", _EMPTY
    counts = rle.get("counts")
    if not isinstance(counts, (list, str)):
        return f"RLE counts must be a list or a string, are {describe(counts)}", _EMPTY
    if isinstance(counts, list):
        if any(type(count) is not int for count in counts):
            return "RLE counts must be integers", _EMPTY
        if max(counts, default=0) >= 2**34:
            return f"RLE counts sum to {describe(sum(counts))}, the image has {width * height} pixels", _EMPTY
    runs = run_lengths(counts)
    if runs is None:
        return "RLE counts are not a valid compressed string", _EMPTY
    if (runs < 0).any():
        return "RLE has a negative count", _EMPTY
    if (runs[1:] == 0).any():
        return "RLE has a count of 0 after the first", _EMPTY
    if runs.sum() != width * height:
        return f"RLE counts sum to {describe(int(runs.sum()))}, the image has {width * height} pixels", _EMPTY
    if len(runs) < 2:
        return "RLE mask is empty", _EMPTY
    return "", _runs_extent(runs, height)


def _runs_extent(runs: np.ndarray, height: int) -> Extent:
    """The extent of column-wise runs, alternately outside and inside the mask."""
    ends = np.cumsum(runs)
    first, last = (ends - runs)[1::2], ends[1::2] - 1
    left, right = first // height, last // height
    one_column = left == right
    top = int(np.where(one_column, first % height, 0).min())
    bottom = int(np.where(one_column, last % height + 1, height).max())
    return float(left[0]), float(top), float(right[-1] + 1), float(bottom)


def run_lengths(counts: str | list[int]) -> np.ndarray | None:
    """The runs of an RLE, compressed or not: (n,) int64; None if the counts are no integers that runs can have."""
    if isinstance(counts, str):
        return decode_counts(counts)
    if max(map(abs, counts), default=0) >= 2**34:
        return None
    return np.array(counts, dtype=np.int64)


def decode_counts(text: str) -> np.ndarray | None:
    """Decode the counts of a compressed RLE: (n,) int64; None if the string is none.

    Each count is written as groups of 5 bits, lowest first, in characters from code 48 on; bit 5 says that another
    group follows, and bit 4 of the last group is the sign. From the fourth count on, the difference to the count two
    places before is written.
    """
    found = _read_numbers(text, np.array([len(text)]))
    if found is None:
        return None
    values = found[0]
    for first in (1, 2):
        values[first::2] = np.cumsum(values[first::2])
    return values


def _read_numbers(text: str, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """The numbers of compressed counts, still as differences.

    Args:
        text: one or several strings of counts, joined.
        ends: (S,) where each string ends.

    Returns:
        (n,) int64 of all strings, and (len(text),) bool, where a number's last character is; None if the text is none.
    """
    if not text or not text.isascii():
        return None
    bits = np.frombuffer(text.encode(), dtype=np.uint8).astype(np.int64) - 48
    closing = bits & 32 == 0
    if bits.min() < 0 or bits.max() > 63 or not closing[ends - 1].all():
        return None
    last = np.flatnonzero(closing)
    starts = np.concatenate([[0], last[:-1] + 1])
    lengths = last - starts + 1
    if lengths.max() > _LONGEST_GROUP:
        return None
    place = np.arange(len(bits)) - np.repeat(starts, lengths)
    values = np.add.reduceat((bits & 31) << (5 * place), starts)
    values -= np.where(bits[last] & 16, np.int64(1) << (5 * lengths), 0)
    return values, closing


def compress_rle(segmentation: Any) -> Any:
    """A segmentation that passed the checks, as detectron2 takes it: polygons as they are, RLE compressed."""
    if isinstance(segmentation, dict) and isinstance(segmentation["counts"], list):
        return mask_util.frPyObjects(segmentation, *segmentation["size"])
    return segmentation


def mask_area(segmentation: Any, height: int, width: int) -> int:
    """The number of pixels of a segmentation that passed the checks, as COCO counts them."""
    if isinstance(segmentation, list):
        return int(mask_util.area(mask_util.merge(mask_util.frPyObjects(segmentation, height, width))))
    return int(mask_util.area(compress_rle(segmentation)))


# ---------------------------------------------------------------- many segmentations at once


def mask_extents(segmentations: list[Any], sizes: np.ndarray, tolerance: float) -> np.ndarray | None:
    """The extents of many segmentations, or None if one of them may be wrong.

    Args:
        segmentations: A segmentations, each as for :func:`mask_problem`.
        sizes: (A, 2) width and height of their images.
        tolerance: pixels by which polygons may leave the image.

    Returns:
        (A, 4) float64 xyxy.
    """
    extents = np.empty((len(segmentations), 4))
    kinds = np.array([_KIND.get(type(segmentation), -1) for segmentation in segmentations])
    if (kinds < 0).any():
        return None
    for kind, measure in ((0, _polygon_extents), (1, _rle_extents)):
        rows = np.flatnonzero(kinds == kind)
        if len(rows):
            some = [segmentations[row] for row in rows.tolist()]
            measured = measure(some, sizes[rows], tolerance)
            if measured is None:
                return None
            extents[rows] = measured
    return extents


_KIND: dict[type, int] = {list: 0, dict: 1}


def _polygon_extents(segmentations: list[list[Any]], sizes: np.ndarray, tolerance: float) -> np.ndarray | None:
    per_part = np.fromiter(map(len, segmentations), dtype=np.int64, count=len(segmentations))
    polygons = list(chain.from_iterable(segmentations))
    if not per_part.all() or set(map(type, polygons)) != {list}:
        return None
    lengths = np.fromiter(map(len, polygons), dtype=np.int64, count=len(polygons))
    if (lengths % 2).any() or lengths.min() < 6:
        return None
    numbers = list(chain.from_iterable(polygons))
    if set(map(type, numbers)) - {int, float}:
        return None
    coordinates = float_array(numbers)
    if coordinates is None:
        return None
    points = coordinates.reshape(-1, 2)
    starts = _starts(lengths // 2)
    low, high = np.minimum.reduceat(points, starts), np.maximum.reduceat(points, starts)
    size = np.repeat(sizes, per_part, axis=0)
    inside = (np.abs(points) < NUMBER_LIMIT).all() and (low >= -tolerance).all() and (high <= size + tolerance).all()
    if not inside or (np.minimum(high, size) <= np.maximum(low, 0)).any():
        return None
    offsets = points - np.repeat(points[starts], lengths // 2, axis=0)
    following = np.roll(offsets, -1, axis=0)
    following[starts + lengths // 2 - 1] = offsets[starts]
    if (np.abs(np.add.reduceat(_cross(offsets, following), starts)) <= 2 * _SURE_AREA).any():
        return None
    firsts = _starts(per_part)
    return np.concatenate([np.minimum.reduceat(low, firsts), np.maximum.reduceat(high, firsts)], axis=1)


def _starts(lengths: np.ndarray) -> np.ndarray:
    """Where each of several consecutive stretches begins: (n,) lengths -> (n,) positions."""
    return np.concatenate([[0], np.cumsum(lengths)[:-1]])


def _rle_extents(segmentations: list[dict[str, Any]], sizes: np.ndarray, _tolerance: float) -> np.ndarray | None:
    expected = sizes[:, ::-1].astype(np.int64).tolist()
    for rle, size in zip(segmentations, expected, strict=True):
        given = rle.get("size")
        if type(given) is not list or given != size or set(map(type, given)) != {int}:
            return None
    counts = [rle.get("counts") for rle in segmentations]
    types = set(map(type, counts))
    if types == {str}:
        runs = _decode_many(counts)
    elif types == {list}:
        runs = _join_counts(counts)
    else:
        return None  # a file that mixes the two is rare enough for the precise path
    return None if runs is None else _many_runs_extents(*runs, sizes[:, 1].astype(np.int64), sizes.prod(axis=1))


def _join_counts(counts: list[Any]) -> tuple[np.ndarray, np.ndarray] | None:
    """Lists of counts, joined: all counts in one array, and how many of them each list has."""
    numbers = list(chain.from_iterable(counts))
    if set(map(type, numbers)) != {int} or min(numbers) < 0 or max(numbers) >= 2**34:
        return None
    return np.array(numbers, dtype=np.int64), np.fromiter(map(len, counts), dtype=np.int64, count=len(counts))


def _decode_many(strings: list[Any]) -> tuple[np.ndarray, np.ndarray] | None:
    """:func:`decode_counts` for many strings: all counts in one array, and how many each string has."""
    if not all(strings):
        return None
    ends = np.cumsum(np.fromiter(map(len, strings), dtype=np.int64, count=len(strings)))
    found = _read_numbers("".join(strings), ends)
    if found is None:
        return None
    values, closing = found
    per_string = np.add.reduceat(closing.astype(np.int64), np.concatenate([[0], ends[:-1]]))
    return _undo_differences(values, per_string), per_string


def _undo_differences(values: np.ndarray, per_string: np.ndarray) -> np.ndarray:
    """Undo "minus the count two places before": within each string, running sums over places 1, 3, 5... and 2, 4..."""
    place = np.arange(len(values)) - np.repeat(_starts(per_string), per_string)
    string = np.repeat(np.arange(len(per_string)), per_string)
    sequence = 3 * string + np.where(place == 0, 0, 2 - place % 2)
    order = np.argsort(sequence, kind="stable")
    sums = np.cumsum(values[order])
    first = np.concatenate([[True], np.diff(sequence[order]) != 0])
    before = (sums - values[order])[first]
    counts = np.empty_like(values)
    counts[order] = sums - before[np.cumsum(first) - 1]
    return counts


def _many_runs_extents(
    counts: np.ndarray, per_mask: np.ndarray, heights: np.ndarray, pixels: np.ndarray
) -> np.ndarray | None:
    """:func:`_runs_extent` for many masks; None if counts do not fit the images or a mask is empty."""
    if per_mask.min() < 2:
        return None
    firsts = _starts(per_mask)
    later = np.ones(len(counts), dtype=bool)
    later[firsts] = False
    if (counts < 0).any() or (counts[later] == 0).any() or (np.add.reduceat(counts, firsts) != pixels).any():
        return None
    ends = np.cumsum(counts) - np.repeat(np.concatenate([[0], np.cumsum(pixels)[:-1]]).astype(np.int64), per_mask)
    inside = (np.arange(len(counts)) - np.repeat(firsts, per_mask)) % 2 == 1
    height = np.repeat(heights, per_mask)[inside]
    first, last = (ends - counts)[inside], ends[inside] - 1
    left, right = first // height, last // height
    one_column = left == right
    top = np.where(one_column, first % height, 0)
    bottom = np.where(one_column, last % height + 1, height)
    runs = _starts(per_mask // 2)
    return np.stack(
        [
            np.minimum.reduceat(left, runs),
            np.minimum.reduceat(top, runs),
            np.maximum.reduceat(right + 1, runs),
            np.maximum.reduceat(bottom, runs),
        ],
        axis=1,
    ).astype(np.float64)
