"""What a record keeps of the labels is enough for the report to compute detectron2's AP again, to the last digit."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.evaluation import COCOEvaluator
from detectron2.structures import Boxes, BoxMode, Instances

from partbox.evaluation.image_evaluator import image_evaluators
from partbox.evaluation.part_boxes import PartBoxEvaluator
from partbox.report.average_precision import _groups, _together, resampled_ap
from partbox.report.intervals import mean_of_known

SIDE = 64
IDS = {5: 0, 9: 1, 11: 2}  # of the file -> of the model


def found_boxes(draw: np.random.Generator, labels: list[tuple[list[float], int]], masks: bool = False) -> Instances:
    """Predictions near labelled boxes xywh; every score another."""
    boxes, classes = [], []
    for (x, y, w, h), category in labels:
        for _ in range(int(draw.integers(0, 3))):
            moved = np.array([x, y, x + w, y + h]) + draw.uniform(-2, 2, 4)
            boxes.append(np.clip(moved, 0, SIDE))
            classes.append(category if draw.random() < 0.8 else int(draw.integers(0, 2)))
    found = Instances((SIDE, SIDE))
    found.pred_boxes = Boxes(torch.tensor(np.array(boxes, dtype=np.float32).reshape(-1, 4)))
    found.scores = torch.tensor(draw.random(len(boxes)), dtype=torch.float32)
    found.pred_classes = torch.tensor(classes, dtype=torch.int64)
    if masks:
        planes = np.zeros((len(boxes), SIDE, SIDE), dtype=bool)
        for plane, (x0, y0, x1, y1) in zip(planes, boxes, strict=True):
            plane[int(y0) : int(y1), int(x0) : int(x1)] = True
        found.pred_masks = torch.tensor(planes)
    return found


def ap_of_records(measured: list[dict], evaluator: str, group: str) -> tuple[float, float]:
    """AP and AP50 as the report computes them from what went through a file."""
    matches = {}
    for one in json.loads(json.dumps(measured)):
        for its, image, matched in _groups({evaluator: one}):
            if its == group:
                matches[image] = matched
    whole, half = resampled_ap(_together(matches), np.ones((1, len(matches)), dtype=np.int64))
    return 100 * mean_of_known(whole)[0], 100 * mean_of_known(half)[0]


def coco_file(folder, draw: np.random.Generator, images: int) -> tuple[str, list[list[tuple[list[float], int]]]]:
    """A COCO file with gaps between the ids of its categories, polygons and a crowd; its boxes."""
    annotations, boxes = [], []
    for image in range(images):
        its = []
        for number in range(int(draw.integers(0, 4))):
            x, y, w, h = (float(one) for one in (*draw.integers(0, 30, 2), *draw.integers(8, 30, 2)))
            category = int(draw.choice([5, 9]))
            its.append(([x, y, w, h], IDS[category]))
            crowd = image % 4 == 0 and number == 0
            polygon = [[x, y, x + w, y, x + w, y + h, x, y + h]]
            annotations.append(
                {
                    "id": len(annotations) + 1, "image_id": 100 + image, "category_id": category, "bbox": [x, y, w, h],
                    "area": w * h, "iscrowd": int(crowd),
                    "segmentation": {"size": [SIDE, SIDE], "counts": column_runs(x, y, w, h)} if crowd else polygon,
                }
            )  # fmt: skip
        boxes.append(its)
    content = {
        "info": {},
        "images": [{"id": 100 + i, "height": SIDE, "width": SIDE} for i in range(images)],
        "annotations": annotations,
        "categories": [{"id": one, "name": f"category {one}"} for one in IDS],
    }
    path = folder / "labels.json"
    path.write_text(json.dumps(content))
    return str(path), boxes


def column_runs(x: float, y: float, w: float, h: float) -> list[int]:
    plane = np.zeros((SIDE, SIDE), dtype=np.uint8)
    plane[int(y) : int(y + h), int(x) : int(x + w)] = 1
    flat = plane.T.ravel()
    edges = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff([0, *edges, len(flat)]).tolist()
    return runs if flat[0] == 0 else [0, *runs]


@pytest.fixture
def dataset(tmp_path):
    draw = np.random.default_rng(5)
    path, boxes = coco_file(tmp_path, draw, 12)
    MetadataCatalog.get("labels_of_a_test").set(
        json_file=path,
        thing_classes=[f"category {one}" for one in IDS],
        thing_dataset_id_to_contiguous_id=IDS,
    )
    yield draw, boxes
    MetadataCatalog.remove("labels_of_a_test")


def test_ap_of_a_detector_follows_from_its_records(dataset):
    draw, boxes = dataset
    records = [{"image_id": 100 + i, "height": SIDE, "width": SIDE} for i in range(len(boxes))]
    evaluator = COCOEvaluator("labels_of_a_test", tasks=("bbox", "segm"), distributed=False, use_fast_impl=False)
    (ready,) = image_evaluators([evaluator], records)
    measured = [
        ready.measure(one, {"instances": found_boxes(draw, its, masks=True)})
        for one, its in zip(records, boxes, strict=True)
    ]
    assert {label["crowd"] for one in measured for label in one["labels"]} == {False, True}
    results = ready.combine(measured)
    for group in ("bbox", "segm"):
        assert 10 < results[group]["AP"] < 95
        found = ap_of_records(measured, "COCOEvaluator", group)
        assert found == pytest.approx((results[group]["AP"], results[group]["AP50"]), abs=1e-6)


def test_masks_are_kept_only_where_they_are_evaluated(dataset):
    draw, boxes = dataset
    evaluator = COCOEvaluator("labels_of_a_test", tasks=("bbox",), distributed=False, use_fast_impl=False)
    (ready,) = image_evaluators([evaluator], [{"image_id": 100 + i} for i in range(len(boxes))])
    full = next(i for i, its in enumerate(boxes) if its)
    for masks in (False, True):
        output = {"instances": found_boxes(draw, boxes[full], masks=masks)}
        kept = ready.measure({"image_id": 100 + full}, output)
        assert len(kept["labels"]) == len(boxes[full])
        assert all("mask" not in label for label in kept["labels"])


def test_ap_of_part_boxes_follows_from_its_records():
    draw = np.random.default_rng(1)
    boxes = [[([float(8 * i), 8.0, 24.0, 30.0], i % 2) for i in range(int(draw.integers(1, 4)))] for _ in range(10)]
    records = [
        {
            "image_id": f"image {i}", "height": 80, "width": 160, "part_labels": "box",
            "annotations": [{"bbox": b, "bbox_mode": BoxMode.XYWH_ABS, "category_id": c} for b, c in its],
        }
        for i, its in enumerate(boxes)
    ]  # fmt: skip
    evaluator = PartBoxEvaluator(records, ["a:head", "a:leg"])
    measured = []
    for one, its in zip(records, boxes, strict=True):
        found = found_boxes(draw, its)
        found = Instances((40, 40), **found.get_fields())
        found.pred_boxes.scale(40 / 160, 40 / 80)  # the network sees 40 x 40 pixels of the photograph
        measured.append(evaluator.measure({**one, "image": torch.zeros(3, 40, 40)}, {"instances": found}))
    results = evaluator.combine(measured)["part_box"]
    assert 10 < results["AP"] < 95
    found = ap_of_records(measured, "PartBoxEvaluator", "part_box")
    assert found == pytest.approx((results["AP"], results["AP50"]), abs=1e-6)
