"""Pseudo-labels: a trained model labels the parts of the images that nobody has labelled."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog

from partbox.data import PartDataset, get_part_dataset, load_part_dataset
from partbox.data.catalog import register_dataset_file
from partbox.data.loader import build_test_loader
from partbox.data.merged_labels import PredictedPart, is_annotated, write_merged_labels
from partbox.evaluation.found_part_store import FoundPartStore
from partbox.evaluation.found_parts import FoundPart
from partbox.evaluation.record_files import writing
from partbox.evaluation.stamp import records_digest, versions
from partbox.evaluation.threshold_choice import (
    Judged,
    ThresholdError,
    Thresholds,
    choose_thresholds,
    criterion,
    curve_of,
    judge,
)
from partbox.files import write_text
from partbox.progress import Progress

from .checks import ConfigError
from .folder_guide import pseudo_label_guide
from .part_finders import PartFinder, build_finder
from .run_folder import config_hash, describe, start_log
from .setup import fill_names
from .training_records import label_budget, within_budget

logger = logging.getLogger(__name__)

DATASET, IMAGES, FOUND, THRESHOLDS = "train.json", "images", "found_parts.jsonl", "thresholds.json"
Record = dict[str, Any]


@dataclass(frozen=True)
class PseudoLabelOptions:
    """What is labelled, and how.

    Attributes:
        dataset: whose images without annotated labels are labelled. The run's training dataset is taken within the
            label budget of its configuration.
        labelled: by whose annotated labels thresholds are chosen; "" for none, with a given threshold.
        labels: "box" or "mask".
        parts: "of-class" or "any", see :mod:`partbox.evaluation.found_parts`.
        threshold: "auto", "per-part", or a score in [0, 1].
        iou: overlap from which a found part is right.
        least: labelled parts that the choice of a threshold needs.
        keep_annotated: whether the annotated images are in the file.
    """

    dataset: str
    labelled: str
    labels: str
    parts: str = "of-class"
    threshold: str | float = "auto"
    iou: float = 0.5
    least: int = 20
    keep_annotated: bool = True


@dataclass(frozen=True)
class _Images:
    """A dataset and its records with the labels that may be used."""

    dataset: PartDataset
    records: list[Record]

    @property
    def annotated(self) -> list[Record]:
        return [record for record in self.records if is_annotated(record)]

    @property
    def others(self) -> list[Record]:
        return [record for record in self.records if not is_annotated(record)]


def is_among(dataset: str, names: Sequence[str]) -> bool:
    """Whether a dataset is one of those named, also where one is given by its name and the other by its file."""

    def file_of(name: str) -> str:
        register_dataset_file(name)
        known = name in DatasetCatalog and MetadataCatalog.get(name).get("json_file")
        return os.path.realpath(known) if known else name

    return bool(dataset) and file_of(dataset) in {file_of(name) for name in names}


def check_options(cfg: CfgNode, options: PseudoLabelOptions) -> None:
    """Refuse what would end in a threshold, or in training images, that nobody should believe in.

    Raises:
        ConfigError: test images, a threshold or overlap out of range, or no labels to choose a threshold by.
    """
    for name, what in ((options.dataset, "--dataset"), (options.labelled, "--labelled")):
        if is_among(name, cfg.DATASETS.TEST):
            raise ConfigError(f"{what} {name} is DATASETS.TEST of this run: test images must not shape what is trained")
    if isinstance(options.threshold, float) and not 0 <= options.threshold <= 1:
        raise ConfigError(f"--threshold must be auto, per-part or a score in [0, 1], not {options.threshold}")
    if not 0 < options.iou <= 1:
        raise ConfigError(f"--iou must lie in (0, 1], not {options.iou}")
    if options.least < 1:
        raise ConfigError(f"--min-labelled must be at least 1, not {options.least}")
    if not options.labelled and not isinstance(options.threshold, float):
        raise ConfigError(
            "--labelled: name a dataset with annotated parts to choose the threshold by (the run has no "
            "DATASETS.VALIDATION), or give a score, --threshold 0.5"
        )


def pseudo_label(cfg: CfgNode, weights: str, options: PseudoLabelOptions, output: Path) -> dict[str, Any]:
    """Label images with a model's predictions; returns what ``info.pseudo_labels`` of the file says.

    The folder ``output`` is a part dataset: ``train.json``, and ``images``, a link to the photographs. Beside it lie
    ``found_parts.jsonl``, from which an interrupted call goes on and which one with another threshold reads again, and
    ``thresholds.json``, with precision, recall and F1 at each threshold.

    Raises:
        ConfigError: options, a model or datasets that do not go together; too few labels to choose a threshold by.
        CheckpointError: weights that cannot be read or do not fit.
        PartDatasetError, ImageError: a broken dataset.
        RecordsError: the folder holds something else, or cannot be written.
    """
    check_options(cfg, options)
    unlabelled = _images(cfg, options.dataset)
    if not unlabelled.others:
        raise ConfigError(
            f"--dataset {options.dataset}: every image has annotated part labels; nothing to predict (a label budget, "
            "DATASETS.LABEL_BUDGET of the run's configuration, leaves images without)"
        )
    labelled = _labelled(cfg, options)
    finder = build_finder(cfg, weights, options.dataset, labels=options.labels, parts=options.parts)
    check_folder(output, unlabelled.dataset)
    describe(output, cfg, pseudo_label_guide(output, sys.argv))
    start_log(output)
    with FoundPartStore(output / FOUND, _stamp(cfg, weights, options, finder)) as store:
        known = _find(finder, labelled, options.labelled, store, "labelled images", cfg)
        found = _find(finder, unlabelled.others, options.dataset, store, "images to label", cfg)
    thresholds, choice = _choose(options, labelled, known, unlabelled.dataset)
    predicted = {
        image_id: [
            PredictedPart(one.part, one.score, one.box, one.mask)
            for one in parts
            if thresholds.keeps(one.part, one.score)
        ]
        for image_id, parts in found.items()
    }
    info = {
        **_origin(cfg, weights, options),
        **{key: value for key, value in choice.items() if key != "curve"},
        **_counts(unlabelled, predicted, keep_annotated=options.keep_annotated),
    }
    with writing(output, "pseudo-labels"):
        write_text(output / THRESHOLDS, json.dumps(choice, indent=2) + "\n")
        _link(output / IMAGES, unlabelled.dataset.image_root)
        write_merged_labels(
            output / DATASET,
            unlabelled.dataset,
            unlabelled.records,
            predicted,
            kind=options.labels,
            keep_annotated=options.keep_annotated,
            info=info,
        )
    load_part_dataset(output / DATASET, output / IMAGES, verify_images="none")  # what is written can be read
    return info


def _images(cfg: CfgNode, name: str) -> _Images:
    """A dataset; the run's training dataset within its label budget."""
    dataset = get_part_dataset(name, verify_images=cfg.INPUT.VERIFY_IMAGES)
    fill_names(cfg, dataset)
    records = within_budget(cfg, dataset.records, name) if is_among(name, cfg.DATASETS.TRAIN) else list(dataset.records)
    return _Images(dataset, records)


