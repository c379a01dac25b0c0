"""The curves of a finished evaluation, for TensorBoard and wandb."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.utils.events import EventStorage, EventWriter, TensorboardXWriter

from partbox.evaluation.attack_curves import Curve, attack_curves, is_attack
from partbox.evaluation.record_files import RecordsError, locked
from partbox.evaluation.run import Evaluation
from partbox.visualization.curves import curves_picture

from ..checks import ConfigError
from .evaluation_pictures import examples_picture
from .wandb_run import open_run
from .wandb_writer import WandbWriter

logger = logging.getLogger(__name__)

FOLDER = "attack_curves"
# Both trackers have whole numbers in the place of the iteration: eps stands there in units of 1/10000.
UNITS = {"passes": 1, "steps": 1, "eps": 10_000}
AXES = {"passes": "forward_passes", "steps": "attack_steps", "eps": "eps_times_10000"}
PICTURE, EXAMPLES = "attack_curves", "attacked_images"


def track_evaluation(
    cfg: CfgNode, outcome: Evaluation, *, class_names: Sequence[str], part_names: Sequence[str]
) -> None:
    """Write what an evaluation under attack has found, as curves and pictures; nothing for one without attacks.

    TensorBoard's files are in the folder ``attack_curves`` of the run, made anew by each evaluation: a curve's axis is
    no iteration. A run of wandb gets the accuracies as its summary, too. The results are written already: an error is
    a line in the log.

    Args:
        cfg: complete configuration.
        outcome: results, records of all perturbations, and the images that were kept.
        class_names: of labels and predictions.
        part_names: of part maps and boxes.
    """
    try:
        with locked(Path(cfg.OUTPUT_DIR) / "records"):  # two parts of one evaluation may end at once
            _track(cfg, outcome, class_names, part_names)
    except Exception as error:  # noqa: BLE001 whatever tracking does must not cost an evaluation
        said = f"{type(error).__name__}: {error}"
        logger.error("The curves of this evaluation are incomplete (%s); its results are in %s", said, cfg.OUTPUT_DIR)


def _track(cfg: CfgNode, outcome: Evaluation, class_names: Sequence[str], part_names: Sequence[str]) -> None:
    curves = attack_curves(outcome.results, outcome.records)
    folder = Path(cfg.OUTPUT_DIR) / FOLDER
    shutil.rmtree(folder, ignore_errors=True)
    run = _run(cfg)
    pictures: dict[str, np.ndarray] = {}
    if curves:
        pictures[PICTURE] = curves_picture(curves)
        attacks = [name for name, entry in outcome.results["by_perturbation"].items() if is_attack(entry)]
        drawn = examples_picture(
            outcome.examples,
            ["clean", *attacks],
            class_names=class_names,
            part_names=part_names,
            count=cfg.TRACKING.IMAGES,
            score=cfg.ROBUST_EVAL.EXAMPLE_SCORE,
        )
        if drawn is not None:
            pictures[EXAMPLES] = drawn
    for axis, name in AXES.items():
        these = [curve for curve in curves if curve.axis == axis]
        if these:
            writers: list[EventWriter] = []
            if run is not None:
                writers.append(WandbWriter(run, window=1, axis=name, first=cfg.SOLVER.MAX_ITER))
            writers.append(TensorboardXWriter(str(folder), window_size=1, filename_suffix=f".{axis}"))
            write_curves(these, name, UNITS[axis], writers, pictures)
            writers[-1].close()
            pictures = {}
    if run is not None:
        writer = WandbWriter(run, window=1)
        writer.summarize(_summary(outcome.results))
        writer.complete = True
        writer.close()


def _run(cfg: CfgNode) -> Any:
    """The run of wandb, where there is to be one. The results are written already: without it, nothing is lost."""
    try:
        return open_run(cfg)
    except (ConfigError, RecordsError) as error:
        logger.error("%s; the results of this evaluation are in %s", error, cfg.OUTPUT_DIR)
        return None


def write_curves(
    curves: Sequence[Curve],
    axis: str,
    unit: int,
    writers: Sequence[EventWriter],
    pictures: Mapping[str, np.ndarray] = MappingProxyType({}),
) -> None:
    """Put the points into an event storage in the order of x, and let the writers take each x as it comes.

    Args:
        curves: against one axis.
        axis: its name, which stands in the name of each scalar.
        unit: what x is multiplied by.
        writers: detectron2's.
        pictures: (H, W, 3) uint8 by name, at the first x.
    """
    points: dict[int, list[tuple[str, float]]] = {}
    for curve in curves:
        for x, y in curve.points:
            points.setdefault(round(x * unit), []).append((f"{curve.quantity}_by_{axis}/{curve.attack}", y))
    with EventStorage() as storage:
        for x in sorted(points):
            storage.iter = x
            for name, value in points[x]:
                storage.put_scalar(name, value, smoothing_hint=False)
            for name, picture in pictures.items():
                storage.put_image(name, torch.from_numpy(picture).permute(2, 0, 1))
            pictures = {}
            for writer in writers:
                writer.write()


def _summary(results: Mapping[str, Any]) -> dict[str, float]:
    """Accuracies of a classifier; AP or mIoU of the others are in the curves."""
    summary = {}
    if "clean_accuracy" in results:
        summary["evaluation/clean_accuracy"] = results["clean_accuracy"]
    for threat, accuracy in results.get("robust_accuracy", {}).items():
        summary[f"evaluation/robust_accuracy {threat}"] = accuracy
    return summary
