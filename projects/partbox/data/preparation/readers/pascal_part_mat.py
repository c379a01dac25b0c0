"""The annotation files of PASCAL-Part: one MATLAB file a photograph, with the masks of its objects and their parts.

    anno.imname
    anno.objects[].class, class_ind, mask (H, W)
    anno.objects[].parts[].part_name, mask (H, W)

MATLAB knows no scalars and no lists: everything is a matrix. A photograph with one object has a 1 x 1 matrix of
objects, an object without parts has an empty matrix that is not even a struct. So the matrices are read as they are,
not "squeezed": squeezing would take away the matrix around one object, and a side of a mask that is one pixel long.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.io import loadmat
from scipy.io.matlab import MatReadError

from partbox.data.part_json_types import PartDatasetError

FIX = "unpack the annotations again"

# What reading raises for damaged files and files of another kind; found by damaging files.
_DAMAGED = (MatReadError, ValueError, TypeError, NotImplementedError, MemoryError, OSError, zlib.error)

_HEADER = 128  # bytes
_COMPRESSED = 15  # data type of an element that holds another one, compressed by zlib


@dataclass(frozen=True, eq=False)
class LabelledObject:
    """An object of a photograph.

    Attributes:
        class_name: one of the 20 of PASCAL VOC.
        mask: (H, W) bool.
        parts: name and mask, (H, W) bool, of each part, in the order of the file.
    """

    class_name: str
    mask: np.ndarray
    parts: tuple[tuple[str, np.ndarray], ...]


def read_objects(file: Path) -> list[LabelledObject]:
    """The objects of one photograph, in the order of the file.

    Raises:
        PartDatasetError: the file cannot be read, or is no annotation of PASCAL-Part.
    """
    try:
        _check_whole(file)
        content = loadmat(file, squeeze_me=False, struct_as_record=True, variable_names=["anno"])
    except _DAMAGED as error:
        raise PartDatasetError(file, "the file", f"cannot be read as a MATLAB file: {error}", FIX) from error
    if "anno" not in content:
        raise PartDatasetError(file, "the file", 'has no variable "anno"', FIX)
    records = _records(content["anno"], "anno", file)
    if len(records) != 1:
        raise PartDatasetError(file, "anno", f"must be one struct, is {len(records)}", FIX)
    objects = _records(_field(records[0], "objects", "anno", file), "anno.objects", file)
    found = [_read_object(record, f"anno.objects({i})", file) for i, record in enumerate(objects, start=1)]
    for i, target in enumerate(found, start=1):
        _check_shapes(target, found[0].mask.shape, f"anno.objects({i})", file)
    return found


def _check_whole(file: Path) -> None:
    """Refuse a file of format 5 that is cut off or whose compressed data do not have their checksum.

    scipy believes the sizes that it reads, and looks at the checksum of a large file in the end: a damaged one may have
    ended the process by then.

    Raises:
        ValueError: saying what is wrong.
        OSError: the file cannot be read.
        zlib.error: the compressed data are damaged.
    """
    data = memoryview(file.read_bytes())
    order = {b"IM": "<", b"MI": ">"}.get(bytes(data[_HEADER - 2 : _HEADER]))
    if order is None:
        raise ValueError("it is not of format 5 of MATLAB")
    place = _HEADER
    while place < len(data):
        if place + 8 > len(data):
            raise ValueError("it is cut off")
        kind, length = struct.unpack(f"{order}II", data[place : place + 8])
        element = data[place + 8 : place + 8 + length]
        if len(element) < length:
            raise ValueError("it is cut off")
        if kind == _COMPRESSED:
            zlib.decompress(element)
        place += 8 + length


def _read_object(record: np.void, place: str, file: Path) -> LabelledObject:
    parts = []
    for i, part in enumerate(_records(_field(record, "parts", place, file), f"{place}.parts", file), start=1):
        where = f"{place}.parts({i})"
        parts.append((_text(part, "part_name", where, file), _mask(part, where, file)))
    return LabelledObject(_text(record, "class", place, file), _mask(record, place, file), tuple(parts))


def _records(matrix: Any, place: str, file: Path) -> list[np.void]:
    """The structs in a matrix of structs; an empty matrix of anything holds none."""
    if isinstance(matrix, np.ndarray) and matrix.size == 0:
        return []
    if not isinstance(matrix, np.ndarray) or matrix.dtype.names is None:
        raise PartDatasetError(file, place, f"must be a struct, is {_kind(matrix)}", FIX)
    return list(matrix.ravel(order="F"))


def _field(record: np.void, name: str, place: str, file: Path) -> Any:
    if name not in (record.dtype.names or ()):
        raise PartDatasetError(file, place, f'has no field "{name}"', FIX)
    return record[name]


def _text(record: np.void, name: str, place: str, file: Path) -> str:
    value = _field(record, name, place, file)
    if not isinstance(value, np.ndarray) or value.dtype.kind != "U" or value.size != 1 or not str(value.item()).strip():
        raise PartDatasetError(file, f"{place}.{name}", f"must be a name, is {_kind(value)}", FIX)
    return str(value.item()).strip()


def _mask(record: np.void, place: str, file: Path) -> np.ndarray:
    """(H, W) bool of a matrix that holds 0 and one other value."""
    value = _field(record, "mask", place, file)
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "buif" or value.ndim != 2 or value.size == 0:
        raise PartDatasetError(file, f"{place}.mask", f"must be a matrix of numbers, is {_kind(value)}", FIX)
    inside = value != 0
    if inside.any() and (value[inside] != value[inside][0]).any():
        raise PartDatasetError(file, f"{place}.mask", "must hold 0 and one other value, holds more", FIX)
    return np.asarray(inside, dtype=bool)


def _check_shapes(target: LabelledObject, shape: tuple[int, ...], place: str, file: Path) -> None:
    """Refuse masks of different sizes: they cannot all be of one photograph."""
    masks = [(f"{place}.mask", target.mask)]
    masks += [(f"{place}.parts({i}).mask", mask) for i, (_, mask) in enumerate(target.parts, start=1)]
    for where, mask in masks:
        if mask.shape != shape:
            sizes = f"{mask.shape[1]} x {mask.shape[0]} pixels, the first object's is {shape[1]} x {shape[0]}"
            raise PartDatasetError(file, where, sizes, FIX)


def _kind(value: Any) -> str:
    if not isinstance(value, np.ndarray):
        return type(value).__name__
    kind = "struct" if value.dtype.names else {"U": "text", "O": "cells"}.get(value.dtype.kind, "numbers")
    return f"a matrix of {kind}, {' x '.join(map(str, value.shape))}"