def _labelled(cfg: CfgNode, options: PseudoLabelOptions) -> list[Record]:
    """The images by which thresholds are chosen: annotated, with masks where masks are predicted.

    Raises:
        ConfigError: too few parts are labelled in them.
    """
    if not options.labelled:
        return []
    if is_among(options.labelled, cfg.DATASETS.TRAIN):
        logger.warning(
            "--labelled %s is what the model learned from: it is surer there than elsewhere, so the threshold is too "
            "high and its F1 better than it will be; name another dataset (DATASETS.VALIDATION)",
            options.labelled,
        )
    kinds = ("mask",) if options.labels == "mask" else ("mask", "box")
    records = [r for r in _images(cfg, options.labelled).annotated if r["part_labels"] in kinds]
    parts = sum(len(record["annotations"]) for record in records)
    if parts < options.least and not isinstance(options.threshold, float):  # before the model looks at any image
        what = "masks" if options.labels == "mask" else "labels"
        raise ConfigError(
            f"--labelled {options.labelled}: {parts} parts with annotated {what} in {len(records)} images are too few "
            f"to choose a threshold by, at least {options.least} are needed (--min-labelled); label more, or give a "
            "score yourself, --threshold 0.5"
        )
    return records


def _stamp(cfg: CfgNode, weights: str, options: PseudoLabelOptions, finder: PartFinder) -> dict[str, Any]:
    """What decides which parts are found; the threshold does not."""
    names = [name for name in (options.dataset, options.labelled) if name]
    return {
        "weights": sha256_of(weights),
        "configuration": config_hash(cfg),
        "labels": options.labels,
        "parts": options.parts,
        "images": {name: records_digest(get_part_dataset(name, "none").records) for name in names},
        "device": next(finder.module.parameters()).device.type,
        "versions": versions(),
    }


