#!/usr/bin/env python
r"""Train and evaluate a part classifier.

Examples:
    # train on the generated example data (made on first use), then evaluate
    python tools/train_net.py --config-file configs/example/part_box.yaml OUTPUT_DIR output/part_box

    # evaluate a finished run under a stronger attack
    python tools/train_net.py --eval-only --config-file output/part_box/config.yaml \
        MODEL.WEIGHTS output/part_box/model_best.pth OUTPUT_DIR output/part_box_stronger \
        ROBUST_EVAL.PERTURBATIONS "[{'name': 'pgd', 'eps': '8/255', 'steps': 100, 'restarts': 5}]"

    # go on with an evaluation that was killed: the same command again; in two processes at once:
    python tools/train_net.py --eval-only --part 0/2 ... & python tools/train_net.py --eval-only --part 1/2 ...

    # on two GPUs, or in two processes of a CPU: each batch is divided between them; evaluations are, too
    python tools/train_net.py --num-gpus 2 --config-file configs/example/part_box.yaml OUTPUT_DIR output/part_box
    torchrun --nproc-per-node 2 tools/train_net.py --config-file ...   # the same; or srun, see docs/training.md

    # continue after an interruption; ends bit for bit where an uninterrupted run ends (on a CPU). SIGUSR1 and SIGTERM
    # end a run with a checkpoint and exit code 75; a job of Slurm goes back to the queue (docs/slurm.md)
    python tools/train_net.py --config-file configs/example/part_box.yaml --resume OUTPUT_DIR output/part_box

    # the original system's experiment names; print what would run, and stop
    python tools/train_net.py --experiment part-wbbox-norm_img-semi --dry-run
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from partbox.arguments import ArgumentParser, add_configuration_keys

from detectron2.config import CfgNode
from detectron2.engine import hooks
from detectron2.solver import build_lr_scheduler

import partbox
from partbox.attacks import AttackError
from partbox.data import PartDatasetError
from partbox.data.loader import ImageError
from partbox.engine.allocator import keep_freed_memory
from partbox.engine.build import (
    build_classifier,
    build_objective,
    build_optimizer,
    build_overfitting_probe,
    build_training_batches,
    build_validation,
    check_attackable,
    check_supervision,
    perturbations_of,
)
from partbox.engine.checkpoint import CheckpointError, RunCheckpointer, save_weights
from partbox.engine.checks import ConfigError, device_of
from partbox.engine.dry_run import plan
from partbox.engine.evaluate import evaluate_and_save
from partbox.engine.hooks.best_checkpoint import BEST, FINAL, BestWeights
from partbox.engine.hooks.catastrophic_overfitting import CatastrophicOverfitting
from partbox.engine.hooks.ema import WeightAveraging
from partbox.engine.hooks.eps_warmup import EpsWarmup
from partbox.engine.hooks.metric_writers import MetricWriters
from partbox.engine.hooks.progress_bar import ProgressBar
from partbox.engine.hooks.resume_checkpoints import ResumeCheckpoints
from partbox.engine.hooks.stop_on_signal import StopOnSignal
from partbox.engine.hooks.validation import ValidationUnderAttack
from partbox.engine.interruption import Interruption, interruptible
from partbox.engine.launch import add_launch_arguments, check_launch, evaluate_apart, train_together
from partbox.engine.objectives import AdversarialObjective
from partbox.engine.parts_of_work import add_part_argument
from partbox.engine.run_folder import evaluation_folder, training_folder
from partbox.engine.setup import load_config, load_dataset
from partbox.engine.tracking.wandb_run import check_tracking
from partbox.engine.trainer import PartTrainer, TrainingDiverged
from partbox.engine.training_records import training_records
from partbox.engine.user_errors import errors_as_sentences
from partbox.evaluation.record_files import RecordsError, locked, writing
from partbox.experiments import ExperimentError, describe_experiment
from partbox.processes import is_main
from partbox.report.example_pictures import save_example_pictures
from partbox.report.examples import ExamplesError
from partbox.report.learning_curves import save_learning_curves
from partbox.report.table import results_table

logger = logging.getLogger("partbox")

# Shown as one sentence, without a traceback.
USER_ERRORS = (
    AttackError,
    CheckpointError,
    ConfigError,
    ExamplesError,
    ExperimentError,
    ImageError,
    PartDatasetError,
    RecordsError,
    TrainingDiverged,
)


def parse_arguments() -> argparse.Namespace:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--config-file", metavar="FILE", help="configuration file (yaml), see configs/")
    parser.add_argument(
        "--experiment", metavar="NAME", help="original experiment name, such as part-pooling-4-no_bg-semi"
    )
    parser.add_argument("--resume", action="store_true", help="continue the run in OUTPUT_DIR from its last checkpoint")
    parser.add_argument(
        "--eval-only", action="store_true", help="evaluate MODEL.WEIGHTS on DATASETS.TEST, train nothing"
    )
    add_part_argument(parser)
    add_launch_arguments(parser)
    parser.add_argument("--dry-run", action="store_true", help="build and check everything, print the plan, and stop")
    add_configuration_keys(parser)
    return parser.parse_intermixed_args()


def configuration(arguments: argparse.Namespace) -> CfgNode:
    """The complete configuration, with the names of the dataset's classes and parts."""
    cfg = load_config(arguments.config_file, arguments.options, experiment=arguments.experiment)
    partbox.register_all(cfg.DATASETS.ROOT or None)
    what = "TEST" if arguments.eval_only else "TRAIN"
    load_dataset(cfg, cfg.DATASETS[what], f"DATASETS.{what}")
    return cfg


