"""Which images of a dataset are shown: drawn by a seed, spread over the classes."""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from partbox.colours import bare_name
from partbox.data import PartDataset
from partbox.data.part_json_entry import near_matches
from partbox.data.part_json_types import PART_LABELS

from .labels import part_names

Record = dict[str, Any]


class SelectionError(ValueError):
    """A name that the dataset does not have, or a choice that leaves no image."""


def choose_images(
    dataset: PartDataset,
    count: int,
    *,
    seed: int,
    classes: Sequence[str] = (),
    parts: Sequence[str] = (),
    labels: Sequence[str] = (),
) -> list[Record]:
    """At most ``count`` images, by class, each class with the same number as far as it has them.

    Which images of a class these are depends on the seed and the images' ids alone, not on the order of the file, and
    the images of a smaller ``count`` are among those of a larger one.

    Args:
        dataset: to choose from.
        count: at least 1.
        seed: of the choice.
        classes: names; none stands for all.
        parts: only images with one of these labelled, as ``head`` (of any class) or ``dog:head``; none stands for all
            images.
        labels: only images whose ``part_labels`` are one of these; none stands for all.

    Raises:
        SelectionError: an unknown name, a count below 1, or no image left.
    """
    if count < 1:
        raise SelectionError(f"--images must be at least 1, not {count}")
    wanted_classes = _classes(dataset, classes)
    wanted_parts = _parts(dataset, parts)
    for kind in labels:
        if kind not in PART_LABELS:
            raise SelectionError(f"--labels must be among {', '.join(PART_LABELS)}, not {kind!r}")
    by_class: dict[int, list[Record]] = defaultdict(list)
    for record in dataset.records:
        shows = not wanted_parts or any(part["category_id"] in wanted_parts for part in record["annotations"])
        if record["label"] in wanted_classes and shows and (not labels or record["part_labels"] in labels):
            by_class[record["label"]].append(record)
    if not by_class:
        asked = [f"--classes {' '.join(classes)}"] * bool(classes) + [f"--parts {' '.join(parts)}"] * bool(parts)
        asked += [f"--labels {' '.join(labels)}"] * bool(labels)
        why = f" fits {', '.join(asked)}" if asked else " is there"
        raise SelectionError(f"{dataset.json_file}: none of its {len(dataset.records)} images{why}")
    return _spread(by_class, count, seed)


def _spread(by_class: Mapping[int, list[Record]], count: int, seed: int) -> list[Record]:
    """One image of each class, then a second of each, and so on; the result by class."""
    orders = [sorted(by_class[label], key=lambda record: _draw(seed, record)) for label in sorted(by_class)]
    most = max(map(len, orders))
    turns = [order[turn] for turn in range(most) for order in orders if turn < len(order)]
    return sorted(turns[:count], key=lambda record: int(record["label"]))


def _draw(seed: int, record: Mapping[str, Any]) -> bytes:
    return hashlib.sha256(f"{seed}|{record['image_id']!r}".encode()).digest()


def _classes(dataset: PartDataset, names: Sequence[str]) -> set[int]:
    for name in names:
        if name not in dataset.class_names:
            hint = near_matches(name, dataset.class_names) or f"it has {_short(dataset.class_names)}"
            raise SelectionError(f"--classes: {dataset.json_file} has no class {name!r}; {hint}")
    return {index for index, name in enumerate(dataset.class_names) if not names or name in names}


def _parts(dataset: PartDataset, names: Sequence[str]) -> set[int]:
    """Indices of the parts that the names mean; none where there are no names."""
    full = part_names(dataset)
    found: set[int] = set()
    for name in names:
        meant = {index for index, part in enumerate(full) if name in (part, bare_name(part))}
        if not meant:
            known = list(dict.fromkeys([*map(bare_name, full), *full]))
            hint = near_matches(name, known) or f"it has {_short(full)}"
            raise SelectionError(f"--parts: {dataset.json_file} has no part {name!r}; {hint}")
        found |= meant
    return found


def _short(names: Sequence[str]) -> str:
    return ", ".join(names[:8]) + (f", ... ({len(names)} in all)" if len(names) > 8 else "")


def named_images(dataset: PartDataset, names: Sequence[str]) -> list[Record]:
    """The images of these ids or file names (as in the dataset file), in this order, each once.

    Raises:
        SelectionError: the dataset has no such image, or several.
    """
    by_name: dict[str, list[Record]] = defaultdict(list)
    for record in dataset.records:
        file_name = os.path.relpath(record["file_name"], dataset.image_root)
        for name in {str(record["image_id"]), file_name}:
            by_name[name].append(record)
    found: dict[int, Record] = {}
    for name in names:
        its = by_name.get(name, [])
        if not its:
            ids = [str(record["image_id"]) for record in dataset.records]
            hint = near_matches(name, list(by_name)) or f"it has the ids {_short(ids)}"
            raise SelectionError(f"--only: {dataset.json_file} has no image {name!r}; {hint}")
        if len(its) > 1:
            ids = [repr(record["image_id"]) for record in its]
            raise SelectionError(f"--only: {name!r} stands for the images {_short(ids)} of {dataset.json_file}")
        found[id(its[0])] = its[0]
    return list(found.values())