def sha256_of(path: str | Path) -> str:
    """Of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_folder(output: Path, dataset: PartDataset) -> None:
    """Refuse a folder with another dataset in it, before the model looks at any image.

    Raises:
        ConfigError: naming what is in the way.
    """
    json_file, images = output / DATASET, output / IMAGES
    if json_file.exists():
        try:
            ours = "pseudo_labels" in json.loads(json_file.read_bytes())["info"]
        except (OSError, ValueError, KeyError, TypeError):
            ours = False
        if not ours:
            raise ConfigError(f"--output {output}: {json_file} is no file of this tool: choose another folder")
    linked = images.is_symlink() and Path(os.path.realpath(images)) == Path(os.path.realpath(dataset.image_root))
    if os.path.lexists(images) and not linked:
        raise ConfigError(
            f"--output {output}: {images} is there and is no link to {dataset.image_root}: choose another"
        )


def _link(path: Path, target: Path) -> None:
    if not os.path.lexists(path):
        path.symlink_to(os.path.abspath(target), target_is_directory=True)


def _find(
    finder: PartFinder, records: Sequence[Record], name: str, store: FoundPartStore, what: str, cfg: CfgNode
) -> dict[int | str, list[FoundPart]]:
    """Image id -> parts; what the store has is not looked for again."""
    of_class: dict[int, list[int]] = {}
    for part, label in enumerate(get_part_dataset(name, "none").part_to_class.tolist() if records else ()):
        of_class.setdefault(label, []).append(part)
    missing = [record for record in records if (name, record["image_id"]) not in store.found]
    # nothing here may see a label
    blind = [{**record, "part_labels": "none", "annotations": []} for record in missing]
    loader = build_test_loader(blind, finder.mapper, batch_size=1, workers=cfg.DATALOADER.NUM_WORKERS)
    labels = {record["image_id"]: record["label"] for record in missing}
    done = len(records) - len(missing)
    with Progress(len(records), what, "image", done=done) as bar:
        for (sample,) in loader:
            own = of_class.get(labels[sample["image_id"]], [])
            store.add((name, sample["image_id"]), finder(sample, own))
            bar.step()
    return {record["image_id"]: store.found[name, record["image_id"]] for record in records}


def _choose(
    options: PseudoLabelOptions,
    records: Sequence[Record],
    found: Mapping[int | str, Sequence[FoundPart]],
    dataset: PartDataset,
) -> tuple[Thresholds, dict[str, Any]]:
    """The thresholds, and what ``thresholds.json`` says of them.

    Raises:
        ConfigError: nothing that the model found is right.
    """
    masks = options.labels == "mask"
    judged = [one for r in records for one in judge(found[r["image_id"]], r, iou=options.iou, masks=masks)]
    counts = Counter(part["category_id"] for record in records for part in record["annotations"])
    labelled = {part: counts[part] for part in range(len(dataset.categories))}
    names = [f"{dataset.class_names[one.class_index]}:{one.name}" for one in dataset.categories]
    given = options.threshold if isinstance(options.threshold, float) else None
    try:
        thresholds = (
            Thresholds(given, {})
            if given is not None
            else choose_thresholds(judged, labelled, per_part=options.threshold == "per-part", least=options.least)
        )
    except ThresholdError as error:
        raise ConfigError(
            f"--labelled {options.labelled}: {error}; the model is of no use for pseudo-labels"
        ) from error
    if options.threshold == "per-part":
        _say_exceptions(thresholds, names, labelled, options.least)
    document: dict[str, Any] = {
        "threshold": {
            "choice": "given" if given is not None else options.threshold,
            "common": thresholds.common,
            "by_part": {names[part]: own for part, own in thresholds.of_part.items()},
        },
        "criterion": None,
        "curve": None,
    }
    if records:
        document["criterion"] = {
            "name": f"F1 of part {'masks' if masks else 'boxes'} at IoU {options.iou:g}",
            "dataset": _name(options.labelled),
            "images": len(records),
            "labelled_parts": sum(labelled.values()),
            **criterion(judged, sum(labelled.values()), thresholds),
        }
        document["curve"] = _curves(judged, labelled, thresholds, names)
    return thresholds, document


def _say_exceptions(thresholds: Thresholds, names: Sequence[str], labelled: Mapping[int, int], least: int) -> None:
    few = [names[part] for part in labelled if part not in thresholds.of_part]
    if few:
        logger.warning(
            "%d of %d parts have fewer than %d labels and take the common threshold %g: %s",
            *(len(few), len(names), least, thresholds.common, ", ".join(few[:10]) + (", ..." if len(few) > 10 else "")),
        )
    wrong = [names[part] for part, own in thresholds.of_part.items() if own is None]
    if wrong:
        logger.warning("Nothing that the model found of these parts is right, none is kept: %s", ", ".join(wrong))


def _curves(
    judged: Sequence[Judged], labelled: Mapping[int, int], thresholds: Thresholds, names: Sequence[str]
) -> dict[str, Any]:
    """Of all parts together, and of each that has a threshold of its own."""
    own = {
        names[part]: curve_of([one for one in judged if one.part == part], labelled[part]).to_json()
        for part in thresholds.of_part
    }
    return {"all parts": curve_of(judged, sum(labelled.values())).to_json(), **own}


def _origin(cfg: CfgNode, weights: str, options: PseudoLabelOptions) -> dict[str, Any]:
    """Which model labelled which images; no path of this machine."""
    budget = label_budget(cfg) if is_among(options.dataset, cfg.DATASETS.TRAIN) else None
    return {
        "dataset": _name(options.dataset),
        "label_budget": None
        if budget is None
        else {"mask_share": budget.masks, "box_share": budget.boxes, "seed": budget.seed},
        "model": {
            "architecture": cfg.MODEL.META_ARCHITECTURE,
            "extractor": cfg.MODEL.PART.EXTRACTOR.NAME if cfg.MODEL.META_ARCHITECTURE == "PartClassifier" else None,
            "weights": Path(weights).name,
            "sha256": sha256_of(weights),
        },
        "labels": options.labels,
        "parts": options.parts,
    }


def _name(dataset: str) -> str:
    """A dataset's name; of a file's path the last folder and the file, since the rest is this machine's."""
    return "/".join(Path(dataset).parts[-2:]) if dataset.endswith(".json") else dataset


def _counts(
    images: _Images, predicted: Mapping[int | str, Sequence[PredictedPart]], *, keep_annotated: bool
) -> dict[str, Any]:
    scores = [part.score for parts in predicted.values() for part in parts]
    return {
        "images": {
            "annotated": len(images.annotated) if keep_annotated else 0,
            "predicted": sum(bool(parts) for parts in predicted.values()),
            "not_labelled": sum(not parts for parts in predicted.values()),
        },
        "predicted_parts": len(scores),
        "mean_score": round(sum(scores) / len(scores), 4) if scores else None,
    }
