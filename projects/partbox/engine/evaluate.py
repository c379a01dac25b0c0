"""Evaluation of a configured model on a dataset: ``results.json`` and its records."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.evaluation import DatasetEvaluator

from partbox.data.loader import subset
from partbox.data.mapper import PartDatasetMapper
from partbox.evaluation.batches import RecordBatches
from partbox.evaluation.example_files import write_examples
from partbox.evaluation.examples import choose_examples
from partbox.evaluation.guides import GuideBook
from partbox.evaluation.image_evaluator import image_evaluators
from partbox.evaluation.part_boxes import PartBoxEvaluator
from partbox.evaluation.part_segmentation import PartSegmentationEvaluator
from partbox.evaluation.record_files import locked, writing
from partbox.evaluation.records import write_records
from partbox.evaluation.run import Evaluation, conclude, missing_units, self_checks, work
from partbox.evaluation.stamp import versions
from partbox.evaluation.store import RecordStore
from partbox.evaluation.subject import ClassifierSubject, Mapper, Subject
from partbox.files import write_text
from partbox.modeling import PartClassifier

from .build import build_classifier, check_true_parts, perturbations_of
from .checks import ConfigError
from .hooks.best_checkpoint import BEST
from .run_folder import config_changes, config_hash, effective_config
from .setup import load_config, load_dataset
from .tracking.evaluation_tracking import track_evaluation

logger = logging.getLogger(__name__)

SCHEMA_VERSION = 2


def fingerprint(cfg: CfgNode, model: torch.nn.Module) -> dict[str, Any]:
    """What decides an evaluation's numbers beside what :func:`partbox.evaluation.stamp.stamp_of` knows."""
    return {
        "schema_version": SCHEMA_VERSION,
        **{f"config {key}": value for key, value in effective_config(cfg).items() if key != "MODEL.WEIGHTS"},
        "device": next(model.parameters()).device.type,
    }


def evaluate_and_save(
    cfg: CfgNode, model: PartClassifier, *, weights: str, part: tuple[int, int] = (0, 1)
) -> dict[str, Any] | None:
    """Evaluate a part classifier on ``DATASETS.TEST``; see :func:`evaluate_subject`.

    Args:
        cfg: complete configuration.
        model: with its weights loaded.
        weights: where they come from, for the record.
        part: (i, n): do the i-th of n parts of the work; whoever finishes last writes the results.
    """
    dataset = load_dataset(cfg, cfg.DATASETS.TEST, "DATASETS.TEST")
    records = subset(dataset.records, cfg.ROBUST_EVAL.NUM_IMAGES, seed=cfg.ROBUST_EVAL.SEED)
    check_true_parts(model, records, "DATASETS.TEST")
    mapper = PartDatasetMapper.from_config(cfg, is_train=False)
    finished = evaluate_subject(
        cfg,
        ClassifierSubject(model, surrogate_of(cfg, model), GuideBook(records, mapper) if model.extractor else None),
        records,
        mapper,
        _evaluators(model, records),
        facts={"weights": weights, "class_names": list(model.class_names)},
        part_names=() if model.extractor is None or model.extractor.training_only else model.channel_names,
        dataset_images=len(dataset.records),
        part=part,
    )
    return None if finished is None else finished[0]


def surrogate_of(cfg: CfgNode, model: PartClassifier) -> PartClassifier | None:
    """The model of the run folder ``ROBUST_EVAL.SURROGATE``, for the transfer check; None without one.

    Raises:
        ConfigError: no such run, or one with other classes.
        CheckpointError: its weights cannot be read.
    """
    folder = Path(cfg.ROBUST_EVAL.SURROGATE)
    if not cfg.ROBUST_EVAL.SURROGATE:
        return None
    other = load_config(folder / "config.yaml", ["MODEL.DEVICE", cfg.MODEL.DEVICE])
    surrogate = build_classifier(other, str(folder / BEST))
    if surrogate.evidence_is_given:
        raise ConfigError(f"ROBUST_EVAL.SURROGATE: the model of {folder} is an oracle, attack another one")
    if surrogate.class_names != model.class_names or tuple(other.INPUT.SIZE) != tuple(cfg.INPUT.SIZE):
        raise ConfigError(f"ROBUST_EVAL.SURROGATE: {folder} holds a model of other classes or another input size")
    return surrogate.eval().requires_grad_(False)


