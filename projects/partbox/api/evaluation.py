"""The evaluation of ``--eval-only``, asked for from Python."""

from __future__ import annotations

import copy
import io
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, redirect_stdout
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog

import partbox
from partbox.data.catalog import look_again, refuse_another_root, register_dataset_file
from partbox.engine.build import check_attackable
from partbox.engine.checks import ConfigError, check_config
from partbox.engine.detector_evaluation import evaluate_detector, records_to_evaluate
from partbox.engine.detectors import check_perturbations
from partbox.engine.evaluate import evaluate_and_save
from partbox.engine.run_folder import embedded_evaluation_folder
from partbox.engine.setup import load_dataset
from partbox.evaluation.record_files import writing
from partbox.evaluation.records import Record, read_records
from partbox.report.detection_table import detection_table
from partbox.report.example_pictures import save_example_pictures
from partbox.report.table import results_table

from .generators import generators_kept
from .models import Model, PartClassifierModel

Spec = str | Mapping[str, Any]
Work = Callable[[], dict[str, Any] | None]


@dataclass(frozen=True, eq=False)
class EvaluationResult:
    """Outcome of :func:`evaluate`.

    Attributes:
        results: what ``results.json`` holds: accuracies, threat models, seeds, versions, configuration.
        records: one an image and perturbation.
        folder: where the evaluation wrote; None where nobody asked it to.
        name: of the row in the table.
    """

    results: dict[str, Any] = field(repr=False)
    records: tuple[Record, ...] = field(repr=False)
    folder: Path | None
    name: str

    def table(self, style: str = "github") -> str:
        """The table that the tools print, warnings below it.

        Args:
            style: of the ``tabulate`` package.
        """
        if "clean_accuracy" in self.results["results"]:
            return results_table({self.name: self.results}, style)
        return detection_table(self.results, style)


def evaluate(
    model: Model,
    dataset: str | Path,
    perturbations: Spec | Sequence[Spec],
    *,
    output: str | Path | None = None,
    images: int | None = None,
    seed: int | None = None,
    batch_size: int | None = None,
    self_check_images: int | None = None,
) -> EvaluationResult:
    """Evaluate a model under perturbations, as ``tools/train_net.py --eval-only`` would, to the last digit.

    What is not given is as in the model's configuration, ``ROBUST_EVAL``. Nothing is sent to wandb, whatever that says.

    Args:
        model: from :func:`partbox.load`.
        dataset: a registered name, or the path of a part-dataset file whose images lie in ``images`` beside it.
        perturbations: as in ``ROBUST_EVAL.PERTURBATIONS``, ``{"name": "pgd", "eps": "8/255", "steps": 20}`` each, or
            the name alone where nothing else is needed, such as "corruptions". Clean images are always evaluated.
        output: folder for results, records and pictures, from which an interrupted evaluation goes on when it is called
            again. Without one everything goes to a temporary folder, which is deleted.
        images: at most so many, drawn with ``seed``; 0 = all.
        seed: of every random draw.
        batch_size: images that are attacked at once.
        self_check_images: on which is checked whether the attacks worked; 0 = no check.

    Raises:
        ConfigError: perturbations or datasets that do not fit the model, or a folder that holds something else.
        PartDatasetError, ImageError: a broken dataset.
        AttackError: an attack that cannot work on this model.
        RecordsError: the folder cannot be written, or holds records of another evaluation.
    """
    if not isinstance(model, Model):
        raise ConfigError(f"evaluate takes a model from partbox.load, not a {type(model).__name__}")
    cfg = _configuration(model, dataset, specs_of(perturbations))
    changes = {"NUM_IMAGES": images, "SEED": seed, "BATCH_SIZE": batch_size, "SELF_CHECK_IMAGES": self_check_images}
    for key, value in changes.items():
        if value is not None:
            cfg.ROBUST_EVAL[key] = value
    check_config(cfg)
    with ExitStack() as stack:
        if output is None:
            cfg.OUTPUT_DIR = stack.enter_context(tempfile.TemporaryDirectory(prefix="partbox-"))
            cfg.ROBUST_EVAL.EXAMPLES = 0  # nobody would see them
        else:
            cfg.OUTPUT_DIR = str(output)
        work = _check_classifier(cfg, model) if isinstance(model, PartClassifierModel) else _check_detector(cfg, model)
        if output is not None:
            stack.enter_context(embedded_evaluation_folder(cfg))
        with generators_kept(), redirect_stdout(io.StringIO()):  # pycocotools prints; what it says is in the results
            results = work()
        assert results is not None  # only one of several parts of an evaluation has none
        folder = Path(cfg.OUTPUT_DIR)
        if output is not None and cfg.ROBUST_EVAL.EXAMPLES:
            with writing(folder / "examples.png", "example pictures"):
                save_example_pictures(folder)
        records = tuple(read_records(folder / "records.jsonl"))
    named = (None, _name_of(model)) if output is None else (folder, folder.absolute().name)
    return EvaluationResult(results, records, *named)


