"""Foreground and background taken apart and put together, as for ImageNet-9 (Xiao et al. 2020, arXiv 2006.09994)."""

from __future__ import annotations

import cv2
import numpy as np

from .foreground import Image, Mask, Rectangle

_MARGIN = 0.1  # of a box's side that it grows by on every side: parts leave the rim of their object unlabelled
_SEAM = 1 / 40  # of the image's shorter side: the rim around the foreground that is painted over too
_RADIUS = 5  # pixels around a pixel that its colour is inpainted from


def only_foreground(image: Image, mask: Mask) -> Image:
    """The foreground on black."""
    return np.where(mask[..., None], image, np.uint8(0))


def without_foreground(image: Image, mask: Mask) -> Image:
    """The background, the foreground black."""
    return np.where(mask[..., None], np.uint8(0), image)


def inpainted(image: Image, mask: Mask) -> Image:
    """The background, the foreground filled from its surroundings by the fast marching method (Telea 2004)."""
    side = 2 * max(2, round(_SEAM * min(mask.shape))) + 1
    grown = cv2.dilate(mask.astype(np.uint8), np.ones((side, side), np.uint8))
    if grown.all():
        grown = mask.astype(np.uint8)
    return np.asarray(cv2.inpaint(np.ascontiguousarray(image), grown, _RADIUS, cv2.INPAINT_TELEA), np.uint8)


def grown_box(box: Rectangle, height: int, width: int) -> Rectangle:
    """The box of an object around the bounding box of its parts, in an image of (height, width) pixels.

    It is larger by a tenth of its sides on every side, but takes at most half of the background there.
    """
    down, across = _MARGIN * (box.bottom - box.top), _MARGIN * (box.right - box.left)
    return Rectangle(
        box.top - int(min(down, box.top / 2)),
        box.bottom + int(min(down, (height - box.bottom) / 2)),
        box.left - int(min(across, box.left / 2)),
        box.right + int(min(across, (width - box.right) / 2)),
    )


def blackened_box(image: Image, box: Rectangle) -> Image:
    """The background, the foreground's bounding box black."""
    result = image.copy()
    result[box.slices] = 0
    return result


def tiled_box(image: Image, box: Rectangle) -> Image:
    """The background, the foreground's bounding box tiled with the largest rectangle of background.

    That is the largest of the four strips beside, above and below the box; the first of equally large ones.

    Raises:
        ValueError: the box covers the image.
    """
    height, width = image.shape[:2]
    strips = (
        Rectangle(0, box.top, 0, width),
        Rectangle(box.bottom, height, 0, width),
        Rectangle(0, height, 0, box.left),
        Rectangle(0, height, box.right, width),
    )
    strip = max(strips, key=lambda strip: strip.area)
    if strip.area == 0:
        raise ValueError("no background is left: the foreground's bounding box covers the image")
    tile = image[strip.slices]
    rows, columns = box.bottom - box.top, box.right - box.left
    times = (-(-rows // tile.shape[0]), -(-columns // tile.shape[1]), 1)
    result = image.copy()
    result[box.slices] = np.tile(tile, times)[:rows, :columns]
    return result


def on_background(image: Image, mask: Mask, background: Image) -> Image:
    """The foreground on another image, which is scaled to cover this one and cut around its centre."""
    return np.where(mask[..., None], image, _covering(background, image.shape[0], image.shape[1]))


def _covering(background: Image, height: int, width: int) -> Image:
    scale = max(height / background.shape[0], width / background.shape[1])
    rows = max(height, round(background.shape[0] * scale))
    columns = max(width, round(background.shape[1] * scale))
    kind = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    scaled = np.asarray(cv2.resize(background, (columns, rows), interpolation=kind), np.uint8)
    top, left = (rows - height) // 2, (columns - width) // 2
    return scaled[top : top + height, left : left + width]