def evaluate_subject(
    cfg: CfgNode,
    subject: Subject,
    records: Sequence[dict[str, Any]],
    mapper: Mapper,
    evaluators: Sequence[DatasetEvaluator],
    *,
    facts: Mapping[str, Any],
    part_names: Sequence[str],
    dataset_images: int,
    part: tuple[int, int] = (0, 1),
) -> tuple[dict[str, Any], Evaluation] | None:
    """Evaluate any model; write ``results.json``, ``records.jsonl`` and ``examples/`` to ``OUTPUT_DIR``.

    Finished batches are kept in ``OUTPUT_DIR/records`` at once: a killed evaluation goes on from there when it is
    started again, and its results equal those of an uninterrupted one.

    Args:
        cfg: complete configuration.
        subject: the model under test.
        records: of the images to evaluate.
        mapper: from a record to a sample.
        evaluators: detectron2 evaluators.
        facts: entries of ``results.json`` that the caller knows, ``class_names`` among them.
        part_names: what the model's part maps and boxes show, in order.
        dataset_images: images in the dataset, of which ``records`` may be a part.
        part: (i, n): do the i-th of n parts of the work; whoever finishes last writes the results.

    Returns:
        The content of ``results.json`` and the evaluation; None while parts of other processes are missing.

    Raises:
        RecordsError: a file cannot be written or read, or the folder holds records of another evaluation.
    """
    started, seed, folder = time.perf_counter(), cfg.ROBUST_EVAL.SEED, Path(cfg.OUTPUT_DIR)
    perturbations = perturbations_of(cfg, subject.kind)
    subject.check(perturbations)
    batches = RecordBatches(records, mapper, batch_size=cfg.ROBUST_EVAL.BATCH_SIZE, workers=cfg.DATALOADER.NUM_WORKERS)
    ready = image_evaluators(evaluators, records)
    with RecordStore(folder / "records", fingerprint(cfg, subject.module), process=f"{part[0]}-of-{part[1]}") as store:
        examples = choose_examples(records, cfg.ROBUST_EVAL.EXAMPLES, seed=seed, perturbations=len(perturbations))
        work(subject, batches, perturbations, ready, store, seed=seed, examples=examples, part=part)
        missing = missing_units(len(batches), perturbations, store)
        if missing:
            logger.info(
                "Part %d of %d is done; %d batches of other parts are missing. Who finishes last writes the results.",
                *(part[0], part[1], missing),
            )
            return None
        outcome = conclude(len(batches), perturbations, ready, store, subject, examples)
    if cfg.ROBUST_EVAL.SELF_CHECK_IMAGES:
        self_checks(subject, batches, perturbations, outcome, images=cfg.ROBUST_EVAL.SELF_CHECK_IMAGES, seed=seed)
    document = _document(cfg, subject, outcome, images=(len(records), dataset_images))
    results = {**document, **facts, "seconds": time.perf_counter() - started}
    _write(cfg, results, outcome, part_names)
    track_evaluation(cfg, outcome, class_names=facts["class_names"], part_names=part_names)
    for warning in outcome.results["warnings"]:
        logger.warning("%s", warning)
    return results, outcome


def _write(cfg: CfgNode, results: Mapping[str, Any], outcome: Evaluation, part_names: Sequence[str]) -> None:
    folder = Path(cfg.OUTPUT_DIR)
    with writing(folder / "records.jsonl"):
        write_records(folder / "records.jsonl", outcome.records)
    with writing(folder / "results.json", "results"):
        write_text(folder / "results.json", json.dumps(results, indent=2, allow_nan=False))
    _write_examples(cfg, outcome, results["class_names"], part_names)


def _write_examples(cfg: CfgNode, outcome: Evaluation, class_names: Sequence[str], part_names: Sequence[str]) -> None:
    if not any(outcome.examples.values()):
        return
    folder = Path(cfg.OUTPUT_DIR)
    with locked(folder / "records"):  # two parts that end at once see each other finished, and both write
        write_examples(
            folder / "examples",
            outcome.examples,
            class_names=class_names,
            part_names=part_names,
            score=cfg.ROBUST_EVAL.EXAMPLE_SCORE,
        )
    images = len(outcome.examples["clean"])
    logger.info("%d images under %d perturbations are kept in %s", images, len(outcome.examples), folder / "examples")


def _document(cfg: CfgNode, subject: Subject, outcome: Evaluation, *, images: tuple[int, int]) -> dict[str, Any]:
    """What ``results.json`` holds; ``images``: evaluated, and in the dataset."""
    return {
        "schema_version": SCHEMA_VERSION,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": sys.argv,
        "dataset": {"name": cfg.DATASETS.TEST[0], "images": images[0], "of": images[1]},
        "seeds": {"training": max(cfg.SEED, 0), "evaluation": cfg.ROBUST_EVAL.SEED},
        "config_hash": config_hash(cfg),
        "versions": versions(),
        "device": str(next(subject.module.parameters()).device),
        "threads": torch.get_num_threads(),
        "results": outcome.results,
        "config_changes": config_changes(cfg),
        "config": cfg.dump(),
    }


def _evaluators(model: PartClassifier, records: list[dict[str, Any]]) -> list[DatasetEvaluator]:
    if model.extractor is None or model.extractor.training_only:
        return []
    evaluators: list[DatasetEvaluator] = []
    if model.extractor.gives_masks:
        evaluators.append(PartSegmentationEvaluator(model.level.channels, model.level_map))
    if model.level.name == "part":
        evaluators.append(PartBoxEvaluator(records, model.part_names))
    return evaluators
