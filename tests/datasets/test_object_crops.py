"""Geometry of crops and of the parts in them, and the image files."""

import os
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as mask_util

from partbox.data.preparation.crop_geometry import (
    CropWindow,
    box_in_crop,
    clip_box,
    clip_polygon,
    crop_window,
    leaves_window,
    polygon_in_crop,
    runs_in_crop,
    union_box,
    whole_window,
)
from partbox.data.preparation.object_crops import (
    EMPTY_MASK,
    OUTSIDE,
    TOO_THIN,
    CropSettings,
    CropTask,
    Photo,
    SourceObject,
    SourcePart,
    cut_photo,
    cut_photos,
    place_part,
    place_segmentation,
)
from partbox.data.preparation.photo_files import PhotoError, decode_photo, open_photo, photo_size

SIZE = (97, 61)  # width and height of the photograph, in pixels


@st.composite
def boxes(draw, width: int = SIZE[0], height: int = SIZE[1], least: float = 1.0):
    """A box inside a photograph, [x0, y0, x1, y1]."""
    x0 = draw(st.floats(0, width - least))
    y0 = draw(st.floats(0, height - least))
    return x0, y0, x0 + draw(st.floats(least, width - x0)), y0 + draw(st.floats(least, height - y0))


windows = st.builds(
    lambda box, margin, side: crop_window(box, SIZE, margin=margin, max_side=side),
    boxes(),
    st.floats(1, 3),
    st.integers(4, 120),
)


@given(boxes(), st.floats(1, 3), st.integers(1, 120))
def test_the_window_holds_the_object_and_lies_in_the_photograph(box, margin, max_side):
    window = crop_window(box, SIZE, margin=margin, max_side=max_side)
    assert 0 <= window.x0 <= box[0]
    assert box[2] <= window.x1 <= SIZE[0]
    assert 0 <= window.y0 <= box[1]
    assert box[3] <= window.y1 <= SIZE[1]
    assert 1 <= max(window.width, window.height) <= max(max_side, 1)
    assert window.width <= window.x1 - window.x0
    assert window.height <= window.y1 - window.y0


@given(boxes(), st.floats(1, 3))
def test_the_margin_is_a_share_of_the_side_on_every_side(box, margin):
    huge = (10_000, 10_000)
    shifted = (box[0] + 5000, box[1] + 5000, box[2] + 5000, box[3] + 5000)
    window = crop_window(shifted, huge, margin=margin, max_side=10_000)
    for low, high, start, end in ((0, 2, window.x0, window.x1), (1, 3, window.y0, window.y1)):
        side = shifted[high] - shifted[low]
        assert shifted[low] - start == pytest.approx((margin - 1) / 2 * side, abs=1.0 + 1e-6)
        assert end - shifted[high] == pytest.approx((margin - 1) / 2 * side, abs=1.0 + 1e-6)


@given(windows)
def test_both_axes_are_scaled_alike_up_to_the_rounding_of_the_size(window):
    scale = min(1, max(window.width, window.height) / max(window.x1 - window.x0, window.y1 - window.y0))
    for got, side in zip(window.scale, (window.x1 - window.x0, window.y1 - window.y0), strict=True):
        assert abs(got * side - scale * side) <= 1.0  # at most the side of one pixel, also where it would vanish


@given(boxes(least=0.5), windows)
def test_a_placed_box_lies_in_the_crop_and_maps_back_to_what_the_window_shows_of_it(box, window):
    placed = place_part(SourcePart(0, box), window, SIZE, "box")
    shown = clip_box(
        (box[0] - window.x0, box[1] - window.y0, box[2] - window.x0, box[3] - window.y0),
        window.x1 - window.x0,
        window.y1 - window.y0,
    )
    if isinstance(placed, str):
        assert placed == OUTSIDE if shown is None else placed in (OUTSIDE, TOO_THIN)
        return
    x, y, w, h = placed["bbox"]
    assert x >= 0
    assert y >= 0
    assert x + w <= window.width + 1e-9
    assert y + h <= window.height + 1e-9
    (sx, sy) = window.scale
    assert shown is not None
    assert (x / sx, y / sy, (x + w) / sx, (y + h) / sy) == pytest.approx(shown, abs=2e-3 / min(sx, sy))


