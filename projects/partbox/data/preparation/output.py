"""The output folder of a preparation: opened, gone on with, filled.

The JSON files of the splits are written last: where they are, everything is.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import PIL

from partbox.data.part_json_types import PartDatasetError
from partbox.data.part_json_write import write_part_dataset
from partbox.files import write_atomically

from .coco_document import CocoDocument
from .coco_objects import SourceObjects
from .coco_relations import Relations
from .object_crops import Crop
from .options import SPLITS, PrepareOptions
from .photographs import CropPlan
from .report import NO_SPLIT, PreparationReport

RECORD = "preparation.json"
VERSION = 1
"""Goes up whenever the same input gives other output: a run does not go on with the files of another version."""


def describe_input(
    document: CocoDocument,
    relations: Relations,
    found: SourceObjects,
    plan: CropPlan,
    image_root: Path,
    options: PrepareOptions,
) -> dict[str, Any]:
    """All that the output depends on, as JSON. Options that were left open stand there as they were decided."""
    digest = hashlib.sha256()
    for task in plan.tasks:
        digest.update(f"{task.photo.name}\0{(image_root / task.photo.name).stat().st_size}\0".encode())
    return {
        "version": VERSION,
        "annotations": Path(document.file).name,
        "annotations_sha256": document.sha256,
        "photographs_sha256": digest.hexdigest(),  # of names and sizes
        "meaning": {
            "classes_from": relations.classes_from,
            "objects": {document.categories[i].text("name"): name for i, name in relations.objects.items()},
            "parts": {
                document.categories[i].text("name"): f"{class_name or '*'}:{part}"
                for i, (class_name, part) in relations.parts.items()
            },
            "class_field": relations.class_field,
            "link_field": relations.link_field,
        },
        "options": {
            "crop": options.crop,
            "labels": found.labels,
            "empty": options.empty,
            "min_side": options.min_side,
            **asdict(options.crops),
            "split": dict(zip(SPLITS, options.fractions, strict=True)),
            "seed": options.seed,
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


def account_for(plan: CropPlan, crops: list[list[Crop]], found: SourceObjects) -> PreparationReport:
    """Count what was kept and what was left out, by split and class."""
    report = PreparationReport()
    for task, some in zip(plan.tasks, crops, strict=True):
        split = plan.split_of[task.photo.name]
        report.photographs[split] += 1
        for name in {target.class_name for target in task.photo.objects}:
            report.kept[split, name]["photographs"] += 1
        for target, crop in zip(task.photo.objects, some, strict=True):
            counts = report.kept[split, target.class_name]
            counts["objects"] += 1
            counts["unlabelled"] += target.part_labels == "none"
            counts["parts"] += len(crop.parts)
            counts["clipped"] += crop.clipped
            for reason, count in crop.dropped.items():
                report.dropped[split, target.class_name, "part", reason] += count
    for (image_id, class_name, what, reason), count in found.dropped.items():
        split = plan.split_of.get(plan.names.get(image_id, ""), NO_SPLIT)
        if count:
            report.dropped[split, class_name, what, reason] += count
    return report


def write_output(
    output: Path,
    made_from: Mapping[str, Any],
    plan: CropPlan,
    crops: list[list[Crop]],
    part_names: list[tuple[str, str]],
    report: PreparationReport,
) -> None:
    """Write the part-dataset file of each split, then the record.

    Classes are those of which an object was kept, parts those of these classes that are labelled anywhere in the
    source; both in the order of their names, the same in all splits and whatever the labels are.
    """
    os.sync()  # the crops are on disk before a file says so
    class_ids = {name: i for i, name in enumerate(sorted({name for _, name in report.kept}), start=1)}
    by_name = sorted((name, category) for category, name in enumerate(part_names) if name[0] in class_ids)
    category_ids = {category: i for i, (_, category) in enumerate(by_name, start=1)}
    for split in plan.splits:
        images, annotations = _entries(split, plan, crops, class_ids, category_ids)
        write_part_dataset(
            output / f"{split}.json",
            classes=[{"id": i, "name": name} for name, i in class_ids.items()],
            categories=[
                {"id": category_ids[category], "name": part, "supercategory": class_name}
                for (class_name, part), category in by_name
            ],
            images=images,
            annotations=annotations,
            info={"description": f"{split} split of {made_from['annotations']}", "made_from": dict(made_from)},
        )
    _write_json(output / RECORD, {**made_from, "complete": True, "report": report.as_json()})


def _entries(
    split: str, plan: CropPlan, crops: list[list[Crop]], class_ids: dict[str, int], category_ids: dict[int, int]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The images and annotations of one split."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for task, some in zip(plan.tasks, crops, strict=True):
        if plan.split_of[task.photo.name] != split:
            continue
        for target, crop in zip(task.photo.objects, some, strict=True):
            image = {
                "id": crop.number,
                "file_name": crop.file_name,
                "width": crop.width,
                "height": crop.height,
                "class_id": class_ids[target.class_name],
                "source_image": plan.source_of[task.photo.name],
                "part_labels": target.part_labels,
            }
            images.append(image)
            for part in crop.parts:
                entry = {"id": len(annotations) + 1, "image_id": crop.number, **part}
                entry["category_id"] = category_ids[entry.pop("category")]
                annotations.append(entry)
    return images, annotations
