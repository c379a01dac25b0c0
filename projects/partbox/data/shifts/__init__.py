"""Shifted part datasets: other backgrounds, no foreground, another texture; behind ``datasets/make_shifted.py``.

kinds       the table of shifts
foreground  which pixels are the object
backgrounds what happens to foreground and background
stylize     texture transfer
donors      which image gives its background or texture
render      one shifted image
make        the whole data set
"""

from .kinds import FOREGROUNDS, SHIFTS, Foreground, Shift

__all__ = ["FOREGROUNDS", "SHIFTS", "Foreground", "Shift"]
