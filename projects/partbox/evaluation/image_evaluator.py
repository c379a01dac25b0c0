"""Evaluators that keep, of each image, only what their numbers need: so that a killed evaluation can go on."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from detectron2.evaluation import COCOEvaluator, DatasetEvaluator, PascalVOCDetectionEvaluator

from .coco_labels import labels_of_image
from .outputs import decode_output, encode_output

Measurement = Any  # what JSON can hold


class Performance(NamedTuple):
    """A number that mPC and rPC are computed from: ``results[entry][metric]``, ``full`` where everything is right."""

    entry: str
    metric: str
    full: float


PERCENT = 100.0
SHARE = 1.0
# What detectron2's own evaluators give.
IN_PERCENT = (
    Performance("bbox", "AP", PERCENT),
    Performance("segm", "AP", PERCENT),
    Performance("keypoints", "AP", PERCENT),
    Performance("sem_seg", "mIoU", PERCENT),
)


class ImageEvaluator(DatasetEvaluator):
    """A detectron2 evaluator in two halves: what it keeps of an image, and the numbers of a dataset.

    The first half is plain JSON values, which a record on disk carries; results computed from records therefore equal
    those of an evaluation in one go.

    Attributes:
        performances: its numbers that mPC and rPC are computed from, with their unit.
    """

    performances: tuple[Performance, ...] = IN_PERCENT

    def __init__(self) -> None:
        self.reset()

    @property
    def name(self) -> str:
        """Under which a record keeps the measurement."""
        return type(self).__name__

    @abstractmethod
    def measure(self, sample: Mapping[str, Any], output: Mapping[str, Any]) -> Measurement | None:
        """What is to be kept of one image, plain JSON values; None leaves the image out."""

    @abstractmethod
    def combine(self, measurements: Sequence[Measurement]) -> dict[str, Any] | None:
        """The numbers of all measured images; None where there is nothing to say."""

    def reset(self) -> None:
        self._measurements: list[Measurement] = []

    def process(self, inputs: Sequence[dict[str, Any]], outputs: Sequence[dict[str, Any]]) -> None:
        for sample, output in zip(inputs, outputs, strict=True):
            measurement = self.measure(sample, output)
            if measurement is not None:
                self._measurements.append(measurement)

    def evaluate(self) -> dict[str, Any] | None:
        return self.combine(self._measurements)


class ReplayedEvaluator(ImageEvaluator):
    """Any other detectron2 evaluator: the model's outputs are kept, and shown to it once all images are there.

    Args:
        evaluator: sees, as inputs, the dataset's records (``file_name``, ``image_id``, size), not the images.
        records: of the dataset, detectron2's dicts with ``image_id``.
    """

    def __init__(self, evaluator: DatasetEvaluator, records: Sequence[Mapping[str, Any]]) -> None:
        super().__init__()
        self.evaluator = evaluator
        self.records = {record["image_id"]: dict(record) for record in records}
        if isinstance(evaluator, PascalVOCDetectionEvaluator):
            self.performances = (Performance("bbox", "AP50", PERCENT),)  # Pascal VOC's score, arXiv 1907.07484

    @property
    def name(self) -> str:
        return type(self.evaluator).__name__

    def measure(self, sample: Mapping[str, Any], output: Mapping[str, Any]) -> Measurement:
        measured = {"image_id": sample["image_id"], "output": encode_output(output)}
        if isinstance(self.evaluator, COCOEvaluator):  # for intervals of AP: the report has no dataset
            measured["labels"] = labels_of_image(self.evaluator, sample["image_id"], output)
        return measured

    def combine(self, measurements: Sequence[Measurement]) -> dict[str, Any] | None:
        self.evaluator.reset()
        anything = False
        for measurement in measurements:
            output = decode_output(measurement["output"])
            anything = anything or len(output.get("instances", ())) > 0
            self.evaluator.process([self.records[measurement["image_id"]]], [output])
        coco = isinstance(self.evaluator, COCOEvaluator)
        # left alone it would count the labels of images that were not evaluated (ROBUST_EVAL.NUM_IMAGES) as missed
        which = {"img_ids": [measurement["image_id"] for measurement in measurements]} if coco else {}
        found: dict[str, Any] | None = self.evaluator.evaluate(**which)
        if found is None:
            return None
        # A detector that finds nothing at all has no AP for detectron2, and an AP of 0 for everybody else.
        empty = coco and not anything
        return {key: plain_numbers(value, 0.0 if empty else None) for key, value in found.items()}


def plain_numbers(value: Any, undefined: float | None) -> Any:
    """Nested results with numbers that are not finite (an AP without labels of that size) replaced."""
    if isinstance(value, Mapping):
        return {key: plain_numbers(one, undefined) for key, one in value.items()}
    if isinstance(value, float | np.floating):
        return float(value) if math.isfinite(value) else undefined
    return value


def image_evaluators(
    evaluators: Sequence[DatasetEvaluator], records: Sequence[Mapping[str, Any]]
) -> list[ImageEvaluator]:
    """The evaluators, those that are not in two halves replayed.

    Raises:
        ValueError: two of one name: a record could not keep them apart.
    """
    ready = [one if isinstance(one, ImageEvaluator) else ReplayedEvaluator(one, records) for one in evaluators]
    names = [one.name for one in ready]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ValueError(f"each kind of evaluator may be given once; repeated: {', '.join(repeated)}")
    return ready
