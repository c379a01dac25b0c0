"""Found parts: regions, queries and instances in the photograph's own pixels; and the file that keeps them."""

from __future__ import annotations

import json

import pytest
import torch
from detectron2.structures import Boxes, Instances
from pycocotools import mask as mask_util

from partbox.evaluation.found_part_store import FoundPartStore
from partbox.evaluation.found_parts import FoundPart, parts_of_instances, parts_of_masks, parts_of_queries
from partbox.evaluation.record_files import RecordsError


def probabilities(height: int = 4, width: int = 4) -> torch.Tensor:
    """Background and parts 0, 1 of one class, 2 of another: the left half shows 0, or 2 if the class is not known."""
    found = torch.zeros(4, height, width)
    found[0] = 0.9
    found[1] = 0.1
    found[:, :, : width // 2] = torch.tensor([0.1, 0.3, 0.15, 0.45])[:, None, None]
    return found


def test_regions_are_in_the_photographs_pixels():
    halves = torch.zeros(4, 4, 4)
    halves[1, :, :2], halves[0, :, :2], halves[0, :, 2:], halves[1, :, 2:] = 0.8, 0.2, 0.8, 0.2
    (part,) = parts_of_masks(halves, (40, 80), [0, 1], of_class=True, masks=True)
    assert (part.part, part.box) == (0, (0, 0, 40, 40))
    mask = mask_util.decode(part.mask)
    assert mask.shape == (40, 80)
    assert mask[:, :40].all()
    assert not mask[:, 40:].any()
    (alone,) = parts_of_masks(halves, (40, 80), [0, 1], of_class=True, masks=False)
    assert (alone.box, alone.score, alone.mask) == (part.box, part.score, None)


def test_the_class_is_known_or_not():
    known = parts_of_masks(probabilities(), (4, 4), [0, 1], of_class=True, masks=False)
    assert [(one.part, one.score) for one in known] == [(0, pytest.approx(0.3 / 0.55, abs=1e-6))]
    assert parts_of_masks(probabilities(), (4, 4), [0, 1], of_class=False, masks=False) == [], "part 2 wins there"
    (of_other,) = parts_of_masks(probabilities(), (4, 4), [2], of_class=False, masks=False)
    assert (of_other.part, of_other.score) == (2, pytest.approx(0.45))
    assert parts_of_masks(probabilities(), (4, 4), [], of_class=True, masks=False) == []


def test_regions_of_one_part_that_do_not_touch_are_several():
    maps = torch.zeros(2, 6, 9)
    maps[0] = 0.5
    maps[1, 1:3, 1:4] = 0.9
    maps[1, 4:6, 6:9] = 0.7
    first, second = parts_of_masks(maps, (6, 9), [0], of_class=False, masks=True)
    assert [(one.box, one.score) for one in (first, second)] == [((1, 1, 3, 2), 0.9), ((6, 4, 3, 2), 0.7)]
    assert mask_util.area(first.mask) == mask_util.area(second.mask) == 6


def test_each_query_names_one_part_and_boxes_are_clipped_to_the_photograph():
    scores = torch.tensor([[0.6, 0.5, 0.0], [0.1, 0.3, 0.8], [0.0, 0.9, 0.1], [0.9, 0.0, 0.0]])
    boxes = torch.tensor([[0.5, 0.5, 0.5, 0.25], [0.25, 0.5, 0.1, 0.1], [0.0, 1.0, 0.2, 0.4], [0.5, 0.5, 0.004, 0.5]])
    found = parts_of_queries(scores, boxes, (80, 160), [0, 1], of_class=True)
    assert [(one.part, one.score, one.box) for one in found] == [
        (0, pytest.approx(0.6), (40, 30, 80, 20)),
        (1, pytest.approx(0.3), (32, 36, 16, 8)),
        (1, pytest.approx(0.9), (0, 64, 16, 16)),
    ], "the last one is less than a pixel wide"
    open_choice = parts_of_queries(scores, boxes, (80, 160), [0, 1], of_class=False)
    assert [one.part for one in open_choice] == [0, 1], "the second query names a part of another class"
    assert parts_of_queries(scores, boxes, (80, 160), [], of_class=True) == []


def test_instances_of_a_detector():
    masks = torch.zeros(3, 10, 20, dtype=torch.bool)
    masks[0, 2:6, 3:9] = True
    instances = Instances(
        (10, 20),
        pred_boxes=Boxes(torch.tensor([[2.5, 1.5, 9.25, 30.0], [0.0, 0.0, 5.0, 5.0], [0.0, 0.0, 9.0, 9.0]])),
        scores=torch.tensor([0.7, 0.6, 0.5]),
        pred_classes=torch.tensor([1, 1, 0]),
        pred_masks=masks,
    )
    boxes = parts_of_instances(instances, [1], masks=False)
    assert [(one.part, one.box) for one in boxes] == [(1, (2.5, 1.5, 6.75, 8.5)), (1, (0, 0, 5, 5))]
    (masked,) = parts_of_instances(instances, [1], masks=True)
    assert masked.box == (3, 2, 6, 4), "the box of a mask is the mask's, and an empty mask is nothing"
    assert mask_util.area(masked.mask) == 24
    assert torch.equal(instances.pred_boxes.tensor[0], torch.tensor([2.5, 1.5, 9.25, 30.0])), "untouched"


def test_predictions_that_are_not_finite_are_refused():
    broken = probabilities()
    broken[0, 0, 0] = float("nan")
    instances = Instances((4, 4), pred_boxes=Boxes(torch.full((1, 4), torch.inf)), scores=torch.ones(1))
    for call in (
        lambda: parts_of_masks(broken, (4, 4), [0], of_class=True, masks=False),
        lambda: parts_of_queries(torch.full((1, 2), torch.nan), torch.ones(1, 4), (4, 4), [0], of_class=True),
        lambda: parts_of_instances(instances, [0], masks=False),
    ):
        with pytest.raises(FloatingPointError, match="not finite"):
            call()


PARTS = [FoundPart(3, 0.25, (1.5, 2.0, 3.0, 4.0), {"size": [4, 4], "counts": "04L0"}), FoundPart(0, 1.0, (0, 0, 1, 1))]


def test_what_was_found_survives_a_kill(tmp_path):
    path = tmp_path / "folder" / "found.jsonl"
    with FoundPartStore(path, {"weights": "a"}) as store:
        store.add(("train", 7), PARTS)
        store.add(("train", "7"), [])
    with open(path, "ab") as file:
        file.write(b'["train", 8, [[0, 0.')  # the kill
    with FoundPartStore(path, {"weights": "a"}) as store:
        assert store.found == {("train", 7): PARTS, ("train", "7"): []}
        store.add(("val", 8), PARTS[:1])
    assert len(path.read_text().splitlines()) == 4
    with FoundPartStore(path, {"weights": "a"}) as store:
        assert store.found["val", 8] == PARTS[:1]


def test_parts_that_were_found_otherwise_are_refused(tmp_path):
    path = tmp_path / "found.jsonl"
    FoundPartStore(path, {"weights": "a", "labels": "box"}).close()
    with pytest.raises(RecordsError, match='weights was "a", is "b"'):
        FoundPartStore(path, {"weights": "b", "labels": "box"})
    with (
        FoundPartStore(path, {"weights": "a", "labels": "box"}),
        pytest.raises(RecordsError, match="another process is writing"),
    ):
        FoundPartStore(path, {"weights": "a", "labels": "box"})
    path.write_text(json.dumps({"weights": "a"}) + "\n[1]\n")
    with pytest.raises(RecordsError, match=r"found\.jsonl is damaged"):
        FoundPartStore(path, {"weights": "a"})
    (tmp_path / "blocked").write_text("")
    with pytest.raises(RecordsError, match="cannot write found parts"):
        FoundPartStore(tmp_path / "blocked" / "found.jsonl", {})
