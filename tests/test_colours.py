"""One colour a part, told apart with every kind of colour vision."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from skimage.color import rgb2lab

from partbox.colours import OKABE_ITO, PALETTE, RIGHT, WRONG, bare_name, colours_of

# Machado, Oliveira, Fernandes (2009), severity 1, on linear RGB.
VISION = {
    "full": np.eye(3),
    "protanopia": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]]
    ),
    "tritanopia": np.array(
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]]
    ),
}


def as_seen(colours, vision: str) -> np.ndarray:
    """Lab coordinates (N, 3) of colours as a reader sees them."""
    values = np.array(colours, dtype=np.float64)
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    seen = (linear @ VISION[vision].T).clip(0, 1)
    return rgb2lab(np.where(seen <= 0.0031308, seen * 12.92, 1.055 * seen ** (1 / 2.4) - 0.055))


def closest(colours, vision: str) -> float:
    seen = as_seen(colours, vision)
    return min(float(np.linalg.norm(seen[i] - seen[j])) for i, j in combinations(range(len(seen)), 2))


@pytest.mark.parametrize("vision", VISION)
def test_the_first_seven_colours_are_told_apart_by_everybody(vision):
    assert closest(OKABE_ITO, vision) > 9


@pytest.mark.parametrize("vision", VISION)
def test_no_two_of_the_palette_are_alike(vision):
    assert closest(PALETTE, vision) > 1
    assert len(set(PALETTE)) == len(PALETTE) == 21


@pytest.mark.parametrize("vision", VISION)
def test_right_and_wrong_differ_in_lightness_or_hue(vision):
    values = [[int(text[place : place + 2], 16) / 255 for place in (1, 3, 5)] for text in (RIGHT, WRONG)]
    assert closest(values, vision) > 15


def test_parts_of_one_name_have_one_colour_in_every_class():
    names = ["dog:head", "dog:leg", "cat:tail", "cat:head"]
    colours = colours_of(names)
    assert colours[0] == colours[3] == PALETTE[0]
    assert colours[1:3] == (PALETTE[1], PALETTE[2])
    assert colours_of(names[:2]) == colours[:2]
    assert [bare_name(name) for name in ("dog:head", "head", "a:b:c")] == ["head", "head", "b:c"]


def test_more_parts_than_colours_begin_anew():
    colours = colours_of([f"class:part {number}" for number in range(50)])
    assert colours[:21] == PALETTE
    assert colours[21] == PALETTE[0]
