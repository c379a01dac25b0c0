"""Writes part-dataset files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

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
    file = str(json_file)
    document: dict[str, Any] = {
        "info": {**(info or {}), "partbox_part_dataset": FORMAT_VERSION},
        "classes": classes,
        "categories": categories,
        "images": images,
        "annotations": annotations,
    }
    plain = {key: _plain(value, key, file) for key, value in document.items()}  # what a reader of the file would see
    check_document(plain, file)
    _complete(plain["annotations"], plain["images"])
    text = _format(plain)
    write_atomically(json_file, lambda stream: stream.write(text))


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


def _format(plain: Mapping[str, Any]) -> bytes:
    """One entry a line, keys in a fixed order."""
    lines = [b'{"info":' + orjson.dumps(plain["info"], option=orjson.OPT_SORT_KEYS)]
    for key in ("classes", "categories", "images", "annotations"):
        entries = b",\n".join(orjson.dumps(_ordered(entry)) for entry in plain[key])
        lines.append(b'"%s":[\n%s\n]' % (key.encode(), entries))
    return b",\n".join(lines) + b"}\n"


def _ordered(entry: Mapping[str, Any]) -> dict[str, Any]:
    rest = sorted(key for key in entry if key not in _KEY_ORDER)
    return {key: entry[key] for key in (*_KEY_ORDER, *rest) if key in entry}