@given(boxes(), boxes(), windows)
def test_boxes_keep_their_order_in_the_crop(first, second, window):
    one, two = box_in_crop(first, window), box_in_crop(second, window)
    for side in range(4):
        if first[side] <= second[side]:
            assert one[side] <= two[side]


@given(boxes(least=0.5), st.floats(1, 3), st.integers(1, 120))
def test_a_square_window_is_a_square_in_the_photograph_that_holds_the_object(box, margin, max_side):
    window = crop_window(box, SIZE, margin=margin, max_side=max_side, square=True)
    assert 0 <= window.x0 <= box[0]
    assert box[2] <= window.x1 <= SIZE[0]
    assert 0 <= window.y0 <= box[1]
    assert box[3] <= window.y1 <= SIZE[1]
    wanted = margin * max(box[2] - box[0], box[3] - box[1])
    for side, length in ((window.x1 - window.x0, SIZE[0]), (window.y1 - window.y0, SIZE[1])):
        assert min(wanted, length) <= side + 1e-6
        assert side <= min(wanted + 2, length)
    if max(window.x1 - window.x0, window.y1 - window.y0) <= min(SIZE):
        assert window.x1 - window.x0 == window.y1 - window.y0
        assert window.width == window.height <= max_side


@given(boxes(least=0.5), st.floats(1, 3))
def test_a_square_window_is_centred_where_the_photograph_leaves_room(box, margin):
    shifted = (box[0] + 5000, box[1] + 5000, box[2] + 5000, box[3] + 5000)
    window = crop_window(shifted, (10_000, 10_000), margin=margin, max_side=10_000, square=True)
    assert window.x0 + window.x1 == pytest.approx(shifted[0] + shifted[2], abs=2.0)
    assert window.y0 + window.y1 == pytest.approx(shifted[1] + shifted[3], abs=2.0)


def test_square_windows_by_hand():
    window = crop_window((20, 10, 40, 20), SIZE, margin=1.4, max_side=500, square=True)
    assert window == CropWindow(16, 1, 44, 29, 28, 28)
    assert crop_window((20, 10, 40, 20), SIZE, margin=1, max_side=500, square=True) == CropWindow(20, 5, 40, 25, 20, 20)
    corner = crop_window((0, 51, 20, 61), SIZE, margin=1.4, max_side=14, square=True)
    assert corner == CropWindow(0, 33, 28, 61, 14, 14)  # moved inside, not clipped
    wide = crop_window((0, 20, 90, 30), SIZE, margin=1, max_side=500, square=True)
    assert wide == CropWindow(0, 0, 90, 61, 90, 61)  # higher than the photograph: clipped
    with pytest.raises(ValueError, match="outside its photograph"):
        crop_window((100, 0, 110, 10), SIZE, margin=1, max_side=500, square=True)


def test_an_object_as_large_as_the_photograph_gives_the_photograph():
    window = crop_window((0, 0, *SIZE), SIZE, margin=1.5, max_side=500)
    assert window == CropWindow(0, 0, *SIZE, *SIZE) == whole_window(SIZE, max_side=500)
    assert place_part(SourcePart(3, (1.5, 2.25, 90, 60)), window, SIZE, "box") == {
        "category": 3,
        "bbox": [1.5, 2.25, 88.5, 57.75],
    }


def test_an_object_at_the_edge_has_no_margin_beyond_the_photograph():
    assert crop_window((77, 0, 97, 20), SIZE, margin=1.5, max_side=500) == CropWindow(72, 0, 97, 25, 25, 25)


def test_a_part_of_one_pixel_survives_and_vanishes_only_when_scaled_away():
    part = SourcePart(0, (50, 30, 51, 31))
    full = whole_window(SIZE, max_side=500)
    assert place_part(part, full, SIZE, "box")["bbox"] == [50, 30, 1, 1]
    half = whole_window(SIZE, max_side=49)
    assert place_part(part, half, SIZE, "box")["bbox"][2] == pytest.approx(49 / 97, abs=1e-3)
    assert place_part(part, whole_window(SIZE, max_side=4), SIZE, "box") == TOO_THIN


def test_a_part_outside_the_window_is_dropped_and_one_across_the_border_is_clipped():
    window = crop_window((10, 10, 30, 30), SIZE, margin=1, max_side=500)
    assert place_part(SourcePart(0, (31, 10, 40, 20)), window, SIZE, "box") == OUTSIDE
    across = SourcePart(0, (25, 10, 40, 20))
    assert place_part(across, window, SIZE, "box")["bbox"] == [15, 0, 5, 10]
    assert leaves_window(across.box, window)
    assert not leaves_window((10, 10, 30, 30), window)


