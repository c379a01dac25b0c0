"""From the masks that data sets publish to labelled parts."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from pycocotools import mask as mask_util

from ..crop_geometry import Box
from ..object_crops import SourcePart


def tight_box(mask: np.ndarray) -> Box:
    """The smallest box around the pixels of a mask, (H, W) bool with at least one pixel."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)


def part_of_mask(
    category: int,
    mask: np.ndarray,
    object_id: int | None = None,
    *,
    corner: tuple[int, int] = (0, 0),
    photo_size: tuple[int, int] | None = None,
) -> SourcePart:
    """A part with its RLE and its tight box.

    Args:
        category: which part it is.
        mask: (h, w) bool with at least one pixel, of the photograph or of a rectangle of it.
        object_id: object that it belongs to.
        corner: x and y of the rectangle in the photograph.
        photo_size: width and height of the photograph; None is the mask's.
    """
    height, width = mask.shape
    x, y = corner
    photo_width, photo_height = photo_size or (width, height)
    columns = np.zeros((photo_width, photo_height), dtype=np.uint8)  # as RLE goes through them
    columns[x : x + width, y : y + height] = mask.T
    encoded = mask_util.encode(columns.T)
    rle = {"size": list(encoded["size"]), "counts": encoded["counts"].decode("ascii")}
    x0, y0, x1, y1 = tight_box(mask)
    return SourcePart(category, (x + x0, y + y0, x + x1, y + y1), rle, object_id)


def names_and_sizes(folder: Path, files: Iterable[Path]) -> str:
    """sha256 of the names below a folder and the sizes of files, which is what distinguishes two releases."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.relative_to(folder).as_posix()}\0{file.stat().st_size}\0".encode())
    return digest.hexdigest()


def count_notes(found: dict[str, int], published: dict[str, int], what: str) -> list[str]:
    """A sentence for each split whose number of files is not the published one."""
    return [
        f"{name}: {found.get(name, 0):,} {what}, published are {count:,}"
        for name, count in published.items()
        if found.get(name, 0) != count
    ]
