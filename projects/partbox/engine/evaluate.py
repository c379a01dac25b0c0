"""Evaluation of a configured model on a dataset: ``results.json`` and its records."""

from __future__ import annotations

import json
import logging
import platform
import sys
import time
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.evaluation import DatasetEvaluator

from partbox.data.loader import build_test_loader, subset
from partbox.data.mapper import PartDatasetMapper
from partbox.evaluation import evaluate
from partbox.evaluation.evaluators import PartSegmentationEvaluator
from partbox.evaluation.part_boxes import PartBoxEvaluator
from partbox.evaluation.records import write_records
from partbox.files import write_text
from partbox.modeling import PartClassifier

from .build import perturbations_of
from .examples import save_examples
from .run_folder import config_hash
from .setup import load_dataset

logger = logging.getLogger(__name__)

SCHEMA_VERSION = 1
PACKAGES = (
    "partbox",
    "detectron2",
    "sal-detectron2",
    "torch",
    "torchvision",
    "timm",
    "numpy",
    "pillow",
    "torchmetrics",
    "pycocotools",
)


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that numbers depend on."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def evaluate_and_save(cfg: CfgNode, model: PartClassifier, *, weights: str, keep_examples: int = 8) -> dict[str, Any]:
    """Evaluate on ``DATASETS.TEST``; write ``results.json``, ``records.jsonl`` and ``examples.npz`` to ``OUTPUT_DIR``.

    Args:
        cfg: complete configuration.
        model: with its weights loaded.
        weights: where they come from, for the record.
        keep_examples: images of each perturbation to keep for pictures, at least 1.
    """
    started = time.perf_counter()
    perturbations = perturbations_of(cfg)
    dataset = load_dataset(cfg, cfg.DATASETS.TEST, "DATASETS.TEST")
    records = subset(dataset.records, cfg.ROBUST_EVAL.NUM_IMAGES, seed=cfg.ROBUST_EVAL.SEED)
    mapper = PartDatasetMapper.from_config(cfg, is_train=False)
    loader = build_test_loader(
        records, mapper, batch_size=cfg.ROBUST_EVAL.BATCH_SIZE, workers=cfg.DATALOADER.NUM_WORKERS
    )
    evaluators: list[DatasetEvaluator] = []
    if model.extractor is not None:
        names = {"part": model.part_names, "object": model.class_names, "fg": ("foreground",)}[model.level]
        evaluators.append(PartSegmentationEvaluator(names, model.level_map))
        if model.level == "part":
            evaluators.append(PartBoxEvaluator(records, model.part_names))
    outcome = evaluate(
        model,
        loader,
        perturbations,
        evaluators,
        seed=cfg.ROBUST_EVAL.SEED,
        keep_examples=keep_examples,
        progress=sys.stderr.isatty(),
    )
    folder = Path(cfg.OUTPUT_DIR)
    results = {
        "schema_version": SCHEMA_VERSION,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": sys.argv,
        "dataset": {"name": cfg.DATASETS.TEST[0], "images": len(records), "of": len(dataset.records)},
        "weights": weights,
        "seeds": {"training": max(cfg.SEED, 0), "evaluation": cfg.ROBUST_EVAL.SEED},
        "config_hash": config_hash(cfg),
        "versions": versions(),
        "device": str(model.device),
        "threads": torch.get_num_threads(),
        "class_names": list(model.class_names),
        "seconds": time.perf_counter() - started,
        "results": outcome.results,
        "config": cfg.dump(),
    }
    write_records(folder / "records.jsonl", outcome.records)
    write_text(folder / "results.json", json.dumps(results, indent=2, allow_nan=False))
    save_examples(folder / "examples.npz", outcome.examples, model.class_names)
    for warning in outcome.results["warnings"]:
        logger.warning("%s", warning)
    return results
