"""Label budgets: which images keep which labels, and what these cost."""

from __future__ import annotations

from collections import Counter

import pytest

from partbox.data.label_budget import SECONDS_PER_BOX, SECONDS_PER_MASK, LabelBudget, label_cost
from partbox.data.part_json_types import PartDatasetError


def records(*, masks: int = 60, boxes: int = 0, unlabelled: int = 0, classes: int = 3) -> list[dict]:
    """Images of ``classes`` classes in turn, each with two parts where it is labelled."""
    kinds = ["mask"] * masks + ["box"] * boxes + ["none"] * unlabelled
    made = []
    for index, kind in enumerate(kinds):
        parts = [{"bbox": [0.0, 0.0, 4.0, 4.0], "category_id": 0, "segmentation": [[0, 0, 4, 0, 4, 4]]} for _ in "ab"]
        if kind == "box":
            parts = [{k: v for k, v in part.items() if k != "segmentation"} for part in parts]
        made.append(
            {
                "image_id": index,
                "source_image": f"photo{index // 2}",
                "label": index % classes,
                "part_labels": kind,
                "annotations": parts if kind != "none" else [],
            }
        )
    return made


def kinds(found: list[dict]) -> dict[int, str]:
    return {record["image_id"]: record["part_labels"] for record in found}


def labelled(found: list[dict], *wanted: str) -> set[int]:
    return {image for image, kind in kinds(found).items() if kind in wanted}


@pytest.mark.parametrize(("masks", "boxes"), [(0.0, 0.0), (0.1, 0.0), (0.0, 0.3), (0.2, 0.5), (0.0, 1.0), (1.0, 0.0)])
def test_each_image_has_what_the_budget_pays_for(masks, boxes):
    source = records(unlabelled=6)
    found = LabelBudget(masks, boxes).apply(source, "here")
    counts = Counter(record["part_labels"] for record in found)
    assert counts["mask"] == round(60 * masks)
    assert counts["box"] == round(60 * boxes)
    assert [record["image_id"] for record in found] == list(range(66))
    for record, given in zip(found, source, strict=True):
        assert len(record["annotations"]) == (0 if record["part_labels"] == "none" else 2)
        assert all(("segmentation" in part) == (record["part_labels"] == "mask") for part in record["annotations"])
        if record["annotations"]:
            assert [part["bbox"] for part in record["annotations"]] == [part["bbox"] for part in given["annotations"]]
    assert all("segmentation" in part for record in source[:60] for part in record["annotations"]), "untouched"


def test_smaller_budgets_are_part_of_larger_ones_and_classes_are_balanced():
    source = records(masks=300)
    before: set[int] = set()
    for share in (0.01, 0.1, 0.25, 0.5, 0.9, 1.0):
        now = labelled(LabelBudget(share, 0.0).apply(source, "here"), "mask")
        assert before <= now
        counts = Counter(image % 3 for image in now)
        assert max(counts.values()) - min(counts[c] for c in range(3)) <= 1
        assert labelled(LabelBudget(0.0, share).apply(source, "here"), "box") == now, (
            "boxes are those of the same images"
        )
        before = now
    mixed = LabelBudget(0.1, 0.2).apply(source, "here")
    larger = LabelBudget(0.2, 0.3).apply(source, "here")
    assert labelled(mixed, "mask") <= labelled(larger, "mask")
    assert labelled(mixed, "mask", "box") <= labelled(larger, "mask", "box")


def test_the_choice_depends_on_seed_and_image_and_not_on_the_order():
    source = records(masks=100)
    one = labelled(LabelBudget(0.3, 0.0, seed=1).apply(source, "here"), "mask")
    assert labelled(LabelBudget(0.3, 0.0, seed=1).apply(source[::-1], "here"), "mask") == one
    other = labelled(LabelBudget(0.3, 0.0, seed=2).apply(source, "here"), "mask")
    assert len(one & other) < 25
    # without a class of the dataset the others keep most of their choice
    fewer = [record for record in source if record["label"] != 2]
    kept = labelled(LabelBudget(0.3, 0.0, seed=1).apply(fewer, "here"), "mask")
    assert len(kept ^ {image for image in one if image % 3 != 2}) <= 2


def test_masks_come_from_images_that_have_them():
    source = records(masks=20, boxes=40)
    found = LabelBudget(0.25, 0.5).apply(source, "here")
    assert len(labelled(found, "mask")) == 15
    assert labelled(found, "mask") <= set(range(20))
    assert len(labelled(found, "box")) == 30
    with pytest.raises(PartDatasetError, match="24 of 60 labelled images should have masks, 20 have"):
        LabelBudget(0.4, 0.0).apply(source, "here")


@pytest.mark.parametrize("shares", [(-0.1, 0.5), (0.6, 0.6), (float("nan"), 0.0), (0.0, 1.5)])
def test_shares_out_of_range_are_refused(shares):
    with pytest.raises(ValueError, match="shares of masks and boxes"):
        LabelBudget(*shares)


def test_the_cost_is_that_of_the_labelled_parts():
    found = LabelBudget(0.1, 0.5).apply(records(masks=60), "here")
    cost = label_cost(found)
    assert (cost.masks, cost.boxes, cost.parts_with_masks, cost.parts_with_boxes) == (6, 30, 12, 60)
    assert cost.hours == pytest.approx((12 * SECONDS_PER_MASK + 60 * SECONDS_PER_BOX) / 3600)
    assert label_cost(found, seconds_per_box=7, seconds_per_mask=0).hours == pytest.approx(60 * 7 / 3600)
    assert label_cost(records(masks=0, unlabelled=4)).hours == 0
