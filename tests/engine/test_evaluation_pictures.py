"""The images of an evaluation under attack as TensorBoard and wandb get them, of every kind of model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from small_detectors import SMALL_DETECTOR
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from partbox.engine.tracking import evaluation_pictures
from partbox.engine.tracking.evaluation_pictures import MOST_ROWS, examples_picture, found_parts
from partbox.engine.tracking.evaluation_tracking import EXAMPLES, FOLDER, PICTURE
from partbox.evaluation.examples import Example

NAMES = ("dog:head", "dog:leg", "cat:head")


def example(**changed) -> Example:
    values = {
        **{"image_id": 1, "image": np.full((40, 60, 3), 128, np.uint8), "label": 0, "prediction": 1},
        **{"confidence": 0.934, "correct": False, "part_map": None},
        "boxes": np.array([[5, 5, 30, 30], [1, 2, 9, 9]], np.float32),
        **{"scores": np.array([0.9, 0.2], np.float32), "categories": np.array([2, 1])},
    }
    return Example(**{**values, **changed})


def test_boxes_are_kept_by_score_and_regions_as_they_are():
    (box,) = found_parts(example(), NAMES, 0.3)
    assert (box.text, box.box, box.mask) == ("head 90%", (5.0, 5.0, 30.0, 30.0), None)
    part_map = np.zeros((40, 60), np.uint16)
    part_map[3:9, 4:20], part_map[20:30, 30:40] = 2, 3
    leg, head = found_parts(example(part_map=part_map), NAMES, 0.3)
    assert (leg.text, head.text) == ("leg", "head")
    assert np.array_equal(leg.mask, part_map == 2)
    assert np.array_equal(head.mask, part_map == 3)
    assert head.colour == box.colour


def drawn(examples, perturbations, **changed):
    options = {"class_names": ("dog", "cat"), "part_names": NAMES, "count": 4, "score": 0.3}
    return examples_picture(examples, perturbations, **{**options, **changed})


def titles(monkeypatch, examples, perturbations, **changed):
    seen = []
    monkeypatch.setattr(evaluation_pictures, "sheet", lambda rows, **_: seen.append(rows) or np.zeros((1, 1, 3)))
    drawn(examples, perturbations, **changed)
    return [[(panel.title, panel.colour) for panel in row] for row in seen[0]]


def test_a_row_a_perturbation_and_a_column_an_image(monkeypatch):
    examples = {
        "clean": [example(correct=True, prediction=0), example(), example()],
        "fog@3": [example()] * 3,
        "pgd": [example(), example(correct=None, prediction=None, label=None, confidence=None), example()],
    }
    picture = drawn(examples, ["clean", "pgd"], count=2)
    assert picture.dtype == np.uint8
    assert picture.shape[1] == pytest.approx(2 * 240, abs=20)
    (first, _), (second, detector) = titles(monkeypatch, examples, ["clean", "pgd"], count=2)
    assert first == ("clean, right\ndog seen as dog 93%, 1 part", evaluation_pictures.RIGHT)
    assert second == ("pgd, wrong\ndog seen as cat 93%, 1 part", evaluation_pictures.WRONG)
    assert detector == ("pgd\n1 part", "black")
    many = {name: [example()] for name in map(str, range(MOST_ROWS + 3))}
    assert len(titles(monkeypatch, many, list(many))) == MOST_ROWS


def test_nothing_is_drawn_of_nothing(monkeypatch):
    def never(*_, **__):
        raise AssertionError("drawn although no picture is asked for")

    monkeypatch.setattr(evaluation_pictures, "draw_parts", never)
    assert drawn({"clean": [example()]}, ["clean"], count=0) is None
    assert drawn({}, ["clean", "pgd"]) is None


def images_of(folder: Path) -> list[str]:
    return EventAccumulator(str(folder), size_guidance={"images": 0}).Reload().Tags()["images"]


def test_a_detector_under_attack_is_shown_with_its_parts(run_tool, tmp_path):
    config = Path(__file__).resolve().parents[2] / "configs/car_parts/faster_rcnn.yaml"
    attacks = "[{'name': 'clean'}, {'name': 'detector-pgd', 'eps': '8/255', 'steps': 1}]"
    options = ["SOLVER.MAX_ITER", "1", "ROBUST_EVAL.NUM_IMAGES", "4", "ROBUST_EVAL.PERTURBATIONS", attacks]
    options += ["TRACKING.IMAGES", "3", "OUTPUT_DIR", tmp_path / "run"]
    run_tool("train_detector", "--config-file", config, *SMALL_DETECTOR, *options)
    assert images_of(tmp_path / "run" / FOLDER) == [PICTURE, EXAMPLES]
