"""Finds keys that an object of a JSON file has twice: readers keep the last and drop the others without a word."""

from __future__ import annotations

import json
import re
from typing import Any

from .part_json_types import PartDatasetError

_SPACED_COLON = re.compile(rb'"[ \t\r\n]+:')


def count_keys_in_text(text: bytes) -> int:
    """How many keys a JSON text holds; a few too many or few in rare texts (quotes and colons inside of strings).

    A quote before a colon ends a key, or begins a string such as the compressed RLE ``":4ab"``.
    """
    string_begins = text.count(b':":') + text.count(b': ":')
    return text.count(b'":') + len(_SPACED_COLON.findall(text)) - string_begins


def check_repeated_keys(document: dict[str, Any], written_keys: int, file: str) -> None:
    """Refuse a file in which an object has a key twice.

    Args:
        document: the parsed and checked file.
        written_keys: what :func:`count_keys_in_text` said of its text. Only if that is not the number of keys in
            ``document`` is the file read again, slowly, to see whether a key was dropped.
        file: the file's path.

    Raises:
        PartDatasetError: naming the key.
    """
    if _count_keys(document) == written_keys:
        return
    with open(file, "rb") as stream:
        text = stream.read()

    def no_repeats(pairs: list[tuple[str, Any]]) -> None:  # None stands for the object: nobody needs it
        unique = dict(pairs)
        if len(unique) == len(pairs):
            return
        keys = [key for key, _ in pairs]
        repeated = next(key for index, key in enumerate(keys) if key in keys[:index])
        known = f"the object with id {unique['id']}" if "id" in unique else f'an object with the key "{repeated}"'
        raise PartDatasetError(file, known, f'has the key "{repeated}" twice, and only the last would be read')

    try:
        json.loads(text, object_pairs_hook=no_repeats, parse_int=str)  # str: int() refuses more than 4,300 digits
    except RecursionError:
        raise PartDatasetError(file, "file", "is nested too deeply") from None


def _count_keys(document: dict[str, Any]) -> int:
    """The number of keys in all objects of a checked document."""
    total = len(document)
    for place, entries in document.items():
        if place not in _PLAIN_KEYS:
            total += _count_nested(entries)
            continue
        plain = _PLAIN_KEYS[place]
        extra: set[str] = set().union(*entries) - plain
        total += sum(map(len, entries))
        if place == "annotations":
            masks = (entry.get("segmentation") for entry in entries)
            total += sum(map(_count_nested, (mask for mask in masks if type(mask) is dict)))
        if extra:
            total += sum(_count_nested(value) for entry in entries for key, value in entry.items() if key in extra)
    return total


_PLAIN_KEYS: dict[str, set[str]] = {
    "classes": {"id", "name"},
    "categories": {"id", "name", "supercategory"},
    "images": {"id", "file_name", "width", "height", "class_id", "source_image", "part_labels", "label_source"},
    "annotations": {"id", "image_id", "category_id", "bbox", "area", "iscrowd", "segmentation", "object_id"},
}
"""Keys whose values are known to hold no object once a document is checked (a segmentation apart)."""


def _count_nested(value: Any) -> int:
    """The number of keys in a JSON value of any shape, however deep."""
    total, waiting = 0, [value]
    while waiting:
        value = waiting.pop()
        if type(value) is dict:
            total += len(value)
            waiting.extend(value.values())
        elif type(value) is list:
            waiting.extend(value)
    return total
