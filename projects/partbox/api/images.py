"""Images as people hold them become RGB pixels; what could mean two things is refused, with the way out of it."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from partbox.data.image_files import FORMATS, upright_rgb
from partbox.data.loader import UNREADABLE

logger = logging.getLogger(__name__)

ImageInput: TypeAlias = str | os.PathLike[str] | Image.Image | np.ndarray | Tensor
"""A file, a PIL image, an array (H, W, 3) or a tensor (3, H, W): uint8, or floats in [0, 1]; RGB."""

CHANNELS = ("rgb", "bgr")
UNSAID = (
    "arrays and tensors are read as RGB; those of OpenCV are BGR and need channels='bgr'. Where they are RGB, "
    "channels='rgb' ends this warning"
)
FLOATS = ("float16", "float32", "float64")
# What 8 bits a channel hold.
MODES = ("1", "L", "RGB", "RGBX", "CMYK", "YCbCr", "HSV", "P", "PA", "LA", "RGBA")


class ImageInputError(ValueError):
    """Something that is no image, or could be more than one."""


def pixels_of(image: Any, *, channels: str = "rgb") -> np.ndarray:
    """The pixels of an image, (H, W, 3) RGB.

    uint8; or float32 in [0, 1] where floats were given that are not those of 8 bits (k / 255), such as an attacked
    image, which nothing rounds.

    Args:
        image: see :data:`ImageInput`.
        channels: order of the channels of arrays and tensors, one of CHANNELS. It cannot be seen from the pixels;
            OpenCV gives "bgr".

    Raises:
        ImageInputError: not one image, or an ambiguous one; says what to give instead.
    """
    if channels not in CHANNELS:
        raise ImageInputError(f"channels must be {' or '.join(map(repr, CHANNELS))}, not {channels!r}")
    if isinstance(image, str | os.PathLike | Image.Image):
        if channels != "rgb":
            raise ImageInputError("channels='bgr' is for arrays and tensors: files and PIL images know their channels")
        return _of_picture(image) if isinstance(image, Image.Image) else _of_file(os.fsdecode(image))
    if isinstance(image, Tensor):
        values = _of_tensor(image)
    elif isinstance(image, np.ndarray):
        if isinstance(image, np.ma.MaskedArray):
            raise ImageInputError("a masked array has pixels without a value: give image.filled(0), or another value")
        _check_shape(image.shape, axis=2, what="an array")
        values = image
    else:
        raise ImageInputError(
            f"a value of type {type(image).__name__} is no image: give a path, a PIL image, an array (H, W, 3) or a "
            "tensor (3, H, W)"
        )
    return _in_range(values if channels == "rgb" else values[:, :, ::-1])


def said_channels(images: Iterable[Any], channels: str | None, *, callers: int) -> str:
    """The order of channels to read arrays and tensors in: the one that is given, else RGB, with a warning.

    Pixels do not tell their order, so that what OpenCV has read would be misread without a word.

    Args:
        images: see :data:`ImageInput`.
        channels: one of CHANNELS, or None.
        callers: functions between the one that is to be warned and this one.
    """
    if channels is None and any(isinstance(image, np.ndarray | Tensor) for image in images):
        warnings.warn(UNSAID, stacklevel=2 + callers)
    return "rgb" if channels is None else channels


def check_image(image: Any, *, channels: str = "rgb") -> None:
    """Refuse what :func:`pixels_of` would refuse; of files only the header is read.

    Raises:
        ImageInputError: see there.
    """
    if isinstance(image, str | os.PathLike) and channels == "rgb":
        with _opened(os.fsdecode(image)):
            pass
    else:
        pixels_of(image, channels=channels)


# ---------------------------------------------------------------- files and PIL images


@contextmanager
def _explained(name: str) -> Iterator[None]:
    """Around code that lets Pillow read: whatever it raises is an ImageInputError that names the image."""
    try:
        yield
    except ImageInputError:
        raise
    except Image.UnidentifiedImageError:
        raise ImageInputError(f"{name} is none of {', '.join(FORMATS)}, or its header is damaged") from None
    except UNREADABLE as error:
        raise ImageInputError(f"{name} cannot be read: {type(error).__name__}: {error}") from error


@contextmanager
def _opened(name: str) -> Iterator[Image.Image]:
    """An image file, opened: its header is read. Nothing is fetched from an address."""
    if os.path.isdir(name):
        raise ImageInputError(f"{name} is a folder: give a list of its files")
    if not os.path.isfile(name):
        raise ImageInputError(f"{name} does not exist, or is no file")
    with _explained(name), Image.open(name, formats=FORMATS) as image:
        _check_mode(image, name)
        yield image


def _of_file(name: str) -> np.ndarray:
    """As training and evaluation read it."""
    with _opened(name) as image:
        if _is_translucent(image):
            logger.warning("%s has transparent pixels; they are read as in training, without their transparency", name)
        return np.asarray(upright_rgb(image))


def _of_picture(image: Image.Image) -> np.ndarray:
    """As its file would be read, except that nobody has said what lies behind transparent pixels."""
    if not min(image.size):
        raise ImageInputError(f"a PIL image of {image.width} x {image.height} pixels is empty")
    _check_mode(image, "a PIL image")
    with _explained("a PIL image"):
        if _is_translucent(image):
            raise ImageInputError(
                "a PIL image has transparent pixels, which could be any colour: lay it over a background, "
                "Image.alpha_composite(Image.new('RGBA', image.size, 'white'), image.convert('RGBA')).convert('RGB')"
            )
        return np.asarray(upright_rgb(image))


def _check_mode(image: Image.Image, name: str) -> None:
    if image.mode not in MODES:
        deep = image.mode.startswith(("I", "F"))
        reason = ", which do not fit 8 bits a channel" if deep else ""
        scaled = ", such as Image.fromarray((numpy.asarray(image) / 65535 * 255).astype('uint8')) from 16 bits"
        raise ImageInputError(
            f"{name} has pixels of mode {image.mode}{reason}: convert it to RGB yourself{scaled * deep}"
        )


def _is_translucent(image: Image.Image) -> bool:
    return image.has_transparency_data and int(np.asarray(image.convert("RGBA"))[:, :, 3].min()) < 255


# ---------------------------------------------------------------- arrays and tensors


def _of_tensor(image: Tensor) -> np.ndarray:
    """(H, W, 3)."""
    if image.layout != torch.strided or image.is_meta:
        raise ImageInputError("a sparse tensor, or one without values, is no image: give a dense one")
    _check_shape(tuple(image.shape), axis=0, what="a tensor")
    if image.dtype not in (torch.uint8, *(getattr(torch, name) for name in FLOATS)):
        raise _wrong_type(image.dtype)
    return image.detach().cpu().permute(1, 2, 0).numpy()


def _check_shape(shape: Sequence[int], *, axis: int, what: str) -> None:
    """Refuse a shape that is not (3, H, W), ``axis`` 0, or (H, W, 3), ``axis`` 2."""
    alone = len(shape) == 3 and shape[axis] == 3 and shape[2 - axis] != 3
    if not alone:
        raise ImageInputError(f"{what} of shape {tuple(shape)} {_reason(shape, axis)}")
    if not min(shape):
        raise ImageInputError(f"{what} of shape {tuple(shape)} is empty")


def _reason(shape: Sequence[int], axis: int) -> str:
    """What is wrong with a shape, and what to give instead."""
    first = axis == 0
    if len(shape) == 4:
        return "is a batch: give a list of images, such as list(images)"
    if len(shape) == 2 or (len(shape) == 3 and shape[axis] == 1):
        repeated = "image.expand(3, -1, -1)" if first else "numpy.repeat(image.reshape(height, width, 1), 3, axis=2)"
        return f"has one channel: repeat it, {repeated}"
    if len(shape) == 3 and shape[0] == shape[2] == 3:
        return "could have its channels first or last: give it as a PIL image"
    if len(shape) == 3 and shape[2 - axis] == 3:
        where, turned = ("last", "image.permute(2, 0, 1)") if first else ("first", "image.transpose(1, 2, 0)")
        return f"has its channels {where}: give {turned}"
    if len(shape) == 3 and shape[axis] == 4:
        cut = "image[:3]" if first else "image[:, :, :3]"
        return f"has four channels: if the fourth is transparency and nothing is transparent, give {cut}"
    return f"is no image: it must be {'(3, height, width)' if first else '(height, width, 3)'}"


def _wrong_type(dtype: object) -> ImageInputError:
    return ImageInputError(f"pixels of type {dtype} could be anything: give uint8 in 0..255, or floats in [0, 1]")


def _in_range(values: np.ndarray) -> np.ndarray:
    """(H, W, 3) as uint8 where it is 8 bits, else as float32 in [0, 1]."""
    if values.dtype == np.uint8:
        return values
    if values.dtype.name not in FLOATS:
        raise _wrong_type(values.dtype)
    if not np.isfinite(values).all():
        raise ImageInputError("the image has values that are not finite (NaN or infinity)")
    least, most = float(values.min()), float(values.max())
    if least < 0:
        raise ImageInputError(
            f"the image has values from {least:g} to {most:g}: floats lie in [0, 1]; give it as it was before its mean "
            "was taken off, or clip what lies just outside, image.clip(0, 1)"
        )
    if most > 1:
        raise ImageInputError(
            f"the image has values up to {most:g}: floats lie in [0, 1]; divide 0..255 by 255, or give uint8; clip "
            "what lies just outside, image.clip(0, 1)"
        )
    scaled = values.astype(np.float64) * 255
    whole = np.rint(scaled)
    if np.abs(scaled - whole).max() <= 255 * np.finfo(values.dtype).eps:
        return whole.astype(np.uint8)
    return values.astype(np.float32)
