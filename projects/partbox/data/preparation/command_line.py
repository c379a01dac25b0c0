"""The command line that the scripts ``datasets/prepare_*.py`` share."""

from __future__ import annotations

import argparse
import os
import sqlite3
import sys
from collections.abc import Callable, Sequence

from partbox.data.part_json_types import PartDatasetError

from .object_crops import CropSettings
from .options import KeptLabels, PrepareOptions
from .photo_reader import PhotoReader
from .prepare import prepare_photos


def add_preparation_arguments(
    parser: argparse.ArgumentParser,
    *,
    defaults: PrepareOptions,
    own_splits: bool = False,
    whole_photos: bool = False,
    labels: Sequence[str] = ("mask", "box", "none"),
) -> None:
    """Add the options of what is kept, how it is cut, split and written.

    Args:
        parser: of the script.
        defaults: of the options.
        own_splits: whether the labels come with splits of their owner.
        whole_photos: whether photographs stay whole, so that nothing can be said of objects.
        labels: choices of ``--labels``; the first is the default.
    """
    if whole_photos:
        parser.set_defaults(min_side=0.0, min_area_share=0.0, margin=1.0)
    _add_kept(parser.add_argument_group("what is kept"), defaults, labels, objects=not whole_photos)
    cut = parser.add_argument_group("saving" if whole_photos else "cropping")
    _add_cropping(cut, defaults, objects=not whole_photos)
    _add_running(parser.add_argument_group("splitting and running"), defaults, own_splits=own_splits)


def _add_kept(kept: argparse._ArgumentGroup, defaults: PrepareOptions, labels: Sequence[str], *, objects: bool) -> None:
    kept.add_argument("--labels", choices=labels, default=labels[0], help="what parts are labelled with (%(default)s)")
    kept.add_argument(
        "--label-share",
        type=_share,
        default=1.0,
        metavar="SHARE",
        help="share of the training images that keep their part labels; larger shares hold smaller ones (1)",
    )
    kept.add_argument("--label-seed", type=int, default=0, metavar="N", help="of that choice (0)")
    if objects:
        kept.add_argument(
            "--min-side",
            type=_at_least(0.0),
            default=defaults.min_side,
            metavar="PIXELS",
            help="leave out objects with a shorter side (%(default)g)",
        )
        kept.add_argument(
            "--min-area-share",
            type=_share,
            default=defaults.min_area_share,
            metavar="SHARE",
            help="leave out objects whose box covers less of the photograph (%(default)g)",
        )
    kept.add_argument(
        "--labels-only", action="store_true", help="write the labels and no image; photographs are not needed"
    )


def _add_cropping(cut: argparse._ArgumentGroup, defaults: PrepareOptions, *, objects: bool) -> None:
    if objects:
        cut.add_argument(
            "--margin",
            type=_at_least(1.0),
            default=defaults.crops.margin,
            metavar="FACTOR",
            help="sides of a crop over those of its object (%(default)g)",
        )
    cut.add_argument(
        "--max-side",
        type=_whole_number(1),
        default=defaults.crops.max_side,
        metavar="PIXELS",
        help="longest side of a saved image (%(default)d)",
    )
    cut.add_argument("--format", choices=("jpg", "png"), default="jpg", help="jpg: quality 95, colours not subsampled")


def _add_running(run: argparse._ArgumentGroup, defaults: PrepareOptions, *, own_splits: bool) -> None:
    run.add_argument(
        "--split",
        type=_fractions_or_official if own_splits else _fractions,
        default=defaults.fractions,
        metavar="A,B,C",
        help="shares of photographs for train,val,test; may be 0"
        + ("; official: the owner's own splits" if own_splits else "")
        + f" ({'official' if defaults.fractions is None else ','.join(map('{:g}'.format, defaults.fractions))})",
    )
    run.add_argument("--seed", type=int, default=0, metavar="N", help="of the split (0)")
    run.add_argument("--workers", type=_whole_number(1), default=os.cpu_count() or 1, metavar="N", help="processes")
    run.add_argument("--overwrite", action="store_true", help="replace an earlier preparation with other options")


def add_empty_argument(group: argparse._ActionsContainer) -> None:
    """Add the option that says what an object without part labels is."""
    group.add_argument(
        "--empty",
        choices=("unlabelled", "absent"),
        default="unlabelled",
        help="an object without part labels: nobody labelled its parts, or none is visible (%(default)s)",
    )


def preparation_options(
    args: argparse.Namespace, *, labels: KeptLabels | None = None, square: bool = False
) -> PrepareOptions:
    """The options of parsed arguments.

    Args:
        args: parsed arguments.
        labels: in the place of ``--labels``, where that means something else.
        square: whether crops are squares.
    """
    return PrepareOptions(
        labels=labels or args.labels,
        min_side=args.min_side,
        min_area_share=args.min_area_share,
        crops=CropSettings(args.margin, args.max_side, args.format, square),
        fractions=args.split,
        seed=args.seed,
        label_share=args.label_share,
        label_seed=args.label_seed,
        labels_only=args.labels_only,
    )


def run_preparation(
    args: argparse.Namespace,
    make_reader: Callable[[Callable[[str], None]], PhotoReader],
    options: PrepareOptions,
    say: Callable[[str], None],
) -> int:
    """Prepare, and turn what goes wrong into one sentence on stderr. Returns the exit status.

    Args:
        args: parsed arguments, with ``output``.
        make_reader: the reader, given who is told what it finds.
        options: what to make.
        say: is told sentences.
    """
    try:
        options.refuse_seeds_of_nothing()  # before a reader looks through all files
        reader = make_reader(say)
        prepare_photos(
            reader, args.output, options, workers=args.workers, overwrite=args.overwrite, say=say, command=sys.argv
        )
    except PartDatasetError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    except OSError as error:
        sys.stderr.write(f"error: {error.filename or args.output}: {error.strerror or error}. Run again to go on.\n")
        return 1
    except sqlite3.Error as error:
        sys.stderr.write(
            f"error: the temporary database of labels: {error}. It takes as much room as the labels: set TMPDIR to a "
            "folder with more, and run again.\n"
        )
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("interrupted: run the same command again to go on\n")
        return 130
    say(f"wrote {args.output}")
    return 0


def _fractions_or_official(text: str) -> tuple[float, float, float] | None:
    return None if text == "official" else _fractions(text)


def _share(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError("must lie in [0, 1]")
    return value


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
