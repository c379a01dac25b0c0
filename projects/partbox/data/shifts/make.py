"""Makes shifted part datasets, one folder a shift.

<output>/<shift>/images/...           the images, under their names, as PNG or JPEG
<output>/<shift>/part_dataset.json    classes, categories and ids of the source; written last: where it is, all is
<output>/<shift>/shift.json           what it was made from, and the account of what was left out
<output>/<shift>/README.txt           what of this is there, and the command

An image depends on its source, its donor and the options only, so any number of processes gives the same bytes.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import cv2
import numpy as np
import orjson
import PIL
from PIL import Image

from partbox.data.part_json import load_part_dataset
from partbox.data.part_json_types import PartDataset, PartDatasetError
from partbox.data.part_json_write import write_part_dataset
from partbox.data.preparation.crop_geometry import whole_window
from partbox.data.preparation.output_folder import OutputLayout, check_changes, check_folder, open_folder, write_record
from partbox.data.preparation.photo_files import ImageFormat, PhotoError, is_saved, save_crop
from partbox.data.preparation.worker_pool import ordered_map
from partbox.files import write_text
from partbox.folder_readme import README
from partbox.progress import Progress

from .guide import shift_guide
from .kinds import IMAGES_NAME, JSON_NAME, SHIFTS, Shift
from .plan import ShiftPlan, check_shifts, plan_shifts
from .render import Settings, shifted_image

LAYOUT = OutputLayout(record="shift.json", files=(JSON_NAME,), folders=(IMAGES_NAME,))
VERSION = 1
"""Goes up whenever the same input gives other output: a run does not go on with the files of another version."""

Record = Mapping[str, Any]


@dataclass(frozen=True)
class _Task:
    """An image to be made: its source, its donor, and its name below the folder of images."""

    record: Record
    donor: Record | None
    file_name: str


@dataclass(frozen=True)
class ShiftedDataset:
    """What was made of one shift.

    Attributes:
        shift: its name.
        json_file, image_root: the part dataset.
        images: how many it has.
    """

    shift: str
    json_file: Path
    image_root: Path
    images: int


def make_shifted(
    json_file: Path,
    image_root: Path,
    output: Path,
    shifts: Sequence[str],
    settings: Settings,
    *,
    image_format: ImageFormat = "png",
    workers: int = 1,
    overwrite: bool = False,
    say: Callable[[str], None] = lambda text: None,
    command: Sequence[str] = (),
) -> list[ShiftedDataset]:
    """Make a part dataset for each shift. A run that was interrupted goes on when it is started again.

    Args:
        json_file, image_root: of the source, as for :func:`load_part_dataset`.
        output: gets one folder a shift.
        shifts: names of SHIFTS.
        settings: how.
        image_format: "png" keeps every pixel; "jpg" is smaller.
        workers: processes; the output is the same for any number.
        overwrite: replace what an earlier run with other input or settings has left.
        say: is told, in sentences, what was left out and what was made.
        command: the command line that does this, for each folder's ``README.txt``; empty where no tool does.

    Raises:
        PartDatasetError: if the source or the output folder cannot be used.
        OSError: if the output cannot be written.
    """
    for name in shifts:
        check_folder(output / name, LAYOUT)
    dataset = load_part_dataset(json_file, image_root, verify_images="header")
    plan = plan_shifts(dataset)
    check_shifts([SHIFTS[name] for name in shifts], dataset, plan)
    source = _describe_source(dataset)
    made_from = {name: {**source, **_describe(SHIFTS[name], settings, image_format)} for name in shifts}
    if not overwrite:
        for name in shifts:
            check_changes(output / name, made_from[name], LAYOUT)
    _account(plan, len(dataset.records), settings, say)
    names = _file_names(plan.records, dataset.image_root, image_format)
    made = []
    for name in shifts:
        open_folder(output / name, made_from[name], LAYOUT, overwrite=overwrite)
        guide = shift_guide(output / name, name, dataset.json_file, LAYOUT.record, command)
        write_text(output / name / README, guide)
        tasks = [
            _Task(record, plan.donors.draw(SHIFTS[name], record, settings.seed), file_name)
            for record, file_name in zip(plan.records, names, strict=True)
        ]
        kept = _render(name, tasks, output / name / IMAGES_NAME, settings, image_format, workers, dataset)
        if kept:
            say(f"{name}: {kept} of {len(tasks)} images were there from an earlier run")
        _write(name, tasks, output / name, made_from[name], plan, dataset)
        made.append(ShiftedDataset(name, output / name / JSON_NAME, output / name / IMAGES_NAME, len(tasks)))
    return made


# ---------------------------------------------------------------- what it is made from


def _describe_source(dataset: PartDataset) -> dict[str, Any]:
    digest = hashlib.sha256()
    for record in dataset.records:
        name = os.path.relpath(record["file_name"], dataset.image_root)
        digest.update(f"{name}\0{os.path.getsize(record['file_name'])}\0".encode())
    return {
        "version": VERSION,
        "dataset": dataset.json_file.name,
        "dataset_sha256": hashlib.sha256(dataset.json_file.read_bytes()).hexdigest(),
        "photographs_sha256": digest.hexdigest(),  # of names and sizes
        "packages": {"numpy": np.__version__, "pillow": PIL.__version__, "opencv": cv2.__version__},
    }


def _describe(shift: Shift, settings: Settings, image_format: ImageFormat) -> dict[str, Any]:
    """The shift and the options that it depends on."""
    options: dict[str, Any] = {"shift": shift.name, "seed": settings.seed, "image_format": image_format}
    if shift.cuts_out:
        options["foreground"] = settings.foreground
    if shift.name == "stylized":
        options["strength"] = settings.strength
    return options


def _account(plan: ShiftPlan, total: int, settings: Settings, say: Callable[[str], None]) -> None:
    say(f"{len(plan.records)} of {total} images are shifted, the same for every shift")
    for reason, count in plan.left_out.most_common():
        say(f"{count} left out: {reason}")
    if plan.with_neighbours:
        say(f"{plan.with_neighbours} show a photograph of several labelled objects; others may stand in the background")
    labels = Counter(record["part_labels"] for record in plan.records)
    if labels["box"] and settings.foreground != "grabcut":
        hint = "their foreground holds background, with --foreground grabcut less of it"
        say(f"{labels['box']} have boxes and no masks: {hint}")


def _file_names(records: Sequence[Record], image_root: Path, image_format: str) -> list[str]:
    """Names of the images: those of the source with another ending, or with one more where two would be the same."""
    names = [PurePosixPath(os.path.relpath(record["file_name"], image_root)) for record in records]
    stems = [name.with_suffix("") for name in names]
    while len(set(stems)) < len(stems):  # a whole name may be the stem of another: a.jpg, a.png, a.jpg.jpg
        count = Counter(stems)
        stems = [name if count[stem] > 1 else stem for name, stem in zip(names, stems, strict=True)]
    return [f"{stem}.{image_format}" for stem in stems]


# ---------------------------------------------------------------- images


def _render(
    shift: str,
    tasks: Sequence[_Task],
    folder: Path,
    settings: Settings,
    image_format: ImageFormat,
    workers: int,
    dataset: PartDataset,
) -> int:
    """Make the images of a shift; how many were there already."""
    work = partial(_render_one, shift=shift, folder=folder, settings=settings, image_format=image_format)
    kept = 0
    with Progress(len(tasks), shift, "image") as bar:
        try:
            for was_there in ordered_map(work, tasks, workers=workers):
                kept += was_there
                bar.step()
        except PhotoError as error:
            fix = "fix the image or take it out of the file"
            raise PartDatasetError(dataset.json_file, "images", str(error), fix) from error
    return kept


def _render_one(task: _Task, shift: str, folder: Path, settings: Settings, image_format: ImageFormat) -> bool:
    """Make an image unless it is there; whether it was."""
    size = task.record["width"], task.record["height"]
    window, path = whole_window(size, max_side=max(size)), folder / task.file_name
    sources = [Path(record["file_name"]) for record in (task.record, task.donor) if record is not None]
    if all(is_saved(path, window, source) for source in sources):
        return True
    pixels = shifted_image(shift, task.record, task.donor, settings)
    save_crop(Image.fromarray(pixels), window, path, image_format)
    return False


# ---------------------------------------------------------------- files


def _write(
    shift: str,
    tasks: Sequence[_Task],
    folder: Path,
    made_from: Mapping[str, Any],
    plan: ShiftPlan,
    dataset: PartDataset,
) -> None:
    """Write the part-dataset file, then the record."""
    os.sync()  # the images are on disk before a file says so
    document = orjson.loads(dataset.json_file.read_bytes())
    entries = {image["id"]: image for image in document["images"]}
    parts: dict[int | str, list[Mapping[str, Any]]] = defaultdict(list)
    for annotation in document["annotations"] if SHIFTS[shift].keeps_parts else ():
        parts[annotation["image_id"]].append(annotation)
    write_part_dataset(
        folder / JSON_NAME,
        classes=document["classes"],
        categories=document["categories"],
        images=[_entry(task, entries, SHIFTS[shift]) for task in tasks],
        annotations=[annotation for task in tasks for annotation in parts[task.record["image_id"]]],
        info={"description": f"{shift} of {dataset.json_file.name}", "made_from": dict(made_from)},
    )
    report = {
        "images": len(tasks),
        "left_out": dict(sorted(plan.left_out.items())),
        "with_neighbours": plan.with_neighbours,
    }
    write_record(folder, LAYOUT, {**made_from, "complete": True, "report": report})


def _entry(task: _Task, entries: Mapping[int | str, Mapping[str, Any]], shift: Shift) -> dict[str, Any]:
    """An image's entry: that of the source, its labels as they were understood there, its donor named."""
    entry = {
        **entries[task.record["image_id"]],
        "file_name": task.file_name,
        "part_labels": task.record["part_labels"] if shift.keeps_parts else "none",
    }
    if task.donor is not None:
        entry["donor"] = {
            "image_id": task.donor["image_id"],
            "class_id": entries[task.donor["image_id"]]["class_id"],
        }
    return entry
