"""Checks that the image files of a data set are there, can be read and have the size that the data set says.

How much is looked at is the caller's choice:

* ``"none"``: the name stays below the image root and is a regular file that is not empty.
* ``"header"``: also the format, the size and that the file is complete (a JPEG or PNG has its end marker, a WebP its
  length); what lies between is not looked at.
* ``"decode"``: also every image is decoded (JPEG at an eighth of its size, which still reads every byte; PNG with its
  checksums).

The size that counts is the one *after* the EXIF orientation is applied, because detectron2's ``read_image`` applies it.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO, Literal, get_args

from detectron2.utils.file_io import PathManager
from PIL import Image

from partbox.progress import Progress

VerifyLevel = Literal["decode", "header", "none"]
VERIFY_LEVELS: tuple[VerifyLevel, ...] = get_args(VerifyLevel)
"""From the most thorough to the quickest."""

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "PPM")
"""What an image file may be; the bytes count, not the name's ending."""

PROGRESS_FROM = 2_000  # images; fewer are done before a bar could be read
_BATCH = 128  # images a task of the thread pool
_EXIF_ORIENTATION = 0x0112
_SIDEWAYS = (5, 6, 7, 8)  # orientations that swap width and height
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True, slots=True)
class ImageFile:
    """An image to be checked: its name below the image root ("/" between folders), width and height in pixels."""

    name: str
    width: int
    height: int


def first_problem(images: Sequence[ImageFile], root: Path, level: VerifyLevel) -> tuple[int, str] | None:
    """The index of the first image that is wrong, and the reason; None if all are fine.

    Args:
        images: what the data set says.
        root: the folder that their names start from.
        level: how much is looked at, see the module.
    """
    problem_of = partial(image_problem, root=_Root(root), level=level)
    batches = [images[start : start + _BATCH] for start in range(0, len(images), _BATCH)]
    show = len(images) > PROGRESS_FROM
    threads = 1 if level == "none" else min(8, os.cpu_count() or 1)
    index = 0
    with Progress(len(images), f"checking images ({level})", "image", shown=show) as bar:
        for problems in _map_batches(problem_of, batches, threads):
            for problem in problems:
                if problem:
                    return index, problem
                index += 1
            bar.step(len(problems))
    return None


def _map_batches(problem_of: partial[str], batches: list[Sequence[ImageFile]], threads: int) -> Iterator[list[str]]:
    """The problems of each batch, in order; batches that nobody asks for any more are not begun."""
    if threads == 1 or len(batches) == 1:
        yield from (list(map(problem_of, batch)) for batch in batches)
        return
    pool = ThreadPoolExecutor(threads)
    try:
        yield from pool.map(lambda batch: list(map(problem_of, batch)), batches)
    finally:
        pool.shutdown(cancel_futures=True)


class _Root:
    """The image root, with symbolic links followed; remembers the folders it has already followed."""

    def __init__(self, root: Path) -> None:
        self.path = os.path.abspath(root)
        self.real = os.path.realpath(root)
        self._inside: dict[str, bool] = {}

    def contains(self, path: str, is_link: bool) -> bool:
        """Whether a path below ``self.path`` stays there once symbolic links are followed."""
        if is_link:
            return self._below(os.path.realpath(path))
        folder = os.path.dirname(path)
        if folder not in self._inside:
            self._inside[folder] = self._below(os.path.realpath(folder))
        return self._inside[folder]

    def _below(self, real: str) -> bool:
        return os.path.commonpath([real, self.real]) == self.real


def image_problem(image: ImageFile, root: _Root, level: VerifyLevel) -> str:
    """What is wrong with one image file, "" if nothing."""
    path = f"{root.path}/{image.name}"
    try:
        found = os.lstat(path)
        is_link = stat.S_ISLNK(found.st_mode)
        if not root.contains(path, is_link):
            return "image lies outside the image root, behind a symbolic link"
        if is_link:
            found = os.stat(path)
        if not stat.S_ISREG(found.st_mode):
            return "image is not a regular file"
        if found.st_size == 0:
            return "image file is empty"
        if level == "none":
            return ""
        with open(path, "rb") as file:
            return _content_problem(file, image, level)
    except FileNotFoundError:
        return "image file does not exist"
    except (OSError, ValueError) as error:  # ValueError: a name that this machine's file system cannot have
        return f"image cannot be read: {getattr(error, 'strerror', None) or error}"


