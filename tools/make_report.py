#!/usr/bin/env python
r"""Make one HTML page of one or several evaluated runs: numbers with intervals, curves, pictures, provenance.

The page needs nothing else: it opens from disk, fetches nothing, and stays under 10 MB, so it can be sent by mail.
docs/report.md says how to read each section.

Examples:
    # two models side by side
    python tools/make_report.py output/example/normal output/example/part_box --output output/example/report.html

    # runs that differ only in their seed become one model, with intervals over images and seeds
    python tools/make_report.py output/animals/part_box-seed* --output animals.html

    # a sweep over label budgets: its models, and accuracy against the cost of labels
    python tools/make_report.py output/budget --output budget.html

RESULTS are run folders, their results.json, or folders of sweeps (of label_budget.py, or submit_slurm.py collect).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from partbox.arguments import ArgumentParser

from partbox.report import ReportError, write_report
from partbox.report.examples import ExamplesError


def parse_arguments() -> argparse.Namespace:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("results", nargs="+", type=Path, metavar="RESULTS", help="run folders, results.json, or sweeps")
    parser.add_argument(
        "--output", type=Path, default=Path("report.html"), metavar="FILE", help="the page to write (%(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the bootstrap resamples (%(default)s)")
    parser.add_argument("--resamples", type=int, default=2000, metavar="N", help="for each interval (%(default)s)")
    return parser.parse_args()


def main() -> None:
    """Write the page and say where it is."""
    arguments = parse_arguments()
    path = write_report(arguments.results, arguments.output, seed=arguments.seed, resamples=arguments.resamples)
    print(f"{path} ({path.stat().st_size / 1e6:.1f} MB): open it in a browser")


if __name__ == "__main__":
    try:
        main()
    except (ReportError, ExamplesError, ValueError) as problem:
        sys.exit(f"{type(problem).__name__}: {problem}")
