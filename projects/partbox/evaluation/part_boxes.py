"""Part-box average precision with detectron2's COCO evaluator."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import logging
import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.data import MetadataCatalog
from detectron2.evaluation import COCOEvaluator
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import Boxes, BoxMode, Instances
from scipy import ndimage
from torch import Tensor
from torch.nn import functional

from .coco_labels import labels_of_image
from .image_evaluator import ImageEvaluator, Measurement
from .outputs import decode_output, encode_output


@dataclass(frozen=True)
class Region:
    """A connected region of the pixels where a channel is the most probable one.

    Attributes:
        channel: from 1; the background (0) has no regions.
        place: rows and columns of its bounding box.
        inside: bool, which pixels of that box belong to it.
        score: mean probability of the channel in it.
    """

    channel: int
    place: tuple[slice, slice]
    inside: np.ndarray
    score: float


def regions_of(probabilities: Tensor) -> Iterator[Region]:
    """The regions of part probabilities (C, H, W), channel by channel, from top to bottom and from left to right."""
    yield from regions_of_winners(*probabilities.max(dim=0))


def regions_of_winners(probability: Tensor, winner: Tensor) -> Iterator[Region]:
    """The same from the largest probability and its channel at each pixel, (H, W) each."""
    for channel in winner.unique().tolist():
        if channel == 0:
            continue
        regions, count = ndimage.label(winner.numpy() == channel)
        scores = ndimage.mean(probability.numpy(), regions, np.arange(1, count + 1))
        for number, (place, score) in enumerate(zip(ndimage.find_objects(regions), scores, strict=True), start=1):
            yield Region(channel, place, regions[place] == number, float(score))


def boxes_of_masks(part_probabilities: Tensor, image_size: tuple[int, int]) -> Instances:
    """One box for every connected region of a part's mask.

    The mask of a part is where it is the most probable channel; the score of a box is the mean probability of its
    region. This is how a segmenter's result is compared with box labels; touching parts of one kind become one box.

    Args:
        part_probabilities: (1 + P, h, w), channel 0 is the background.
        image_size: (height, width) in pixels to enlarge the masks to.

    Returns:
        ``pred_boxes`` XYXY in pixels, ``scores`` and ``pred_classes`` (part index from 0).
    """
    enlarged = functional.interpolate(
        part_probabilities[None].float().cpu(), size=image_size, mode="bilinear", align_corners=False
    )[0]
    found: list[tuple[list[int], float, int]] = []
    for region in regions_of(enlarged):
        rows, columns = region.place
        found.append(([columns.start, rows.start, columns.stop, rows.stop], region.score, region.channel - 1))
    instances = Instances(image_size)
    instances.pred_boxes = Boxes(torch.tensor([box for box, _, _ in found], dtype=torch.float32).reshape(-1, 4))
    instances.scores = torch.tensor([score for _, score, _ in found], dtype=torch.float32)
    instances.pred_classes = torch.tensor([part for _, _, part in found], dtype=torch.int64)
    return instances


class PartBoxEvaluator(ImageEvaluator):
    """AP of part boxes in the photographs' own pixels, by detectron2's and COCO's rules.

    Inputs carry ``image_id``, ``height``, ``width`` (of the photograph) and ``image`` (3, H, W); outputs carry
    ``instances`` (boxes in the network's input) or, from a segmenter, ``part_probabilities``. Images whose parts are
    not labelled are left out. Of an image its boxes, scores and parts are kept, found and labelled.

    Args:
        records: of the evaluated images, in detectron2's format with contiguous category ids.
        part_names: of the P parts.
    """

    def __init__(self, records: Sequence[dict[str, Any]], part_names: Sequence[str]) -> None:
        super().__init__()
        labelled = [record for record in records if record["part_labels"] != "none"]
        self._number = {record["image_id"]: i + 1 for i, record in enumerate(labelled)}
        self._boxes = sum(len(record["annotations"]) for record in labelled)
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
            path = Path(folder) / "part_boxes.json"
            path.write_text(json.dumps(self._coco(labelled, part_names)), encoding="utf-8")
            name = f"part_boxes_{id(self)}"
            MetadataCatalog.get(name).set(json_file=str(path), thing_classes=list(part_names))
            self._coco_evaluator = COCOEvaluator(name, tasks=("bbox",), distributed=False, use_fast_impl=False)
            MetadataCatalog.remove(name)
        # detectron2 logs a table of every category for each evaluation; the numbers are in the result.
        self._coco_evaluator._logger = logging.getLogger(f"{__name__}.tables")
        self._coco_evaluator._logger.setLevel(logging.WARNING)

    def _coco(self, records: Sequence[dict[str, Any]], part_names: Sequence[str]) -> dict[str, Any]:
        annotations: list[dict[str, Any]] = []
        for record in records:
            for part in record["annotations"]:
                x, y, w, h = BoxMode.convert(list(part["bbox"]), part["bbox_mode"], BoxMode.XYWH_ABS)
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": self._number[record["image_id"]],
                        "category_id": part["category_id"],
                        "bbox": [x, y, w, h],
                        "area": w * h,
                        "iscrowd": 0,
                    }
                )
        images = [
            {"id": self._number[record["image_id"]], "height": record["height"], "width": record["width"]}
            for record in records
        ]
        categories = [{"id": i, "name": name} for i, name in enumerate(part_names)]
        return {"info": {}, "images": images, "annotations": annotations, "categories": categories}

    def measure(self, sample: Mapping[str, Any], output: Mapping[str, Any]) -> Measurement | None:
        """The image's number, its boxes and labels; None for an image whose parts are not labelled."""
        if sample["image_id"] not in self._number:
            return None
        height, width = sample["image"].shape[-2:]
        instances = output.get("instances")
        if instances is None:
            instances = boxes_of_masks(output["part_probabilities"], (height, width))
        # detectron2 scales boxes in place; the caller's must stay as they are.
        scaled = detector_postprocess(copy.deepcopy(instances), sample["height"], sample["width"])
        number, kept = self._number[sample["image_id"]], {"instances": scaled}
        labels = labels_of_image(self._coco_evaluator, number, kept)
        return {"number": number, "output": encode_output(kept), "labels": labels}

    def combine(self, measurements: Sequence[Measurement]) -> dict[str, Any] | None:
        """AP figures in percent as detectron2 gives them, under ``part_box``; None without labelled boxes.

        A figure that COCO does not define (no label of that size or category) is None.
        """
        if not self._boxes or not measurements:
            return None
        self._coco_evaluator.reset()
        found = False
        for measurement in measurements:
            output = decode_output(measurement["output"])
            found = found or len(output["instances"]) > 0
            self._coco_evaluator.process([{"image_id": measurement["number"]}], [output])
        with contextlib.redirect_stdout(io.StringIO()):
            results = self._coco_evaluator.evaluate()
        # COCO has no value for sizes and categories without labels (None), and none at all where nothing was found (0).
        values = {key: float(value) if found else 0.0 for key, value in results["bbox"].items()}
        return {"part_box": {key: value if math.isfinite(value) else None for key, value in values.items()}}
