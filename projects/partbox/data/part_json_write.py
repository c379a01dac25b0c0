"""Writes part-dataset files."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import orjson

from ..files import write_atomically
from .part_json_checks import check_document
from .part_json_masks import mask_area
from .part_json_types import PartDatasetError

FORMAT_VERSION = 1

_KEY_ORDER = ("id", "image_id", "category_id", "name", "supercategory", "file_name", "width", "height", "class_id")

Entries = Sequence[Mapping[str, Any]]


def write_part_dataset(
    json_file: str | Path,
    *,
    classes: Entries,
    categories: Entries,
    images: Entries,
    annotations: Entries,
    info: Mapping[str, Any] | None = None,
) -> None:
    """Check a part dataset and write it, so that the file is either complete and valid or untouched.

    The entries are those of the file, see :mod:`partbox.data.part_json`; image files are not looked at. Annotations
    without ``area`` (pixels of the mask, or else of the box) and ``iscrowd`` get them, because COCO tools ask for them.
    numpy numbers and arrays are written as JSON numbers and lists, RLE counts of type bytes as strings. Same entries,
    same bytes: no date, one entry a line, keys in a fixed order.

    Args:
        json_file: where to; its folder is made if absent.
        classes, categories, images, annotations: the entries.
        info: goes into the file's ``info``, beside the version of the format.

    Raises:
        PartDatasetError: naming the first entry that is wrong; nothing is written then.
        OSError: if the file cannot be written.
    """
    pieces = [(images, annotations)]
    write_part_dataset_in_pieces(json_file, classes=classes, categories=categories, pieces=pieces, info=info)


def write_part_dataset_in_pieces(
    json_file: str | Path,
    *,
    classes: Entries,
    categories: Entries,
    pieces: Iterable[tuple[Entries, Entries]],
    info: Mapping[str, Any] | None = None,
) -> None:
    """:func:`write_part_dataset` for a data set that need not fit into memory: some images after the others.

    Args:
        json_file, classes, categories, info: as there.
        pieces: images and all annotations of these images. Each piece is checked by itself, so it is for the caller
            that no two pieces share an image id or a file name; ids of annotations must grow from piece to piece.

    Raises:
        PartDatasetError, OSError: as there.
    """
    file = str(json_file)
    header: dict[str, Any] = {
        "info": {**(info or {}), "partbox_part_dataset": FORMAT_VERSION},
        "classes": classes,
        "categories": categories,
    }
    plain = {key: _plain(value, key, file) for key, value in header.items()}  # what a reader of the file would see

    def write(stream: IO[bytes]) -> None:
        stream.write(b'{"info":' + orjson.dumps(plain["info"], option=orjson.OPT_SORT_KEYS))
        for key in ("classes", "categories"):
            stream.write(b',\n"%s":[\n%s\n]' % (key.encode(), _lines(plain[key])))
        stream.write(b',\n"images":[\n')
        with tempfile.TemporaryFile(dir=Path(json_file).parent) as later:
            _write_pieces(pieces, plain, file, stream, later)
            stream.write(b'\n],\n"annotations":[\n')
            later.seek(0)
            shutil.copyfileobj(later, stream)
        stream.write(b"\n]}\n")

    write_atomically(json_file, write)


def _write_pieces(
    pieces: Iterable[tuple[Entries, Entries]],
    header: Mapping[str, Any],
    file: str,
    image_stream: IO[bytes],
    annotation_stream: IO[bytes],
) -> None:
    """Check the pieces and write the lines of their images and annotations."""
    streams = {"images": image_stream, "annotations": annotation_stream}
    begun: set[str] = set()
    last_id: int | None = None
    for some in pieces:
        piece = {key: _plain(value, key, file) for key, value in zip(streams, some, strict=True)}
        check_document({**header, **piece}, file)
        ids = [annotation["id"] for annotation in piece["annotations"]]
        if ids and last_id is not None and min(ids) <= last_id:
            raise PartDatasetError(file, "annotations", f"id {min(ids)} of a later piece is not above {last_id}")
        last_id = max(ids, default=last_id)
        _complete(piece["annotations"], piece["images"])
        for key, stream in streams.items():
            if piece[key]:
                stream.write((b",\n" if key in begun else b"") + _lines(piece[key]))
                begun.add(key)
    if "images" not in begun:
        raise PartDatasetError(file, "images", "must not be empty")


def _plain(value: Any, key: str, file: str) -> Any:
    entries = value if key == "info" else list(value)
    try:
        return orjson.loads(orjson.dumps(entries, default=_default, option=orjson.OPT_SERIALIZE_NUMPY))
    except (TypeError, orjson.JSONDecodeError) as error:
        raise PartDatasetError(file, key, f"cannot be written as JSON: {error}") from error


def _default(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode("ascii")
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"a value of type {type(value).__name__}")


def _complete(annotations: list[dict[str, Any]], images: list[dict[str, Any]]) -> None:
    """Add ``area`` and ``iscrowd`` where they are absent, to annotations that passed the checks."""
    sizes = {image["id"]: (image["height"], image["width"]) for image in images}
    for annotation in annotations:
        annotation.setdefault("iscrowd", 0)
        if "area" not in annotation:
            segmentation = annotation.get("segmentation")
            width, height = annotation["bbox"][2:]
            area = mask_area(segmentation, *sizes[annotation["image_id"]]) if segmentation else width * height
            annotation["area"] = area


def _lines(entries: Entries) -> bytes:
    """One entry a line, keys in a fixed order."""
    return b",\n".join(orjson.dumps(_ordered(entry)) for entry in entries)


def _ordered(entry: Mapping[str, Any]) -> dict[str, Any]:
    rest = sorted(key for key in entry if key not in _KEY_ORDER)
    return {key: entry[key] for key in (*_KEY_ORDER, *rest) if key in entry}