def train(arguments: argparse.Namespace) -> None:
    """Train, as one of the processes of the run."""
    cfg = configuration(arguments)
    folder = training_folder(cfg, resume=arguments.resume)
    with folder, interruptible(cfg.OUTPUT_DIR, more_follows=True) as signals:
        train_in_folder(cfg, signals, resume=arguments.resume)


def train_in_folder(cfg: CfgNode, signals: Interruption, *, resume: bool) -> None:
    """Train; leaves the weights in ``OUTPUT_DIR``."""
    dataset = load_dataset(cfg, cfg.DATASETS.TRAIN, "DATASETS.TRAIN")
    records = training_records(cfg, dataset.records, cfg.DATASETS.TRAIN[0])
    model = build_classifier(cfg)
    check_attackable(cfg, model, training=True)
    logger.info("Images whose part labels are used: %d of %d", check_supervision(cfg, model, records), len(records))
    optimizer = build_optimizer(cfg, model)
    objective = build_objective(cfg)
    averaging = WeightAveraging(model, decay=cfg.SOLVER.EMA.DECAY) if cfg.SOLVER.EMA.ENABLED else None
    kept = averaging.module if averaging else model
    measure = build_validation(cfg, kept)
    settled = cfg.ADVERSARY.CLEAN_ITERS + cfg.ADVERSARY.EPS_WARMUP_ITERS
    validation = (
        ValidationUnderAttack(measure, period=cfg.TEST.EVAL_PERIOD, settled=settled) if measure is not None else None
    )
    probe = build_overfitting_probe(cfg, model, objective, records)
    trainer = PartTrainer(model, optimizer, objective, seed=max(cfg.SEED, 0), mixed_precision=cfg.SOLVER.AMP.ENABLED)
    checkpointer = RunCheckpointer(model, cfg.OUTPUT_DIR, trainer=trainer)
    checkpoints = ResumeCheckpoints(checkpointer, cfg.SOLVER.CHECKPOINT_PERIOD)
    trainer.register_hooks(
        [
            hooks.IterationTimer(),
            ProgressBar(),
            EpsWarmup(objective, clean_iters=cfg.ADVERSARY.CLEAN_ITERS, warmup_iters=cfg.ADVERSARY.EPS_WARMUP_ITERS)
            if isinstance(objective, AdversarialObjective)
            else None,
            hooks.LRScheduler(optimizer, build_lr_scheduler(cfg, optimizer)),
            averaging,
            CatastrophicOverfitting(probe, period=cfg.ADVERSARY.PROBE_PERIOD) if probe is not None else None,
            validation,
            BestWeights(cfg.OUTPUT_DIR, kept, validation),
            MetricWriters(cfg),
            checkpoints,
            StopOnSignal(checkpoints, signals),
        ]
    )
    start = trainer.iter + 1 if resume and checkpointer.resume() else 0
    if start < cfg.SOLVER.MAX_ITER:
        trainer.read_from(build_training_batches(cfg, records, start))
        trainer.train(start, cfg.SOLVER.MAX_ITER)
    if not is_main():
        return
    final = Path(cfg.OUTPUT_DIR) / FINAL
    if not final.exists():  # killed between the last checkpoint and this file
        save_weights(final, kept, iteration=cfg.SOLVER.MAX_ITER - 1)
    save_learning_curves(cfg.OUTPUT_DIR)


