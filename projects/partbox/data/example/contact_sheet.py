"""A picture of the example data: a row a class, images beside their parts."""

from __future__ import annotations

import colorsys

import numpy as np
from numpy.random import PCG64, Generator, SeedSequence
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from partbox.data.example.anatomy import CLASSES, ObjectClass
from partbox.data.example.render import ExampleImage, render_example
from partbox.data.example.style import ExampleStyle

_GAP = 4
_NAME_WIDTH = 92
_BACKDROP = (36, 36, 40)


def contact_sheet(
    *,
    columns: int = 6,
    seed: int = 0,
    size: tuple[int, int] = (64, 64),
    style: ExampleStyle | None = None,
    zoom: int = 2,
) -> Image.Image:
    """Draw a sheet with a row a class: its name and parts, then ``columns`` pairs of image and part masks.

    ``size`` is (height, width) of the images in pixels; on the sheet each pixel is ``zoom`` pixels wide.
    """
    height, width = size[0] * zoom, size[1] * zoom
    row_height, pair_width = max(height + _GAP, 13 * 6), 2 * width + 2 * _GAP
    sheet = Image.new("RGB", (_NAME_WIDTH + columns * pair_width, len(CLASSES) * row_height + _GAP), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(11)
    for row, entry in enumerate(CLASSES):
        top = _GAP + row * row_height
        pen.text((6, top), entry.name, fill="black", font=font)
        for line, (part, colour) in enumerate(zip(entry.parts, part_colours(entry), strict=True), start=1):
            pen.rectangle((6, top + line * 13 + 3, 13, top + line * 13 + 10), fill=colour)
            pen.text((18, top + line * 13), part, fill="black", font=font)
        for column in range(columns):
            rng = Generator(PCG64(SeedSequence(entropy=seed, spawn_key=(row, column))))
            example = render_example(rng, entry, size=size, style=style)
            left = _NAME_WIDTH + column * pair_width
            for place, picture in enumerate((example.image, part_picture(entry, example))):
                tile = Image.fromarray(picture).resize((width, height), Image.Resampling.NEAREST)
                sheet.paste(tile, (left + place * (width + 1), top))
    return sheet


def part_colours(entry: ObjectClass) -> list[tuple[int, int, int]]:
    """A colour for each part of a class: RGB, 0 to 255."""
    hues = np.arange(len(entry.parts)) / len(entry.parts)
    bright = [colorsys.hsv_to_rgb(hue, 0.7, 0.95) for hue in hues.tolist()]
    return [(round(255 * red), round(255 * green), round(255 * blue)) for red, green, blue in bright]


def part_picture(entry: ObjectClass, example: ExampleImage) -> NDArray[np.uint8]:
    """The part masks of an image in colour, (H, W, 3); further instances of a part are darker."""
    picture = np.full(example.image.shape, _BACKDROP, dtype=np.uint8)
    colours = np.array(part_colours(entry))
    for (part, instance), mask in zip(example.parts, example.masks, strict=True):
        picture[mask] = colours[entry.parts.index(part)] * (1 - 0.18 * min(instance, 3))
    return picture
