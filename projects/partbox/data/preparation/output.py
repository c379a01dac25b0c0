"""The output folder of a preparation: opened, gone on with, filled.

The JSON files of the splits are written last: where they are, everything is.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import PIL

from partbox.data.part_json_types import PartDatasetError
from partbox.data.part_json_write import write_part_dataset_in_pieces
from partbox.files import write_atomically

from .options import SPLITS, PrepareOptions
from .photo_reader import PhotoReader
from .photo_store import PhotoStore
from .report import NO_SPLIT, PreparationReport

RECORD = "preparation.json"
_PIECE = 200  # images written at once
VERSION = 2
"""Goes up whenever the same input gives other output: a run does not go on with the files of another version."""


def describe_input(reader: PhotoReader, store: PhotoStore, options: PrepareOptions) -> dict[str, Any]:
    """All that the output depends on, as JSON."""
    splits = "official" if options.fractions is None else dict(zip(SPLITS, options.fractions, strict=True))
    return {
        "version": VERSION,
        **reader.describe(),
        "photographs_sha256": store.digest(),  # of names and sizes
        "options": {
            "labels": options.labels,
            "min_side": options.min_side,
            "min_area_share": options.min_area_share,
            **asdict(options.crops),
            "split": splits,
            "seed": options.seed,
            "label_share": options.label_share,
            "label_seed": options.label_seed,
            "labels_only": options.labels_only,
        },
        "packages": {"numpy": np.__version__, "pillow": PIL.__version__},
    }


def check_output(output: Path) -> None:
    """Refuse an output folder that holds what no preparation has made.

    Raises:
        PartDatasetError: saying so.
    """
    if output.exists() and not output.is_dir():
        raise PartDatasetError(str(output), "--output", "is not a folder")
    if output.is_dir() and any(output.iterdir()) and not (output / RECORD).is_file():
        reason = "is neither empty nor the output of an earlier run"
        raise PartDatasetError(str(output), "--output", reason, "choose another folder")


def open_output(output: Path, made_from: Mapping[str, Any], *, overwrite: bool) -> None:
    """Make the output folder, or go on in one that an earlier run with the same input has left.

    Args:
        output: the folder, which :func:`check_output` has passed.
        made_from: what :func:`describe_input` gives.
        overwrite: remove what an earlier run with other input has left, instead of refusing.

    Raises:
        PartDatasetError: if the folder holds what an earlier run has made from other input.
    """
    record = output / RECORD
    if record.is_file():
        earlier, wanted = orjson.loads(record.read_bytes()), orjson.loads(orjson.dumps(made_from))
        changed = [key for key in wanted if earlier.get(key) != wanted[key] and key != "photographs_sha256"]
        if changed and not overwrite:
            reason = f"was made by an earlier run with other {', '.join(changed)}"
            raise PartDatasetError(str(output), "--output", reason, "choose another folder, or add --overwrite")
        if changed:
            _remove(output)
        for leftover in (output / "images").glob("*/.*.tmp"):
            leftover.unlink()
    if not record.is_file():
        _write_json(record, {**made_from, "complete": False})


def _remove(output: Path) -> None:
    """Remove what a preparation has made, the JSON files first."""
    for split in SPLITS:
        (output / f"{split}.json").unlink(missing_ok=True)
    (output / RECORD).unlink()
    for split in SPLITS:
        if (output / "images" / split).is_dir():
            shutil.rmtree(output / "images" / split)


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    data = orjson.dumps(value, option=orjson.OPT_INDENT_2) + b"\n"
    write_atomically(path, lambda file: file.write(data))


def account_for(store: PhotoStore, splits: Sequence[str]) -> PreparationReport:
    """Count what was kept and what was left out, by split and class."""
    report = PreparationReport()
    report.photographs = store.count_by_split()
    for split, name, count in store.photographs_of_classes():
        report.kept[split, name]["photographs"] = count
    for split in splits:
        for name, _, crop in store.crops(split):
            counts = report.kept[split, name]
            counts["objects"] += 1
            counts["unlabelled"] += crop["image"]["part_labels"] == "none"
            counts["parts"] += len(crop["parts"])
            counts["clipped"] += crop["clipped"]
            for reason, count in crop["dropped"].items():
                report.dropped[split, name, "part", reason] += count
    for split_or_none, name, what, reason, count in store.dropped():
        report.dropped[split_or_none or NO_SPLIT, name, what, reason] += count
    return report


def write_output(
    output: Path,
    made_from: Mapping[str, Any],
    store: PhotoStore,
    splits: Sequence[str],
    reader: PhotoReader,
    report: PreparationReport,
) -> None:
    """Write the part-dataset file of each split, then the record.

    Classes are the reader's, or those of which an object was kept; parts are the reader's parts of these classes. Both
    are in the order of their names, the same in all splits and whatever the labels are.
    """
    os.sync()  # the crops are on disk before a file says so
    names = sorted(reader.class_names or {name for _, name in report.kept})
    class_ids = {name: i for i, name in enumerate(names, start=1)}
    by_name = sorted((name, category) for category, name in enumerate(reader.part_names) if name[0] in class_ids)
    category_ids = {category: i for i, (_, category) in enumerate(by_name, start=1)}
    for split in splits:
        write_part_dataset_in_pieces(
            output / f"{split}.json",
            classes=[{"id": i, "name": name} for name, i in class_ids.items()],
            categories=[
                {"id": category_ids[category], "name": part, "supercategory": class_name}
                for (class_name, part), category in by_name
            ],
            pieces=_pieces(store, split, class_ids, category_ids),
            info={"description": f"{split} split of {made_from['annotations']}", "made_from": dict(made_from)},
        )
    _write_json(output / RECORD, {**made_from, "complete": True, "report": report.as_json()})


def _pieces(
    store: PhotoStore, split: str, class_ids: dict[str, int], category_ids: dict[int, int]
) -> Iterator[tuple[list[dict[str, Any]], list[dict[str, Any]]]]:
    """The images and annotations of one split, some at a time."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    number = 0
    for class_name, source, crop in store.crops(split):
        images.append({**crop["image"], "class_id": class_ids[class_name], "source_image": source})
        for part in crop["parts"]:
            number += 1
            entry = {"id": number, "image_id": crop["image"]["id"], **part}
            entry["category_id"] = category_ids[entry.pop("category")]
            annotations.append(entry)
        if len(images) == _PIECE:
            yield images, annotations
            images, annotations = [], []
    if images:
        yield images, annotations
