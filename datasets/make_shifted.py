r"""Make shifted copies of a part dataset: other backgrounds, no foreground, another texture.

    python datasets/make_shifted.py --dataset pascal_part_animals_test --shift original mixed_same mixed_rand
    python datasets/make_shifted.py --json parts/test.json --images parts/images --shift all

Each shift becomes a data set with the classes, parts and image ids of the source: a folder below shifted/ beside the
source's JSON file, or below --output. Those of built-in data sets are known by name, those of others by the path of
their part_dataset.json:

    python tools/train_net.py --eval-only --config-file output/part_box/config.yaml \
        MODEL.WEIGHTS output/part_box/model_best.pth OUTPUT_DIR output/part_box_mixed_rand \
        DATASETS.TEST "('pascal_part_animals_test_mixed_rand',)"

docs/shifts.md says what each shift measures. The shifts:

"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from partbox.arguments import ArgumentParser

from detectron2.data import MetadataCatalog

from partbox.data import PartDatasetError, get_part_dataset, register_builtin_datasets
from partbox.data.shifts import FOREGROUNDS, SHIFTS
from partbox.data.shifts.kinds import shifted_folder
from partbox.data.shifts.make import make_shifted
from partbox.data.shifts.render import Settings

ALL = "all"


def build_parser() -> ArgumentParser:
    """The command line."""
    width = max(map(len, SHIFTS))
    table = "\n".join(f"    {shift.name:{width}}  {shift.meaning}" for shift in SHIFTS.values())
    parser = ArgumentParser(description=f"{__doc__}{table}")
    source = parser.add_argument_group("source")
    source.add_argument("--dataset", metavar="NAME", help="a built-in data set below $DETECTRON2_DATASETS")
    source.add_argument("--json", type=Path, metavar="FILE", help="or any part-dataset file, with --images")
    source.add_argument("--images", type=Path, metavar="FOLDER", help="what file_name of its images starts from")
    what = parser.add_argument_group("what to make")
    what.add_argument(
        "--shift", nargs="+", required=True, choices=(*SHIFTS, ALL), metavar="NAME", help='of the table above, or "all"'
    )
    what.add_argument("--seed", type=int, default=0, metavar="N", help="of donors and textures (default: 0)")
    what.add_argument(
        "--foreground",
        choices=FOREGROUNDS,
        help="the pixels of the parts (default), their convex hull, their bounding box, or what GrabCut makes of them",
    )
    what.add_argument(
        "--strength", type=float, metavar="SHARE", help="of stylized: 1 (default), towards 0 ever less of the texture"
    )
    what.add_argument("--format", choices=("png", "jpg"), default="png", help="png keeps every pixel (default)")
    run = parser.add_argument_group("running")
    run.add_argument("--output", type=Path, metavar="FOLDER", help="gets one folder a shift")
    run.add_argument("--workers", type=int, default=os.cpu_count() or 1, metavar="N", help="processes")
    run.add_argument("--overwrite", action="store_true", help="replace what was made with other options")
    return parser


def parse_arguments() -> argparse.Namespace:
    """The arguments; those that would have no effect are refused."""
    parser = build_parser()
    args = parser.parse_args()
    if bool(args.dataset) == bool(args.json) or bool(args.json) != bool(args.images):
        parser.error("give either --dataset NAME, or --json FILE and --images FOLDER")
    args.shift = list(SHIFTS) if ALL in args.shift else list(dict.fromkeys(args.shift))
    if args.strength is not None and "stylized" not in args.shift:
        parser.error("--strength has no effect without --shift stylized")
    if args.strength is not None and not 0 < args.strength <= 1:
        parser.error(f"--strength must lie in (0, 1], not {args.strength:g}")
    if args.foreground is not None and not any(SHIFTS[name].cuts_out for name in args.shift):
        parser.error(f"--foreground has no effect on {', '.join(args.shift)}")
    if args.workers < 1:
        parser.error("--workers must be at least 1")
    return args


def find_source(args: argparse.Namespace) -> tuple[Path, Path]:
    """JSON file and image root of the source."""
    if args.json:
        return args.json, args.images
    register_builtin_datasets()
    get_part_dataset(args.dataset, verify_images="none")  # an unknown name, an absent file; makes the example data
    metadata = MetadataCatalog.get(args.dataset)
    return Path(metadata.json_file), Path(metadata.image_root)


def main() -> int:
    """Make the data sets, and return the exit status."""
    args = parse_arguments()
    settings = Settings(foreground=args.foreground or "parts", strength=args.strength or 1.0, seed=args.seed)
    try:
        json_file, image_root = find_source(args)
        output = args.output or shifted_folder(json_file)
        made = make_shifted(
            json_file,
            image_root,
            output,
            args.shift,
            settings,
            image_format=args.format,
            workers=args.workers,
            overwrite=args.overwrite,
            say=print,
            command=sys.argv,
        )
    except PartDatasetError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"error: {error.filename}: {error.strerror or error}. Run again to go on.", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted: run the same command again to go on", file=sys.stderr)
        return 130
    for one in made:
        name = f"{args.dataset}_{one.shift}: " if args.dataset and not args.output else ""
        print(f"{name}{one.images} images, {one.json_file}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