def test_an_object_outside_the_photograph_is_refused():
    with pytest.raises(ValueError, match="outside its photograph"):
        crop_window((100, 0, 110, 10), SIZE, margin=1, max_side=500)


def test_union_box():
    assert union_box([(1, 5, 3, 7), (0, 6, 2, 9)]) == (0, 5, 3, 9)


# ---------------------------------------------------------------- masks


def raster(polygons: list[list[float]], width: int, height: int) -> np.ndarray:
    """Slow and plain: a pixel belongs to a polygon if its centre does (even-odd rule)."""
    mask = np.zeros((height, width), dtype=bool)
    ys, xs = np.mgrid[:height, :width] + 0.5
    for polygon in polygons:
        inside = np.zeros_like(mask)
        points = np.array(polygon).reshape(-1, 2)
        for (ax, ay), (bx, by) in zip(points, np.roll(points, -1, axis=0), strict=True):
            if ay != by:
                inside ^= ((ay > ys) != (by > ys)) & (xs < ax + (ys - ay) / (by - ay) * (bx - ax))
        mask |= inside
    return mask


def star(seed: int, corners: int = 9) -> list[float]:
    """A star-shaped, mostly concave polygon that may leave the photograph."""
    draw = random.Random(seed)
    cx, cy = draw.uniform(0, SIZE[0]), draw.uniform(0, SIZE[1])
    angles = [2 * np.pi * k / corners for k in range(corners)]
    radii = [draw.uniform(3, 45) for _ in angles]
    return [v for a, r in zip(angles, radii, strict=True) for v in (cx + r * np.cos(a), cy + r * np.sin(a))]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 100_000), boxes(least=8))
def test_a_clipped_polygon_covers_the_pixels_that_the_window_shows(seed, box):
    polygon = star(seed)
    window = crop_window(box, SIZE, margin=1, max_side=500)
    wanted = raster([polygon], *SIZE)[window.y0 : window.y1, window.x0 : window.x1]
    corners = polygon_in_crop(polygon, window)
    got = raster([corners.ravel().tolist()], window.width, window.height) if len(corners) else wanted & False
    assert (got != wanted).sum() <= 2  # corners are rounded to hundredths


def test_a_polygon_that_falls_apart_keeps_both_pieces():
    letter_u = np.array([[0, -5], [10, -5], [10, 10], [8, 10], [8, 2], [2, 2], [2, 10], [0, 10]], dtype=float)
    clipped = clip_polygon(letter_u - [0, 4], 10, 10)
    assert raster([clipped.ravel().tolist()], 10, 10).sum() == 2 * 2 * 6
    assert len(clip_polygon(letter_u + 50, 10, 10)) == 0


def runs(mask: np.ndarray) -> np.ndarray:
    """Column-wise runs, the first one outside."""
    flat = np.concatenate([[False], mask.ravel(order="F")])
    edges = np.flatnonzero(np.diff(flat))
    return np.diff([0, *edges.tolist(), mask.size])


@settings(max_examples=50, deadline=None)
@given(windows, st.integers(0, 1000), st.sampled_from([0.5, 0.02, 0.0005]))
def test_a_mask_is_cut_like_the_pixels(window, seed, density):
    draw = np.random.default_rng(seed)
    mask = draw.random(SIZE[::-1]) < density
    mask[draw.integers(SIZE[1]), draw.integers(SIZE[0])] = True
    cut = runs_in_crop(runs(mask), SIZE[1], window)
    (sx, sy), shown = window.scale, mask[window.y0 : window.y1, window.x0 : window.x1]
    for y, x in np.ndindex(cut.shape):  # the pixel of the photograph that the centre lies in
        assert cut[y, x] == shown[int((y + 0.5) / sy + 1e-9), int((x + 0.5) / sx + 1e-9)]


def test_an_rle_that_does_not_fit_its_photograph_is_refused():
    window = crop_window((0, 0, 40, 40), SIZE, margin=1, max_side=500)
    for counts in ([5, 3], "0", "?", [10, -2, SIZE[0] * SIZE[1] - 8], [SIZE[0] * SIZE[1]]):
        with pytest.raises(PhotoError, match="RLE"):
            place_segmentation({"size": list(SIZE[::-1]), "counts": counts}, window, SIZE)


