"""What is drawn is what is labelled: every pixel of a mask, every side of a box."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np
import pytest
from detectron2.utils.visualizer import Visualizer
from part_dataset_files import valid_document, write_dataset
from PIL import Image

from partbox.colours import PALETTE
from partbox.data import load_part_dataset
from partbox.data.part_map import decode_mask
from partbox.visualization.labels import UnreadableImage, labelled_parts, labels_in_words, part_colours, read_image
from partbox.visualization.names import write_names
from partbox.visualization.pictures import LONGEST, Panel, ShownPart, draw_parts, save_picture, sheet
from partbox.visualization.text import glyph_remarks, plain_text, readable, shortened

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


def written(names, size=(400, 300)):
    """Where names stand, x0, y0, x1, y1 in pixels of the picture, and their texts."""
    with plain_text():
        visualizer = Visualizer(np.zeros((size[1], size[0], 3), np.uint8))
        write_names(visualizer, names)
        renderer = visualizer.output.canvas.get_renderer()
        extents = [text.get_window_extent(renderer) for text in visualizer.output.ax.texts]
    places = [(one.x0, size[1] - one.y1, one.x1, size[1] - one.y0) for one in extents]
    return places, [text.get_text() for text in visualizer.output.ax.texts]


def overlap(one, other):
    return min(one[2], other[2]) - max(one[0], other[0]) > 1 and min(one[3], other[3]) - max(one[1], other[1]) > 1


def test_names_stay_in_the_picture():
    corners = [(0.0, 0.0), (395.0, 0.0), (0.0, 298.0), (396.0, 297.0), (390.0, 150.0), (200.0, 299.0)]
    names = [("front_left_door 11%", PALETTE[0], (x, y, min(x + 9, 400.0), min(y + 9, 300.0))) for x, y in corners]
    places, _ = written(names)
    for x0, y0, x1, y1 in places:
        assert x0 >= -1
        assert y0 >= -1
        assert x1 <= 401
        assert y1 <= 301


def test_names_of_parts_at_one_corner_do_not_hide_each_other():
    boxes = [(100.0, 100.0, 300.0, 250.0), (100.0, 100.0, 200.0, 200.0), (101.0, 102.0, 150.0, 140.0)]
    places, texts = written([(f"part {number}", PALETTE[number], box) for number, box in enumerate(boxes)])
    assert texts == ["part 0", "part 1", "part 2"]
    assert not any(overlap(one, other) for number, one in enumerate(places) for other in places[:number])
    assert places[0][0] == pytest.approx(100, abs=4)  # the first where it would stand alone
    assert places[0][1] == pytest.approx(100, abs=6)
    for (x0, y0, x1, y1), box in zip(places, boxes, strict=True):  # at its part
        assert x0 <= box[2] + 5
        assert x1 >= box[0] - 5
        assert y0 <= box[3] + 25
        assert y1 >= box[1] - 25


@pytest.mark.parametrize("colour", PALETTE)
def test_names_are_lighter_than_their_ground(colour):
    red, green, blue = readable(colour)
    assert 0.2126 * red + 0.7152 * green + 0.0722 * blue >= 0.649
    assert max(red, green, blue) <= 1


def test_a_large_photograph_is_a_picture_with_names_as_large_as_those_of_a_small_one():
    image = np.full((3000, 4000, 3), 128, np.uint8)
    mask = np.zeros((3000, 4000), bool)
    mask[1000:2000, 500:1500] = True
    box = (500.0, 1000.0, 1500.0, 2000.0)
    picture = draw_parts(image, [ShownPart("", PALETTE[4], box, mask)])
    assert picture.shape == (600, LONGEST, 3)
    differs = (np.abs(picture.astype(int) - 128) > 8).any(axis=2)
    rows, columns = differs.nonzero()
    assert (rows.min(), rows.max()) == (pytest.approx(200, abs=3), pytest.approx(400, abs=3))
    assert (columns.min(), columns.max()) == (pytest.approx(100, abs=3), pytest.approx(300, abs=3))
    named = draw_parts(image, [ShownPart("muzzle", PALETTE[4], (2000.0, 1000.0, 3000.0, 2000.0))])
    small = draw_parts(image[::5, ::5], [ShownPart("muzzle", PALETTE[4], (400.0, 200.0, 600.0, 400.0))])
    assert np.abs(named.astype(int) - small).mean() < 1


@pytest.mark.parametrize(("size", "expected"), [((20, 2000), (8, 800)), ((2000, 20), (800, 8)), ((1, 30), (12, 360))])
def test_thin_images_are_drawn_within_bounds(size, expected):
    part = ShownPart("a long name", PALETTE[0], (0.0, 0.0, float(size[1]), float(size[0])))
    assert draw_parts(np.full((*size, 3), 90, np.uint8), [part]).shape == (*expected, 3)


def test_characters_without_a_glyph_are_named_once(recwarn):
    draw_parts(GREY, [ShownPart("head \U0001fae8", PALETTE[0], (2.0, 2.0, 20.0, 20.0))])
    assert not [one for one in recwarn if "Glyph" in str(one.message)]
    (said,) = glyph_remarks(["head \U0001fae8", "Rückenflosse", "\U0001fae8"])
    assert said.count("U+1FAE8") == 1
    assert glyph_remarks(["Rückenflosse", "γλῶσσα", "хвост", "$x$", "a\nb"]) == []


def test_file_names_in_titles_are_short_and_printable():
    assert shortened("dogs/a.png") == "dogs/a.png"
    long = "folder/" * 20 + "dog.jpg"
    assert shortened(long).endswith("folder/dog.jpg")
    assert len(shortened(long)) == 60
    assert shortened("a\n\x07\udce9.png") == r"a\n\x07\udce9.png"


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
    with pytest.raises(UnreadableImage, match="FileNotFoundError"):
        read_image({**record, "file_name": f"{record['file_name']}.jpg"})
    Path(by_id(dataset, 11)["file_name"]).write_text("hello")
    with pytest.raises(UnreadableImage, match="is no image of a known format, or its header is damaged"):
        read_image(by_id(dataset, 11))
    with open(record["file_name"], "r+b") as file:
        file.truncate(100)
    with pytest.raises(UnreadableImage):
        read_image(record)


def test_pixels_of_more_than_8_bits_are_not_shown_as_something_else(tmp_path):
    deep = np.linspace(0, 65535, 20 * 30).astype(np.uint16).reshape(20, 30)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    record = {"file_name": str(tmp_path / "deep.png"), "width": 30, "height": 20}
    with pytest.raises(UnreadableImage, match=r"has pixels of mode I.*, which do not fit 8 bits: convert it"):
        read_image(record)


def test_lines_are_not_drawn(tmp_path):
    Image.fromarray(np.zeros((3, 301, 3), np.uint8)).save(tmp_path / "line.png")
    record = {"file_name": str(tmp_path / "line.png"), "width": 301, "height": 3}
    with pytest.raises(UnreadableImage, match="is 301 x 3 pixels, too long and thin to be drawn"):
        read_image(record)


def test_images_are_shown_as_models_see_them(tmp_path):
    pixels = np.arange(20 * 30 * 4, dtype=np.uint8).reshape(20, 30, 4)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels[..., :3]).save(tmp_path / "turned.png", exif=exif)
    turned = read_image({"file_name": str(tmp_path / "turned.png"), "width": 20, "height": 30})
    assert np.array_equal(turned, np.rot90(pixels[..., :3], -1))
    Image.fromarray(pixels).save(tmp_path / "alpha.png")
    clear = read_image({"file_name": str(tmp_path / "alpha.png"), "width": 30, "height": 20})
    assert np.array_equal(clear, pixels[..., :3])
    Image.fromarray(pixels[..., 0]).save(tmp_path / "grey.png")
    grey = read_image({"file_name": str(tmp_path / "grey.png"), "width": 30, "height": 20})
    assert np.array_equal(grey, np.repeat(pixels[..., :1], 3, axis=2))