def evaluate(arguments: argparse.Namespace, part: tuple[int, int]) -> None:
    """Evaluate ``MODEL.WEIGHTS``, or what was just trained, as one of the processes of the run."""
    cfg = configuration(arguments)
    folder = evaluation_folder(cfg, part=part, after_training=not arguments.eval_only)
    with folder, interruptible(cfg.OUTPUT_DIR) as signals, signals.at_once():
        trained = Path(cfg.OUTPUT_DIR) / (BEST if cfg.DATASETS.VALIDATION else FINAL)
        evaluate_in_folder(cfg, cfg.MODEL.WEIGHTS if arguments.eval_only else str(trained), part)


def evaluate_in_folder(cfg: CfgNode, weights: str, part: tuple[int, int]) -> None:
    """Evaluate ``weights``; writes results, records and pictures, prints the table."""
    load_dataset(cfg, cfg.DATASETS.TEST, "DATASETS.TEST")
    model = build_classifier(cfg, weights)
    check_attackable(cfg, model, training=False)
    results = evaluate_and_save(cfg, model, weights=weights, part=part)
    if results is None:
        return
    if cfg.ROBUST_EVAL.EXAMPLES:
        folder = Path(cfg.OUTPUT_DIR)
        with locked(folder / "records"), writing(folder / "examples.png", "example pictures"):
            save_example_pictures(folder)
    table = results_table({Path(cfg.OUTPUT_DIR).name: results})
    logger.info("\n%s", table)
    if part[0]:  # whose log does not go to the terminal
        print(table)


def main() -> None:
    keep_freed_memory()
    arguments = parse_arguments()
    cfg = load_config(arguments.config_file, arguments.options, experiment=arguments.experiment)
    partbox.register_all(cfg.DATASETS.ROOT or None)
    if arguments.experiment:
        print(f"Experiment {arguments.experiment} stands for:\n{describe_experiment(arguments.experiment)}\n")
    perturbations_of(cfg)  # a mistake in them must not show after hours of training
    check_tracking(cfg)
    if arguments.eval_only and not cfg.MODEL.WEIGHTS:
        raise ConfigError("--eval-only needs MODEL.WEIGHTS, such as MODEL.WEIGHTS output/part_box/model_best.pth")
    check_launch(arguments, cfg.SOLVER.IMS_PER_BATCH, device_of(cfg))
    if arguments.dry_run:
        print(plan(cfg, eval_only=arguments.eval_only))
        return
    if arguments.part[1] > 1 and not arguments.eval_only:
        raise ConfigError("--part divides an evaluation: it needs --eval-only")
    if not arguments.eval_only:
        train_together(train, arguments, device_of(cfg), USER_ERRORS)
    evaluate_apart(evaluate, arguments, device_of(cfg), USER_ERRORS)


if __name__ == "__main__":
    with errors_as_sentences(USER_ERRORS):
        main()
