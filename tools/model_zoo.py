#!/usr/bin/env python
r"""The tables of docs/model_zoo.md: what each configuration's model costs, and what was measured with it.

Examples:
    # what one configuration costs, computed now
    python tools/model_zoo.py configs/example/part_box.yaml

    # whether the page is what configurations and measurements give; exit status 1 and a line for each difference
    python tools/model_zoo.py --check
    python tools/model_zoo.py --check configs/example/part_box.yaml   # costs of this one only: seconds

    # renew the page after a change of a configuration, or of docs/model_zoo.yaml
    python tools/model_zoo.py --write

Costs come from the configurations: each model is built with random weights and run once on noise, on the CPU, without
data and without a network. Measured numbers come from docs/model_zoo.yaml, and each of them has to stand in the cell of
docs/measurements.md that it names.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from partbox.arguments import ArgumentParser

import torch
import yaml
from detectron2.config import CfgNode

import partbox
from partbox.data.example import CLASSES
from partbox.engine.checks import ConfigError
from partbox.engine.model_cost import ModelCost, model_cost
from partbox.engine.setup import load_config
from partbox.files import write_text
from partbox.progress import track
from partbox.report.quoted_numbers import QuotedNumbers, QuoteError, read_quoted, table, tables_of, unfounded

REPOSITORY = Path(__file__).resolve().parents[1]
CONFIGS = REPOSITORY / "configs"
PAGE, NUMBERS = REPOSITORY / "docs/model_zoo.md", REPOSITORY / "docs/model_zoo.yaml"
MEASUREMENTS = REPOSITORY / "docs/measurements.md"
COSTS = ("configuration", "model", "input", "parameters", "learn", "in inference", "multiply-adds", "training")
NOT_TRAINED = "not trained here"


class PageError(ValueError):
    """A configuration or the page is not as it has to be; the message names it and the fix."""


def main() -> int:
    """Print, check or write; the exit status."""
    args = parse_arguments()
    torch.set_num_threads(1)
    partbox.register_all()
    try:
        numbers = read_numbers()
        chosen = [name_of(path) for path in args.configs]
        if args.write:
            write_text(PAGE, renewed(PAGE.read_text(encoding="utf-8"), numbers))
        elif args.check:
            return report(problems(PAGE.read_text(encoding="utf-8"), numbers, chosen or configurations()))
        else:
            print(table(COSTS, list(rows_of(chosen, numbers).values())))
    except (PageError, QuoteError, ConfigError) as problem:
        sys.exit(f"{type(problem).__name__}: {problem}")
    return 0


def parse_arguments() -> argparse.Namespace:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("configs", nargs="*", type=Path, metavar="FILE", help="configuration files; --check: all")
    action = parser.add_mutually_exclusive_group()
    action.add_argument("--check", action="store_true", help="compare the page with what it should be")
    action.add_argument("--write", action="store_true", help="renew the tables of the page")
    args = parser.parse_args()
    if args.write and args.configs:
        parser.error("--write renews the whole page: name no configuration files")
    if not (args.configs or args.check or args.write):
        parser.error("name configuration files, or give --check or --write")
    return args


def report(found: Sequence[str]) -> int:
    """Print what is wrong; the exit status."""
    for problem in found:
        print(problem)
    print("\npython tools/model_zoo.py --write renews the page" if found else "The page is up to date.")
    return 1 if found else 0


# --- configurations and what they cost --------------------------------------------------------------------------------


def configurations() -> list[str]:
    """Names, such as ``example/part_box``, of every configuration file but the bases of the folders."""
    return [name_of(path) for path in sorted(CONFIGS.rglob("*.yaml")) if path.stem != "base"]


def name_of(path: Path) -> str:
    """The name of a configuration file below ``configs``.

    Raises:
        PageError: there is no such file, it lies elsewhere, or is the base of a folder.
    """
    if not path.is_file():
        raise PageError(f"{path}: there is no such configuration file")
    if not path.resolve().is_relative_to(CONFIGS) or path.stem == "base":
        raise PageError(f"{path}: the model zoo holds the files below {CONFIGS.name}/ that are no base.yaml")
    return path.resolve().relative_to(CONFIGS).with_suffix("").as_posix()


def read_numbers() -> QuotedNumbers:
    """The quoted numbers; raises QuoteError."""
    return read_quoted(yaml.safe_load(NUMBERS.read_text(encoding="utf-8")), NUMBERS.name, configurations())


def load(name: str, numbers: QuotedNumbers) -> CfgNode:
    """The configuration, with the names of classes and parts that its dataset would fill in.

    Raises:
        PageError: nobody says which classes and parts its dataset has.
    """
    cfg = load_config(CONFIGS / f"{name}.yaml", ["MODEL.DEVICE", "cpu"])
    if cfg.MODEL.META_ARCHITECTURE != "PartClassifier":
        return cfg
    dataset = cfg.DATASETS.TRAIN[0].rpartition("_")[0]
    datasets = {**numbers.datasets, "example": {one.name: list(one.parts) for one in CLASSES}}
    if dataset not in datasets:
        raise PageError(f"{NUMBERS.name}: datasets: add the classes and parts of {dataset}, which {name} trains on")
    part, classes = cfg.MODEL.PART, datasets[dataset]
    part.CLASS_NAMES = list(classes)
    part.PART_NAMES = [f"{label}:{one}" for label, parts in classes.items() for one in parts]
    part.PART_TO_CLASS = [index for index, parts in enumerate(classes.values()) for _ in parts]
    return cfg


def rows_of(names: Sequence[str], numbers: QuotedNumbers) -> dict[str, list[str]]:
    """The row of costs of each configuration; the large ones take seconds each."""
    return {name: cells_of(name, numbers) for name in track(names, len(names), "building models", "model")}


def cells_of(name: str, numbers: QuotedNumbers) -> list[str]:
    """A row of costs."""
    cfg = load(name, numbers)
    cost = model_cost(cfg)
    return [link(name), description(cfg), *figures(cost), training(cfg, cost)]


def link(name: str) -> str:
    """A configuration as a link from the page."""
    return f"[{name}](../configs/{name}.yaml)"


def description(cfg: CfgNode) -> str:
    """Backbone, and extractor and head, or meta-architecture."""
    own = "timm" in cfg.MODEL.BACKBONE.NAME
    backbone = cfg.MODEL.PART.BACKBONE.TIMM_NAME if own else f"resnet{cfg.MODEL.RESNETS.DEPTH}"
    if cfg.MODEL.META_ARCHITECTURE == "PartClassifier":
        return f"`{backbone}`, `{cfg.MODEL.PART.EXTRACTOR.NAME}`, `{cfg.MODEL.PART.HEAD.NAME}`"
    return f"`{backbone}`, `{cfg.MODEL.META_ARCHITECTURE}`"


def figures(cost: ModelCost) -> list[str]:
    """Input size, parameters and multiply-adds as text."""
    height, width = cost.input_size
    counts = (cost.parameters, cost.learning, cost.in_inference)
    return [f"{height} x {width}", *(f"{count:,}" for count in counts), readable(cost.multiply_adds)]


def readable(number: int) -> str:
    """Three digits: 1.23 G, 45.6 M."""
    scaled, unit = (number / 1e9, "G") if number >= 1e9 else (number / 1e6, "M")
    return f"{scaled:.{max(0, 3 - len(str(int(scaled))))}f} {unit}"


def training(cfg: CfgNode, cost: ModelCost) -> str:
    """Iterations, batch and passes."""
    return f"{cfg.SOLVER.MAX_ITER:,} x {cfg.SOLVER.IMS_PER_BATCH} images, {cost.training_passes:,} passes"


# --- the page ---------------------------------------------------------------------------------------------------------


def problems(page: str, numbers: QuotedNumbers, chosen: Sequence[str]) -> list[str]:
    """What of the page is not as it should be; costs are computed for the chosen configurations."""
    found = not_measured(numbers)
    rows = [row for _, rows in tables_of(block_of(page, "costs")) for row in rows]
    present = {row[0]: row for row in rows if len(row) == len(COSTS) + 1}
    expected = {link(name): name for name in configurations()}
    found += [f"{PAGE.name}: {name} has no row" for cell, name in expected.items() if cell not in present]
    found += [f"{PAGE.name}: {cell} has {n} rows" for cell, n in Counter(row[0] for row in rows).items() if n > 1]
    found += [f"{PAGE.name}: {cell} is no configuration" for cell in present if cell not in expected]
    for name in configurations():
        if (row := present.get(link(name))) is not None and row[1] != results_of(name, numbers):
            found.append(f"{PAGE.name}: {name}: {row[1]!r} should be {results_of(name, numbers)!r}")
    for name, costs in rows_of([name for name in chosen if link(name) in present], numbers).items():
        pairs = zip(COSTS, without_results(present[link(name)]), costs, strict=True)
        found += [f"{PAGE.name}: {name}: {what}: {a!r} should be {b!r}" for what, a, b in pairs if a != b]
    for block, text in (("measured", measured_table(numbers)), ("published", published_table(numbers))):
        if block_of(page, block).strip() != text:
            found.append(f"{PAGE.name}: the table of {block} numbers is not what {NUMBERS.name} gives")
    return found


def not_measured(numbers: QuotedNumbers) -> list[str]:
    """What docs/measurements.md does not have of the numbers that are called measured."""
    text = MEASUREMENTS.read_text(encoding="utf-8")
    return [problem for entry in numbers.measured for problem in unfounded(entry, MEASUREMENTS.name, text)]


def renewed(page: str, numbers: QuotedNumbers) -> str:
    """The page with all its tables made anew.

    Raises:
        PageError: a quoted number does not stand where it should, or the page lacks a marker.
    """
    if found := not_measured(numbers):
        raise PageError("; ".join(found))
    parts, costs = [], rows_of(configurations(), numbers)
    for folder in sorted({name.split("/")[0] for name in configurations()}):
        names = [name for name in configurations() if name.split("/")[0] == folder]
        rows = [with_results(costs[name], results_of(name, numbers)) for name in names]
        parts.append(f"### {folder}\n\n{table(with_results(COSTS, 'results'), rows)}")
    blocks = {"costs": "\n\n".join(parts), "measured": measured_table(numbers), "published": published_table(numbers)}
    for name, text in blocks.items():
        block_of(page, name)
        before, rest = page.split(begin_of(name))
        page = f"{before}{begin_of(name)}\n\n{text}\n\n{end_of(name)}{rest.split(end_of(name))[1]}"
    return page


def begin_of(name: str) -> str:
    """The line before a block of tables."""
    return f"<!-- {name}: begin (tools/model_zoo.py --write) -->"


def end_of(name: str) -> str:
    """The line after it."""
    return f"<!-- {name}: end -->"


def block_of(page: str, name: str) -> str:
    """What stands between the two markers of a block.

    Raises:
        PageError: a marker is missing.
    """
    begin, end = begin_of(name), end_of(name)
    if page.count(begin) != 1 or page.count(end) != 1 or page.index(begin) > page.index(end):
        raise PageError(f"{PAGE.name} needs the lines {begin} and {end}, once each, in this order")
    return page.split(begin)[1].split(end)[0]


def results_of(name: str, numbers: QuotedNumbers) -> str:
    """What is known of a configuration, in a cell."""
    here = [str(entry) for entry in numbers.measured if entry.config == name]
    there = [f"*published by others:* {entry}" for entry in numbers.published if entry.config == name]
    return "; ".join([*(here or [NOT_TRAINED]), *there])


def with_results(costs: Sequence[str], results: str) -> list[str]:
    """A row of the page: results stand where they are seen without scrolling a wide table."""
    return [costs[0], results, *costs[1:]]


def without_results(row: Sequence[str]) -> list[str]:
    """The costs of a row of the page."""
    return [row[0], *row[2:]]


def measured_table(numbers: QuotedNumbers) -> str:
    """Every measured number with its command, its seeds and its section."""
    rows = [
        [
            link(entry.config),
            str(entry),
            str(entry.seeds),
            f"`{entry.command}`",
            f"[measurements]({MEASUREMENTS.name}#{entry.section})",
        ]
        for entry in numbers.measured
    ]
    return table(("configuration", "measured here", "trainings", "command", "conditions"), rows)


def published_table(numbers: QuotedNumbers) -> str:
    """Every number of others with its source."""
    rows = [[link(entry.config), str(entry), f"[{entry.source}]({entry.url})"] for entry in numbers.published]
    return table(("configuration", "published by others, not measured here", "source"), rows)


if __name__ == "__main__":
    sys.exit(main())
