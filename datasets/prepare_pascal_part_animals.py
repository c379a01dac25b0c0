r"""Make a part dataset of animals from the part boxes of semantic PASCAL-Part on VOC2010 photographs.

    python datasets/prepare_pascal_part_animals.py --input pascal_part_animals \
        --output $DETECTRON2_DATASETS/pascal_part_animals

The folder after --input holds images/ and trainval.json (see datasets/README.md). One crop an animal, labelled with
the animal's class and the boxes of its own parts. It is datasets/prepare_coco_parts.py with its options set.
"""

from __future__ import annotations

from pathlib import Path

from partbox.arguments import ArgumentParser

from partbox.data.preparation import CocoOptions, PrepareOptions, RelationOptions
from partbox.data.preparation.coco_preparation import CocoReader
from partbox.data.preparation.command_line import (
    add_empty_argument,
    add_preparation_arguments,
    preparation_options,
    run_preparation,
)


def build_parser() -> ArgumentParser:
    """The command line."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument(
        "--input", type=Path, required=True, metavar="FOLDER", help="folder with images/ and trainval.json"
    )
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER", help="folder to be made")
    add_empty_argument(parser)
    add_preparation_arguments(parser, defaults=PrepareOptions(), labels=("box", "none"))
    return parser


def main() -> int:
    """Prepare, and return the exit status."""
    args = build_parser().parse_args()
    relations = RelationOptions(classes_from="name", object_field="obj_ann_id")
    coco = CocoOptions(relations=relations, labels=args.labels, empty=args.empty)
    folder = args.input
    return run_preparation(
        args,
        lambda say: CocoReader(folder / "trainval.json", folder / "images", coco, say),
        preparation_options(args, labels="mask"),
        print,
    )


if __name__ == "__main__":
    raise SystemExit(main())
