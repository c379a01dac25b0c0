"""Errors of datasets and their files."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import sqlite3
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import partbox
from partbox.data import PartDatasetError, get_part_dataset, load_part_dataset
from partbox.data.preparation import PrepareOptions
from partbox.data.preparation.command_line import run_preparation

from .provoking import entry, said


def dataset(image: dict[str, Any] | None = None, **annotation: Any) -> Path:
    """A part dataset of one image, datasets_root/my_parts/train.json, with changes."""
    folder = Path("datasets_root/my_parts")
    (folder / "images").mkdir(parents=True, exist_ok=True)
    entry_of_image = {"id": 1, "file_name": "a.jpg", "width": 40, "height": 30, "class_id": 1, **(image or {})}
    part = {"id": 5, "image_id": 1, "category_id": 1, "bbox": [2, 2, 20, 20], **annotation}
    document = {
        "classes": [{"id": 1, "name": "dog"}],
        "categories": [{"id": 1, "name": "head", "supercategory": "dog"}],
        "images": [entry_of_image],
        "annotations": [part],
    }
    (folder / "train.json").write_text(json.dumps(document))
    picture = np.random.default_rng(0).integers(0, 255, (30, 40, 3), dtype=np.uint8)
    Image.fromarray(picture).save(folder / "images" / "a.jpg")
    return folder / "train.json"


def load(file: Path, verify: str = "header") -> str:
    text = said(PartDatasetError, lambda: load_part_dataset(file, file.parent / "images", verify_images=verify))
    return text.replace(str(Path.cwd()), "/home/me/partbox")


@entry("An image is turned by its EXIF data")
def _() -> str:
    file = dataset()
    path = file.parent / "images/a.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(path).save(path, exif=exif)
    return load(file)


@entry("An image file is cut off")
def _() -> str:
    file = dataset()
    path = file.parent / "images/a.jpg"
    path.write_bytes(path.read_bytes()[:-200])
    return load(file)


@entry("An RLE mask has another size than its image")
def _() -> str:
    return load(dataset(segmentation={"size": [40, 30], "counts": [0, 1200]}))


@entry("A polygon has four numbers")
def _() -> str:
    return load(dataset(segmentation=[[2, 2, 22, 22]]))


@entry("A box has no area")
def _() -> str:
    return load(dataset(bbox=[2, 2, 0, 5]))


@entry("A key is misspelt")
def _() -> str:
    return load(dataset(image={"part_lables": "box"}))


@entry("A dataset's name is unknown")
def _() -> str:
    partbox.register_all(Path("datasets_root").absolute())
    return said(PartDatasetError, lambda: get_part_dataset("pascal_part_animal_train"))


@entry("A dataset's files are not there")
def _() -> str:
    partbox.register_all(Path("datasets_root").absolute())
    text = said(PartDatasetError, lambda: get_part_dataset("pascal_part_animals_train"))
    return text.replace(str(Path.cwd()), "/home/me/partbox")


def prepare(reader: Callable[..., Any], output: str = "datasets_root/my_parts") -> str:
    """What the scripts datasets/prepare_*.py write to stderr."""
    arguments = argparse.Namespace(output=Path(output), workers=1, overwrite=False)
    stderr = io.StringIO()
    with contextlib.redirect_stderr(stderr):
        assert run_preparation(arguments, reader, PrepareOptions(), lambda text: None) == 1
    return stderr.getvalue().strip()


@entry("The output folder holds something else")
def _() -> str:
    Path("datasets_root/my_parts").mkdir(parents=True)
    Path("datasets_root/my_parts/notes.txt").touch()
    return prepare(lambda say: types.SimpleNamespace(numbered=False, image_root="x"))


@entry("The temporary folder is full")
def _() -> str:
    def full(say: Callable[[str], None]) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    return prepare(full)
