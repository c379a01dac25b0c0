"""One shifted image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from partbox.data.preparation.photo_files import PhotoError, decode_photo

from .backgrounds import (
    blackened_box,
    grown_box,
    inpainted,
    on_background,
    only_foreground,
    tiled_box,
    without_foreground,
)
from .donors import image_generator
from .foreground import Image, bounding_box, foreground_mask, part_union
from .kinds import Foreground
from .stylize import stylize

Record = Mapping[str, Any]


_OF_BOX = {"only_bg_b": blackened_box, "only_bg_t": tiled_box}
_OF_MASK = {"only_fg": only_foreground, "no_fg": without_foreground, "no_fg_inpainted": inpainted}


@dataclass(frozen=True)
class Settings:
    """How images are shifted.

    Attributes:
        foreground: what counts as foreground.
        strength: of "stylized", in (0, 1].
        seed: of everything random.
    """

    foreground: Foreground = "parts"
    strength: float = 1.0
    seed: int = 0


def read_pixels(record: Record) -> Image:
    """The pixels of an image of a part dataset, turned by its EXIF orientation.

    Raises:
        PhotoError: the file cannot be decoded; names it.
    """
    path = Path(record["file_name"])
    try:
        return np.array(decode_photo(path, (record["width"], record["height"])))
    except PhotoError as error:
        raise PhotoError(f"{path}: {error}") from error


def shifted_image(shift: str, record: Record, donor: Record | None, settings: Settings) -> Image:
    """An image under a shift, of the same size.

    Args:
        shift: one of SHIFTS.
        record: an image with at least one labelled part.
        donor: the image that gives its background or texture, with at least one labelled part; None where the shift
            takes nothing of another.
        settings: how.

    Raises:
        PhotoError: an image file cannot be decoded.
    """
    image = read_pixels(record)
    if shift == "original":
        return image
    union = part_union(record)
    if shift == "stylized":
        generator = image_generator(settings.seed, "quilting", record["image_id"])
        return stylize(image, _texture_of(donor), generator, strength=settings.strength)
    if shift in _OF_BOX:
        return _OF_BOX[shift](image, grown_box(bounding_box(union), *union.shape))
    mask = foreground_mask(union, settings.foreground, image)
    return _OF_MASK[shift](image, mask) if shift in _OF_MASK else on_background(image, mask, _background_of(donor))


def _background_of(donor: Record | None) -> Image:
    """The donor without its object: the box around its parts is tiled with background."""
    assert donor is not None
    union = part_union(donor)
    return tiled_box(read_pixels(donor), grown_box(bounding_box(union), *union.shape))


def _texture_of(donor: Record | None) -> Image:
    """The donor's object: the bounding box of its parts."""
    assert donor is not None
    return read_pixels(donor)[bounding_box(part_union(donor)).slices]
