#!/usr/bin/env python
r"""Train one model on several label budgets; draw clean and robust accuracy against the cost of the labels.

A budget says which share of the training images has part masks, and which has part boxes alone; the others have no part
labels and teach the class only. Smaller budgets are part of larger ones. An interrupted sweep goes on when it is
started again; finished trainings are not repeated.

Examples:
    # boxes for 0, 10, 30 and 100 % of the images, two seeds each, two trainings at once
    python tools/label_budget.py --config-file configs/pascal_part_animals/part_box.yaml --output output/budget \
        --box-shares 0,0.1,0.3,1 --seeds 1,2 --workers 2

    # masks for 5 and 20 %, and a mixture: masks for 5 %, boxes for 45 %; boxes by extreme clicking
    python tools/label_budget.py --config-file configs/example/part_box.yaml --output output/masks \
        --mask-shares 0.05,0.2 --mixtures 0.05+0.45 --seconds-per-box 7

    # half of the trainings here, the other half on another machine that sees the same folder
    python tools/label_budget.py ... --part 0/2

It writes label_budget.json, label_budget.md and label_budget.png into the output folder. Options KEY VALUE go to every
training.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from partbox.arguments import ArgumentParser

import partbox
from partbox.data import PartDatasetError
from partbox.data.label_budget import SECONDS_PER_BOX, SECONDS_PER_MASK
from partbox.engine.checks import ConfigError
from partbox.engine.folder_guide import sweep_guide
from partbox.engine.label_budget_sweep import SweepFailed, check_dataset, summarise, sweep_runs, train_all
from partbox.engine.parts_of_work import parse_part
from partbox.engine.run_folder import describe, start_log
from partbox.engine.setup import load_config
from partbox.evaluation.record_files import RecordsError
from partbox.report.label_budget_report import label_budget_table, save_label_budget_report

SCRIPT = Path(__file__).resolve().parent / "train_net.py"
logger = logging.getLogger("partbox")


def parse_arguments() -> argparse.Namespace:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--config-file", type=Path, required=True, metavar="FILE", help="of the model, see configs/")
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER", help="where the runs go")
    parser.add_argument(
        "--box-shares", type=_listed(float), default=[], metavar="SHARE,...", help="of the images, with boxes"
    )
    parser.add_argument(
        "--mask-shares", type=_listed(float), default=[], metavar="SHARE,...", help="of the images, with masks"
    )
    parser.add_argument(
        "--mixtures", type=_listed(_mixture), default=[], metavar="MASKS+BOXES,...", help="some masks, and some boxes"
    )
    parser.add_argument("--seeds", type=_listed(int), default=[0], metavar="SEED,...", help="of the trainings (0)")
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="trainings at once")
    parser.add_argument("--part", type=parse_part, default=(0, 1), metavar="I/N", help="do part I (from 0) of N")
    parser.add_argument(
        "--seconds-per-box", type=float, default=SECONDS_PER_BOX, help="labelling one part (%(default)s)"
    )
    parser.add_argument(
        "--seconds-per-mask", type=float, default=SECONDS_PER_MASK, help="labelling one part (%(default)s)"
    )
    parser.add_argument("--dry-run", action="store_true", help="say which trainings it takes, and stop")
    parser.add_argument("options", nargs="*", metavar="KEY VALUE", help="configuration keys for every training")
    arguments = parser.parse_intermixed_args()
    if not (arguments.box_shares or arguments.mask_shares or arguments.mixtures):
        parser.error("no budget: give --box-shares, --mask-shares or --mixtures")
    if arguments.workers < 1:
        parser.error("--workers must be at least 1")
    return arguments


def _listed(kind: Callable[[str], Any]) -> Callable[[str], list[Any]]:
    """A comma-separated list of values."""

    def values(text: str) -> list[Any]:
        try:
            return [kind(one) for one in text.split(",")]
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is no list of values with commas between them") from None

    return values


def _mixture(text: str) -> tuple[float, float]:
    masks, boxes = (float(share) for share in text.split("+"))
    return masks, boxes


def main() -> None:
    """Run the sweep and write its report."""
    arguments = parse_arguments()
    cfg = load_config(arguments.config_file, arguments.options)
    partbox.register_all(cfg.DATASETS.ROOT or None)
    budgets = [(0.0, share) for share in arguments.box_shares]
    budgets += [(share, 0.0) for share in arguments.mask_shares if share or (0.0, 0.0) not in budgets]
    runs = sweep_runs([*budgets, *arguments.mixtures], arguments.seeds)
    index, parts = arguments.part
    mine = runs[index::parts]
    if arguments.dry_run:
        print("\n".join(f"{run.name}: {' '.join(run.options)}" for run in mine))
        return
    check_dataset(cfg)
    describe(arguments.output, cfg, sweep_guide(arguments.output, sys.argv))
    start_log(arguments.output)
    train_all(
        mine,
        SCRIPT,
        arguments.config_file,
        arguments.output,
        arguments.options,
        workers=arguments.workers,
        say=logger.info,
    )
    seconds = {"seconds_per_box": arguments.seconds_per_box, "seconds_per_mask": arguments.seconds_per_mask}
    summary = summarise(cfg, runs, arguments.output, **seconds)
    plot, _ = save_label_budget_report(arguments.output)
    print(f"{label_budget_table(summary)}\n\nplot: {plot}")


if __name__ == "__main__":
    try:
        main()
    except (ConfigError, PartDatasetError, RecordsError, SweepFailed, ValueError) as problem:
        sys.exit(f"{type(problem).__name__}: {problem}")
