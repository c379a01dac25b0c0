"""A folder of pictures, one an image, with sheets of them and a list of what they show."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from partbox.progress import track

from .choice import SelectionError
from .labels import UnreadableImage, read_image
from .pictures import Panel, save_picture, sheet

Record = dict[str, Any]
PICTURES = "pictures"
COLUMNS, ROWS = 4, 5  # of a sheet
BLANK = Panel(np.full((1, 1, 3), 255, np.uint8), "")


@dataclass
class Gallery:
    """What became of the chosen images.

    Attributes:
        pictures: an entry a picture: its file, the image, and what the caller says of it.
        unreadable: an entry an image that could not be read: id, file and reason.
    """

    pictures: list[dict[str, Any]] = field(default_factory=list)
    unreadable: list[dict[str, Any]] = field(default_factory=list)


def save_gallery(
    folder: Path,
    records: Sequence[Record],
    class_names: Sequence[str],
    draw: Callable[[Record, np.ndarray], tuple[list[Panel], Mapping[str, Any]]],
) -> Gallery:
    """Write ``pictures/*.png`` and ``sheet_*.png``.

    An image that cannot be read is left out and stands in ``unreadable``.

    Args:
        folder: exists.
        records: of the chosen images.
        class_names: of the dataset.
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
        label = class_names[record["label"]]
        panels, said = draw(record, image)
        name = f"{PICTURES}/{number:04d}_{_plain(label)}_{_plain(str(record['image_id']))}.png"
        save_picture(
            folder / name, sheet([panels], title=f"{Path(record['file_name']).name} (image {facts['image_id']})")
        )
        gallery.pictures.append({"picture": name, **facts, "class": label, **said})
        waiting += panels
        if len(waiting) >= COLUMNS * ROWS:
            sheets += 1
            _save_sheet(folder, sheets, waiting)
            waiting = []
    if waiting:
        _save_sheet(folder, sheets + 1, waiting)
    if not gallery.pictures:
        first = gallery.unreadable[0]
        raise SelectionError(
            f"none of the {len(records)} chosen images can be read; the first, {first['file_name']}: {first['reason']}"
        )
    return gallery


def _plain(text: str) -> str:
    """A piece of a file name."""
    return re.sub(r"[^A-Za-z0-9.-]+", "-", text).strip("-.")[:40] or "x"


def _save_sheet(folder: Path, number: int, panels: Sequence[Panel]) -> None:
    filled = [*panels, *[BLANK] * (-len(panels) % COLUMNS)]
    rows = [filled[start : start + COLUMNS] for start in range(0, len(filled), COLUMNS)]
    save_picture(folder / f"sheet_{number:02d}.png", sheet(rows))
