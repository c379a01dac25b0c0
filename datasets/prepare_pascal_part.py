"""Make a part dataset of PASCAL-Part: VOC2010 photographs with masks of objects and their parts.

    python datasets/prepare_pascal_part.py --input pascal_part_source --output $DETECTRON2_DATASETS/pascal_part

The folder after --input holds what the two archives unpack to (see datasets/README.md):

    Annotations_Part/*.mat                   trainval.tar.gz
    VOCdevkit/VOC2010/JPEGImages/*.jpg       VOCtrainval_03-May-2010.tar

By default this is the data set of the paper: whole photographs whose largest object is an aeroplane, bird, car, cat or
dog, and three parts of each class, split 80/10/10.
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
from partbox.data.preparation.readers.pascal_part import PascalPartReader

DEFAULTS = PrepareOptions(fractions=(0.8, 0.1, 0.1), crops=CropSettings(max_side=512))
ONLY_CROPS = ("margin", "min_side", "min_area_share")
"""Options that mean nothing where photographs stay whole."""


def build_parser() -> ArgumentParser:
    """The command line."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--input", type=Path, required=True, metavar="FOLDER", help="folder of the unpacked archives")
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER", help="folder to be made")
    parser.add_argument(
        "--classes",
        choices=("paper", "all"),
        default="paper",
        help="paper: 15 parts of 5 classes; all: the 193 published parts of the 20 classes (%(default)s)",
    )
    parser.add_argument(
        "--crop",
        choices=("none", "objects"),
        default="none",
        help="none keeps whole photographs, each of the class of its largest object; objects: one crop an object "
        "(%(default)s)",
    )
    add_empty_argument(parser)
    add_preparation_arguments(parser, defaults=DEFAULTS, own_splits=True)
    return parser


def main() -> int:
    """Prepare, and return the exit status."""
    parser = build_parser()
    args = parser.parse_args()
    for name in ONLY_CROPS:
        if args.crop == "none" and getattr(args, name) != parser.get_default(name):
            parser.error(f"--{name.replace('_', '-')} is about crops: add --crop objects")

    def make_reader(say: Callable[[str], None]) -> PascalPartReader:
        reader = PascalPartReader(
            args.input, classes=args.classes, crop=args.crop, empty=args.empty, find_photos=not args.labels_only
        )
        for note in reader.notes():
            say(note)
        return reader

    return run_preparation(args, make_reader, preparation_options(args), print)


if __name__ == "__main__":
    raise SystemExit(main())
