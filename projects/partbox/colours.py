"""The colour of a part: the same in every picture, and told apart by colour-blind readers as far as colours can."""

from __future__ import annotations

from collections.abc import Sequence

Colour = tuple[float, float, float]
"""Red, green, blue in [0, 1]."""

# Okabe & Ito (2008), "Color Universal Design", without black, the darkness of photographs.
OKABE_ITO: tuple[Colour, ...] = (
    (0.902, 0.624, 0.000),  # orange
    (0.337, 0.706, 0.914),  # sky blue
    (0.000, 0.620, 0.451),  # bluish green
    (0.941, 0.894, 0.259),  # yellow
    (0.000, 0.447, 0.698),  # blue
    (0.835, 0.369, 0.000),  # vermillion
    (0.800, 0.475, 0.655),  # reddish purple
)
RIGHT, WRONG = "#00704f", "#b33a00"  # of words on white; what they say stands there as well
DARKER, LIGHTER = 0.5, 0.6


def _shades() -> tuple[Colour, ...]:
    dark = [(red * DARKER, green * DARKER, blue * DARKER) for red, green, blue in OKABE_ITO]
    light = [tuple(1 - (1 - value) * (1 - LIGHTER) for value in colour) for colour in OKABE_ITO]
    return (*OKABE_ITO, *dark, *((red, green, blue) for red, green, blue in light))


PALETTE: tuple[Colour, ...] = _shades()
"""Seven hues as they are, dark, and light. Nobody tells more than these apart; pictures write names beside them."""


def bare_name(name: str) -> str:
    """``head`` of ``dog:head``; any other name as it is."""
    return name.split(":", 1)[1] if ":" in name else name


def colours_of(names: Sequence[str]) -> tuple[Colour, ...]:
    """The colour of each part, given the names of all of them in the order of the dataset or model.

    Parts of one name (``dog:head``, ``cat:head``) have one colour. The n-th new name gets the n-th colour of
    :data:`PALETTE`, which begins anew after the last.

    Args:
        names: ``class:part``, or mask channels of any part level.
    """
    places = {name: place for place, name in enumerate(dict.fromkeys(map(bare_name, names)))}
    return tuple(PALETTE[places[bare_name(name)] % len(PALETTE)] for name in names)
