"""Make a part dataset of PartImageNet: whole photographs of ImageNet with masks of the parts they show.

    python datasets/prepare_partimagenet.py --input PartImageNet --output $DETECTRON2_DATASETS/partimagenet

PartImageNet is the unpacked download: COCO files of train, val and test, and the photographs (see datasets/README.md).
Classes are the 11 super-classes, which own 40 parts. --classes 158 takes the ImageNet classes, named by their id, each
with all parts of its super-class.

Photographs are split anew, 80/10/10 and seeded, as in the papers. In the release PartImageNet_OOD the official splits
share no ImageNet class, so nothing learns from one what the others show: --split official is then refused for 158
classes.
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
from partbox.data.preparation.readers.partimagenet import PartImageNetReader

DEFAULTS = PrepareOptions(fractions=(0.8, 0.1, 0.1), crops=CropSettings(max_side=512))


def build_parser() -> ArgumentParser:
    """The command line."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--input", type=Path, required=True, metavar="FOLDER", help="the unpacked download")
    parser.add_argument(
        "--images", type=Path, metavar="FOLDER", help="where the photographs are, if not there; may be ImageNet's train"
    )
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER", help="folder to be made")
    parser.add_argument(
        "--classes", type=int, choices=(11, 158), default=11, help="super-classes or ImageNet classes (%(default)s)"
    )
    add_empty_argument(parser)
    add_preparation_arguments(parser, defaults=DEFAULTS, own_splits=True, whole_photos=True)
    return parser


def main() -> int:
    """Prepare, and return the exit status."""
    args = build_parser().parse_args()

    def make_reader(say: Callable[[str], None]) -> PartImageNetReader:
        return PartImageNetReader(
            args.input,
            args.images,
            classes=args.classes,
            own_splits=args.split is None,
            empty=args.empty,
            find_photos=not args.labels_only,
            say=say,
        )

    return run_preparation(args, make_reader, preparation_options(args), print)


if __name__ == "__main__":
    raise SystemExit(main())