def _name_of(model: Model) -> str:
    """That of the folder which holds its weights."""
    if not model.weights:
        return "random weights"
    weights = Path(model.weights).absolute()
    return weights.parent.name or weights.stem


def specs_of(perturbations: Spec | Iterable[Spec]) -> list[dict[str, Any]]:
    """Perturbations as they stand in a configuration.

    Raises:
        ConfigError: something else than names and mappings of plain values.
    """
    given: Iterable[Any] = [perturbations]
    if isinstance(perturbations, Iterable) and not isinstance(perturbations, str | Mapping):
        given = perturbations
    specs = []
    for one in given:
        if not isinstance(one, str | Mapping):
            raise ConfigError(
                f"a perturbation is a name or a mapping, 'clean' or {{'name': 'pgd', 'eps': '8/255'}}, not {one!r}"
            )
        spec = {"name": one} if isinstance(one, str) else copy.deepcopy(dict(one))
        try:
            yaml.safe_dump(spec)
        except yaml.YAMLError:
            raise ConfigError(f"the values of a perturbation are plain numbers and texts; not so in {spec}") from None
        specs.append(spec)
    return specs


def _configuration(model: Model, dataset: str | Path, specs: list[dict[str, Any]]) -> CfgNode:
    """The model's configuration with what is asked for; the dataset is registered."""
    if not isinstance(dataset, str | Path):
        raise ConfigError(
            f"a dataset is a registered name or the path of a part-dataset file, not a {type(dataset).__name__}: "
            "register it, partbox.register_part_dataset(name, json_file, image_root)"
        )
    cfg = model.cfg.clone()
    cfg.defrost()
    name = str(dataset)
    register_dataset_file(name)
    look_again(name, cfg.DATASETS.ROOT or None)
    if cfg.DATASETS.ROOT:
        refuse_another_root(name, cfg.DATASETS.ROOT)
    if name not in DatasetCatalog:
        partbox.register_all(cfg.DATASETS.ROOT or None)
    cfg.DATASETS.TEST = (name,)
    cfg.MODEL.WEIGHTS = model.weights
    if not model.weights:
        cfg.MODEL.WEIGHTS_EXCEPT = []
    cfg.ROBUST_EVAL.PERTURBATIONS = specs
    cfg.TRACKING.WANDB.ENABLED = False  # whoever trained the model asked for it, not who evaluates it
    return cfg


def _check_classifier(cfg: CfgNode, model: PartClassifierModel) -> Work:
    """The work, once nothing is wrong with it."""
    load_dataset(cfg, cfg.DATASETS.TEST, "DATASETS.TEST")
    check_attackable(cfg, model.module, training=False)
    return partial(evaluate_and_save, cfg, model.module, weights=model.weights)


def _check_detector(cfg: CfgNode, model: Model) -> Work:
    """The work, once nothing is wrong with it."""
    check_perturbations(cfg)
    records = records_to_evaluate(cfg)
    names = tuple(MetadataCatalog.get(cfg.DATASETS.TEST[0]).thing_classes)
    if names != model.part_names:
        raise ConfigError(
            f"the classes of {cfg.DATASETS.TEST[0]} are not the model's, or in another order: "
            f"{', '.join(names[:4])}, ... and {', '.join(model.part_names[:4])}, ..."
        )
    return partial(evaluate_detector, cfg, model.module, records, weights=model.weights)