def _content_problem(file: BinaryIO, image: ImageFile, level: VerifyLevel) -> str:
    try:
        with Image.open(file, formats=FORMATS) as opened:
            width, height, orientation = _oriented_size(opened, whole_file=level == "decode")
            if (width, height) != (image.width, image.height):
                turned = f" after its EXIF orientation {orientation} is applied" if orientation != 1 else ""
                return f"image is {width} x {height} pixels{turned}, the file says {image.width} x {image.height}"
            if problem := pixels_problem(opened):
                return f"image {problem}"
            if not _has_end(file, opened.format):
                return "image file is truncated: its end is missing"
            if level == "decode":
                _decode(file, opened)
            return ""
    except Image.UnidentifiedImageError:
        return f"image is none of {', '.join(FORMATS)}, or its header is damaged"
    except Exception as error:  # noqa: BLE001 Pillow raises nearly anything on damaged bytes: struct.error, SyntaxError
        return f"image cannot be decoded: {type(error).__name__}: {error}"


def pixels_problem(opened: Image.Image) -> str:
    """Why the pixels of an opened image cannot be RGB of 8 bits, "" if they can."""
    if opened.mode.startswith(("I", "F")):
        return f"has pixels of mode {opened.mode}, which do not fit 8 bits: convert it"
    return ""


def _decode(file: BinaryIO, opened: Image.Image) -> None:
    """Decode an opened image; raises what Pillow raises."""
    if opened.format == "JPEG":
        opened.draft(opened.mode, (1, 1))
    opened.load()
    if opened.format == "PNG":
        file.seek(0)
        with Image.open(file, formats=("PNG",)) as again:
            again.verify()  # the checksums, which load() skips


def read_rgb(file_name: str) -> Image.Image:
    """An image as RGB pixels, turned as its EXIF orientation says; the pixels of detectron2's ``read_image``.

    Raises:
        OSError, ValueError, SyntaxError: the file is absent or cannot be read.
    """
    with PathManager.open(file_name, "rb") as file:
        return upright_rgb(Image.open(file))


def upright_rgb(image: Image.Image) -> Image.Image:
    """The pixels of an opened image as RGB, turned as its EXIF orientation says.

    Raises:
        OSError, ValueError, SyntaxError: they cannot be read.
    """
    turn = _TURNS.get(_orientation(image, whole_file=True))
    turned = image if turn is None else image.transpose(turn)
    if turned.mode != "RGB":
        return turned.convert("RGB")
    turned.load()
    return turned


def _orientation(opened: Image.Image, *, whole_file: bool) -> int:
    """The EXIF orientation, 1: as stored.

    A PNG may carry its EXIF data after its pixels; without ``whole_file`` only what comes before them is seen.
    """
    try:
        exif = opened.getexif() if whole_file else Image.Image.getexif(opened)
        return int(exif.get(_EXIF_ORIENTATION, 1))
    except Exception:  # noqa: BLE001 as in detectron2's read_image: what cannot be read does not turn the image
        return 1


def _oriented_size(opened: Image.Image, whole_file: bool) -> tuple[int, int, int]:
    """Width and height after the EXIF orientation, and the orientation."""
    orientation = _orientation(opened, whole_file=whole_file)
    width, height = opened.size
    return (height, width, orientation) if orientation in _SIDEWAYS else (width, height, orientation)


def _has_end(file: BinaryIO, image_format: str | None) -> bool:
    """Whether an image file has the end that its format asks for; True for formats without one."""
    place = file.tell()
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - 64))
    tail = file.read()
    try:
        if image_format == "PNG":
            return b"IEND\xae\x42\x60\x82" in tail or b"IEND\xae\x42\x60\x82" in _whole(file)
        if image_format in ("JPEG", "MPO"):
            return tail.rstrip(b"\0").endswith(b"\xff\xd9") or _jpeg_has_end(_whole(file))
        if image_format == "WEBP":
            file.seek(4)
            return int.from_bytes(file.read(4), "little") + 8 <= size
        return True
    finally:
        file.seek(place)


def _whole(file: BinaryIO) -> bytes:
    file.seek(0)
    return file.read()


def _jpeg_has_end(data: bytes) -> bool:
    """Whether an end marker follows the start of the pixels (a thumbnail in the header has an end marker too)."""
    place = 2
    while place + 4 <= len(data):
        if data[place] != 0xFF:
            return False
        if data[place + 1] == 0xFF:  # fill byte
            place += 1
        elif data[place + 1] == 0xDA:  # start of scan
            return data.find(b"\xff\xd9", place) >= 0
        else:
            place += 2 + int.from_bytes(data[place + 2 : place + 4], "big")
    return False
