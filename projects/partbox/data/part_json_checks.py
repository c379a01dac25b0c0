"""Checks of a parsed part-dataset file: everything that can be said without opening an image.

The file is COCO instances JSON with three additions: the top-level list ``classes``, ``class_id`` of every image, and
``supercategory`` of a category naming the class that the part belongs to. What is refused, and why, is written beside
each check; ``tests/data/test_part_json.py`` has one test for each refusal.
"""

from __future__ import annotations

import posixpath
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .part_json_annotations import AnnotationColumns, AnnotationTables, check_annotations
from .part_json_entry import Entry, check_keys, describe, near_matches
from .part_json_types import LABEL_SOURCES, PART_LABELS, PartCategory, PartDatasetError

MAX_SIDE = 65_535
"""Largest width or height of an image, in pixels (the limit of JPEG)."""

_LISTS = ("classes", "categories", "images", "annotations")


@dataclass(frozen=True)
class ImageColumns:
    """What the checks learned of the N images.

    Attributes:
        ids: the ids, all int or all str.
        names: file names relative to the image root, normalised, "/" between folders.
        sizes: (N, 2) float64, width and height in pixels.
        class_index: (N,) int64, contiguous index of the class.
        declared_labels: the image's ``part_labels``, None where the file leaves it out.
        label_sources: the image's ``label_source``, "annotated" where the file leaves it out.
    """

    ids: list[int | str]
    names: list[str]
    sizes: np.ndarray
    class_index: np.ndarray
    declared_labels: list[str | None]
    label_sources: list[str]


@dataclass(frozen=True)
class CheckedDocument:
    """A document that passed every check, as columns. ``part_labels`` has one of PART_LABELS for each image."""

    class_ids: tuple[int, ...]
    class_names: tuple[str, ...]
    categories: tuple[PartCategory, ...]
    images: ImageColumns
    annotations: AnnotationColumns
    part_labels: list[str]


def check_document(document: object, file: str, *, fast: bool = True) -> CheckedDocument:
    """Check a parsed part-dataset file.

    Args:
        document: the parsed JSON; it is not changed.
        file: name of the file, for errors.
        fast: False takes the precise path for every annotation; the outcome is the same.

    Raises:
        PartDatasetError: naming the first entry that is wrong.
    """
    lists = _top_level_lists(document, file)
    class_ids, class_names = _check_classes(lists["classes"], file)
    categories = _check_categories(lists["categories"], class_names, file)
    images = _check_images(lists["images"], class_ids, file)
    tables = AnnotationTables(
        file=file,
        image_row={image_id: row for row, image_id in enumerate(images.ids)},
        image_sizes=images.sizes,
        image_class=images.class_index,
        image_labels=np.array([_LABEL_CODE[label] for label in images.declared_labels], dtype=np.int8),
        image_predicted=np.array([source == "predicted" for source in images.label_sources]),
        category_index={category.id: index for index, category in enumerate(categories)},
        category_class=np.array([category.class_index for category in categories], dtype=np.int64),
        class_names=class_names,
    )
    annotations = check_annotations(lists["annotations"], tables, fast=fast)
    labels = infer_part_labels(images.declared_labels, annotations)
    return CheckedDocument(class_ids, class_names, categories, images, annotations, labels)


_LABEL_CODE: dict[str | None, int] = {None: -1, **{label: code for code, label in enumerate(PART_LABELS)}}


def infer_part_labels(declared: Sequence[str | None], annotations: AnnotationColumns) -> list[str]:
    """What each image's parts are labelled with, where the file does not say.

    An image with annotations is "mask" if each of them has a segmentation, else "box". An image without annotations
    counts as labelled with no part visible: "mask" if the file has any segmentation, else "box". Only in a file
    without a single annotation is it "none", because nothing there shows that anybody labelled parts.
    """
    if len(annotations.image_row) == 0:
        return [label or "none" for label in declared]
    parts = np.bincount(annotations.image_row, minlength=len(declared))
    masks = np.bincount(annotations.image_row, weights=annotations.has_mask, minlength=len(declared))
    any_mask = bool(annotations.has_mask.any())
    return [
        label or ("mask" if masked == count and any_mask else "box")
        for label, count, masked in zip(declared, parts.tolist(), masks.tolist(), strict=True)
    ]


def _top_level_lists(document: object, file: str) -> dict[str, list[Any]]:
    if type(document) is not dict:
        raise PartDatasetError(file, "top level", f"must be an object, is {describe(document)}")
    for key in _LISTS:
        if key not in document:
            fix = near_matches(key, document)
            if key == "classes" and not fix:
                fix = "datasets/prepare_coco_parts.py makes a part dataset from a plain COCO file"
            raise PartDatasetError(file, "top level", f'required list "{key}" is missing', fix)
        if type(document[key]) is not list:
            raise PartDatasetError(file, key, f"must be a list, is {describe(document[key])}")
    for key in ("classes", "images"):
        if not document[key]:
            raise PartDatasetError(file, key, "must not be empty")
    return {key: document[key] for key in _LISTS}


