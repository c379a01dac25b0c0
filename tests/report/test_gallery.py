"""Cards: which verdict, which pictures, and that the pictures show what they say."""

from __future__ import annotations

import base64
import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from report_runs import write_examples, write_run

from partbox.report.examples import Example, FoundPart
from partbox.report.gallery import Card, build_gallery, make_card, verdict_of
from partbox.report.gallery_pictures import (
    COLOURS,
    SIDE,
    difference_source,
    part_numbers,
    parts_source,
    picture_source,
)
from partbox.report.result_files import read_results


def example(perturbation: str = "clean", grey: int = 100, correct: bool | None = True, **changes: object) -> Example:
    values = {
        "image_id": "7",
        "perturbation": perturbation,
        "label": "cat",
        "prediction": "cat" if correct else "dog",
        "confidence": 0.75,
        "correct": correct,
        "image": np.full((60, 80, 3), grey, dtype=np.uint8),
        "part_map": None,
        "part_names": (),
        "boxes": (),
    }
    return Example(**{**values, **changes})


def card_of(clean: Example, other: Example) -> Card:
    return make_card("model", clean, other, verdict_of(clean.correct, other.correct))


def pixels(source: str) -> np.ndarray:
    assert source.startswith("data:image/webp;base64,")
    return np.array(Image.open(io.BytesIO(base64.b64decode(source.split(",")[1]))).convert("RGB"))


@pytest.mark.parametrize(
    ("clean", "other", "verdict"),
    [
        (True, True, "correct"),
        (True, False, "fooled"),
        (False, True, "wrong on clean"),
        (False, False, "wrong on clean"),
        (None, None, "not judged"),
        (True, None, "not judged"),
    ],
)
def test_verdicts(clean: bool | None, other: bool | None, verdict: str) -> None:
    assert verdict_of(clean, other) == verdict


def test_a_card_shows_both_images_and_their_difference() -> None:
    card = card_of(example(), example("pgd", grey=105, correct=False, confidence=0.5))
    assert [one.kind for one in card.pictures] == ["clean", "adversarial", "difference"]
    assert [one.caption for one in card.pictures] == [
        "clean: cat 75 % (right)",
        "pgd: dog 50 % (wrong)",
        "difference x 10",
    ]
    assert "image 7 of class cat" in card.pictures[0].alternative
    levels = [pixels(one.source).mean() for one in card.pictures]
    assert levels == pytest.approx([100, 105, 178], abs=1.5)  # 128 + 10 x 5
    assert (card.confidence, card.clean_confidence) == (0.5, 0.75)


def test_the_difference_has_a_sign_and_does_not_wrap_around() -> None:
    clean, other = np.full((40, 40, 3), 200, dtype=np.uint8), np.full((40, 40, 3), 200, dtype=np.uint8)
    other[:, :20] = 195
    other[:, 20:] = 255
    found = pixels(difference_source(clean, other))
    assert found[:, :16].mean() == pytest.approx(78, abs=3)
    assert found[:, 24:].mean() == pytest.approx(255, abs=3)


def test_a_fine_difference_survives_a_large_image() -> None:
    """Changes of +4 and -4 side by side: averaged, nothing would be left of them."""
    clean = np.full((3 * SIDE, 2 * SIDE, 3), 100, dtype=np.uint8)
    signs = np.indices((3 * SIDE, 2 * SIDE)).sum(axis=0) % 2
    other = (clean + (8 * signs - 4)[..., None]).astype(np.uint8)
    found = pixels(difference_source(clean, other))
    assert max(found.shape) == SIDE
    assert np.abs(found.astype(int) - 128).mean() > 20


