"""The labels of an image as what can be drawn, and what a reader has to be told about them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from detectron2.structures import BoxMode
from detectron2.utils.file_io import PathManager
from PIL import Image, UnidentifiedImageError

from partbox.colours import Colour, colours_of
from partbox.data import PartDataset
from partbox.data.image_files import pixels_problem, upright_rgb
from partbox.data.loader import UNREADABLE
from partbox.data.part_map import decode_mask

from .pictures import ShownPart

Record = Mapping[str, Any]


class UnreadableImage(RuntimeError):
    """An image file that cannot be shown; the message says why."""


def part_names(dataset: PartDataset) -> list[str]:
    """The parts of a dataset as ``class:part``, as detectron2's metadata name them."""
    return [f"{dataset.class_names[part.class_index]}:{part.name}" for part in dataset.categories]


def part_colours(dataset: PartDataset) -> tuple[Colour, ...]:
    """The colour of each part of a dataset."""
    return colours_of(part_names(dataset))


LONGEST_SHAPE = 100  # a longer side of so many shorter ones is a line


def read_image(record: Record) -> np.ndarray:
    """The photograph, (height, width, 3) uint8 RGB.

    Raises:
        UnreadableImage: it cannot be read, has another size than the dataset says, or could be shown as something else
            alone: pixels of more than 8 bits, a line.
    """
    try:
        with PathManager.open(record["file_name"], "rb") as file, Image.open(file) as opened:
            if problem := pixels_problem(opened):
                raise UnreadableImage(problem)
            image = np.asarray(upright_rgb(opened))
    except UnidentifiedImageError:
        raise UnreadableImage("is no image of a known format, or its header is damaged") from None
    except UNREADABLE as error:
        raise UnreadableImage(f"{type(error).__name__}: {error}") from error
    height, width = image.shape[:2]
    if (height, width) != (record["height"], record["width"]):
        raise UnreadableImage(f"is {width} x {height} pixels, the file says {record['width']} x {record['height']}")
    if max(width, height) > LONGEST_SHAPE * min(width, height):
        raise UnreadableImage(f"is {width} x {height} pixels, too long and thin to be drawn")
    return image


def labelled_parts(record: Record, dataset: PartDataset, colours: Sequence[Colour]) -> list[ShownPart]:
    """The labelled parts of an image: with masks where it counts as labelled with masks, else boxes alone."""
    shown = []
    for part in record["annotations"]:
        category = dataset.categories[part["category_id"]]
        x0, y0, x1, y1 = BoxMode.convert(list(part["bbox"]), part["bbox_mode"], BoxMode.XYXY_ABS)
        mask = None
        if record["part_labels"] == "mask":
            mask = decode_mask(part["segmentation"], record["height"], record["width"])
        colour = colours[part["category_id"]]
        shown.append(ShownPart(category.name, colour, (x0, y0, x1, y1), mask, part.get("score")))
    return shown


def labels_in_words(record: Record) -> str:
    """What is labelled in an image, such as ``boxes of 3 parts`` or ``parts not labelled``."""
    if record["part_labels"] == "none":
        return "parts not labelled"
    count = len(record["annotations"])
    if not count:
        return "labelled: no part visible"
    kind = {"mask": "masks", "box": "boxes"}[record["part_labels"]]
    predicted = "predicted " if record["label_source"] == "predicted" else ""
    return f"{predicted}{kind} of {count} part{'s' if count > 1 else ''}"
