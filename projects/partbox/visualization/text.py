"""Text in pictures: names stay as they are, in a font that has their characters, and readable on black."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from matplotlib import font_manager, rc_context
from matplotlib.font_manager import FontProperties

from partbox.colours import Colour

# A part may be called "$x_1$": no name is a formula.
PLAIN_TEXT: Any = {"text.parse_math": False, "text.usetex": False}
OWN = "DejaVu Sans"  # comes with matplotlib, so that pictures look the same everywhere
# For the characters that it lacks, where the machine has one of these.
OTHERS = (
    *("Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans CJK KR", "Source Han Sans SC", "WenQuanYi Zen Hei"),
    *("Droid Sans Fallback", "Microsoft YaHei", "PingFang SC", "Hiragino Sans", "Malgun Gothic", "Arial Unicode MS"),
    *("Noto Sans Devanagari", "Noto Sans Thai", "Noto Sans Bengali", "Noto Sans Tamil", "Noto Sans"),
)
LONGEST_NAME = 60  # characters of a file name in a title
READABLE = 0.65  # least relative brightness of text on black


@cache
def fonts() -> tuple[str, ...]:
    """Matplotlib's own font and those of OTHERS that this machine has."""
    there = set(font_manager.get_font_names())
    return (OWN, *(name for name in OTHERS if name in there))


@contextmanager
def plain_text() -> Iterator[None]:
    """Around drawing: names are no formulas, and a character without a glyph is said once, by the caller."""
    with rc_context({**PLAIN_TEXT, "font.sans-serif": list(fonts())}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        yield


@cache
def _characters() -> frozenset[int]:
    """Code points that the fonts have."""
    found: set[int] = set()
    for name in fonts():
        path = font_manager.findfont(FontProperties(family=[name]))
        found |= font_manager.get_font(path).get_charmap().keys()
    return frozenset(found)


def without_glyph(texts: Iterable[str]) -> list[str]:
    """The characters that pictures show as empty boxes, sorted."""
    return sorted({one for text in texts for one in text if not one.isspace() and ord(one) not in _characters()})


def glyph_remarks(texts: Iterable[str]) -> list[str]:
    """A sentence about the characters that pictures cannot show; none where they show all."""
    missing = without_glyph(texts)
    if not missing:
        return []
    shown = " ".join(f"{one} (U+{ord(one):04X})" for one in missing[:5]) + (" ..." if len(missing) > 5 else "")
    return [
        f"(!) no font of the pictures has {shown}: drawn as empty boxes, the files beside them have the names as they "
        "are; install a font such as Noto Sans CJK"
    ]


def shortened(name: str) -> str:
    """A file name in a title: its end, if it is long; what cannot be printed as an escape."""
    text = "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in name)
    return text if len(text) <= LONGEST_NAME else f"…{text[1 - LONGEST_NAME :]}"


def readable(colour: Colour) -> Colour:
    """A colour, lighter if need be, as text on black."""
    red, green, blue = colour
    brightness = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    share = max(0.0, (READABLE - brightness) / (1 - brightness))
    return red + (1 - red) * share, green + (1 - green) * share, blue + (1 - blue) * share
