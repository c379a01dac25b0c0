"""Dividing work among processes that are started by hand."""

from __future__ import annotations

import argparse
import re


def parse_part(text: str) -> tuple[int, int]:
    """``1/4`` -> (1, 4): part 1, counted from 0, of 4.

    Raises:
        argparse.ArgumentTypeError: anything else.
    """
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if not match or int(match.group(1)) >= int(match.group(2)):
        raise argparse.ArgumentTypeError(f"{text!r} is not I/N with I from 0 to N - 1, such as 0/2")
    return int(match.group(1)), int(match.group(2))


def add_part_argument(parser: argparse.ArgumentParser) -> None:
    """Add ``--part`` of an evaluation."""
    parser.add_argument(
        "--part",
        type=parse_part,
        default=(0, 1),
        metavar="I/N",
        help="with --eval-only: do part I (from 0) of N of the evaluation. Start N processes with the same OUTPUT_DIR, "
        "on one machine or several; the last one to finish writes the results",
    )
