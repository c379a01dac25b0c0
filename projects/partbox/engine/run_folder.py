"""The folder of a run: what it holds, its log, its metrics."""

from __future__ import annotations

import json
import sys
from datetime import datetime
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.utils.collect_env import collect_env_info
from detectron2.utils.events import CommonMetricPrinter, EventWriter, JSONWriter, TensorboardXWriter
from detectron2.utils.logger import setup_logger

from partbox.files import write_lines, write_text

from .setup import ConfigError, load_dataset

METRICS = "metrics.json"

CONTENTS = """\
A run of partbox.

config.yaml           the complete configuration, names of classes and parts included
command.txt           every start of this run: time and command line
log.txt               the log
environment.txt       versions and hardware of the last start
metrics.json          one JSON object a line: losses, eps, learning rate, validation
events.out.*          the same for TensorBoard (tensorboard --logdir .)
learning_curves.png   the same as a picture
resume_*.pth          to continue from (--resume)
model_best.pth        weights with the best validation under attack
model_final.pth       weights at the end
results.json          the evaluation: accuracies, threat models, seeds, versions, configuration
records.jsonl         one line an image and perturbation
examples.png          clean and attacked images with the parts found
"""


def open_run_folder(cfg: CfgNode, *, resume: bool, eval_only: bool) -> None:
    """Start the log and write the configuration; complete its names from the dataset first.

    Raises:
        ConfigError: the folder holds another training run and ``--resume`` was not given.
    """
    folder = Path(cfg.OUTPUT_DIR)
    if not eval_only and not resume and (folder / "last_checkpoint").exists():
        raise ConfigError(
            f"{folder} holds a training run already: add --resume to continue it, or choose another OUTPUT_DIR"
        )
    names = cfg.DATASETS.TEST if eval_only else cfg.DATASETS.TRAIN
    load_dataset(cfg, names, "DATASETS.TEST" if eval_only else "DATASETS.TRAIN")
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("detectron2", "fvcore", "partbox"):
        setup_logger(str(folder), name=name)
    write_text(folder / "README.txt", CONTENTS)
    config = "config_evaluation.yaml" if eval_only else "config.yaml"
    write_text(folder / config, cfg.dump())
    write_text(folder / "environment.txt", collect_env_info() + "\n")
    with open(folder / "command.txt", "a", encoding="utf-8") as file:
        file.write(f"{datetime.now().astimezone().isoformat(timespec='seconds')}  {' '.join(sys.argv)}\n")


def _drop_metrics_from(path: Path, iteration: int) -> None:
    """Forget what an interrupted run logged after its last checkpoint: those iterations run again."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:  # the line that was being written when the run was killed
            continue
        if entry["iteration"] < iteration:
            kept.append(line)
    write_lines(path, kept)


def writers(cfg: CfgNode, start: int) -> list[EventWriter]:
    """Log lines with the time left, ``metrics.json``, and TensorBoard, for a run that begins at iteration ``start``."""
    metrics = Path(cfg.OUTPUT_DIR) / METRICS
    _drop_metrics_from(metrics, start)
    return [
        CommonMetricPrinter(cfg.SOLVER.MAX_ITER),
        JSONWriter(str(metrics)),
        TensorboardXWriter(cfg.OUTPUT_DIR, purge_step=start),
    ]
