"""A folder of pictures, one an image, with sheets of them and a list of what they show."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from partbox.data import PartDataset
from partbox.progress import track

from .choice import SelectionError
from .labels import UnreadableImage, read_image
from .pictures import DPI, Panel, save_picture, sheet
from .text import shortened

Record = dict[str, Any]
PICTURES = "pictures"
COLUMNS, ROWS = 4, 5  # of a sheet
INCHES = 5.0  # width of a picture on a sheet
LEAST_INCHES = 4.0  # of one alone, for its title
BLANK = Panel(np.full((1, 1, 3), 255, np.uint8), "")


@dataclass
class Gallery:
    """What became of the chosen images.

    Attributes:
        pictures: an entry a picture: its file, the image, and what the caller says of it.
        unreadable: an entry an image that could not be shown: id, file and reason.
    """

    pictures: list[dict[str, Any]] = field(default_factory=list)
    unreadable: list[dict[str, Any]] = field(default_factory=list)


def save_gallery(
    folder: Path,
    records: Sequence[Record],
    dataset: PartDataset,
    draw: Callable[[Record, np.ndarray], tuple[list[Panel], Mapping[str, Any]]],
) -> Gallery:
    """Write ``pictures/*.png``, as large as they were drawn, and ``sheet_*.png``, with their numbers.

    An image that cannot be read is left out and stands in ``unreadable``.

    Args:
        folder: exists.
        records: of the chosen images.
        dataset: whose images they are.
        draw: record and photograph (H, W, 3) uint8 -> panels side by side, the same number for each, and plain values
            for the list.

    Raises:
        SelectionError: not one of the images can be read.
    """
    (folder / PICTURES).mkdir()
    gallery, waiting, sheets = Gallery(), [], 0
    for number, record in enumerate(track(records, len(records), "drawing", "image"), start=1):
        facts = {"image_id": record["image_id"], "file_name": record["file_name"]}
        try:
            image = read_image(record)
        except UnreadableImage as error:
            gallery.unreadable.append({**facts, "reason": str(error)})
            continue
        label = dataset.class_names[record["label"]]
        panels, said = draw(record, image)
        name = f"{PICTURES}/{number:04d}_{_plain(label)}_{_plain(str(record['image_id']))}.png"
        inches = max(LEAST_INCHES, *(panel.picture.shape[1] / DPI for panel in panels))
        title = f"{shortened(os.path.relpath(record['file_name'], dataset.image_root))} (image {facts['image_id']})"
        save_picture(folder / name, sheet([panels], title=title, inches=inches))
        gallery.pictures.append({"picture": name, **facts, "class": label, **said})
        waiting += [replace(panels[0], title=f"{number}: {panels[0].title}"), *panels[1:]]
        if len(waiting) >= COLUMNS * ROWS:
            sheets += 1
            _save_sheet(folder, sheets, waiting)
            waiting = []
    if waiting:
        _save_sheet(folder, sheets + 1, waiting)
    if not gallery.pictures:
        first = gallery.unreadable[0]
        raise SelectionError(
            f"none of the {len(records)} chosen images can be shown; the first, {first['file_name']}: {first['reason']}"
        )
    return gallery


def _plain(text: str) -> str:
    """A piece of a file name."""
    return re.sub(r"[^A-Za-z0-9.-]+", "-", text).strip("-.")[:40] or "x"


def _save_sheet(folder: Path, number: int, panels: Sequence[Panel]) -> None:
    filled = [*panels, *[BLANK] * (-len(panels) % COLUMNS)]
    rows = [filled[start : start + COLUMNS] for start in range(0, len(filled), COLUMNS)]
    save_picture(folder / f"sheet_{number:02d}.png", sheet(rows, inches=INCHES))
