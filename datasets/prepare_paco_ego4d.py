"""Make a part dataset from PACO-EGO4D: parts of 75 common objects on video frames of Ego4D.

    python datasets/prepare_paco_ego4d.py --annotations FOLDER --images FOLDER --output $DETECTRON2_DATASETS/paco_ego4d

--annotations holds paco_ego4d_v1_{train,val,test}.json, --images the frames <video>_<number>.jpeg (see
datasets/README.md). One crop an object, labelled with the object's class and the masks of its own parts. Objects whose
box covers less than 1 % of their frame are left out, and videos are split 80/10/10: all frames of a video are in one
split.

    --labels box              boxes of parts in the place of masks
    --split official          PACO's own train, val and test, which part objects, not videos
    --labels-only             only the three JSON files: no frame is needed
"""

from __future__ import annotations

import argparse
from pathlib import Path

from partbox.data.preparation import PrepareOptions
from partbox.data.preparation.command_line import (
    add_empty_argument,
    add_preparation_arguments,
    preparation_options,
    run_preparation,
)
from partbox.data.preparation.readers.paco import PacoReader
from partbox.data.preparation.readers.paco_release import PACO_EGO4D

DEFAULTS = PrepareOptions(min_side=0.0, min_area_share=0.01, fractions=(0.8, 0.1, 0.1))


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--annotations", type=Path, required=True, metavar="FOLDER", help="folder of paco_ego4d_v1_train.json, ..."
    )
    parser.add_argument("--images", type=Path, required=True, metavar="FOLDER", help="folder of the frames")
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER", help="folder to be made")
    add_empty_argument(parser)
    add_preparation_arguments(parser, defaults=DEFAULTS, own_splits=True)
    return parser


def main() -> int:
    """Prepare, and return the exit status."""
    args = build_parser().parse_args()
    return run_preparation(
        args,
        lambda say: PacoReader(
            PACO_EGO4D, args.annotations, args.images, labels=args.labels, empty=args.empty, say=say
        ),
        preparation_options(args),
        print,
    )


if __name__ == "__main__":
    raise SystemExit(main())
