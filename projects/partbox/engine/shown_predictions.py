"""What a trained model sees in a photograph, as something that can be drawn beside the labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetMapper
from torch import nn

from partbox.colours import Colour, colours_of
from partbox.data import PartDataset, get_part_dataset
from partbox.data.image_files import VerifyLevel
from partbox.data.mapper import PartDatasetMapper
from partbox.visualization.pictures import ShownPart

from .build import build_classifier, check_true_parts
from .checkpoint import read_checkpoint
from .checks import ConfigError
from .detectors import build_detector, check_classes, check_stored_names, is_segmenter
from .setup import fill_names
from .shown_parts import parts_of_classifier, parts_of_instances, parts_of_probabilities

Record = dict[str, Any]


@dataclass(frozen=True)
class Seen:
    """A model's answer to one image.

    Attributes:
        parts: in pixels of the photograph.
        label: the class that it names; "" from a detector or segmenter.
        confidence: in it, in [0, 1]; None from a detector or segmenter.
        right: whether it is the labelled class; None from a detector or segmenter.
    """

    parts: list[ShownPart]
    label: str = ""
    confidence: float | None = None
    right: bool | None = None

    @property
    def in_words(self) -> str:
        """Above the picture."""
        count = f"{len(self.parts)} part{'' if len(self.parts) == 1 else 's'}"
        if self.right is None:
            return f"predicted: {count}"
        return f"predicted: {self.label} {self.confidence:.0%} ({'right' if self.right else 'wrong'}), {count}"


@dataclass(frozen=True)
class Shower:
    """A model that can be asked about a record of a dataset.

    Attributes:
        look: record -> what the model sees.
        remarks: what has to be said beside every picture.
    """

    look: Callable[[Record], Seen]
    remarks: tuple[str, ...] = ()


def build_shower(cfg: CfgNode, weights: str, name: str, *, score: float, verify_images: VerifyLevel) -> Shower:
    """A part classifier, detector or segmenter, ready to look at the images of a dataset.

    Args:
        cfg: complete configuration.
        weights: of the whole model.
        name: of a part dataset with the classes and parts of the model.
        score: boxes of a detector with a smaller score are not shown.
        verify_images: see :func:`partbox.data.load_part_dataset`.

    Raises:
        ConfigError: the model cannot be built, or was made for other classes or parts; a score out of range.
        CheckpointError: weights that do not fit.
        PartDatasetError: a broken dataset.
    """
    if not 0 <= score <= 1:
        raise ConfigError(f"--score must lie in [0, 1], not {score}")
    dataset = get_part_dataset(name, verify_images)
    if cfg.MODEL.META_ARCHITECTURE == "PartClassifier":
        return _classifier(cfg, weights, dataset, score)
    check_classes(cfg, name)
    names = check_stored_names(weights, name)
    named = read_checkpoint(weights).get("class_names") is not None
    remarks = (
        () if named else ("these weights do not say what their classes are: named as in the dataset, in its order",)
    )
    module = build_detector(cfg, weights).eval()
    colours = colours_of(names)
    if is_segmenter(cfg):
        mapper = PartDatasetMapper.from_config(cfg, is_train=False, part_maps=False)
        return Shower(lambda record: Seen(_segmented(module, mapper(record), names, colours)), remarks)
    read = DatasetMapper(cfg, is_train=False)
    return Shower(lambda record: Seen(_detected(module, read(record), names, colours, score)), remarks)


def _classifier(cfg: CfgNode, weights: str, dataset: PartDataset, score: float) -> Shower:
    fill_names(cfg, dataset)
    model = build_classifier(cfg, weights).eval()
    check_true_parts(model, dataset.records, str(dataset.json_file))
    extractor = model.extractor
    finds_parts = extractor is not None and not extractor.training_only
    given = extractor is not None and extractor.needs_part_maps
    mapper = PartDatasetMapper.from_config(cfg, is_train=False, part_maps=given)

    def look(record: Record) -> Seen:
        with torch.no_grad():
            (output,) = model([mapper(record)])
        label = int(output["label"])
        parts = parts_of_classifier(model, output, (record["height"], record["width"]), score=score)
        return Seen(parts, model.class_names[label], float(output["probabilities"][label]), label == record["label"])

    remarks = [] if finds_parts else ["this model finds no parts: it names the class alone"]
    return Shower(look, tuple([*remarks, *([model.oracle] if model.oracle else [])]))


def _detected(
    module: nn.Module, sample: Record, names: Sequence[str], colours: Sequence[Colour], score: float
) -> list[ShownPart]:
    with torch.no_grad():
        (output,) = module([sample])
    return parts_of_instances(output["instances"], names, colours, score)


def _segmented(module: nn.Module, sample: Record, names: Sequence[str], colours: Sequence[Colour]) -> list[ShownPart]:
    with torch.no_grad():
        (output,) = module([sample])
    size = int(sample["height"]), int(sample["width"])
    return parts_of_probabilities(output["sem_seg"].softmax(dim=0), size, names, colours)
