"""How an eps is read and written: numbers, and fractions of grey levels."""

from __future__ import annotations

import math
from fractions import Fraction


def parse_eps(value: float | int | str, name: str = "eps") -> float:
    """Read a number that may be written as a fraction, such as ``8/255``.

    Args:
        value: a number, or text such as ``"8/255"``, ``"0.5"`` or ``"1e-3"``.
        name: how the error message calls the value.

    Raises:
        ValueError: not a finite number >= 0.
    """
    try:
        number = float(Fraction(value.replace(" ", ""))) if isinstance(value, str) else float(value)
    except (ValueError, ZeroDivisionError, TypeError, OverflowError):
        raise ValueError(f"{name} must be a number or a fraction such as 8/255, not {value!r}") from None
    if isinstance(value, bool) or not math.isfinite(number) or number < 0:
        raise ValueError(f"{name} must be finite and not negative, not {value!r}")
    return number


def eps_text(eps: float) -> str:
    """An eps or step size in [0, 1] pixel space as papers write it: ``8/255`` where it is one, ``0.05`` where not."""
    numerator = eps * 255
    whole = 0 < eps < 1 and abs(numerator - round(numerator)) < 1e-9
    return f"{round(numerator)}/255" if whole else f"{eps:g}"
