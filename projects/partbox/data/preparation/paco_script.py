"""What ``datasets/prepare_paco_lvis.py`` and ``datasets/prepare_paco_ego4d.py`` have in common: all but the release."""

from __future__ import annotations

from pathlib import Path

from partbox.arguments import ArgumentParser

from .command_line import (
    add_empty_argument,
    add_preparation_arguments,
    preparation_options,
    run_preparation,
)
from .options import PrepareOptions
from .readers.paco import PacoReader
from .readers.paco_release import Release

DEFAULTS = PrepareOptions(min_side=0.0, min_area_share=0.01, fractions=(0.8, 0.1, 0.1))


def prepare_paco(release: Release, description: str, images_help: str) -> int:
    """Prepare a release as the command line says, and return the exit status.

    Args:
        release: which data set.
        description: of the script.
        images_help: what ``--images`` is.
    """
    parser = ArgumentParser(description=description)
    files = f"folder of {release.files.format(split='train')}, ..."
    parser.add_argument("--annotations", type=Path, required=True, metavar="FOLDER", help=files)
    parser.add_argument("--images", type=Path, required=True, metavar="FOLDER", help=images_help)
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER", help="folder to be made")
    add_empty_argument(parser)
    add_preparation_arguments(parser, defaults=DEFAULTS, own_splits=True)
    args = parser.parse_args()
    return run_preparation(
        args,
        lambda say: PacoReader(release, args.annotations, args.images, labels=args.labels, empty=args.empty, say=say),
        preparation_options(args),
        print,
    )
