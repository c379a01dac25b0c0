"""A sweep over label budgets: which trainings it takes, run one by one or several at once, and what they show."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode

from partbox.data.label_budget import LabelBudget, label_cost
from partbox.files import write_text
from partbox.progress import Progress

from .checks import ConfigError
from .run_folder import NO_EFFECT, effective_config, settings_of
from .setup import load_dataset
from .training_records import refuse_budget_of_predicted

SUMMARY = "label_budget.json"


class SweepFailed(RuntimeError):
    """A training of the sweep ended with an error."""


@dataclass(frozen=True)
class BudgetRun:
    """One training.

    Attributes:
        masks, boxes: shares of the labelled images, see :class:`partbox.data.label_budget.LabelBudget`.
        seed: of the training.
    """

    masks: float
    boxes: float
    seed: int

    @property
    def name(self) -> str:
        return f"masks{self.masks:g}_boxes{self.boxes:g}-seed{self.seed}"

    @property
    def options(self) -> list[str]:
        """Configuration keys of this training. Without any label the part term has nothing to learn from: weight 0."""
        node = "DATASETS.LABEL_BUDGET"
        options = [f"{node}.MASK_SHARE", f"{self.masks:g}", f"{node}.BOX_SHARE", f"{self.boxes:g}"]
        options += ["SEED", str(self.seed)]
        return options + ([] if self.masks or self.boxes else ["MODEL.PART.LOSS_WEIGHT", "0.0"])


def sweep_runs(budgets: Sequence[tuple[float, float]], seeds: Sequence[int]) -> list[BudgetRun]:
    """Every budget with every seed; all budgets with the first seed come first.

    Raises:
        ValueError: a budget out of range, or the same one twice.
    """
    for masks, boxes in budgets:
        LabelBudget(masks, boxes)
    runs = [BudgetRun(masks, boxes, seed) for seed in seeds for masks, boxes in budgets]
    names = [run.name for run in runs]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"{twice[0]} is asked for twice")
    return runs


def check_dataset(cfg: CfgNode) -> None:
    """Refuse a training dataset that a sweep says nothing about, before the first training.

    Raises:
        ConfigError: it has predicted part labels.
        PartDatasetError: it cannot be read.
    """
    dataset = load_dataset(cfg, cfg.DATASETS.TRAIN, "DATASETS.TRAIN")
    refuse_budget_of_predicted(dataset.records, cfg.DATASETS.TRAIN[0])


def train_all(
    runs: Sequence[BudgetRun],
    script: Path,
    config_file: Path,
    output: Path,
    options: Sequence[str],
    *,
    workers: int,
    say: Callable[[str], None],
) -> None:
    """Train and evaluate each run in a process of its own, ``workers`` at once; finished ones are not repeated.

    A run's output goes to ``<output>/<run>.out``. After a failure runs that have begun are finished, no other begins.

    Raises:
        SweepFailed: naming the runs that failed and their logs.
    """
    threads = max((os.cpu_count() or 1) // workers, 1)
    failed: list[str] = []

    def work(run: BudgetRun) -> None:
        if failed:
            return
        say(f"start {run.name}; log: {output / run.name}.out")
        folder = output / run.name
        command = [sys.executable, str(script), "--config-file", str(config_file), "--resume", *options, *run.options]
        environment = {"OMP_NUM_THREADS": str(threads), **os.environ}
        with open(f"{folder}.out", "ab") as log:
            ended = subprocess.run([*command, "OUTPUT_DIR", str(folder)], stdout=log, stderr=log, env=environment)
        if ended.returncode:
            failed.append(run.name)
        say(f"{'FAILED' if ended.returncode else 'done'} {run.name}")
        bar.step()

    output.mkdir(parents=True, exist_ok=True)
    with Progress(len(runs), "sweep", "training") as bar, ThreadPoolExecutor(workers) as pool:
        list(pool.map(work, runs))
    if failed:
        raise SweepFailed(", ".join(f"{name} failed, see {output / name}.out" for name in sorted(failed)))


def summarise(
    cfg: CfgNode, runs: Sequence[BudgetRun], output: Path, *, seconds_per_box: float, seconds_per_mask: float
) -> dict[str, Any]:
    """What the finished runs show: cost of the labels and accuracy; also written to ``<output>/label_budget.json``.

    Raises:
        ConfigError: no run is finished, or one was trained or evaluated in another way.
    """
    dataset = load_dataset(cfg, cfg.DATASETS.TRAIN, "DATASETS.TRAIN")
    entries = []
    for run, results in _finished(runs, output):
        _check_run(cfg, run, results, output / run.name)
        budget = LabelBudget(run.masks, run.boxes, cfg.DATASETS.LABEL_BUDGET.SEED)
        kept = budget.apply(dataset.records, cfg.DATASETS.TRAIN[0])
        cost = label_cost(kept, seconds_per_box=seconds_per_box, seconds_per_mask=seconds_per_mask)
        entries.append(
            {
                "run": run.name,
                "seed": run.seed,
                "mask_share": run.masks,
                "box_share": run.boxes,
                "images_with_masks": cost.masks,
                "images_with_boxes": cost.boxes,
                "labelled_parts": cost.parts_with_masks + cost.parts_with_boxes,
                "hours": cost.hours,
                "clean_accuracy": results["results"]["clean_accuracy"],
                "robust_accuracy": results["results"]["robust_accuracy"],
                "unreliable": results["results"].get("unreliable", []),  # absent without self-checks
            }
        )
    if not entries:
        raise ConfigError(f"no run of this sweep is finished in {output}")
    summary = {
        "dataset": cfg.DATASETS.TRAIN[0],
        "training_images": len(dataset.records),
        "seconds_per_box": seconds_per_box,
        "seconds_per_mask": seconds_per_mask,
        "missing": sorted({run.name for run in runs} - {entry["run"] for entry in entries}),
        "runs": entries,
    }
    write_text(output / SUMMARY, json.dumps(summary, indent=2) + "\n")
    return summary


def _finished(runs: Sequence[BudgetRun], output: Path) -> Iterator[tuple[BudgetRun, dict[str, Any]]]:
    for run in runs:
        path = output / run.name / "results.json"
        if path.is_file():
            yield run, json.loads(path.read_text(encoding="utf-8"))


def _check_run(cfg: CfgNode, run: BudgetRun, results: Mapping[str, Any], folder: Path) -> None:
    """Refuse results of a training or evaluation that is not of this sweep: ``--part`` may have been called otherwise.

    Raises:
        ConfigError: naming the run and the keys.
    """
    own = run.options[::2]
    of_results = settings_of(results["config"], NO_EFFECT)
    if Path(str(of_results.get("MODEL.WEIGHTS"))).parent.name == run.name:  # evaluated again: of its own training
        own.append("MODEL.WEIGHTS")
    stored, now = (
        {key: value for key, value in settings.items() if key not in own}
        for settings in (of_results, effective_config(cfg))
    )
    changed = [key for key in sorted(stored.keys() | now.keys()) if stored.get(key) != now.get(key)]
    seed = results["seeds"]["training"]
    if changed or seed != run.seed:
        what = [f"{key} is {stored.get(key)!r} there and {now.get(key)!r} here" for key in changed[:3]]
        what += [f"its seed is {seed}"] if seed != run.seed else []
        raise ConfigError(
            f"{folder} is not of this sweep: {'; '.join(what)}. Call with the same options, delete that folder, or "
            "choose another --output"
        )
