"""The shifts: their names, what each keeps of an image, and what it takes from another one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

Donor = Literal["none", "same", "next", "other"]
"""The image that a shift takes a background or a texture from: of the same class, of the next one, of any other."""

Foreground = Literal["parts", "hull", "box", "grabcut"]
FOREGROUNDS: tuple[Foreground, ...] = get_args(Foreground)
"""What counts as foreground, see :func:`partbox.data.shifts.foreground.foreground_mask`."""

JSON_NAME = "part_dataset.json"
IMAGES_NAME = "images"


@dataclass(frozen=True)
class Shift:
    """A shift.

    Attributes:
        name: those of ImageNet-9 (Xiao et al. 2020, arXiv 2006.09994) where it has the shift.
        meaning: one line for a reader of ``--help``.
        donor: which other image it needs.
        keeps_parts: whether the object, and so the labels of its parts, are still there.
        cuts_out: whether the outline of the foreground matters, not only its bounding box.
    """

    name: str
    meaning: str
    donor: Donor = "none"
    keeps_parts: bool = True
    cuts_out: bool = True


SHIFTS: dict[str, Shift] = {
    shift.name: shift
    for shift in (
        Shift("original", "unchanged, but only the images that the other shifts have", cuts_out=False),
        Shift("only_fg", "the foreground on black"),
        Shift("mixed_same", "the foreground on the background of another image of its class", "same"),
        Shift("mixed_rand", "the foreground on the background of an image of another class", "other"),
        Shift("mixed_next", "the foreground on the background of an image of the next class", "next"),
        Shift("no_fg", "the foreground black, its outline still there", keeps_parts=False),
        Shift("no_fg_inpainted", "the foreground painted over from its surroundings (Telea 2004)", keeps_parts=False),
        Shift("only_bg_b", "the foreground's bounding box black", keeps_parts=False, cuts_out=False),
        Shift("only_bg_t", "the foreground's bounding box tiled with background", keeps_parts=False, cuts_out=False),
        Shift(
            "stylized",
            "the texture and colours of an object of another class on the shapes of the image",
            "other",
            cuts_out=False,
        ),
    )
}


def shifted_folder(json_file: Path) -> Path:
    """Gets one folder a shift, where the user names no other: ``shifted/test`` beside ``test.json``."""
    return json_file.parent / "shifted" / json_file.stem
