"""Pictures of a gallery: small, inside the page, and readable without colours."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .examples import Example

SIDE = 240  # pixels of the longer side
DIFFERENCE = 10  # times
MOST_PARTS = 12
# Okabe & Ito; a part has its number beside the colour, which repeats after eight
COLOURS = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7", "#FFFFFF")


@dataclass(frozen=True)
class Part:
    """A line of a picture's legend.

    Attributes:
        number: as written on the picture.
        colour: CSS.
        name: of the part.
        text: how much of it: share of the image, or the score of its box.
    """

    number: int
    colour: str
    name: str
    text: str


def picture_source(image: np.ndarray, *, quality: int = 80) -> str:
    """An image (H, W, 3) uint8 as the address of a WebP picture, made smaller where it is larger than ``SIDE``."""
    picture = Image.fromarray(image)
    if max(picture.size) > SIDE:
        picture = picture.resize(_size(picture), Image.Resampling.LANCZOS)
    return _source(picture, quality)


def difference_source(clean: np.ndarray, other: np.ndarray) -> str:
    """Grey + 10 x (other - clean), as an address; made smaller without averaging, which would hide the difference."""
    change = DIFFERENCE * (other.astype(np.int16) - clean.astype(np.int16))
    picture = Image.fromarray(np.clip(128 + change, 0, 255).astype(np.uint8))
    if max(picture.size) > SIDE:
        picture = picture.resize(_size(picture), Image.Resampling.NEAREST)
    return _source(picture, 70)


def part_numbers(examples: Iterable[Example]) -> dict[str, int]:
    """A number from 1 for each part that is found in any of these, the same in all of them."""
    names = dict.fromkeys(name for example in examples for name in _found(example))
    return {name: number for number, name in enumerate(names, start=1)}


def parts_source(example: Example, numbers: Mapping[str, int]) -> tuple[str, list[Part]]:
    """The image with the parts that were found in it, as an address, and the legend; at most ``MOST_PARTS`` of them."""
    picture = Image.fromarray(example.image)
    scale = SIDE / max(picture.size)
    picture = picture.resize(_size(picture), Image.Resampling.LANCZOS)
    shown = list(_found(example).items())[:MOST_PARTS]
    legend = [Part(numbers[name], _colour(numbers[name]), name, text) for name, text in shown]
    if example.part_map is not None:
        _draw_masks(picture, example, legend)
    else:
        _draw_boxes(picture, example, legend, scale)
    return _source(picture.convert("RGB"), 80), legend


def has_parts(example: Example) -> bool:
    """Whether the model looks for parts, found or not."""
    return example.part_map is not None or bool(example.part_names) or bool(example.boxes)


def _found(example: Example) -> dict[str, str]:
    """Parts found, largest or surest first, with how much of each."""
    if example.part_map is not None:
        pixels = np.bincount(example.part_map.ravel(), minlength=1 + len(example.part_names))[1:]
        order = [k for k in np.argsort(-pixels, kind="stable") if pixels[k]]
        return {example.part_names[k]: f"{100 * pixels[k] / example.part_map.size:.1f} %" for k in order}
    found: dict[str, list[float]] = {}
    for box in example.boxes:
        found.setdefault(box.name, []).append(box.score)
    return {
        name: f"score {max(scores):.2f}" + (f", {len(scores)} boxes" if len(scores) > 1 else "")
        for name, scores in found.items()
    }


def _colour(number: int) -> str:
    return COLOURS[(number - 1) % len(COLOURS)]


def _draw_masks(picture: Image.Image, example: Example, legend: Iterable[Part]) -> None:
    assert example.part_map is not None
    places: list[tuple[float, float, Part]] = []
    for part in legend:
        inside = example.part_map == 1 + example.part_names.index(part.name)
        mask = Image.fromarray((inside * np.uint8(255)).astype(np.uint8)).resize(picture.size, Image.Resampling.NEAREST)
        tint = mask.point(lambda value: 140 if value else 0)
        picture.paste(Image.new("RGB", picture.size, part.colour), mask=tint)
        rows, columns = np.nonzero(np.asarray(mask))
        if len(rows):  # at the pixel of the part that is nearest to its middle, so that it lies on the part
            nearest = np.argmin((rows - rows.mean()) ** 2 + (columns - columns.mean()) ** 2)
            places.append((float(columns[nearest]), float(rows[nearest]), part))
    for x, y, part in places:
        _write_number(picture, x, y, part)


def _draw_boxes(picture: Image.Image, example: Example, legend: Iterable[Part], scale: float) -> None:
    draw = ImageDraw.Draw(picture)
    parts = {part.name: part for part in legend}
    boxes = [box for box in example.boxes if box.name in parts]
    for box in boxes:
        x0, y0, x1, y1 = (scale * one for one in box.box)
        corners = (min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1))
        draw.rectangle(corners, outline="#000000", width=4)
        draw.rectangle(
            [corners[0] + 1, corners[1] + 1, corners[2] - 1, corners[3] - 1]
            if corners[2] - corners[0] > 4 and corners[3] - corners[1] > 4
            else corners,
            outline=parts[box.name].colour,
            width=2,
        )
    for box in boxes:
        _write_number(picture, scale * box.box[0] + 7, scale * box.box[1] + 7, parts[box.name])


def _write_number(picture: Image.Image, x: float, y: float, part: Part) -> None:
    draw = ImageDraw.Draw(picture)
    font = ImageFont.load_default(size=13)
    text = str(part.number)
    x = min(max(x, 8), picture.width - 8)
    y = min(max(y, 8), picture.height - 8)
    left, top, right, bottom = draw.textbbox((x, y), text, font=font, anchor="mm")
    draw.rectangle([left - 2, top - 2, right + 2, bottom + 2], fill="#000000")
    draw.text((x, y), text, fill="#ffffff", font=font, anchor="mm")


def _size(picture: Image.Image) -> tuple[int, int]:
    scale = SIDE / max(picture.size)
    return max(round(picture.width * scale), 1), max(round(picture.height * scale), 1)


def _source(picture: Image.Image, quality: int) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, format="WEBP", quality=quality, method=4)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()
