"""Make a part dataset of Cityscapes-Panoptic-Parts: people and vehicles of street scenes with masks of their parts.

    python datasets/prepare_cityscapes_part.py --input cityscapes --output $DETECTRON2_DATASETS/cityscapes_part

The folder after --input holds what the two archives unpack to (see datasets/README.md):

    gtFinePanopticParts/{train,val}/<city>/*.tif       gtFinePanopticParts_trainval.zip
    leftImg8bit/{train,val}/<city>/*.png               leftImg8bit_trainvaltest.zip

By default this is the data set of the paper: one square crop a person, rider, car, truck or bus of at least 1000
pixels, in the classes human and vehicle with 9 parts, split 80/10/10. Other than there, no crops of one photograph,
or of one recorded sequence, are in two splits.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from partbox.arguments import ArgumentParser

from partbox.data.preparation import CropSettings, PrepareOptions
from partbox.data.preparation.command_line import (
    add_empty_argument,
    add_preparation_arguments,
    preparation_options,
    run_preparation,
)
from partbox.data.preparation.readers.cityscapes_part import CityscapesPartReader

# the paper's pad is 0.2 of the longer side on every side
DEFAULTS = PrepareOptions(min_side=0.0, crops=CropSettings(margin=1.4), fractions=(0.8, 0.1, 0.1))


def build_parser() -> ArgumentParser:
    """The command line."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--input", type=Path, required=True, metavar="FOLDER", help="folder of the unpacked archives")
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER", help="folder to be made")
    parser.add_argument(
        "--min-pixels", type=int, default=1000, metavar="N", help="leave out instances with fewer pixels (%(default)s)"
    )
    parser.add_argument(
        "--group",
        choices=("sequence", "photograph"),
        default="sequence",
        help="what never crosses splits; sequences are of very different length, so shares are not exact (%(default)s)",
    )
    add_empty_argument(parser)
    add_preparation_arguments(parser, defaults=DEFAULTS, own_splits=True)
    return parser


def main() -> int:
    """Prepare, and return the exit status."""
    parser = build_parser()
    args = parser.parse_args()
    if args.min_pixels < 1:
        parser.error("--min-pixels must be at least 1")
    if args.split is None and args.group != parser.get_default("group"):
        parser.error("--group is about splits that are drawn: the official ones have no city in common")

    def make_reader(say: Callable[[str], None]) -> CityscapesPartReader:
        reader = CityscapesPartReader(
            args.input,
            min_pixels=args.min_pixels,
            group=args.group,
            empty=args.empty,
            find_photos=not args.labels_only,
        )
        for note in reader.notes():
            say(note)
        return reader

    return run_preparation(args, make_reader, preparation_options(args, square=True), print)


if __name__ == "__main__":
    raise SystemExit(main())
