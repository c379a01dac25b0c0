#!/usr/bin/env python
r"""Train one of detectron2's detectors or segmenters on a registered dataset, and measure how it fails.

Examples:
    # train Faster R-CNN on the parts of cars, then evaluate it: clean, noise, attacks
    python tools/train_detector.py --config-file configs/car_parts/faster_rcnn.yaml OUTPUT_DIR output/faster_rcnn

    # evaluate weights under corruptions
    python tools/train_detector.py --eval-only --config-file output/faster_rcnn/config.yaml \
        MODEL.WEIGHTS output/faster_rcnn/model_final.pth OUTPUT_DIR output/faster_rcnn_corrupted \
        ROBUST_EVAL.PERTURBATIONS "[{'name': 'corruptions'}]"

    # go on with an evaluation that was killed: the same command again; in two processes at once:
    python tools/train_detector.py --eval-only --part 0/2 ... &
    python tools/train_detector.py --eval-only --part 1/2 ...

    # see whether a configuration can be built and trained, without any data
    python tools/train_detector.py --dry-run --config-file configs/coco/dino_4scale_R50.yaml

    # go on after an interruption of the training. SIGUSR1 and SIGTERM end it with a checkpoint and exit code 75; a job
    # of Slurm goes back to the queue (docs/slurm.md)
    python tools/train_detector.py --resume --config-file configs/car_parts/faster_rcnn.yaml \
        OUTPUT_DIR output/faster_rcnn
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from partbox.arguments import ArgumentParser, add_configuration_keys

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.engine import hooks
from detectron2.solver import build_lr_scheduler

import partbox
from partbox.attacks import AttackError
from partbox.data import PartDatasetError
from partbox.data.loader import ImageError
from partbox.engine.allocator import keep_freed_memory
from partbox.engine.build import build_optimizer, threat_model
from partbox.engine.checkpoint import CheckpointError, RunCheckpointer, save_weights
from partbox.engine.checks import ConfigError, device_of, value_of
from partbox.engine.detector_batches import build_detector_batches, check_sampler
from partbox.engine.detector_dry_run import detector_plan
from partbox.engine.detector_evaluation import evaluate_detector, records_to_evaluate
from partbox.engine.detector_training import DetectorTrainer
from partbox.engine.detectors import (
    build_detector,
    check_classes,
    check_perturbations,
    mapper_of,
)
from partbox.engine.hooks.best_checkpoint import FINAL
from partbox.engine.hooks.metric_writers import MetricWriters
from partbox.engine.hooks.progress_bar import ProgressBar
from partbox.engine.hooks.resume_checkpoints import ResumeCheckpoints
from partbox.engine.hooks.stop_on_signal import StopOnSignal
from partbox.engine.interruption import Interruption, interruptible
from partbox.engine.launch import add_launch_arguments, check_launch, evaluate_apart, train_together
from partbox.engine.parts_of_work import add_part_argument
from partbox.engine.run_folder import evaluation_folder, training_folder
from partbox.engine.setup import load_config
from partbox.engine.tracking.wandb_run import check_tracking
from partbox.engine.trainer import TrainingDiverged
from partbox.engine.training_records import detector_training_records
from partbox.engine.user_errors import errors_as_sentences
from partbox.evaluation.record_files import RecordsError, locked, writing
from partbox.processes import is_main
from partbox.report.detection_table import detection_table
from partbox.report.example_pictures import save_example_pictures
from partbox.report.examples import ExamplesError

logger = logging.getLogger("partbox")
# Keys of part classifiers beside those of ADVERSARY that mean nothing here.
NOT_READ = (
    "SOLVER.EMA.ENABLED",
    "MODEL.PART.BATCH_NORM",
    "MODEL.PART.BATCH_NORM_MOMENTUM",
    "MODEL.PART.CHANNELS_LAST",
    "MODEL.PART.LABEL_SMOOTHING",
    "MODEL.PART.LOSS_WEIGHT",
    "MODEL.PART.HEAD.NAME",
)
USER_ERRORS = (
    AttackError,
    CheckpointError,
    ConfigError,
    ExamplesError,
    ImageError,
    PartDatasetError,
    RecordsError,
    TrainingDiverged,
)


def parse_arguments() -> argparse.Namespace:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument(
        "--config-file", metavar="FILE", required=True, help="configuration file, see configs/car_parts"
    )
    parser.add_argument("--resume", action="store_true", help="continue the run in OUTPUT_DIR from its last checkpoint")
    parser.add_argument("--eval-only", action="store_true", help="evaluate MODEL.WEIGHTS, train nothing")
    add_part_argument(parser)
    add_launch_arguments(parser)
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="build everything, make one training step on made-up photographs, print the plan, and stop; needs no data",
    )
    parser.add_argument(
        "--dry-run-size", type=int, default=256, metavar="PIXELS", help="side of the made-up photographs (%(default)s)"
    )
    add_configuration_keys(parser)
    return parser.parse_intermixed_args()


def configuration(arguments: argparse.Namespace) -> CfgNode:
    """The complete configuration; data sets are registered."""
    cfg = load_config(arguments.config_file, arguments.options)
    partbox.register_all(cfg.DATASETS.ROOT or None)
    return cfg


def train(arguments: argparse.Namespace) -> None:
    """Train on ``DATASETS.TRAIN``, as one of the processes of the run."""
    cfg = configuration(arguments)
    folder = training_folder(cfg, resume=arguments.resume)
    with folder, interruptible(cfg.OUTPUT_DIR, more_follows=True) as signals:
        train_in_folder(cfg, signals, resume=arguments.resume)


def train_in_folder(cfg: CfgNode, signals: Interruption, *, resume: bool) -> None:
    """Train on ``DATASETS.TRAIN``; leaves the weights in ``OUTPUT_DIR``."""
    records = detector_training_records(cfg)
    check_classes(cfg, cfg.DATASETS.TRAIN[0])
    check_sampler(cfg)
    model = build_detector(cfg, cfg.MODEL.WEIGHTS, cfg.MODEL.WEIGHTS_EXCEPT).train()
    optimizer = build_optimizer(cfg, model)
    adversary = cfg.ADVERSARY
    free = {"threat": threat_model(cfg), "replays": adversary.REPLAYS} if adversary.OBJECTIVE == "free" else {}
    trainer = DetectorTrainer(
        model, (), optimizer, seed=max(cfg.SEED, 0), mixed_precision=cfg.SOLVER.AMP.ENABLED, **free
    )
    checkpointer = RunCheckpointer(model, cfg.OUTPUT_DIR, trainer=trainer)
    checkpoints = ResumeCheckpoints(checkpointer, cfg.SOLVER.CHECKPOINT_PERIOD)
    trainer.register_hooks(
        [
            ProgressBar(),
            hooks.LRScheduler(optimizer, build_lr_scheduler(cfg, optimizer)),
            MetricWriters(cfg),
            checkpoints,
            StopOnSignal(checkpoints, signals),
        ]
    )
    start = trainer.iter + 1 if resume and checkpointer.resume() else 0
    if start < cfg.SOLVER.MAX_ITER:
        trainer.read_from(build_detector_batches(cfg, records, start // trainer.replays))
        trainer.train(start, cfg.SOLVER.MAX_ITER)
    if is_main():
        names = list(MetadataCatalog.get(cfg.DATASETS.TRAIN[0]).thing_classes)
        save_weights(Path(cfg.OUTPUT_DIR) / FINAL, model, class_names=names)


def evaluate(arguments: argparse.Namespace, part: tuple[int, int]) -> None:
    """Evaluate ``MODEL.WEIGHTS``, or what was just trained, as one of the processes of the run."""
    cfg = configuration(arguments)
    folder = evaluation_folder(cfg, part=part, after_training=not arguments.eval_only)
    with folder, interruptible(cfg.OUTPUT_DIR) as signals, signals.at_once():
        trained = str(Path(cfg.OUTPUT_DIR) / FINAL)
        evaluate_in_folder(cfg, cfg.MODEL.WEIGHTS if arguments.eval_only else trained, part)


def evaluate_in_folder(cfg: CfgNode, weights: str, part: tuple[int, int]) -> None:
    """Evaluate ``weights`` on ``DATASETS.TEST``; writes results, records and pictures, prints the table."""
    records = records_to_evaluate(cfg)
    results = evaluate_detector(cfg, build_detector(cfg, weights), records, weights=weights, part=part)
    if results is None:
        return
    if cfg.ROBUST_EVAL.EXAMPLES:
        folder = Path(cfg.OUTPUT_DIR)
        with locked(folder / "records"), writing(folder / "examples.png", "example pictures"):
            save_example_pictures(folder)
    table = detection_table(results)
    logger.info("\n%s", table)
    if part[0]:  # whose log does not go to the terminal
        print(table)


def refuse_what_is_not_read(cfg: CfgNode) -> None:
    """Raises ConfigError for keys of part classifiers that were set and would have no effect here."""
    if cfg.ADVERSARY.OBJECTIVE not in ("clean", "free"):
        raise ConfigError(
            f"ADVERSARY.OBJECTIVE is {cfg.ADVERSARY.OBJECTIVE}: a detector is trained clean or free, set it to one"
        )
    mapper_of(cfg, is_train=True)
    if cfg.TEST.EVAL_PERIOD or cfg.DATASETS.VALIDATION:
        raise ConfigError("a detector is not validated during training: set TEST.EVAL_PERIOD 0, DATASETS.VALIDATION ()")
    read = {"ADVERSARY.OBJECTIVE"}
    if cfg.ADVERSARY.OBJECTIVE == "free":
        read |= {"ADVERSARY.EPS", "ADVERSARY.NORM", "ADVERSARY.REPLAYS"}
    defaults = load_config()
    keys = [f"ADVERSARY.{key}" for key in cfg.ADVERSARY if f"ADVERSARY.{key}" not in read]
    for key in [*keys, *NOT_READ]:
        if value_of(cfg, key) != value_of(defaults, key):
            raise ConfigError(f"{key} is {value_of(cfg, key)!r}: a detector's training and evaluation do not read it")


def main() -> None:
    keep_freed_memory()
    arguments = parse_arguments()
    cfg = configuration(arguments)
    # a mistake in them must not show after the training
    check_perturbations(cfg)
    refuse_what_is_not_read(cfg)
    check_tracking(cfg)
    if arguments.eval_only and not cfg.MODEL.WEIGHTS:
        raise ConfigError("--eval-only needs MODEL.WEIGHTS, such as MODEL.WEIGHTS output/faster_rcnn/model_final.pth")
    check_launch(arguments, cfg.SOLVER.IMS_PER_BATCH, device_of(cfg))
    if arguments.dry_run:
        given = dict(zip(arguments.options[::2], arguments.options[1::2], strict=True)).get("MODEL.WEIGHTS")
        if given and not Path(given).is_file():  # a file's own default may be missing here, a typed one is a mistake
            raise CheckpointError(f"MODEL.WEIGHTS {given} does not exist")
        print(detector_plan(cfg, size=arguments.dry_run_size))
        return
    if arguments.part[1] > 1 and not arguments.eval_only:
        raise ConfigError("--part divides an evaluation: it needs --eval-only")
    if not arguments.eval_only:
        train_together(train, arguments, device_of(cfg), USER_ERRORS)
    evaluate_apart(evaluate, arguments, device_of(cfg), USER_ERRORS)


if __name__ == "__main__":
    with errors_as_sentences(USER_ERRORS):
        main()