class _Unique:
    """Refuses a second use of the same value."""

    def __init__(self, what: str) -> None:
        self.what = what
        self.first: dict[object, int] = {}

    def add(self, entry: Entry, value: object) -> None:
        first = self.first.setdefault(value, entry.index)
        if first != entry.index:
            shown = " of ".join(map(describe, value)) if isinstance(value, tuple) else describe(value)
            raise entry.error(f"{self.what} {shown} is already used by {entry.place}[{first}]")


def _check_classes(classes: list[Any], file: str) -> tuple[tuple[int, ...], tuple[str, ...]]:
    ids, names = _Unique("id"), _Unique("name")
    checked: list[tuple[int, str]] = []
    for index, value in enumerate(classes):
        entry = Entry(file, "classes", index, value)
        class_id, name = entry.integer("id"), entry.text("name")
        ids.add(entry, class_id)
        names.add(entry, name)
        checked.append((class_id, name))
    return tuple(class_id for class_id, _ in checked), tuple(name for _, name in checked)


def _check_categories(categories: list[Any], class_names: tuple[str, ...], file: str) -> tuple[PartCategory, ...]:
    class_index = {name: index for index, name in enumerate(class_names)}
    ids, names = _Unique("id"), _Unique("part")
    checked: list[PartCategory] = []
    for index, value in enumerate(categories):
        entry = Entry(file, "categories", index, value)
        category_id, name, class_name = entry.integer("id"), entry.text("name"), entry.text("supercategory")
        if class_name not in class_index:
            fix = near_matches(class_name, class_names) or "it must be the name of one of the classes"
            raise entry.error(f"supercategory {describe(class_name)} is no class", fix)
        ids.add(entry, category_id)
        names.add(entry, (name, class_name))
        checked.append(PartCategory(category_id, name, class_index[class_name]))
    return tuple(checked)


def _check_images(images: list[Any], class_ids: tuple[int, ...], file: str) -> ImageColumns:
    class_index = {class_id: index for index, class_id in enumerate(class_ids)}
    ids, names = _Unique("id"), _Unique("file_name")
    columns = ImageColumns([], [], np.empty((len(images), 2)), np.empty(len(images), dtype=np.int64), [], [])
    for index, value in enumerate(images):
        entry = Entry(file, "images", index, value)
        image_id, name = entry.identifier("id"), _image_name(entry)
        ids.add(entry, image_id)
        names.add(entry, name)
        if type(image_id) is not type(columns.ids[0] if index else image_id):
            raise entry.error("image ids must be all integers or all strings")
        class_id = entry.integer("class_id")
        if class_id not in class_index:
            raise entry.error(f"unknown class_id {class_id}", "it must be the id of one of the classes")
        columns.ids.append(image_id)
        columns.names.append(name)
        columns.sizes[index] = entry.integer("width", 1, MAX_SIDE), entry.integer("height", 1, MAX_SIDE)
        columns.class_index[index] = class_index[class_id]
        label, source = _optional_fields(entry)
        columns.declared_labels.append(label)
        columns.label_sources.append(source)
    check_keys(file, "images", images)
    return columns


def _optional_fields(entry: Entry) -> tuple[str | None, str]:
    """Check ``source_image``, ``part_labels`` (returned, None if absent) and ``label_source`` (returned)."""
    if "source_image" in entry.value:
        entry.text("source_image")
    label = entry.value.get("part_labels")
    if "part_labels" in entry.value and (type(label) is not str or label not in PART_LABELS):
        raise entry.error(f'part_labels must be "mask", "box" or "none", is {describe(label)}')
    source = entry.value.get("label_source", LABEL_SOURCES[0])
    if type(source) is not str or source not in LABEL_SOURCES:
        raise entry.error(f'label_source must be "annotated" or "predicted", is {describe(source)}')
    # what is assumed of an image that does not say it is about what people labelled
    if source == "predicted" and label not in ("mask", "box"):
        raise entry.error('label_source is "predicted", so part_labels must be "mask" or "box"')
    return label, source


def _image_name(entry: Entry) -> str:
    """The image's path below the image root, normalised; refused where it could lead out of it."""
    name = entry.text("file_name")
    if "\0" in name:
        raise entry.error("file_name contains a NUL character")
    if "\\" in name:
        raise entry.error("file_name contains a backslash", 'write "/" between folders')
    if name.startswith("/") or name[1:2] == ":":
        raise entry.error("file_name is an absolute path", "write it relative to the image root")
    if ".." in name.split("/"):
        raise entry.error('file_name leaves the image root by ".."')
    normalised = posixpath.normpath(name)
    if normalised == "." or name.endswith("/"):
        raise entry.error("file_name names a folder, not a file")
    return normalised
