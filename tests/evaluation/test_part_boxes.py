"""Part-box AP: boxes of masks, and the evaluator on perfect, shifted and missing boxes."""

from __future__ import annotations

import pytest
import torch
from detectron2.structures import Boxes, BoxMode, Instances

from partbox.evaluation.part_boxes import PartBoxEvaluator, boxes_of_masks

NAMES = ["a:head", "a:leg"]


def record(image_id, boxes: list[tuple[list[float], int]], part_labels: str = "box") -> dict:
    annotations = [{"bbox": b, "bbox_mode": BoxMode.XYWH_ABS, "category_id": c} for b, c in boxes]
    return {"image_id": image_id, "height": 80, "width": 160, "part_labels": part_labels, "annotations": annotations}


def sample(entry: dict) -> dict:
    """The network sees 40 x 40 pixels of the 80 x 160 photograph."""
    return {**entry, "image": torch.zeros(3, 40, 40)}


def prediction(boxes: list[tuple[list[float], int]], score: float = 0.9) -> dict:
    instances = Instances((40, 40))
    instances.pred_boxes = Boxes(torch.tensor([b for b, _ in boxes], dtype=torch.float32).reshape(-1, 4))
    instances.scores = torch.full((len(boxes),), score)
    instances.pred_classes = torch.tensor([c for _, c in boxes], dtype=torch.int64)
    return {"instances": instances}


RECORDS = [record("x", [([16, 8, 64, 32], 0), ([80, 40, 32, 16], 1)]), record(7, [([0, 0, 40, 40], 1)])]
# The same boxes in the network's input: x scaled by 40 / 160, y by 40 / 80.
PERFECT = [prediction([([4, 4, 20, 20], 0), ([20, 20, 28, 28], 1)]), prediction([([0, 0, 10, 20], 1)])]


def average_precision(predictions: list[dict], records: list[dict] = RECORDS) -> dict | None:
    evaluator = PartBoxEvaluator(records, NAMES)
    evaluator.process([sample(entry) for entry in records], predictions)
    return evaluator.evaluate()


def test_perfect_boxes_have_ap_100_in_the_photographs_pixels():
    assert average_precision(PERFECT)["part_box"]["AP"] == pytest.approx(100)


def test_wrong_parts_and_shifted_boxes_lose():
    swapped = [prediction([([4, 4, 20, 20], 1), ([20, 20, 28, 28], 0)]), PERFECT[1]]
    assert average_precision(swapped)["part_box"]["AP"] < 60
    shifted = [prediction([([9, 4, 25, 20], 0), ([20, 20, 28, 28], 1)]), PERFECT[1]]
    assert 0 < average_precision(shifted)["part_box"]["AP"] < 100


def test_nothing_found_and_nothing_labelled():
    nothing = average_precision([prediction([]), prediction([])])["part_box"]
    assert nothing["AP"] == 0
    assert set(nothing.values()) == {0.0}
    found = average_precision(PERFECT)["part_box"]
    assert found["APl"] is None, "no label is that large: not a number is no JSON"
    unlabelled = [record(1, [], "none")]
    assert average_precision([prediction([([0, 0, 5, 5], 0)])], unlabelled) is None


def test_unlabelled_images_are_left_out():
    records = [*RECORDS, record("none", [], "none")]
    spurious = prediction([([0, 0, 39, 39], 0)], score=1.0)
    assert average_precision([*PERFECT, spurious], records)["part_box"]["AP"] == pytest.approx(100)


def test_evaluation_can_be_repeated_after_reset():
    evaluator = PartBoxEvaluator(RECORDS, NAMES)
    for _ in range(2):
        evaluator.reset()
        evaluator.process([sample(entry) for entry in RECORDS], PERFECT)
        assert evaluator.evaluate()["part_box"]["AP"] == pytest.approx(100)


def test_every_connected_region_becomes_a_tight_box():
    masks = torch.zeros(3, 10, 20)
    masks[0] = 0.5
    masks[1, 2:5, 3:7] = 0.9
    masks[1, 7:9, 12:18] = 0.7
    masks[2, 0:1, 0:1] = 0.8
    found = boxes_of_masks(masks, (10, 20))
    boxes = {
        tuple(box): (part, round(score, 3))
        for box, part, score in zip(
            found.pred_boxes.tensor.int().tolist(), found.pred_classes.tolist(), found.scores.tolist(), strict=True
        )
    }
    assert boxes == {(3, 2, 7, 5): (0, 0.9), (12, 7, 18, 9): (0, 0.7), (0, 0, 1, 1): (1, 0.8)}
    assert len(boxes_of_masks(torch.tensor([1.0, 0.0]).reshape(2, 1, 1).expand(2, 4, 4), (4, 4))) == 0
