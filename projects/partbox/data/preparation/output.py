"""The output folder of a preparation: opened, gone on with, filled.

The JSON files of the splits are written last: where they are, everything is.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import PIL

from partbox.data.part_json_write import write_part_dataset_in_pieces

from .options import SPLITS, PrepareOptions
from .output_folder import OutputLayout, check_folder, open_folder, write_record
from .photo_reader import PhotoReader
from .photo_store import PhotoStore
from .report import NO_SPLIT, PreparationReport

LAYOUT = OutputLayout(
    record="preparation.json",
    files=tuple(f"{split}.json" for split in SPLITS),
    folders=tuple(f"images/{split}" for split in SPLITS),
    changeable=("photographs_sha256",),  # a photograph that was mended is newer than its crops
)
_PIECE = 200  # images written at once
VERSION = 3
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
    """Refuse an output folder that holds what no preparation has made, see :func:`check_folder`."""
    check_folder(output, LAYOUT)


def open_output(output: Path, made_from: Mapping[str, Any], *, overwrite: bool) -> None:
    """Make the output folder, or go on in one that an earlier run has left, see :func:`open_folder`.

    Args:
        output: the folder, which :func:`check_output` has passed.
        made_from: what :func:`describe_input` gives.
        overwrite: remove what an earlier run with other input has left, instead of refusing.
    """
    open_folder(output, made_from, LAYOUT, overwrite=overwrite)


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
    write_record(output, LAYOUT, {**made_from, "complete": True, "report": report.as_json()})


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
