"""From a run's folder or a configuration file to a model with its weights."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog

import partbox
from partbox.data import get_part_dataset
from partbox.data.catalog import register_dataset_file
from partbox.engine.build import build_classifier
from partbox.engine.checkpoint import CheckpointError, read_checkpoint, weights_of_run
from partbox.engine.checks import ConfigError
from partbox.engine.detectors import build_detector, class_count, is_segmenter
from partbox.engine.hooks.best_checkpoint import BEST, FINAL
from partbox.engine.setup import load_config, load_dataset
from partbox.modeling.registration import register_models
from partbox.suggestions import did_you_mean

from .generators import generators_kept
from .models import DetectorModel, Model, PartClassifierModel

logger = logging.getLogger(__name__)

CONFIG, EVALUATION_CONFIG = "config.yaml", "config_evaluation.yaml"
RANDOM = "random"
WEIGHT_FILES = (".pth", ".pt", ".pkl", ".bin", ".ckpt", ".safetensors", ".onnx")


def load(
    config_or_run_dir: str | os.PathLike[str],
    *,
    weights: str | os.PathLike[str] | None = None,
    device: str | torch.device | None = None,
    class_names: Sequence[str] | None = None,
) -> Model:
    """Load a trained part classifier, detector or segmenter.

    Args:
        config_or_run_dir: the folder of a training run, of which ``model_best.pth`` is taken, else ``model_final.pth``;
            or a configuration file, with ``MODEL.WEIGHTS``. ``Model.weights`` says which file was taken.
        weights: another file of weights, or the folder of another run. "random" asks for a model as training begins
            with it; nothing else gives one without its weights.
        device: where it is put, such as "cpu"; default ``MODEL.DEVICE`` of the configuration.
        class_names: of a detector whose file of weights does not hold the names of its classes.

    Raises:
        ConfigError: a folder without what is needed, a wrong configuration, or one without weights.
        CheckpointError: a folder without weights, or some that cannot be read, do not fit, or are of other classes.
        PartDatasetError: names of classes had to be looked up in a dataset, which is broken.
    """
    register_models()
    config_file = _config_file(Path(config_or_run_dir))
    cfg = load_config(config_file, [] if device is None else ["MODEL.DEVICE", str(device)])
    taken = _weights(Path(config_or_run_dir), cfg, weights)
    logger.info("Model of %s, weights %s", config_file, taken or RANDOM)
    with generators_kept():  # building seeds them
        if cfg.MODEL.META_ARCHITECTURE != "PartClassifier":
            return _detector(cfg, taken, class_names)
        if class_names is not None:
            raise ConfigError("class_names is for detectors: a part classifier's configuration names its classes")
        _fill_names(cfg, taken)
        return PartClassifierModel(cfg, build_classifier(cfg, taken), taken)


def _config_file(source: Path) -> Path:
    """Raises ConfigError where there is none."""
    if source.suffix in WEIGHT_FILES and not source.is_dir():
        raise ConfigError(
            f"{source} is by its name a file of weights: load the folder of its run, {source.parent}, or the "
            f"configuration that it belongs to with weights='{source}'"
        )
    if not source.exists() and not source.suffix:
        runs = [str(found.parent) for found in source.parent.glob(f"*/{CONFIG}")]
        raise ConfigError(f"{source} does not exist: no folder of a training run{did_you_mean(str(source), runs)}")
    if not source.is_dir():
        return source  # load_config says so where it is not there
    if (source / CONFIG).is_file():
        return source / CONFIG
    if (source / EVALUATION_CONFIG).is_file():
        raise ConfigError(f"{source} is the folder of an evaluation: {_evaluated(source / EVALUATION_CONFIG)}")
    runs = sorted(str(found.parent) for found in source.glob(f"*/{CONFIG}"))
    listed = f"; runs in it: {', '.join(runs[:4])}{', ...' * (len(runs) > 4)}" if runs else ""
    raise ConfigError(f"{source} is no folder of a training run: it has no {CONFIG}{listed}")


def _evaluated(config: Path) -> str:
    """What to load instead of an evaluation."""
    try:
        weights = yaml.safe_load(config.read_text(encoding="utf-8"))["MODEL"]["WEIGHTS"]
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError):
        return "load the training run that it evaluated"
    return f"load the training run that it evaluated, {Path(weights).parent}"


def _weights(source: Path, cfg: CfgNode, given: str | os.PathLike[str] | None) -> str:
    """The file of weights, "" for random ones.

    Raises:
        CheckpointError: a folder without any.
        ConfigError: nobody says which, or two do.
    """
    if given == RANDOM:
        return ""
    if given is not None:
        return weights_of_run(Path(given)) if Path(given).is_dir() else os.fspath(given)
    if source.is_dir():
        return weights_of_run(source)
    trained = [source.parent / name for name in (BEST, FINAL) if (source.parent / name).is_file()]
    if trained and source.name == CONFIG:  # MODEL.WEIGHTS in it is what the run began with
        raise ConfigError(
            f"{source} is the configuration of a training run, which left {trained[0].name}: load the folder, "
            f"{source.parent}, or give weights="
        )
    if not cfg.MODEL.WEIGHTS:
        raise ConfigError(
            f"{source} names no weights, MODEL.WEIGHTS is empty: give weights='....pth', load the folder of a training "
            f"run, or ask for weights='{RANDOM}'"
        )
    return str(cfg.MODEL.WEIGHTS)


def _fill_names(cfg: CfgNode, weights: str) -> None:
    """Names of classes and parts, where a configuration leaves them to the dataset: those of the weights.

    A model of random weights is one of ``DATASETS.TRAIN``, which is read.
    """
    part = cfg.MODEL.PART
    if part.CLASS_NAMES:
        return
    if not weights:
        partbox.register_all(cfg.DATASETS.ROOT or None)
        load_dataset(cfg, cfg.DATASETS.TRAIN, "DATASETS.TRAIN")
        return
    stored = read_checkpoint(weights)
    try:
        classes, parts = list(stored["class_names"]), list(stored["part_names"])
    except KeyError:
        raise ConfigError(
            f"neither the configuration (MODEL.PART.CLASS_NAMES) nor {weights} names the classes: use the config.yaml "
            "of the run that made the weights"
        ) from None
    part.CLASS_NAMES, part.PART_NAMES = classes, parts
    part.PART_TO_CLASS = [_owner(name, classes, weights) for name in parts]


def _owner(part_name: str, class_names: Sequence[str], weights: str) -> int:
    """The class of a part called ``class:part``."""
    owners = [index for index, name in enumerate(class_names) if part_name.startswith(f"{name}:")]
    if len(owners) != 1:
        raise ConfigError(
            f"{weights}: the part {part_name!r} could belong to {len(owners)} of the classes: use the config.yaml of "
            "the run that made the weights"
        )
    return owners[0]


def _detector(cfg: CfgNode, weights: str, class_names: Sequence[str] | None) -> DetectorModel:
    stored = read_checkpoint(weights) if weights else {}
    names = _detector_names(cfg, stored, class_names, weights)
    wanted = class_count(cfg) - is_segmenter(cfg)
    if len(names) != wanted:
        raise ConfigError(f"the model has {wanted} classes, and {len(names)} names: {', '.join(names[:4])}, ...")
    return DetectorModel(cfg, build_detector(cfg, weights), weights, names)


def _detector_names(
    cfg: CfgNode, stored: Mapping[str, Any], given: Sequence[str] | None, weights: str
) -> tuple[str, ...]:
    """Those in the weights, those given, or those of the configuration's datasets.

    Raises:
        CheckpointError: the weights are of other classes than those given.
        ConfigError: nobody knows them.
    """
    if isinstance(given, str):
        raise ConfigError(f"class_names must be a list of names, not {given!r}")
    if "class_names" in stored:
        if given is not None and list(given) != list(stored["class_names"]):
            raise CheckpointError(f"{weights} was made for other class names (or another order): leave class_names")
        return tuple(stored["class_names"])
    if given is not None:
        return tuple(given)
    partbox.register_all(cfg.DATASETS.ROOT or None)
    for dataset in (*cfg.DATASETS.TEST, *cfg.DATASETS.TRAIN):
        if names := _names_of_dataset(dataset):
            return names
    raise ConfigError(
        f"neither {weights or 'the configuration'} nor a dataset that is here names the classes of this model: give "
        "class_names=[...], in their order"
    )


def _names_of_dataset(name: str) -> tuple[str, ...]:
    """What detectron2's catalog says of a dataset; of a part dataset whose files are here, what those say."""
    register_dataset_file(name)
    if name not in MetadataCatalog.list():
        return ()
    metadata = MetadataCatalog.get(name)
    if metadata.get("evaluator_type") == "part" and Path(metadata.json_file).is_file():
        get_part_dataset(name, "none")
    return tuple(metadata.get("thing_classes", ()))
