r"""Make a part dataset from a COCO file of part boxes, polygons or masks.

    python datasets/prepare_coco_parts.py --annotations my_parts/annotations.json --images my_parts/images \
        --output datasets_root/my_parts

Which class a part belongs to, and which parts form an object, is found out from the file and printed; the options under
"what the file means" override it:

    categories "dog", "dog:head", ...          nothing to add
    parts with supercategory "dog"             nothing to add
    parts of one class, no class named         --class-name car
    each image has a field with its class      --class-field label
    objects are categories of their own        --object-categories dog,cat
"""

from __future__ import annotations

from pathlib import Path

from partbox.arguments import ArgumentParser

from partbox.data.preparation import CocoOptions, PrepareOptions, RelationOptions
from partbox.data.preparation.coco_preparation import CocoReader
from partbox.data.preparation.coco_relations import CLASSES_FROM
from partbox.data.preparation.command_line import (
    add_empty_argument,
    add_preparation_arguments,
    preparation_options,
    run_preparation,
)


def build_parser() -> ArgumentParser:
    """The command line."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--annotations", type=Path, required=True, metavar="FILE", help="COCO file of the part labels")
    parser.add_argument(
        "--images", type=Path, required=True, metavar="FOLDER", help="what file_name (or path) starts from"
    )
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER", help="folder to be made")
    meaning = parser.add_argument_group("what the file means")
    meaning.add_argument("--classes-from", choices=CLASSES_FROM, default="auto", help="where classes are written")
    meaning.add_argument("--class-name", metavar="NAME", help="the one class of all parts")
    meaning.add_argument("--class-field", metavar="FIELD", help="field of each image that names its class")
    meaning.add_argument(
        "--object-categories", type=_names, default=(), metavar="NAME,NAME", help="categories of whole objects"
    )
    meaning.add_argument(
        "--object-field", metavar="FIELD", help='field of a part that names its object; "none": link by overlap'
    )
    meaning.add_argument(
        "--ignore-categories", type=_names, default=(), metavar="NAME,NAME", help="categories to leave out"
    )
    meaning.add_argument("--crop", choices=("objects", "none"), default="objects", help="none keeps whole images")
    add_empty_argument(meaning)
    add_preparation_arguments(parser, defaults=PrepareOptions(), labels=("auto", "mask", "box", "none"))
    return parser


def main() -> int:
    """Prepare, and return the exit status."""
    args = build_parser().parse_args()
    relations = RelationOptions(
        classes_from=args.classes_from,
        class_name=args.class_name,
        class_field=args.class_field,
        object_categories=args.object_categories,
        object_field=args.object_field,
        ignore_categories=args.ignore_categories,
    )
    coco = CocoOptions(relations=relations, crop=args.crop, labels=args.labels, empty=args.empty)
    options = preparation_options(args, labels="mask")
    return run_preparation(args, lambda say: CocoReader(args.annotations, args.images, coco, say), options, print)


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


if __name__ == "__main__":
    raise SystemExit(main())
