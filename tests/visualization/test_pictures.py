"""What is drawn is what is labelled: every pixel of a mask, every side of a box."""

from __future__ import annotations

import matplotlib
import numpy as np
import pytest
from part_dataset_files import valid_document, write_dataset
from PIL import Image

from partbox.colours import PALETTE
from partbox.data import load_part_dataset
from partbox.data.part_map import decode_mask
from partbox.visualization.labels import UnreadableImage, labelled_parts, labels_in_words, part_colours, read_image
from partbox.visualization.pictures import Panel, ShownPart, draw_parts, save_picture, sheet

GREY = np.full((40, 60, 3), 128, np.uint8)


def changed(picture: np.ndarray, image: np.ndarray) -> np.ndarray:
    """(H, W) bool, which pixels of the image a picture of twelve times its size has changed."""
    enlarged = np.kron(image, np.ones((9, 9, 1), np.uint8))
    assert picture.shape == enlarged.shape
    differs = (np.abs(picture.astype(int) - enlarged) > 8).any(axis=2)
    return differs.reshape(image.shape[0], 9, image.shape[1], 9).transpose(0, 2, 1, 3)[:, :, 4, 4]  # centres


def test_a_mask_is_drawn_pixel_by_pixel_with_its_holes():
    mask = np.zeros((40, 60), bool)
    mask[5:30, 10:40] = True
    mask[12:20, 18:30] = False
    mask[35, 50] = True  # a part of one pixel
    picture = draw_parts(GREY, [ShownPart("", PALETTE[4], None, mask)], shortest=360)
    assert np.array_equal(changed(picture, GREY), mask)


def test_a_box_is_drawn_where_it_is():
    picture = draw_parts(GREY, [ShownPart("", PALETTE[5], (10.0, 8.0, 50.0, 30.0))], shortest=360)
    rows, columns = changed(picture, GREY).nonzero()
    edges = (np.abs(picture.astype(int) - 128) > 8).any(axis=2)
    top, left, bottom, right = (round(9 * side) for side in (8, 10, 30, 50))
    for row, column in ((top, left + 30), (bottom, left + 30), (top + 30, left), (top + 30, right)):
        assert edges[row, column]
    assert not edges[top + 60 : bottom - 60, left + 60 : right - 60].any()
    assert not edges[: top - 12].any()
    assert len(rows) == len(columns)


def test_a_name_is_written_as_it_is_and_nothing_is_a_formula():
    plain = draw_parts(GREY, [ShownPart("a", PALETTE[0], (20.0, 20.0, 40.0, 30.0))])
    for name in ("$\\frac$", "$x$", "<b>_^{", "頭"):
        named = draw_parts(GREY, [ShownPart(name, PALETTE[0], (20.0, 20.0, 40.0, 30.0))])
        assert not np.array_equal(named, plain)
    assert matplotlib.rcParams["text.parse_math"]  # put back


def test_small_parts_lie_on_large_ones():
    whole, small = np.ones((40, 60), bool), np.zeros((40, 60), bool)
    small[10:20, 10:20] = True
    parts = [ShownPart("", PALETTE[4], None, small), ShownPart("", PALETTE[0], None, whole)]
    assert np.array_equal(draw_parts(GREY, parts), draw_parts(GREY, parts[::-1]))
    centre, corner = (draw_parts(GREY, parts, shortest=360)[y, x].astype(int) for y, x in ((135, 135), (300, 400)))
    assert centre[2] > corner[2]  # bluer


def test_drawing_draws_no_random_number():
    np.random.seed(3)
    before = np.random.get_state()[1].copy()
    draw_parts(GREY, [ShownPart("head", PALETTE[0], (5.0, 5.0, 20.0, 20.0), np.ones((40, 60), bool), 0.5)])
    assert np.array_equal(np.random.get_state()[1], before)


def test_a_sheet_has_every_panel_and_its_title(tmp_path):
    red, blue = (np.full((20, 30, 3), colour, np.uint8) for colour in ((255, 0, 0), (0, 0, 255)))
    picture = sheet([[Panel(red, "left $1"), Panel(blue, "right")]], title="both")
    save_picture(tmp_path / "sheet.png", picture)
    again = np.asarray(Image.open(tmp_path / "sheet.png"))
    assert np.array_equal(again, picture)
    left, right = np.array_split(again.astype(int), 2, axis=1)
    assert (left == (255, 0, 0)).all(axis=2).sum() > 5000
    assert (right == (0, 0, 255)).all(axis=2).sum() > 5000
    assert not (right == (255, 0, 0)).all(axis=2).any()


@pytest.fixture
def dataset(tmp_path):
    return load_part_dataset(*write_dataset(tmp_path, valid_document()), verify_images="none")


def by_id(dataset, image_id):
    return next(record for record in dataset.records if record["image_id"] == image_id)


def test_labels_are_shown_as_they_count(dataset):
    colours = part_colours(dataset)
    masks = labelled_parts(by_id(dataset, 10), dataset, colours)
    record = by_id(dataset, 10)
    for shown, part in zip(masks, record["annotations"], strict=True):
        assert np.array_equal(shown.mask, decode_mask(part["segmentation"], 16, 24))
    assert [part.name for part in masks] == ["head", "leg"]
    assert masks[0].box == (2.0, 3.0, 12.0, 11.0)
    assert masks[0].score is None
    # image 12 counts as labelled with boxes although one of its parts has a polygon
    assert all(part.mask is None for part in labelled_parts(by_id(dataset, 12), dataset, colours))
    predicted = labelled_parts(by_id(dataset, 15), dataset, colours)
    assert [part.text for part in predicted] == ["head 75%", "wheel 100%"]
    assert predicted[0].colour == masks[0].colour  # the head of a car, the head of a dog


@pytest.mark.parametrize(
    ("image_id", "words"),
    [
        (10, "masks of 2 parts"),
        (11, "boxes of 2 parts"),
        (12, "boxes of 3 parts"),
        (13, "parts not labelled"),
        (14, "labelled: no part visible"),
        (15, "predicted masks of 2 parts"),
    ],
)
def test_what_is_labelled_is_said(dataset, image_id, words):
    assert labels_in_words(by_id(dataset, image_id)) == words


def test_images_that_cannot_be_shown_say_why(dataset):
    record = by_id(dataset, 10)
    assert read_image(record).shape == (16, 24, 3)
    with pytest.raises(UnreadableImage, match="is 24 x 16 pixels, the file says 25 x 16"):
        read_image({**record, "width": 25})
    with open(record["file_name"], "r+b") as file:
        file.truncate(100)
    with pytest.raises(UnreadableImage):
        read_image(record)