def test_pictures_are_bounded() -> None:
    assert pixels(picture_source(np.zeros((1000, 500, 3), dtype=np.uint8))).shape == (SIDE, SIDE // 2, 3)
    assert pixels(picture_source(np.zeros((30, 40, 3), dtype=np.uint8))).shape == (30, 40, 3)


def test_images_of_other_sizes_have_no_difference() -> None:
    other = example("pgd", image=np.zeros((30, 30, 3), dtype=np.uint8))
    assert [one.kind for one in card_of(example(), other).pictures] == ["clean", "adversarial"]


def test_an_evaluation_of_clean_images_alone_has_cards_too() -> None:
    card = card_of(example(), example())
    assert [one.kind for one in card.pictures] == ["clean"]
    assert card.verdict == "correct"


def masks(*channels: int) -> np.ndarray:
    found = np.zeros((60, 80), dtype=np.int64)
    for place, channel in enumerate(channels):
        found[10 * place : 10 * place + 10] = channel
    return found


def test_parts_have_the_same_number_and_colour_in_both_pictures() -> None:
    names = ("ear", "tail", "leg")
    clean = example(part_map=masks(1, 1, 3), part_names=names)
    other = example("pgd", part_map=masks(2, 3, 3), part_names=names)
    card = card_of(clean, other)
    assert [one.kind for one in card.pictures] == [
        "clean",
        "adversarial",
        "difference",
        "parts-clean",
        "parts-adversarial",
    ]
    legends = {one.kind: {part.name: part for part in one.parts} for one in card.pictures}
    assert {name: part.number for name, part in legends["parts-clean"].items()} == {"ear": 1, "leg": 2}
    assert {name: part.number for name, part in legends["parts-adversarial"].items()} == {"leg": 2, "tail": 3}
    assert legends["parts-clean"]["ear"].text == "33.3 %"
    assert legends["parts-clean"]["leg"].colour == legends["parts-adversarial"]["leg"].colour == COLOURS[1]
    assert "parts found: ear (33.3 %), leg (16.7 %)" in card.pictures[3].alternative


def test_the_mask_is_drawn_where_the_part_is() -> None:
    one = example(part_map=masks(1, 1), part_names=("ear",))
    source, _ = parts_source(one, part_numbers([one]))
    found = pixels(source).astype(int)
    inside, outside = found[5:12, 5:100].mean(axis=(0, 1)), found[100:, :].mean(axis=(0, 1))
    assert outside == pytest.approx([100] * 3, abs=3)
    assert inside[0] > 150
    assert inside[2] < 60  # the first colour is an orange


def test_boxes_are_drawn_and_named_with_their_score() -> None:
    boxes = (
        FoundPart("wheel", 0.9, (10, 10, 40, 50)),
        FoundPart("wheel", 0.4, (50, 10, 79, 50)),
        FoundPart("door", 0.3, (0, 0, 1, 1)),
    )
    one = example(boxes=boxes, part_names=("wheel", "door"), label=None, prediction=None, confidence=None)
    card = card_of(one, replace(one, perturbation="pgd", boxes=(), correct=False))
    clean, other = card.pictures[3], card.pictures[4]
    assert [(part.name, part.text) for part in clean.parts] == [
        ("wheel", "score 0.90, 2 boxes"),
        ("door", "score 0.30"),
    ]
    assert other.parts == []
    assert other.caption == "found, pgd: nothing"
    assert card.pictures[0].caption == "clean: every object found"
    assert card.pictures[1].caption == "pgd: objects missed"
    assert card.label == ""
    found = pixels(clean.source).astype(int)
    left = found[60:120, 30:33]  # the left side of the first box, three times as large
    assert left.std() > 30


def test_no_more_parts_are_drawn_than_can_be_read() -> None:
    names = tuple(f"part {i}" for i in range(30))
    one = example(part_map=np.arange(60 * 80).reshape(60, 80) % 31, part_names=names)
    _, legend = parts_source(one, part_numbers([one]))
    assert len(legend) == 12


def test_models_are_beside_each_other_and_what_was_not_attacked_comes_last(tmp_path) -> None:
    names = ["clean", "pgd-20 linf 8/255"]
    clean = {"one": [False, True, False], "two": [False, False, True]}
    folders = []
    for name, wrong in clean.items():
        folders.append(write_run(tmp_path / name, {names[0]: wrong, names[1]: [True] * 3}))
        write_examples(folders[-1], names, 3)
    cards = build_gallery(read_results(folders).runs, room=10**7).cards
    assert [(card.image_id, card.model, card.verdict) for card in cards] == [
        ("image 0", "one", "fooled"),
        ("image 0", "two", "fooled"),
        ("image 1", "two", "fooled"),
        ("image 2", "one", "fooled"),
        ("image 1", "one", "wrong on clean"),
        ("image 2", "two", "wrong on clean"),
    ]