def test_rle_of_both_kinds_gives_the_same_crop_and_the_box_of_what_is_seen():
    mask = np.zeros(SIZE[::-1], dtype=np.uint8)
    mask[20:40, 30:60] = 1
    packed = mask_util.encode(np.asfortranarray(mask))
    compressed = {"size": list(packed["size"]), "counts": packed["counts"].decode()}
    flat = mask.ravel(order="F")
    edges = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff([0, *edges.tolist(), len(flat)]).tolist()
    plain = {"size": [SIZE[1], SIZE[0]], "counts": counts}
    window = crop_window((40, 30, 80, 55), SIZE, margin=1, max_side=500)
    first, second = (place_segmentation(rle, window, SIZE) for rle in (compressed, plain))
    assert first == second
    assert (mask_util.decode(first[0]) == mask[30:55, 40:80]).all()
    assert first[1] == (0, 0, 20, 10)
    part = place_part(SourcePart(0, (30, 20, 60, 40), plain), window, SIZE, "mask")
    assert part["bbox"] == [0, 0, 20, 10]
    elsewhere = crop_window((80, 50, 90, 60), SIZE, margin=1, max_side=500)
    assert place_segmentation(plain, elsewhere, SIZE) is None


def test_a_mask_without_a_pixel_in_the_crop_is_dropped_though_its_box_is_not():
    corner = [0.0, 0, 40, 0, 0, 40]  # a triangle; its box reaches (40, 40), it does not
    window = crop_window((30, 30, 50, 50), SIZE, margin=1, max_side=500)
    assert place_part(SourcePart(0, (0, 0, 40, 40), [corner]), window, SIZE, "mask") == EMPTY_MASK
    assert place_part(SourcePart(0, (0, 0, 40, 40), [corner]), window, SIZE, "box")["bbox"] == [0, 0, 10, 10]


# ---------------------------------------------------------------- files


def photo(path: Path, size=SIZE, **save) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, **save)
    return path


def sideways(path: Path) -> Path:
    """A photograph that is stored as 40 x 20 and shown as 20 x 40."""
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.new("RGB", (40, 20))
    image.putpixel((0, 0), (255, 255, 255))
    image.save(path, exif=exif)
    return path


def test_pixels_are_those_of_the_window(tmp_path):
    photo(tmp_path / "a.png")
    target = SourceObject(7, "dog", (20, 10, 40, 30), (), "box")
    task = CropTask(Photo("a.png", *SIZE, (target,)), ("train/a_7.png",))
    (crop,) = cut_photo(task, tmp_path, tmp_path / "out", CropSettings(image_format="png"))
    assert (crop.number, crop.width, crop.height, crop.was_there) == (7, 30, 30, False)
    cut = np.asarray(Image.open(tmp_path / "out/train/a_7.png"))
    assert (cut == np.asarray(Image.open(tmp_path / "a.png"))[5:35, 15:45]).all()
    assert [path.name for path in (tmp_path / "out/train").iterdir()] == ["a_7.png"]


def test_a_square_crop_shows_the_photograph_and_its_parts_move_along(tmp_path):
    photo(tmp_path / "a.png")
    target = SourceObject(7, "car", (0, 10, 20, 15), (SourcePart(2, (4, 11, 8, 15)),), "box")
    task = CropTask(Photo("a.png", *SIZE, (target,)), ("train/a_7.png",))
    crop_to = CropSettings(margin=1.4, image_format="png", square=True)
    (crop,) = cut_photo(task, tmp_path, tmp_path / "out", crop_to)
    assert (crop.width, crop.height) == (28, 28)
    cut = np.asarray(Image.open(tmp_path / "out/train/a_7.png"))
    assert (cut == np.asarray(Image.open(tmp_path / "a.png"))[0:28, 0:28]).all()
    assert crop.parts == [{"category": 2, "bbox": [4, 11, 4, 4]}]


