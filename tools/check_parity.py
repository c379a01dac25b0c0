#!/usr/bin/env python
r"""Compare Mask DINO and DINO with stored runs of the official code, number by number.

Examples:
    # every run in a folder: largest difference of each quantity
    python tools/check_parity.py /path/to/maskdino

    # only some of them
    python tools/check_parity.py /path/to/maskdino --only dino_A_twostage

    # parameter names and shapes of official checkpoints
    python tools/check_parity.py --keys maskdino_r50_state_dict.json

Exit status 1 when anything differs by more than 1e-4 (1e-3 for losses and gradients; norms of gradients relative to
their size; final masks as the share of pixels), when a stored result is compared with nothing, a file belongs to no
run, or a name or a shape differs.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from partbox.arguments import ArgumentParser

import torch
from tabulate import tabulate

from maskdino_ext.parity import Comparison, compare_keys, runs_of
from partbox.progress import say, track

SHOWN = 8


def main() -> int:
    """Compare and print; the exit status."""
    args = parse_arguments()
    torch.set_num_threads(args.threads)
    fine = True
    for file in args.keys:
        fine &= check_keys(file)
    if args.folder is not None:
        fine &= check_folder(args.folder, args.only)
    print("\nEverything agrees." if fine else "\nDIFFERENCES beyond the tolerance, see above.")
    return 0 if fine else 1


def parse_arguments() -> argparse.Namespace:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, help="folder of reference runs")
    parser.add_argument("--keys", type=Path, action="append", default=[], metavar="FILE", help="list of official keys")
    parser.add_argument("--only", default="", metavar="TEXT", help="runs whose name contains this")
    parser.add_argument("--threads", type=int, default=1, help="sums of several threads differ in the last digits")
    args = parser.parse_args()
    if args.folder is None and not args.keys:
        parser.error("give a folder of reference runs, or --keys FILE")
    if args.only and args.folder is None:
        parser.error("--only needs a folder of reference runs")
    for path in [*args.keys, *([args.folder] if args.folder else [])]:
        if not path.exists():
            parser.error(f"{path} does not exist")
    return args


def check_folder(folder: Path, only: str) -> bool:
    """Every run; whether all agree."""
    fine = True
    chosen = [(name, run) for name, run in runs_of(folder) if only in name]
    for name, run in track(chosen, len(chosen), "comparing", "run"):
        try:
            fine &= show(run())
        except (KeyError, OSError, ValueError, RuntimeError) as problem:  # the other runs are still compared
            say(f"\n{name}: {type(problem).__name__}: {problem}")
            fine = False
    if not chosen:
        print(f"no run in {folder} has {only!r} in its name")
    return fine and bool(chosen)


def show(comparison: Comparison) -> bool:
    """One run's table; whether it agrees."""
    rows = [
        [quantity, difference, tolerance, "" if difference <= tolerance else "BEYOND"]
        for quantity, (difference, tolerance) in comparison.by_quantity().items()
    ]
    say(f"\n{comparison.name}: {len(comparison.differences)} tensors compared")
    say(tabulate(rows, ["quantity", "largest difference", "tolerance", ""], tablefmt="github", floatfmt=".1e"))
    for name in comparison.failures[:SHOWN]:
        say(f"  {name}: {comparison.differences[name]:.2e}")
    for note in comparison.notes:
        say(f"  {note}")
    left = comparison.uncompared()
    if left:
        say(f"  NOT COMPARED, {len(left)} stored results: {', '.join(left[:SHOWN])}{', ...' if left[SHOWN:] else ''}")
    return bool(rows) and not comparison.failures and not left


def check_keys(file: Path) -> bool:
    """Every model of a list of keys; whether all names and shapes agree."""
    fine = True
    print(f"\n{file.name}")
    for one in compare_keys(json.loads(file.read_text(encoding="utf-8"))):
        print(
            f"  {one.name}: {one.count} keys, {len(one.missing)} missing, {len(one.unexpected)} unexpected, "
            f"{len(one.shapes)} of another shape"
        )
        for kind, names in (("missing", one.missing), ("unexpected", one.unexpected), ("shape", one.shapes)):
            for name in names[:SHOWN]:
                print(f"    {kind}: {name}")
        fine &= one.none
    return fine


if __name__ == "__main__":
    sys.exit(main())
