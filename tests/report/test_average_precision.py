"""AP of resamples against COCO's own code on datasets in which images are repeated."""

from __future__ import annotations

import contextlib
import io
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from partbox.evaluation.outputs import encode_output
from partbox.report.average_precision import _groups, _together, resampled_ap
from partbox.report.intervals import mean_of_known

SIDE = 40
CATEGORIES = 3


def random_image(draw: np.random.Generator, *, crowd: bool, masks: bool) -> dict[str, Any]:
    """What ``COCOEvaluator`` leaves in a record: objects, and predictions near some of them, of tied scores too."""
    labels, boxes, scores, classes = [], [], [], []
    for _ in range(draw.integers(0, 5)):
        x, y = draw.integers(0, 20, 2)
        w, h = draw.integers(4, 20, 2)
        category = int(draw.integers(0, CATEGORIES - 1))  # of the last one there is no object anywhere
        is_crowd = bool(crowd and draw.random() < 0.3)
        label = {"category": category, "bbox": [float(x), float(y), float(w), float(h)], "crowd": is_crowd}
        labels.append({**label, "mask": run_lengths(x, y, w, h)} if masks else label)
        for _ in range(draw.integers(0, 4)):
            moved = np.array([x, y, x + w, y + h]) + draw.integers(-2, 3, 4)
            boxes.append([moved[0], moved[1], max(moved[2], moved[0] + 1), max(moved[3], moved[1] + 1)])
            scores.append(0.1 * draw.integers(0, 9) + 0.001 * len(scores))  # tied with those of other images
            classes.append(category if draw.random() < 0.8 else int(draw.integers(0, CATEGORIES)))
    found = Instances((SIDE, SIDE))
    found.pred_boxes = Boxes(torch.tensor(np.array(boxes, dtype=np.float32).reshape(-1, 4)).clamp(0, SIDE))
    found.scores, found.pred_classes = torch.tensor(scores, dtype=torch.float32), torch.tensor(classes).long()
    if masks:
        found.pred_masks = torch.tensor(np.array([pixels(one) for one in boxes]).reshape(-1, SIDE, SIDE))
    return {"output": encode_output({"instances": found}), "labels": labels, "instances": found}


def pixels(box: Any) -> np.ndarray:
    x0, y0, x1, y1 = (int(max(side, 0)) for side in box)
    mask = np.zeros((SIDE, SIDE), dtype=bool)
    mask[y0:y1, x0:x1] = True
    return mask


def run_lengths(x: int, y: int, w: int, h: int) -> dict[str, Any]:
    rle = coco_mask.encode(np.asfortranarray(pixels((x, y, x + w, y + h)), dtype=np.uint8))
    return {"size": rle["size"], "counts": rle["counts"].decode()}


def coco_ap(images: list[dict[str, Any]], kind: str) -> tuple[float, float, list[float]]:
    """AP, AP50 and the AP of each category by pycocotools, of these images in this order."""
    annotations: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for number, image in enumerate(images, start=1):
        for one in image["labels"]:
            box = one["bbox"]
            same = {"image_id": number, "category_id": one["category"], "bbox": box, "area": box[2] * box[3]}
            mask = {"segmentation": one["mask"]} if "mask" in one else {}
            annotations.append({**same, **mask, "id": len(annotations) + 1, "iscrowd": int(one["crowd"])})
        found = image["instances"]
        boxes = found.pred_boxes.tensor.clone()
        boxes[:, 2:] -= boxes[:, :2]
        for row in range(len(found)):
            result = {
                "image_id": number,
                "category_id": int(found.pred_classes[row]),
                "score": float(found.scores[row]),
            }
            if kind == "segm":
                mask = coco_mask.encode(np.asfortranarray(found.pred_masks[row].numpy(), dtype=np.uint8))
                results.append({**result, "segmentation": mask})
            else:
                results.append({**result, "bbox": boxes[row].tolist()})
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {
            "info": {},
            "images": [{"id": i + 1, "height": SIDE, "width": SIDE} for i in range(len(images))],
            "annotations": annotations,
            "categories": [{"id": i, "name": str(i)} for i in range(CATEGORIES)],
        }
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(results), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    precision = evaluation.eval["precision"][:, :, :, 0, -1]
    each = [precision[:, :, i] for i in range(CATEGORIES)]
    return (
        evaluation.stats[0],
        evaluation.stats[1],
        [one[one > -1].mean() if (one > -1).any() else np.nan for one in each],
    )


@pytest.mark.parametrize("kind", ["bbox", "segm"])
@pytest.mark.parametrize("crowd", [False, True])
def test_resampled_images_have_the_ap_of_a_dataset_that_repeats_them(kind: str, crowd: bool) -> None:
    draw = np.random.default_rng(7)
    images = [random_image(draw, crowd=crowd, masks=kind == "segm") for _ in range(12)]
    matched = {}
    for number, image in enumerate(images):
        measured = {"COCOEvaluator": {"image_id": number, **{key: image[key] for key in ("output", "labels")}}}
        matched[number] = {group: one for group, _, one in _groups(measured)}[kind]
    matches = _together(matched)
    counts = np.stack([np.ones(12, dtype=np.int64), *draw.multinomial(12, [1 / 12] * 12, size=6)])
    whole, half = resampled_ap(matches, counts)
    values = set()
    for row, times in enumerate(counts):
        repeated = [images[i] for i in range(12) for _ in range(times[i])]
        ap, ap50, each = coco_ap(repeated, kind)
        assert mean_of_known(whole)[row] == pytest.approx(ap, abs=1e-9)
        assert mean_of_known(half)[row] == pytest.approx(ap50, abs=1e-9)
        assert whole[row] == pytest.approx(np.array(each[: whole.shape[1]]), abs=1e-9, nan_ok=True)
        values.add(round(ap, 6))
    assert len(values) > 4
    assert 0.05 < min(values) < max(values) < 0.95


def test_pieces_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = np.random.default_rng(3)
    images = [random_image(draw, crowd=True, masks=False) for _ in range(6)]
    records = [{"COCOEvaluator": {"image_id": i, **one}} for i, one in enumerate(images)]
    matches = _together({image: one for record in records for _, image, one in _groups(record)})
    counts = draw.multinomial(6, [1 / 6] * 6, size=9)
    expected = resampled_ap(matches, counts)
    monkeypatch.setattr("partbox.report.average_precision.MOST_COUNTS", 1)
    for found, one in zip(resampled_ap(matches, counts), expected, strict=True):
        assert np.array_equal(found, one, equal_nan=True)


def test_without_labels_there_are_no_matches() -> None:
    image = random_image(np.random.default_rng(0), crowd=False, masks=False)
    assert [one for *_, one in _groups({"COCOEvaluator": {"image_id": 1, "output": image["output"]}})] == [None]
    assert list(_groups({"PartSegmentationEvaluator": [[0, 0, 5]], "SemanticEvaluator": None})) == []
