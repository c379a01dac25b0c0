"""The labels that COCO's AP compares an image's predictions with, as a record keeps them beside the predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from detectron2.evaluation import COCOEvaluator

from .outputs import MASKS


def labels_of_image(evaluator: COCOEvaluator, image_id: int | str, output: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What AP needs of the labelled objects of an image; a report resamples images with it.

    Args:
        evaluator: of detectron2.
        image_id: as in its file.
        output: of the model, for the same image.

    Returns:
        ``category`` (contiguous, as in predictions), ``bbox`` (x, y, width, height in pixels of the photograph),
        ``crowd`` (no object to be found, but predictions on it are not false), and ``mask`` (run lengths as text)
        where masks are evaluated.
    """
    coco = evaluator._coco_api
    contiguous = getattr(evaluator._metadata, "thing_dataset_id_to_contiguous_id", None)
    masks = MASKS in _fields(output) and (evaluator._tasks is None or "segm" in evaluator._tasks)
    labels = []
    for one in coco.imgToAnns.get(image_id, []):
        category = one["category_id"] if contiguous is None else contiguous[one["category_id"]]
        label = {
            "category": int(category),
            "bbox": [float(side) for side in one["bbox"]],
            "crowd": bool(one.get("iscrowd", 0)),
        }
        if masks and "segmentation" in one:
            rle = coco.annToRLE(one)
            label["mask"] = {"size": [int(side) for side in rle["size"]], "counts": _text(rle["counts"])}
        labels.append(label)
    return labels


def _fields(output: Mapping[str, Any]) -> Sequence[str]:
    return list(output["instances"].get_fields()) if "instances" in output else []


def _text(counts: str | bytes) -> str:
    return counts.decode() if isinstance(counts, bytes) else counts