def test_a_saved_crop_is_kept_and_a_damaged_or_outdated_one_is_not(tmp_path):
    photo(tmp_path / "a.png")
    target = SourceObject(1, "dog", None, (), "box")
    task = CropTask(Photo("a.png", *SIZE, (target,)), ("train/a.jpg",))
    crop_file = tmp_path / "out/train/a.jpg"

    def run() -> bool:
        return cut_photo(task, tmp_path, tmp_path / "out", CropSettings())[0].was_there

    assert not run()
    whole = crop_file.read_bytes()
    assert run()
    crop_file.write_bytes(whole[:-20])
    assert not run()
    crop_file.write_bytes(b"")
    assert not run()
    photo(tmp_path / "a.png")  # newer than the crop
    crop_file.touch()
    assert run()
    newer = crop_file.stat().st_mtime_ns + 10**9
    os.utime(tmp_path / "a.png", ns=(newer, newer))
    assert not run()
    assert crop_file.read_bytes() == whole


def test_exif_orientation_is_applied_where_the_labels_are_for_the_turned_image(tmp_path):
    path = sideways(tmp_path / "a.png")
    assert photo_size(path) == (20, 40)
    assert decode_photo(path, (20, 40)).getpixel((19, 0)) == (255, 255, 255)
    assert decode_photo(path, (40, 20)).getpixel((0, 0)) == (255, 255, 255)
    with pytest.raises(PhotoError, match="image is 40 x 20 pixels, the file says 40 x 40"):
        open_photo(path, (40, 40))


def test_photographs_that_cannot_be_used_say_why(tmp_path):
    with pytest.raises(PhotoError, match="does not exist"):
        open_photo(tmp_path / "none.jpg", SIZE)
    (tmp_path / "text.jpg").write_text("not an image")
    with pytest.raises(PhotoError, match="cannot be read"):
        open_photo(tmp_path / "text.jpg", SIZE)
    Image.fromarray(np.zeros((8, 8), dtype=np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(PhotoError, match="8 bits"):
        open_photo(tmp_path / "deep.png", (8, 8))
    data = photo(tmp_path / "cut.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(data[: len(data) // 2])
    with pytest.raises(PhotoError, match="cannot be decoded"):
        decode_photo(tmp_path / "cut.jpg", SIZE)


def test_a_grey_photograph_becomes_rgb(tmp_path):
    Image.new("L", SIZE, 77).save(tmp_path / "grey.jpg", comment="secret")
    target = SourceObject(1, "dog", None, (), "box")
    cut_photo(CropTask(Photo("grey.jpg", *SIZE, (target,)), ("g.jpg",)), tmp_path, tmp_path, CropSettings())
    with Image.open(tmp_path / "g.jpg") as crop:
        assert crop.mode == "RGB"
        assert "comment" not in crop.info


@pytest.mark.parametrize("workers", [1, 2])
def test_the_first_broken_photograph_is_named(tmp_path, workers):
    photo(tmp_path / "a.jpg")
    target = SourceObject(1, "dog", None, (), "box")
    tasks = [CropTask(Photo(name, *SIZE, (target,)), (f"out_{name}",)) for name in ("a.jpg", "none.jpg")]
    with pytest.raises(PhotoError) as error:
        list(cut_photos(tasks, tmp_path, tmp_path, CropSettings(), workers=workers))
    assert error.value.args[1] == "none.jpg"


@pytest.mark.parametrize("kind", ["polygon", "rle"])
def test_the_box_is_that_of_what_the_crop_shows_of_the_mask(kind):
    """A triangle whose box reaches 40, cut at 5: there it reaches 35, and its clipped box would reach 40."""
    triangle = [[0.0, 0.0, 40.0, 0.0, 0.0, 40.0]]
    window = crop_window((5, 5, 60, 55), SIZE, margin=1, max_side=500)
    segmentation = triangle
    if kind == "rle":
        packed = mask_util.merge(mask_util.frPyObjects(triangle, SIZE[1], SIZE[0]))
        segmentation = {"size": list(packed["size"]), "counts": packed["counts"].decode()}
    placed = place_part(SourcePart(0, (0, 0, 40, 40), segmentation), window, SIZE, "mask")
    assert placed["bbox"] == pytest.approx([0, 0, 30, 30], abs=1)


def test_corners_that_repeat_are_left_out():
    window = crop_window((0, 0, 50, 50), SIZE, margin=1, max_side=500)
    square = [10.0, 10.0, 10.0, 10.0, 30.0, 10.0, 30.0, 30.0, 10.0, 30.0, 10.0, 10.0]
    assert polygon_in_crop(square, window).tolist() == [[10, 10], [30, 10], [30, 30], [10, 30]]
    assert len(polygon_in_crop([7.0, 7.0] * 3, window)) == 1
