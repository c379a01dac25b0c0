#!/usr/bin/env python
"""Print one table of several evaluated runs.

Examples:
    python tools/compare_runs.py output/example/normal output/example/part_box

    # several seeds of each model: also mean and standard deviation over the seeds
    python tools/compare_runs.py output/animals/*-seed* --group-seeds
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from partbox.arguments import ArgumentParser

from partbox.files import write_text
from partbox.report.table import results_table, seeds_table
from partbox.suggestions import nearest_files, sentence


def read_results(folder: Path) -> dict[str, Any]:
    if not folder.exists():
        sys.exit(f"{folder} does not exist{sentence(nearest_files(folder))}")
    path = folder / "results.json"
    if not path.is_file():
        sys.exit(f"{path} does not exist: evaluate the run with tools/train_net.py first")
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
        results["results"]["robust_accuracy"]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        sys.exit(f"{path} is not a results file of partbox: {error}")
    return results


def main() -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path, help="folders of runs")
    parser.add_argument("--group-seeds", action="store_true", help="mean and spread over runs named MODEL-seedN")
    parser.add_argument("--output", type=Path, metavar="FILE", help="also write the table to this file")
    arguments = parser.parse_args()
    names = [folder.name for folder in arguments.runs]
    unique = len(set(names)) == len(names)
    runs = {folder.name if unique else str(folder): read_results(folder) for folder in arguments.runs}
    try:
        text = results_table(runs)
        if arguments.group_seeds:
            text += "\n\n" + seeds_table(runs)
    except ValueError as error:
        sys.exit(str(error))
    print(text)
    if arguments.output:
        write_text(arguments.output, text + "\n")


if __name__ == "__main__":
    main()
