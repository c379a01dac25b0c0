"""Where an object's crop lies in its photograph, and where the object's parts lie in the crop. No files here.

Coordinates are continuous pixels: pixel (0, 0) covers [0, 1) x [0, 1). Boxes are [x0, y0, x1, y1].
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

Box = tuple[float, float, float, float]
"""[x0, y0, x1, y1] in pixels; x1 and y1 are exclusive."""


@dataclass(frozen=True)
class CropWindow:
    """A rectangle of whole pixels of a photograph, and the size it is saved in.

    Attributes:
        x0, y0, x1, y1: the rectangle in the photograph, in pixels; x1 and y1 are exclusive.
        width, height: of the saved crop, in pixels.
    """

    x0: int
    y0: int
    x1: int
    y1: int
    width: int
    height: int

    @property
    def scale(self) -> tuple[float, float]:
        """Pixels of the crop per pixel of the photograph, horizontally and vertically."""
        return self.width / (self.x1 - self.x0), self.height / (self.y1 - self.y0)


def crop_window(
    box: Box, photo_size: tuple[int, int], *, margin: float, max_side: int, square: bool = False
) -> CropWindow:
    """The window around an object.

    Args:
        box: the object in the photograph; a part of it must lie inside.
        photo_size: width and height of the photograph, in pixels.
        margin: the window's sides over the box's; 1.5 adds a quarter of the side on every side. The window is rounded
            outwards to whole pixels and clipped to the photograph.
        max_side: longest side of the saved crop, in pixels; larger crops are scaled down, smaller ones kept.
        square: both sides are the longer one's, around the centre of the box. Where that leaves the photograph, the
            window is moved inside; only one that is longer than the photograph is clipped, and then no square.
    """
    width, height = photo_size
    grow_x, grow_y = (margin - 1) / 2 * (box[2] - box[0]), (margin - 1) / 2 * (box[3] - box[1])
    if square:
        grown = (box[0] - grow_x, box[1] - grow_y, box[2] + grow_x, box[3] + grow_y)
        side = max(math.ceil(grown[2]) - math.floor(grown[0]), math.ceil(grown[3]) - math.floor(grown[1]))
        x0, x1 = _stretch_around(grown[0], grown[2], side, width)
        y0, y1 = _stretch_around(grown[1], grown[3], side, height)
    else:
        x0, y0 = max(0, math.floor(box[0] - grow_x)), max(0, math.floor(box[1] - grow_y))
        x1, y1 = min(width, math.ceil(box[2] + grow_x)), min(height, math.ceil(box[3] + grow_y))
    if x1 <= x0 or y1 <= y0 or (square and clip_box(box, width, height) is None):
        raise ValueError(f"the box {box} lies outside its photograph of {width} x {height} pixels")
    scale = min(1.0, max_side / max(x1 - x0, y1 - y0))
    return CropWindow(x0, y0, x1, y1, _scaled(x1 - x0, scale), _scaled(y1 - y0, scale))


def _stretch_around(low: float, high: float, side: int, length: int) -> tuple[int, int]:
    """``side`` whole pixels that hold [low, high] in their middle, moved into [0, length), clipped if they are more."""
    centred = math.floor((low + high - side) / 2 + 0.5)
    start = min(math.floor(low), max(math.ceil(high) - side, centred))  # rounding must not cut the ends off
    start = max(0, min(start, length - side))
    return start, min(length, start + side)


def _scaled(side: int, scale: float) -> int:
    return max(1, math.floor(side * scale + 0.5))


def whole_window(photo_size: tuple[int, int], *, max_side: int) -> CropWindow:
    """The window that is the whole photograph of (width, height) pixels."""
    return crop_window((0, 0, *photo_size), photo_size, margin=1, max_side=max_side)


def union_box(boxes: list[Box]) -> Box:
    """The smallest box around boxes."""
    x0, y0, x1, y1 = zip(*boxes, strict=True)
    return min(x0), min(y0), max(x1), max(y1)


def clip_box(box: Box, width: float, height: float) -> Box | None:
    """The share of a box inside [0, width] x [0, height]; None if there is none."""
    x0, y0, x1, y1 = max(box[0], 0), max(box[1], 0), min(box[2], width), min(box[3], height)
    return (x0, y0, x1, y1) if x1 > x0 and y1 > y0 else None


def box_in_crop(box: Box, window: CropWindow) -> Box:
    """A box of the photograph in pixels of the crop; it may leave the crop."""
    (sx, sy), x, y = window.scale, window.x0, window.y0
    return (box[0] - x) * sx, (box[1] - y) * sy, (box[2] - x) * sx, (box[3] - y) * sy


def leaves_window(box: Box, window: CropWindow, *, tolerance: float = 0.01) -> bool:
    """Whether a box of the photograph leaves the window by more than the tolerance (pixels of the photograph)."""
    low = min(box[0] - window.x0, box[1] - window.y0)
    high = min(window.x1 - box[2], window.y1 - box[3])
    return min(low, high) < -tolerance


def clip_polygon(points: np.ndarray, width: float, height: float) -> np.ndarray:
    """Clip a polygon to [0, width] x [0, height] (Sutherland and Hodgman, 1974).

    Args:
        points: (n, 2) corners.
        width: of the rectangle.
        height: of the rectangle.

    Returns:
        (m, 2) corners, m may be 0. Where a concave polygon falls apart, edges without area along the border hold the
        pieces together: its mask is right.
    """
    for axis, limit, sign in ((0, 0.0, 1), (0, width, -1), (1, 0.0, 1), (1, height, -1)):
        if len(points) == 0:
            return points
        points = _clip_half_plane(points, axis, limit, sign)
    return points


def _clip_half_plane(points: np.ndarray, axis: int, limit: float, sign: int) -> np.ndarray:
    """Keep the side of ``points[:, axis] == limit`` that lies in the direction of ``sign``."""
    kept: list[np.ndarray] = []
    inside = sign * (points[:, axis] - limit) >= 0
    for index in range(len(points)):
        start, end = points[index - 1], points[index]
        if inside[index - 1] != inside[index]:
            crossing = start + (limit - start[axis]) / (end[axis] - start[axis]) * (end - start)
            crossing[axis] = limit
            kept.append(crossing)
        if inside[index]:
            kept.append(end)
    return np.array(kept).reshape(-1, 2)


def polygon_in_crop(polygon: list[float], window: CropWindow) -> np.ndarray:
    """A polygon of the photograph in pixels of the crop, clipped to it.

    Args:
        polygon: [x, y, x, y, ...] in pixels of the photograph.
        window: of the crop.

    Returns:
        (n, 2) corners in pixels of the crop, rounded to hundredths, without repetitions; fewer than 3 where nothing of
        the polygon is left.
    """
    points = (np.array(polygon, dtype=np.float64).reshape(-1, 2) - [window.x0, window.y0]) * window.scale
    if points.min() < 0 or (points.max(axis=0) > [window.width, window.height]).any():
        points = clip_polygon(points, window.width, window.height)
    points = points.round(2)
    if len(points) > 1:
        points = points[np.append(True, (points[1:] != points[:-1]).any(axis=1))]
        if len(points) > 1 and (points[0] == points[-1]).all():
            points = points[:-1]
    return points


def runs_in_crop(runs: np.ndarray, height: int, window: CropWindow) -> np.ndarray:
    """A mask of the photograph, seen in the crop, nearest pixel centre.

    Args:
        runs: column-wise runs of the photograph's mask, alternately outside and inside; at least two.
        height: of the photograph, in pixels.
        window: of the crop.

    Returns:
        (height, width) uint8 of the crop, 0 or 1, column-wise in memory. Only columns where the mask has pixels are
        decoded, which are few for most parts.
    """
    seen = np.zeros((window.height, window.width), dtype=np.uint8, order="F")
    ends = np.cumsum(runs)
    last = len(runs) // 2 * 2 - 1  # the last run inside the mask
    left, right = int(ends[0]) // height, int(ends[last] - 1) // height + 1
    rows = window.y0 + _nearest(window.height, window.y1 - window.y0)
    columns = window.x0 + _nearest(window.width, window.x1 - window.x0)
    inside = np.flatnonzero((columns >= left) & (columns < right))
    if len(inside):
        limits = np.clip(ends, left * height, right * height) - left * height
        lengths = np.diff(limits, prepend=0)
        values = np.repeat((np.arange(len(runs)) % 2).astype(np.uint8), lengths)
        mask = values.reshape(-1, height)  # (columns, rows)
        seen[:, inside] = mask[(columns[inside] - left)[:, None], rows].T
    return seen


def _nearest(count: int, of: int) -> np.ndarray:
    """For each of ``count`` pixels the one of ``of`` pixels that its centre lies in."""
    return ((np.arange(count) + 0.5) * of / count).astype(np.int64)
