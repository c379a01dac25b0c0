"""Cuts objects out of photographs: one image file and one list of part labels an object.

A *photograph* is an image as its owner labelled it; a *crop* is what is cut from it and saved. Only an object's own
parts are labelled in its crop. Reading a photograph and writing its crops is one task; tasks share nothing, so any
number of processes gives the same bytes. Crops are written under a temporary name and renamed: a file with a crop's
name is whole, and a second run keeps it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pycocotools import mask as mask_util

from partbox.data.part_json_annotations import MIN_BOX_SIDE
from partbox.data.part_json_masks import encloses_area, run_lengths

from .crop_geometry import (
    Box,
    CropWindow,
    box_in_crop,
    clip_box,
    crop_window,
    leaves_window,
    polygon_in_crop,
    runs_in_crop,
    whole_window,
)
from .photo_files import ImageFormat, PhotoError, decode_photo, is_saved, save_crop
from .worker_pool import ordered_map

PartLabels = Literal["mask", "box", "none"]

OUTSIDE = "outside the crop"
TOO_THIN = f"thinner than {MIN_BOX_SIDE} pixels in the crop"
EMPTY_MASK = "mask without a pixel in the crop"


@dataclass(frozen=True)
class SourcePart:
    """A labelled part of an object.

    Attributes:
        category: which part it is; the meaning is the caller's.
        box: in the photograph, in pixels; it may leave the photograph.
        segmentation: polygons or RLE in the photograph, None if there is only the box.
        object_id: object that the part belongs to, None if unknown.
    """

    category: int
    box: Box
    segmentation: Any = None
    object_id: int | None = None


@dataclass(frozen=True)
class SourceObject:
    """An object to be cut out.

    Attributes:
        number: unique among all objects; becomes the id of its image.
        class_name: what it is.
        box: in the photograph, in pixels; None keeps the whole photograph.
        parts: its labelled parts.
        part_labels: what the parts are labelled with; "none" is "nobody labelled them".
    """

    number: int
    class_name: str
    box: Box | None
    parts: tuple[SourcePart, ...]
    part_labels: PartLabels


@dataclass(frozen=True)
class Photo:
    """A photograph.

    Attributes:
        name: path below the image root, "/" between folders.
        width, height: in pixels, after EXIF orientation.
        objects: to be cut out.
        split: the owner's own split ("train" | "val" | "test"), None where there is none.
        source: what must not cross splits, such as the video of a frame; "" is the photograph itself.
    """

    name: str
    width: int
    height: int
    objects: tuple[SourceObject, ...]
    split: str | None = None
    source: str = ""


@dataclass(frozen=True)
class CropSettings:
    """How crops are cut and saved.

    Attributes:
        margin: the crop's sides over the object's.
        max_side: longest side of a saved crop, in pixels.
        image_format: "jpg" (quality 95, colours not subsampled) or "png".
        square: whether crops are squares, where the photograph is large enough.
    """

    margin: float = 1.5
    max_side: int = 256
    image_format: ImageFormat = "jpg"
    square: bool = False


@dataclass
class Crop:
    """A crop that was saved.

    Attributes:
        number, class_name, part_labels: of its object.
        file_name: below the output's image root.
        width, height: in pixels.
        parts: dicts with ``category`` (as in :class:`SourcePart`), ``bbox`` ([x, y, w, h] in pixels of the crop), and
            where there are ``segmentation`` and ``object_id``.
        clipped: number of parts that reached beyond the crop.
        dropped: reason -> number of parts of which nothing is left.
        was_there: whether an earlier run had saved it.
    """

    number: int
    class_name: str
    part_labels: PartLabels
    file_name: str
    width: int
    height: int
    parts: list[dict[str, Any]] = field(default_factory=list)
    clipped: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    was_there: bool = False


@dataclass(frozen=True)
class CropTask:
    """A photograph to be cut: ``files`` are the crops' names below the output's image root, one an object."""

    photo: Photo
    files: tuple[str, ...]


# ---------------------------------------------------------------- labels


def place_part(part: SourcePart, window: CropWindow, photo_size: tuple[int, int], labels: PartLabels) -> Any:
    """A part as it lies in the crop.

    Args:
        part: the part.
        window: of the crop.
        photo_size: width and height of the photograph, in pixels.
        labels: "mask" keeps the segmentation, and the box is that of what the crop shows of it; "box" keeps the box.

    Returns:
        The dict that :class:`Crop` describes, or the reason why nothing of the part is left (str).
    """
    placed: dict[str, Any] = {"category": part.category}
    visible = clip_box(box_in_crop(part.box, window), window.width, window.height)
    if visible is None:
        return OUTSIDE
    if labels == "mask":
        found = place_segmentation(part.segmentation, window, photo_size)
        if found is None:
            return EMPTY_MASK
        placed["segmentation"], visible = found
    x0, y0, x1, y1 = (round(value, 3) for value in visible)
    placed["bbox"] = [x0, y0, round(x1 - x0, 3), round(y1 - y0, 3)]
    if min(placed["bbox"][2:]) < MIN_BOX_SIDE:
        return TOO_THIN
    if part.object_id is not None:
        placed["object_id"] = part.object_id
    return placed


def place_segmentation(
    segmentation: Any, window: CropWindow, photo_size: tuple[int, int]
) -> tuple[list[list[float]] | dict[str, Any], Box] | None:
    """Polygons or RLE of the photograph (width, height) in the crop, and their tight box; None if nothing is left.

    Polygons stay polygons, RLE of both kinds becomes compressed RLE.

    Raises:
        PhotoError: an RLE that is malformed or of another size.
    """
    if isinstance(segmentation, list):
        moved = [polygon_in_crop(polygon, window) for polygon in segmentation]
        kept = [points for points in moved if encloses_area(points, window.width, window.height)]
        if not kept:
            return None
        x0, y0 = np.min([points.min(axis=0) for points in kept], axis=0).tolist()
        x1, y1 = np.max([points.max(axis=0) for points in kept], axis=0).tolist()
        return [points.ravel().tolist() for points in kept], (x0, y0, x1, y1)
    runs = run_lengths(segmentation["counts"])
    if runs is None or len(runs) < 2 or runs.min() < 0 or runs.sum() != photo_size[0] * photo_size[1]:
        raise PhotoError("an RLE of its labels is not valid, or of another size than the photograph")
    mask = runs_in_crop(runs, photo_size[1], window)
    if not mask.any():
        return None
    rle = mask_util.encode(mask)
    x, y, width, height = mask_util.toBbox(rle).tolist()
    return {"size": list(rle["size"]), "counts": rle["counts"].decode("ascii")}, (x, y, x + width, y + height)


def label_crop(target: SourceObject, window: CropWindow, photo: Photo, file_name: str) -> Crop:
    """The labels of one crop."""
    crop = Crop(target.number, target.class_name, target.part_labels, file_name, window.width, window.height)
    if target.part_labels == "none":
        return crop
    for part in target.parts:
        placed = place_part(part, window, (photo.width, photo.height), target.part_labels)
        if isinstance(placed, str):
            crop.dropped[placed] += 1
            continue
        crop.parts.append(placed)
        crop.clipped += leaves_window(part.box, window)
    return crop


# ---------------------------------------------------------------- tasks


def cut_photo(task: CropTask, image_root: Path, output: Path | None, settings: CropSettings) -> list[Crop]:
    """Cut all objects out of one photograph, except those whose crops are there already.

    Args:
        task: photograph and names of the crops.
        image_root: folder of the photographs.
        output: folder that the crops' names start from; None makes the labels and no image.
        settings: how.

    Raises:
        PhotoError: if the photograph or its labels cannot be used.
    """
    photo, pixels, crops = task.photo, None, []
    size = (photo.width, photo.height)
    for target, file_name in zip(photo.objects, task.files, strict=True):
        if target.box is None:
            window = whole_window(size, max_side=settings.max_side)
        else:
            window = crop_window(
                target.box, size, margin=settings.margin, max_side=settings.max_side, square=settings.square
            )
        crop = label_crop(target, window, photo, file_name)
        crops.append(crop)
        if output is None:
            continue
        crop.was_there = is_saved(output / file_name, window, image_root / photo.name)
        if not crop.was_there:
            pixels = pixels or decode_photo(image_root / photo.name, size)
            save_crop(pixels, window, output / file_name, settings.image_format)
    return crops


def cut_photos(
    tasks: Iterable[CropTask], image_root: Path, output: Path | None, settings: CropSettings, *, workers: int
) -> Iterator[list[Crop]]:
    """The crops of each task, in the order of the tasks, whatever the number of worker processes.

    A :class:`PhotoError` of a task carries the photograph's name as a second argument.
    """
    work = partial(_cut_or_name, image_root=image_root, output=output, settings=settings)
    yield from ordered_map(work, tasks, workers=workers)


def _cut_or_name(task: CropTask, image_root: Path, output: Path | None, settings: CropSettings) -> list[Crop]:
    try:
        return cut_photo(task, image_root, output, settings)
    except PhotoError as error:
        raise PhotoError(str(error), task.photo.name) from error
