r"""Make a part dataset of PartImageNet++: 100 whole photographs of each ImageNet class with masks of their parts.

    python datasets/prepare_partimagenet_pp.py --input PartImageNetPP --images ILSVRC2012/train \
        --output $DETECTRON2_DATASETS/partimagenet_pp

PartImageNetPP is the download, which holds json/n01440764.json and 999 more, and no photographs: these are from
ImageNet's training set (see datasets/README.md). Classes are the 1,000 ImageNet classes, named by their id; each has
parts of its own. The files name no split: photographs are split 80/10/10, seeded and balanced over classes.
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
from partbox.data.preparation.readers.partimagenet_pp import PartImageNetPPReader

DEFAULTS = PrepareOptions(fractions=(0.8, 0.1, 0.1), crops=CropSettings(max_side=512))


def build_parser() -> ArgumentParser:
    """The command line."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--input", type=Path, required=True, metavar="FOLDER", help="the download")
    parser.add_argument(
        "--images", type=Path, metavar="FOLDER", help="ImageNet's training set; needed unless --labels-only"
    )
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER", help="folder to be made")
    add_empty_argument(parser)
    add_preparation_arguments(parser, defaults=DEFAULTS, whole_photos=True)
    return parser


def main() -> int:
    """Prepare, and return the exit status."""
    parser = build_parser()
    args = parser.parse_args()
    if args.images is None and not args.labels_only:
        parser.error("--images is needed: the download has no photographs (or add --labels-only)")

    def make_reader(say: Callable[[str], None]) -> PartImageNetPPReader:
        return PartImageNetPPReader(
            args.input, args.images or args.input, empty=args.empty, find_photos=not args.labels_only, say=say
        )

    return run_preparation(args, make_reader, preparation_options(args), print)


if __name__ == "__main__":
    raise SystemExit(main())
