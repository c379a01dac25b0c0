#!/usr/bin/env python3
"""Make the example data set: schematic objects with the 11 classes and 40 parts of PartImageNet."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from partbox.arguments import ArgumentParser

from partbox.data.example import contact_sheet, generate_example_dataset

EPILOG = """\
example:
  python tools/make_example_data.py --output datasets/example
      1,320 + 220 + 440 images of 64 x 64 pixels in datasets/example/images/{train,val,test}, their part labels
      in datasets/example/{train,val,test}.json; about 20 seconds, 26 MB. A second call finds them and ends at once.

  python tools/make_example_data.py --output /tmp/large --size 128 --train 10000 --workers 2
      Begins with the same 1,320 objects, four times the pixels.

  python tools/make_example_data.py --contact-sheet example.png
      Only a picture of what the images look like: a row a class, images beside their parts.

The same options give the same bytes, on any number of workers.
"""


def build_parser() -> ArgumentParser:
    parser = ArgumentParser(description=__doc__, epilog=EPILOG)
    parser.add_argument(
        "--output", type=Path, metavar="FOLDER", help="the data set's folder: absent, empty, or made before"
    )
    parser.add_argument(
        "--contact-sheet", type=Path, metavar="FILE", help="draw an overview (PNG) of the classes and parts"
    )
    parser.add_argument("--seed", type=int, default=0, help="another seed, other images (default: %(default)s)")
    for split, count in (("train", 1320), ("val", 220), ("test", 440)):
        parser.add_argument(
            f"--{split}", type=int, default=count, metavar="N", help=f"images in {split}, 0 for none (default: {count})"
        )
    parser.add_argument(
        "--size",
        type=int,
        nargs="+",
        default=[64],
        metavar="PIXELS",
        help="side of the images, or height and width (64)",
    )
    parser.add_argument("--workers", type=int, default=0, metavar="N", help="processes (default: 0, work in this one)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    parser = build_parser()
    args = parser.parse_args(argv)
    if not args.output and not args.contact_sheet:
        parser.error("nothing to do: give --output FOLDER, --contact-sheet FILE, or both")
    if len(args.size) > 2:
        parser.error(f"--size takes one or two numbers, not {len(args.size)}")
    size = (args.size[0], args.size[-1])
    num_images = {split: getattr(args, split) for split in ("train", "val", "test") if getattr(args, split) != 0}
    try:
        if args.contact_sheet:
            args.contact_sheet.parent.mkdir(parents=True, exist_ok=True)
            contact_sheet(seed=args.seed, size=size).save(args.contact_sheet)
            print(args.contact_sheet)
        if args.output:
            files = generate_example_dataset(
                args.output, seed=args.seed, num_images=num_images, size=size, workers=args.workers
            )
            for split, file in files.items():
                print(f"{split}: {num_images[split]} images, {file}")
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
