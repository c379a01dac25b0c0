"""What a report reads of example images, and the page that shows them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from example_images import example
from PIL import Image

from partbox.colours import colours_of
from partbox.evaluation.example_files import write_examples
from partbox.report.example_pictures import coloured, save_example_pictures
from partbox.report.examples import FOLDER, ExamplesError, read_examples

NAMES = ["<b>cat</b>", "$\\frac{$ dog"]  # taken for a formula, the second one would be an error


def write(folder: Path, **changes) -> Path:
    """Two images under two perturbations, with two parts and a box."""
    part_map = np.zeros((40, 60), np.uint16)
    part_map[5:15, 5:15], part_map[20:30, 30:50] = 1, 2
    values = {
        "part_map": part_map,
        "boxes": np.array([[8, 8, 50, 30]], np.float32),
        "scores": np.array([0.9], np.float32),
        "categories": np.array([1]),
        **changes,
    }
    grey = [np.full((40, 60, 3), level, np.uint8) for level in (60, 200)]
    its = [example(number, image=image, **values) for number, image in enumerate(grey)]
    write_examples(
        folder / FOLDER, {"clean": its, "$\\frac{$ pgd": its}, class_names=NAMES, part_names=NAMES, score=0.3
    )
    return folder / FOLDER


def edited(folder: Path, **changes) -> None:
    index = json.loads((folder / "index.json").read_text())
    index["examples"][1] |= changes
    (folder / "index.json").write_text(json.dumps(index))


def other_version(folder: Path) -> None:
    index = json.loads((folder / "index.json").read_text())
    (folder / "index.json").write_text(json.dumps({**index, "schema_version": 99}))


def jpeg(folder: Path) -> None:
    Image.open(folder / "00001.png").save(folder / "00001.png", "JPEG")


def grey(folder: Path) -> None:
    Image.open(folder / "00001.png").convert("L").save(folder / "00001.png")


def torn(folder: Path) -> None:
    data = (folder / "00001.png").read_bytes()
    (folder / "00001.png").write_bytes(data[: len(data) // 2])


def other_size(folder: Path) -> None:
    Image.open(folder / "00001_parts.png").crop((0, 0, 5, 5)).save(folder / "00001_parts.png")


def unknown_part(folder: Path) -> None:
    Image.new("L", (60, 40), 3).save(folder / "00001_parts.png")


def outside(folder: Path) -> None:
    (folder.parent / "secret.png").write_bytes((folder / "00001.png").read_bytes())
    edited(folder, image="../secret.png")


DAMAGES = {
    "no folder": (shutil.rmtree, r"examples/index\.json is damaged or cannot be read"),
    "no index": (lambda folder: (folder / "index.json").unlink(), r"index\.json is damaged or cannot be read"),
    "no JSON": (lambda folder: (folder / "index.json").write_text('{"a'), r"index\.json is damaged"),
    "no object": (lambda folder: (folder / "index.json").write_text("[]"), r"index\.json has schema version None"),
    "other version": (other_version, r"index\.json has schema version 99, this partbox reads 1"),
    "no label": (lambda folder: edited(folder, boxes=[{"name": "x"}]), r"index\.json is damaged \(KeyError"),
    "half a box": (
        lambda folder: edited(folder, boxes=[{"name": "x", "score": 1, "box": [1, 2, 3]}]),
        r"index\.json is damaged \(ValueError",
    ),
    "file name of another kind": (lambda folder: edited(folder, image=7), r"index\.json is damaged \(TypeError"),
    "no picture": (lambda folder: (folder / "00001.png").unlink(), r"00001\.png is missing or damaged"),
    "torn picture": (torn, r"00001\.png is missing or damaged"),
    "JPEG": (jpeg, r"00001\.png is missing or damaged"),
    "grey picture": (grey, r"00001\.png is a picture of mode L, expected RGB"),
    "map of another size": (other_size, r"00001_parts\.png has another size than 00001\.png"),
    "map of an unknown part": (unknown_part, r"00001_parts\.png has part 3 of 2"),
    "outside of the folder": (outside, r"names '\.\./secret\.png', which is no file of its folder"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_cannot_be_read_is_named(tmp_path, damage):
    folder = write(tmp_path)
    assert len(read_examples(folder)) == 4
    apply, words = DAMAGES[damage]
    apply(folder)
    with pytest.raises(ExamplesError, match=words):
        read_examples(folder)


def shown(path: Path) -> set[tuple[int, ...]]:
    """Colours of a picture."""
    with Image.open(path) as picture:
        return {color for _, color in picture.convert("RGB").getcolors(1 << 22)}


def test_example_pictures_hold_the_images_and_what_was_found(tmp_path):
    assert save_example_pictures(tmp_path) is None
    write(tmp_path)
    colours = shown(save_example_pictures(tmp_path))
    assert {(60, 60, 60), (200, 200, 200)} <= colours
    with_parts = (tmp_path / "examples.png").read_bytes()
    sizes = [Image.open(tmp_path / "examples.png").size]
    write(tmp_path, part_map=None)
    with_boxes = save_example_pictures(tmp_path).read_bytes()
    sizes.append(Image.open(tmp_path / "examples.png").size)
    write(tmp_path, part_map=None, scores=np.array([0.2], np.float32))
    save_example_pictures(tmp_path)
    sizes.append(Image.open(tmp_path / "examples.png").size)
    assert with_parts != with_boxes
    assert sizes[0] == sizes[1]
    assert sizes[2][1] < sizes[0][1], "nothing found in any image: no row for it"


def test_boxes_are_drawn_in_the_colour_of_their_name(tmp_path):
    write(tmp_path, part_map=None)
    wanted = np.array(colours_of(NAMES)[1]) * 255
    assert has(shown(save_example_pictures(tmp_path)), wanted)


def has(colours: set[tuple[int, ...]], wanted: Sequence[float]) -> bool:
    """Whether a colour is among them, but for what thin lines and letters mix it with."""
    return any(np.abs(np.array(color) - wanted).max() < 20 for color in colours)


def test_titles_tell_right_from_wrong(tmp_path):
    pages = {}
    for correct in (True, False, None):
        write(tmp_path, label=None, prediction=None, confidence=None, correct=correct)
        pages[correct] = shown(save_example_pictures(tmp_path))
    green, red = (0, 112, 79), (179, 58, 0)
    for color, where in ((green, True), (red, False)):
        assert {one: has(page, color) for one, page in pages.items()} == {one: one is where for one in pages}


def test_background_is_transparent_and_parts_differ():
    colours = coloured(np.array([[0, 1, 2]]), ["dog:head", "dog:tail"])
    assert colours[0, 0, 3] == 0
    assert (colours[0, 1:, 3] > 0.5).all()
    assert not np.allclose(colours[0, 1], colours[0, 2])
