"""Image files: photographs read, crops written whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from PIL import Image, ImageOps

from .crop_geometry import CropWindow

ImageFormat = Literal["jpg", "png"]

JPEG_QUALITY = 95
_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")
_EXIF_ORIENTATION = 0x0112
_SIDEWAYS = (5, 6, 7, 8)  # orientations that swap width and height
_END_OF_FILE = {"JPEG": b"\xff\xd9", "PNG": b"IEND\xae\x42\x60\x82"}


class PhotoError(ValueError):
    """A photograph that cannot be used; says why."""


def open_photo(path: Path, size: tuple[int, int] | None) -> tuple[Image.Image, bool]:
    """Open a photograph without decoding it, and tell whether its labels are for the image turned by EXIF orientation.

    Some labelling tools honour the orientation, others do not; ``size`` tells which. Where both fit, the image is to be
    turned, as detectron2 does.

    Args:
        path: the file.
        size: width and height that the labels are for; None takes what the file has when it is turned.

    Raises:
        PhotoError: if it is absent, unreadable, of another size, or has pixels that do not fit 8 bits.
    """
    try:
        image = Image.open(path)
        orientation = image.getexif().get(_EXIF_ORIENTATION, 1)
    except FileNotFoundError:
        raise PhotoError("image file does not exist") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise PhotoError(f"image cannot be read: {error}") from error
    if image.mode not in _MODES:
        raise PhotoError(f"image has pixels of mode {image.mode}, which do not fit 8 bits: convert it")
    stored = image.size
    turned = stored[::-1] if orientation in _SIDEWAYS else stored
    if size is not None and size not in (stored, turned):
        raise PhotoError(f"image is {stored[0]} x {stored[1]} pixels, the file says {size[0]} x {size[1]}")
    return image, size is None or size == turned


def photo_size(path: Path) -> tuple[int, int]:
    """Width and height of a photograph after its EXIF orientation, in pixels, from its header."""
    with open_photo(path, None)[0] as image:
        sideways = image.getexif().get(_EXIF_ORIENTATION, 1) in _SIDEWAYS
        return (image.height, image.width) if sideways else (image.width, image.height)


def decode_photo(path: Path, size: tuple[int, int]) -> Image.Image:
    """A photograph as RGB pixels of (width, height) ``size``."""
    image, turn = open_photo(path, size)
    with image:
        try:
            image.load()
        except (OSError, SyntaxError, ValueError) as error:
            raise PhotoError(f"image cannot be decoded: {error}") from error
        return (ImageOps.exif_transpose(image) if turn else image).convert("RGB")


def save_crop(photo: Image.Image, window: CropWindow, path: Path, image_format: ImageFormat) -> None:
    """Cut the window out of a photograph, scale it down with antialiasing where asked, and save it whole or not at all.

    The file is not flushed to disk, which would take most of the time; whoever relies on it calls ``os.sync`` first.
    """
    crop = photo.crop((window.x0, window.y0, window.x1, window.y1))
    if crop.size != (window.width, window.height):
        crop = crop.resize((window.width, window.height), Image.Resampling.LANCZOS)
    crop.info.clear()  # no comment, profile or camera data of the photograph
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        if image_format == "png":
            crop.save(temporary, format="PNG")
        else:
            crop.save(temporary, format="JPEG", quality=JPEG_QUALITY, subsampling=0)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def is_saved(path: Path, window: CropWindow, photo: Path) -> bool:
    """Whether an earlier run has saved this crop: newer than its photograph, of the right size, with its end."""
    try:
        if path.stat().st_mtime_ns < photo.stat().st_mtime_ns:
            return False
        with Image.open(path) as image, open(path, "rb") as file:
            file.seek(-min(64, path.stat().st_size), os.SEEK_END)
            end = _END_OF_FILE.get(image.format or "", b"?")
            return image.size == (window.width, window.height) and file.read().endswith(end)
    except OSError:
        return False
