"""The few images of an evaluation that are kept for pictures: which ones, and what is kept of each."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from detectron2.structures import Instances
from torch import Tensor
from torch.nn import functional

from partbox.attacks.draws import ImageId, image_seed

from .records import Record

# Over all perturbations of an evaluation, which bounds the disk: under 75 corruptions fewer images are kept.
MOST_PICTURES = 600
CHANNEL_ORDERS = ("RGB", "BGR")


@dataclass(frozen=True, eq=False)
class Example:
    """One image under one perturbation; classes, parts and categories as indices from 0.

    Attributes:
        image_id: as in the dataset file.
        image: (H, W, 3) uint8 RGB, what the model saw, rounded to 8 bits.
        label: true class; None from a detector or segmenter.
        prediction: class that the model answers; None from a detector or segmenter.
        confidence: probability of that class; None from a detector or segmenter, and where it is not finite.
        correct: of a classifier: it answers the label; of a detector: every labelled object is found; None where there
            is nothing to be right about (a segmenter, an image without objects).
        part_map: (H, W) uint16, 0 = background, 1 + part; None from a model without masks.
        boxes: (N, 4) float32 XYXY in pixels of ``image``, the surest first.
        scores: (N,) float32.
        categories: (N,) int64, part or category of each box.
    """

    image_id: ImageId
    image: np.ndarray
    label: int | None
    prediction: int | None
    confidence: float | None
    correct: bool | None
    part_map: np.ndarray | None
    boxes: np.ndarray
    scores: np.ndarray
    categories: np.ndarray


def choose_examples(
    records: Sequence[Mapping[str, Any]], count: int, *, seed: int, perturbations: int = 1
) -> list[ImageId]:
    """The ids of the images to keep, the same for every perturbation.

    The images are put into an order that depends on (seed, image id) only, and taken class by class in turn: the first
    K images show K classes. An image of a detector stands for each of its categories. Fewer images are the beginning of
    the same list.

    Args:
        records: of all images of the evaluation.
        count: how many.
        seed: of the order.
        perturbations: how many there are; at most ``MOST_PICTURES`` pictures are kept of all of them, and at least one
            image.
    """
    by_class: dict[int | None, deque[ImageId]] = {}
    for record in sorted(records, key=lambda one: image_seed(seed, one["image_id"], 0)):
        for one in _classes_of(record):
            by_class.setdefault(one, deque()).append(record["image_id"])
    count = min(count, max(1, MOST_PICTURES // perturbations), len({record["image_id"] for record in records}))
    chosen: dict[ImageId, None] = {}
    while len(chosen) < count:
        for images in by_class.values():
            while images and images[0] in chosen:  # taken for another of its categories
                images.popleft()
            if images and len(chosen) < count:
                chosen[images.popleft()] = None
    return list(chosen)


def _classes_of(record: Mapping[str, Any]) -> Sequence[int | None]:
    """The class of an image, or the categories of its objects; [None] of one that shows nothing."""
    if record.get("label") is not None:
        return [int(record["label"])]
    return sorted({int(one["category_id"]) for one in record.get("annotations", ())}) or [None]


def check_channel_order(image_format: str) -> None:
    """Raises ValueError for images that cannot be kept as RGB pictures."""
    if image_format not in CHANNEL_ORDERS:
        raise ValueError(
            f"images of the format {image_format} cannot be kept as pictures, only {' and '.join(CHANNEL_ORDERS)}: "
            "keep no examples (ROBUST_EVAL.EXAMPLES 0)"
        )


def as_rgb(example: Example, image_format: str) -> Example:
    """The example of a model that sees ``image_format``, RGB or BGR, with an RGB image."""
    if image_format == "RGB":
        return example
    return replace(example, image=np.ascontiguousarray(example.image[..., ::-1]))


def pixels_of(image: Tensor) -> np.ndarray:
    """(3, H, W) in [0, 1] -> (H, W, 3) uint8."""
    pixels = (image.detach().cpu().float() * 255).round().to(torch.uint8)
    return np.ascontiguousarray(pixels.permute(1, 2, 0).numpy())


def classifier_example(sample: Mapping[str, Any], image: Tensor, output: Mapping[str, Any]) -> Example:
    """Of a part classifier.

    Args:
        sample: with ``image_id`` and ``label``.
        image: (3, H, W) in [0, 1], RGB.
        output: with ``label``, ``probabilities`` (K,) and, where the model finds parts, ``part_probabilities``
            (1 + P, h, w) or ``instances``.
    """
    masks, confidence = output.get("part_probabilities"), float(output["probabilities"].max())
    plain = _found(sample["image_id"], pixels_of(image), output.get("instances"))
    return replace(
        plain,
        label=int(sample["label"]),
        prediction=int(output["label"]),
        confidence=confidence if math.isfinite(confidence) else None,
        correct=int(output["label"]) == int(sample["label"]),
        part_map=None if masks is None else _most_probable(masks, plain.image),
    )


def detector_example(
    sample: Mapping[str, Any], image: np.ndarray, output: Mapping[str, Any], record: Record
) -> Example:
    """Of a detector.

    Args:
        sample: with ``image_id``.
        image: (H, W, 3) uint8, in the detector's channel order.
        output: with ``instances``, whose boxes may be those of another size of the image.
        record: with the verdict.
    """
    correct = record.found == record.objects if record.objects else None
    return replace(_found(sample["image_id"], image, output["instances"]), correct=correct)


def segmenter_example(sample: Mapping[str, Any], image: np.ndarray, output: Mapping[str, Any]) -> Example:
    """Of a semantic segmenter; its first class is taken for the background.

    Args:
        sample: with ``image_id``.
        image: (H, W, 3) uint8, in the segmenter's channel order.
        output: with ``sem_seg`` (C, h, w).
    """
    return replace(_found(sample["image_id"], image, None), part_map=_most_probable(output["sem_seg"], image))


def _found(image_id: ImageId, image: np.ndarray, instances: Instances | None) -> Example:
    """An example with the boxes of ``instances`` in pixels of the image and within it."""
    height, width = image.shape[:2]
    found = instances if instances is not None and len(instances) else None
    boxes, scores, categories = np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64)
    if found is not None:
        scale = np.array([width / found.image_size[1], height / found.image_size[0]] * 2)
        boxes = found.pred_boxes.tensor.detach().cpu().double().numpy() * scale
        scores = found.scores.detach().cpu().float().numpy()
        categories = found.pred_classes.detach().cpu().long().numpy()
    kept = np.flatnonzero(np.isfinite(boxes).all(axis=1) & np.isfinite(scores))
    kept = kept[np.argsort(-scores[kept], kind="stable")]
    boxes = boxes[kept].clip(0, [width, height, width, height]).astype(np.float32)
    return Example(image_id, image, None, None, None, None, None, boxes, scores[kept], categories[kept])


def _most_probable(scores: Tensor, image: np.ndarray) -> np.ndarray:
    """(C, h, w) -> (H, W) uint16: the channel with the largest score at each pixel of the image."""
    scores = scores[None].detach().float().cpu()
    if scores.shape[-2:] != image.shape[:2]:
        scores = functional.interpolate(scores, size=image.shape[:2], mode="bilinear", align_corners=False)
    return scores.argmax(dim=1)[0].numpy().astype(np.uint16)
