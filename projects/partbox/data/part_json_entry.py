"""One entry of a part-dataset file, with checks of its fields that name the entry when they fail."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from partbox.suggestions import nearest

from .part_json_types import PartDatasetError

ID_LIMIT = 2**53
"""Ids lie in (-2**53, 2**53), the integers that every JSON reader keeps exactly."""

NUMBER_LIMIT = 2**53
"""Pixel numbers lie in (-2**53, 2**53), so that sums and products of them stay finite."""

OPTIONAL_KEYS: Mapping[str, tuple[str, ...]] = {
    "images": ("source_image", "part_labels", "label_source"),
    "annotations": ("segmentation", "object_id", "iscrowd", "score"),
}
"""Keys an entry may leave out. A misspelt one would be ignored in silence, so look-alikes are refused."""

MISPLACED_KEYS: Mapping[str, tuple[str, ...]] = {"annotations": OPTIONAL_KEYS["images"]}
"""Keys of ours that mean nothing in entries of this list."""

_ALIASES = {"sourceimg": "source_image", "segm": "segmentation", "objid": "object_id"}
_LOOK_ALIKE = 0.88  # difflib ratio; "partlables" is at 0.90, "segmentationmask" (a key of other tools) at 0.86


def describe(value: object) -> str:
    """A short name of a JSON value for messages, e.g. ``null``, ``"dog"``, ``a list of 4``."""
    if value is None:
        return "null (which some tools write for NaN)"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return json.dumps(value if len(value) <= 60 else value[:57] + "...", ensure_ascii=False)
    if isinstance(value, int) and value.bit_length() > 128:
        return "a huge integer"  # str() refuses to write one of more than 4,300 digits
    if isinstance(value, list):
        return f"a list of {len(value)}"
    if isinstance(value, dict):
        return "an object"
    return repr(value)


def near_matches(name: str, candidates: Iterable[str]) -> str:
    """A "did you mean ...?" for a name that is not among the candidates, or an empty string."""
    close = nearest(name, candidates)
    return "did you mean " + " or ".join(f'"{match}"' for match in close) + "?" if close else ""


def float_array(numbers: list[int | float]) -> np.ndarray | None:
    """Numbers as (n,) float64; None if one is an integer beyond the range of floats."""
    try:
        return np.array(numbers, dtype=np.float64)
    except OverflowError:
        return None


def is_number(value: object) -> bool:
    """Whether a JSON value is a finite number within NUMBER_LIMIT; true and false are none."""
    return type(value) in (int, float) and -NUMBER_LIMIT < value < NUMBER_LIMIT  # type: ignore[operator]


class Entry:
    """An object of one of the file's lists. Every check raises :class:`PartDatasetError` naming file and entry."""

    __slots__ = ("file", "index", "place", "value")

    def __init__(self, file: str, place: str, index: int, value: object) -> None:
        self.file, self.place, self.index = file, place, index
        if type(value) is not dict:
            raise PartDatasetError(file, f"{place}[{index}]", f"must be an object, is {describe(value)}")
        self.value: dict[str, Any] = value

    def error(self, reason: str, fix: str = "") -> PartDatasetError:
        """The error for this entry, to be raised by the caller."""
        known = [f"{key} {describe(self.value[key])}" for key in ("id", "file_name") if _is_short(self.value.get(key))]
        label = f"{self.place}[{self.index}]" + (f" ({', '.join(known)})" if known else "")
        return PartDatasetError(self.file, label, reason, fix)

    def get(self, key: str) -> Any:
        """The value of a required key."""
        try:
            return self.value[key]
        except KeyError:
            raise self.error(f'required key "{key}" is missing', near_matches(key, self.value)) from None

    def integer(self, key: str, minimum: int = 1 - ID_LIMIT, maximum: int = ID_LIMIT - 1) -> int:
        """A required integer within [minimum, maximum]."""
        value = self.get(key)
        if type(value) is not int:
            raise self.error(f"{key} must be an integer, is {describe(value)}")
        if not minimum <= value <= maximum:
            raise self.error(f"{key} must lie in [{minimum}, {maximum}], is {describe(value)}")
        return value

    def text(self, key: str) -> str:
        """A required string that is not blank."""
        value = self.get(key)
        if type(value) is not str:
            raise self.error(f"{key} must be a string, is {describe(value)}")
        if not value.strip():
            raise self.error(f"{key} must not be blank")
        if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
            raise self.error(f"{key} holds half of a Unicode surrogate pair: {describe(value)}")
        return value

    def identifier(self, key: str) -> int | str:
        """A required id that may be an integer or a string."""
        return self.text(key) if type(self.get(key)) is str else self.integer(key)


def _is_short(value: object) -> bool:
    return (type(value) is int and value.bit_length() <= 64) or (type(value) is str and len(value) <= 100)


def check_keys(file: str, place: str, entries: Sequence[dict[str, Any]]) -> None:
    """Refuse keys that are likely misspellings of optional ones. Other unknown keys (of COCO, of tools) are fine.

    Args:
        file: the JSON file, for the error.
        place: "images" or "annotations".
        entries: the objects of that list.
    """
    keys: set[str] = set().union(*entries)
    for key in sorted(keys - set(OPTIONAL_KEYS[place])):
        meant = _likely_meant(key, place)
        if meant is None:
            continue
        index = next(index for index, entry in enumerate(entries) if key in entry)
        fix = f'"{meant}" belongs to images' if meant == key else f'write "{meant}", or rename the key'
        raise Entry(file, place, index, entries[index]).error(f'key "{key}" would be ignored', fix)


def _likely_meant(key: str, place: str) -> str | None:
    """The key of ours that an unknown key seems to mean, if any."""
    plain = key.lower().replace("_", "").replace("-", "").replace(" ", "")
    for known in OPTIONAL_KEYS[place] + MISPLACED_KEYS.get(place, ()):
        target = known.replace("_", "")
        if _ALIASES.get(plain) == known or difflib.SequenceMatcher(None, plain, target).ratio() >= _LOOK_ALIKE:
            return known
    return None
