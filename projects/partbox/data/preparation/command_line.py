"""The command line that the scripts ``datasets/prepare_*.py`` share."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from partbox.data.part_json_types import PartDatasetError

from .object_crops import CropSettings
from .options import PrepareOptions
from .prepare import prepare_parts


def add_crop_arguments(parser: argparse.ArgumentParser, *, labels: Sequence[str], default_labels: str) -> None:
    """Add the options of how crops are cut, split and written."""
    cut = parser.add_argument_group("cropping")
    cut.add_argument(
        "--margin", type=_at_least(1.0), default=1.5, metavar="FACTOR", help="sides of a crop over those of its object"
    )
    cut.add_argument(
        "--min-side", type=_at_least(0.0), default=16.0, metavar="PIXELS", help="leave out objects with a shorter side"
    )
    cut.add_argument(
        "--max-side", type=_whole_number(1), default=256, metavar="PIXELS", help="longest side of a saved crop"
    )
    cut.add_argument("--format", choices=("jpg", "png"), default="jpg", help="jpg: quality 95, colours not subsampled")
    cut.add_argument("--labels", choices=labels, default=default_labels, help="what parts are labelled with")
    cut.add_argument(
        "--empty",
        choices=("unlabelled", "absent"),
        default="unlabelled",
        help="an object without part labels: nobody labelled its parts, or none is visible",
    )
    run = parser.add_argument_group("splitting and running")
    run.add_argument(
        "--split",
        type=_fractions,
        default=(0.7, 0.15, 0.15),
        metavar="A,B,C",
        help="shares of photographs for train,val,test; may be 0",
    )
    run.add_argument("--seed", type=int, default=0, metavar="N", help="of the split")
    run.add_argument("--workers", type=_whole_number(1), default=os.cpu_count() or 1, metavar="N", help="processes")
    run.add_argument("--overwrite", action="store_true", help="replace an earlier preparation with other options")


def crop_settings(args: argparse.Namespace) -> CropSettings:
    """The crop settings of parsed arguments."""
    return CropSettings(margin=args.margin, max_side=args.max_side, image_format=args.format)


def run_preparation(
    args: argparse.Namespace,
    annotations: Path,
    image_root: Path,
    options: PrepareOptions,
    say: Callable[[str], None],
) -> int:
    """Prepare, and turn what goes wrong into one sentence on stderr. Returns the exit status."""
    try:
        prepare_parts(
            annotations, image_root, args.output, options, workers=args.workers, overwrite=args.overwrite, say=say
        )
    except PartDatasetError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    except OSError as error:
        sys.stderr.write(f"error: {error.filename or args.output}: {error.strerror or error}. Run again to go on.\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("interrupted: run the same command again to go on\n")
        return 130
    say(f"wrote {args.output}")
    return 0


def _fractions(text: str) -> tuple[float, float, float]:
    try:
        shares = [float(part) for part in text.split(",")]
    except ValueError:
        shares = []
    if len(shares) != 3 or min(shares) < 0 or abs(sum(shares) - 1) > 1e-6:
        raise argparse.ArgumentTypeError(f"{text!r} must be three shares that sum to 1, such as 0.7,0.15,0.15")
    return shares[0], shares[1], shares[2]


def _at_least(minimum: float) -> Callable[[str], float]:
    def number(text: str) -> float:
        value = float(text)
        if not minimum <= value < float("inf"):
            raise argparse.ArgumentTypeError(f"must be at least {minimum:g}")
        return value

    return number


def _whole_number(minimum: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        value = int(text)
        if value < minimum:
            raise argparse.ArgumentTypeError(f"must be at least {minimum}")
        return value

    return number
