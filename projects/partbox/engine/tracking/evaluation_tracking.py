"""The curves of a finished evaluation, for TensorBoard and wandb."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.utils.events import EventStorage, EventWriter, TensorboardXWriter

from partbox.evaluation.attack_curves import Curve, attack_curves
from partbox.evaluation.records import Record
from partbox.visualization.curves import curves_picture

from ..checks import ConfigError
from .wandb_run import is_tracked, open_run
from .wandb_writer import WandbWriter

logger = logging.getLogger(__name__)

FOLDER = "attack_curves"
# Both trackers have whole numbers in the place of the iteration: eps stands there in units of 1/10000.
UNITS = {"passes": 1, "steps": 1, "eps": 10_000}
AXES = {"passes": "forward_passes", "steps": "attack_steps", "eps": "eps_times_10000"}
PICTURE = "attack_curves"


def track_evaluation(cfg: CfgNode, results: Mapping[str, Any], records: Iterable[Record]) -> None:
    """Write what an evaluation under attack has found, as curves; nothing for one without attacks.

    TensorBoard's files are in the folder ``attack_curves`` of the run, made anew by each evaluation: a curve's axis is
    no iteration. A run of wandb gets the accuracies as its summary, too.

    Args:
        cfg: complete configuration.
        results: the entry ``results`` of ``results.json``.
        records: of all perturbations.
    """
    curves = attack_curves(results, records)
    folder = Path(cfg.OUTPUT_DIR) / FOLDER
    shutil.rmtree(folder, ignore_errors=True)
    run = _run(cfg)
    picture = curves_picture(curves) if curves else None
    for axis, name in AXES.items():
        these = [curve for curve in curves if curve.axis == axis]
        if these:
            writers: list[EventWriter] = []
            if run is not None:
                writers.append(WandbWriter(run, window=1, axis=name, first=cfg.SOLVER.MAX_ITER))
            writers.append(TensorboardXWriter(str(folder), window_size=1, filename_suffix=f".{axis}"))
            write_curves(these, name, UNITS[axis], writers, picture)
            writers[-1].close()
            picture = None
    if run is not None:
        writer = WandbWriter(run, window=1)
        writer.summarize(_summary(results))
        writer.complete = True
        writer.close()


def _run(cfg: CfgNode) -> Any:
    """The run of wandb, where there is to be one. The results are written already: without it, nothing is lost."""
    try:
        return open_run(cfg) if is_tracked(cfg) else None
    except ConfigError as error:
        logger.error("%s; the results of this evaluation are in %s", error, cfg.OUTPUT_DIR)
        return None


def write_curves(
    curves: Sequence[Curve], axis: str, unit: int, writers: Sequence[EventWriter], picture: Any = None
) -> None:
    """Put the points into an event storage in the order of x, and let the writers take each x as it comes.

    Args:
        curves: against one axis.
        axis: its name, which stands in the name of each scalar.
        unit: what x is multiplied by.
        writers: detectron2's.
        picture: (H, W, 3) uint8 of all curves, at the first x.
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
            if picture is not None:
                storage.put_image(PICTURE, torch.from_numpy(picture).permute(2, 0, 1))
                picture = None
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
