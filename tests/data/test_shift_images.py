"""What the shifts do to one image: foreground, backgrounds, texture."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from part_dataset_files import compressed
from PIL import Image

from partbox.data.shifts import FOREGROUNDS
from partbox.data.shifts.backgrounds import (
    blackened_box,
    grown_box,
    inpainted,
    on_background,
    only_foreground,
    tiled_box,
    without_foreground,
)
from partbox.data.shifts.foreground import Rectangle, bounding_box, foreground_mask, part_union
from partbox.data.shifts.render import Settings, shifted_image
from partbox.data.shifts.stylize import _before_seam, _like_distribution, _quilt, _sew, patch_side, stylize


def random_image(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


# --- foreground


def test_the_union_takes_masks_where_there_are_masks_and_boxes_elsewhere() -> None:
    mask = np.zeros((20, 30), np.uint8, order="F")
    mask[2:5, 3:6] = 1
    parts = [{"bbox": [0, 0, 12, 12], "bbox_mode": 1, "segmentation": compressed(mask)}]
    parts.append({"bbox": [20.2, 9.8, 5.0, 4.0], "bbox_mode": 1})
    expected = mask.astype(bool)
    expected[10:14, 20:25] = True
    np.testing.assert_array_equal(part_union({"height": 20, "width": 30, "annotations": parts}), expected)
    assert not part_union({"height": 20, "width": 30, "annotations": []}).any()


def test_foregrounds_hold_each_other() -> None:
    union = np.zeros((40, 60), bool)
    union[5:15, 10:20], union[25:30, 40:45] = True, True
    image = random_image(40, 60)
    found = {how: foreground_mask(union, how, image) for how in FOREGROUNDS}
    assert found["parts"].sum() == union.sum()
    assert (found["hull"] >= found["parts"]).all()
    assert (found["box"] >= found["hull"]).all()
    assert found["hull"][18, 28]  # between the two parts
    assert not found["hull"][28, 12]
    assert not found["parts"][18, 28]
    assert found["box"].sum() == bounding_box(union).area == 25 * 35


@pytest.mark.parametrize("how", FOREGROUNDS)
def test_a_foreground_of_one_pixel_or_the_whole_image_is_never_empty(how) -> None:
    image = random_image(16, 16)
    one = np.zeros((16, 16), bool)
    one[3, 4] = True
    assert foreground_mask(one, how, image)[3, 4]
    assert foreground_mask(np.ones((16, 16), bool), how, image).all()


def test_grabcut_finds_the_object_in_its_boxes_and_draws_nothing_of_its_own() -> None:
    rows, columns = np.mgrid[:96, :96]
    truth = (rows - 48) ** 2 + (columns - 48) ** 2 < 28**2
    noise = np.random.default_rng(0).normal(0, 8, (96, 96, 3))
    image = np.clip(np.where(truth[..., None], (190, 60, 60), (60, 120, 70)) + noise, 0, 255).astype(np.uint8)
    union = np.zeros_like(truth)
    union[20:48, 20:76], union[48:77, 24:72] = True, True  # boxes of two parts: a quarter of them is background
    found = foreground_mask(union, "grabcut", image)
    assert (union & truth).sum() / (union | truth).sum() < 0.85
    assert (found & truth).sum() / (found | truth).sum() > 0.97
    gradual = np.dstack([rows * 2, columns * 2, rows * columns % 255]) + 3 * noise  # where its clusters start decides
    gradual = np.clip(gradual, 0, 255).astype(np.uint8)
    found = foreground_mask(union, "grabcut", gradual)
    for seed in range(4):
        cv2.setRNGSeed(seed + 123)
        np.testing.assert_array_equal(foreground_mask(union, "grabcut", gradual), found)


# --- backgrounds


def test_foreground_and_background_part_the_image() -> None:
    image, mask = random_image(20, 30), np.random.default_rng(1).random((20, 30)) < 0.5
    np.testing.assert_array_equal(only_foreground(image, mask) + without_foreground(image, mask), image)
    assert not only_foreground(image, mask)[~mask].any()
    assert not without_foreground(image, mask)[mask].any()


@pytest.mark.parametrize(
    ("box", "strip"),
    [
        (Rectangle(15, 28, 5, 28), (slice(0, 15), slice(0, 30))),  # most room above
        (Rectangle(2, 12, 5, 28), (slice(12, 30), slice(0, 30))),
        (Rectangle(2, 28, 11, 28), (slice(0, 30), slice(0, 11))),
        (Rectangle(2, 28, 1, 20), (slice(0, 30), slice(20, 30))),
    ],
)
def test_the_box_is_tiled_with_the_largest_strip_beside_it(box, strip) -> None:
    image = random_image(30, 30)
    tiled = tiled_box(image, box)
    outside = np.ones((30, 30), bool)
    outside[box.slices] = False
    np.testing.assert_array_equal(tiled[outside], image[outside])
    np.testing.assert_array_equal(blackened_box(image, box)[outside], image[outside])
    assert not blackened_box(image, box)[box.slices].any()
    tile = image[strip]
    rows, columns = box.bottom - box.top, box.right - box.left
    for row, column in ((0, 0), (rows - 1, columns - 1), (rows // 2, columns // 3)):
        expected = tile[row % tile.shape[0], column % tile.shape[1]]
        np.testing.assert_array_equal(tiled[box.top + row, box.left + column], expected)


def test_a_box_that_covers_the_image_cannot_be_tiled() -> None:
    with pytest.raises(ValueError, match="no background is left"):
        tiled_box(random_image(9, 9), Rectangle(0, 9, 0, 9))


def test_the_box_grows_by_a_tenth_and_takes_at_most_half_of_the_background() -> None:
    assert grown_box(Rectangle(40, 60, 40, 80), 100, 200) == (38, 62, 36, 84)
    assert grown_box(Rectangle(0, 90, 3, 100), 100, 100) == (0, 95, 2, 100)
    assert grown_box(Rectangle(7, 100, 0, 92), 100, 100) == (4, 100, 0, 96)


def test_inpainting_leaves_nothing_of_the_foreground_and_all_that_is_far_from_it() -> None:
    image = np.full((60, 60, 3), (30, 90, 40), np.uint8)
    image[20:40, 20:40] = (250, 10, 10)
    image[18:42, 18:20] = (250, 10, 10)  # a rim that nobody labelled
    mask = np.zeros((60, 60), bool)
    mask[20:40, 20:40] = True
    filled = inpainted(image, mask)
    assert np.abs(filled[20:40, 20:40].astype(int) - (30, 90, 40)).max() <= 5
    assert filled[..., 0].max() < 100
    untouched = np.ones((60, 60), bool)
    untouched[18:42, 18:42] = False
    np.testing.assert_array_equal(filled[untouched], image[untouched])
    assert inpainted(image, np.ones((60, 60), bool)).shape == image.shape


def test_a_background_of_another_size_covers_the_image_around_its_centre() -> None:
    image, mask = np.zeros((20, 20, 3), np.uint8), np.zeros((20, 20), bool)
    mask[:2, :2] = True
    background = np.zeros((40, 120, 3), np.uint8)
    background[...] = np.arange(120, dtype=np.uint8)[None, :, None] * 2
    placed = on_background(image, mask, background)
    assert not placed[:2, :2].any()
    assert placed.shape == image.shape
    assert abs(int(placed[10, 10, 0]) - 120) <= 4  # the middle of 120 columns
    assert abs(int(placed[10, 0, 0]) - 80) <= 4  # of 60 scaled columns, the 20 in the middle are seen
    assert on_background(image, mask, random_image(7, 3)).shape == image.shape


def scene(path, box: list[float], ground: tuple[int, int, int], thing: tuple[int, int, int], image_id: int) -> dict:
    """An image of one colour with an object of another, saved; its record."""
    x, y, w, h = map(int, box)
    image = np.full((64, 80, 3), ground, np.uint8)
    image[y : y + h, x : x + w] = thing
    Image.fromarray(image).save(path / f"{image_id}.png")
    part = {"bbox": box, "bbox_mode": 1, "category_id": 0}
    size = {"height": 64, "width": 80}
    return {"file_name": str(path / f"{image_id}.png"), "image_id": image_id, **size, "annotations": [part]}


def test_nothing_of_the_donors_object_is_pasted_and_nothing_but_it_is_texture(tmp_path) -> None:
    own = scene(tmp_path, [10, 10, 20, 20], (90, 90, 90), (180, 180, 180), 1)
    donor = scene(tmp_path, [40, 20, 30, 30], (0, 200, 0), (220, 0, 0), 2)
    mixed = shifted_image("mixed_rand", own, donor, Settings())
    np.testing.assert_array_equal(np.unique(mixed.reshape(-1, 3), axis=0), [(0, 200, 0), (180, 180, 180)])
    assert (mixed[10:30, 10:30] == 180).all()
    styled = shifted_image("stylized", own, donor, Settings()).astype(int)
    assert (styled[..., 0] > styled[..., 1] + 50).all()  # red, never green


# --- texture


def scenes(side: int = 96) -> tuple[np.ndarray, np.ndarray]:
    """A disc with fine upright stripes on a plain ground, and a texture of coloured lying stripes with noise."""
    rows, columns = np.mgrid[:side, :side].astype(float)
    disc = (rows - side / 2) ** 2 + (columns - side / 2) ** 2 < (side / 3) ** 2
    grey = np.where(disc, 170 + 14 * np.sin(columns * 2.0), 70.0)
    content = np.dstack([grey, grey, grey])
    stripes = 128 + 45 * np.sin(rows * 1.3) + np.random.default_rng(0).normal(0, 12, rows.shape)
    texture = np.dstack([stripes * 1.3, stripes * 0.8, stripes * 0.3])
    return tuple(np.clip(one, 0, 255).astype(np.uint8) for one in (content, texture))


def texture_statistics(image: np.ndarray) -> np.ndarray:
    """Mean colour, and energy of fine upright and lying structure, each on a scale of about one."""
    lab = cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    fine = lab[..., 0] - cv2.GaussianBlur(lab[..., 0], (0, 0), 3)
    energies = [np.abs(np.diff(fine, axis=axis)).mean() / 5 for axis in (0, 1)]
    return np.array([*(lab[..., 1:].mean(axis=(0, 1)) / 20), *energies])


def large_gradients(image: np.ndarray) -> np.ndarray:
    grey = cv2.GaussianBlur(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32), (0, 0), 4)
    return np.concatenate([np.diff(grey, axis=0).ravel(), np.diff(grey, axis=1).ravel()])


def test_the_texture_becomes_the_other_ones_and_the_edges_stay() -> None:
    content, texture = scenes()
    styled = stylize(content, texture, np.random.default_rng(0))
    wanted = texture_statistics(texture)
    before = np.linalg.norm(texture_statistics(content) - wanted)
    after = np.linalg.norm(texture_statistics(styled) - wanted)
    assert after < 0.4 * before, (before, after)
    own, other, made = map(large_gradients, (content, texture, styled))
    assert np.corrcoef(own, made)[0, 1] > 0.95
    assert abs(np.corrcoef(other, made)[0, 1]) < 0.3
    upright = np.abs(np.diff(styled.astype(float), axis=1)).mean()
    lying = np.abs(np.diff(styled.astype(float), axis=0)).mean()
    assert lying > 1.3 * upright  # the stripes have turned


def test_strength_leads_from_the_image_to_the_texture() -> None:
    content, texture = scenes()
    far = [
        np.abs(stylize(content, texture, np.random.default_rng(0), strength=s).astype(int) - content).mean()
        for s in (0.01, 0.5, 1.0)
    ]
    assert far[0] < 1 < far[1] < far[2]
    for strength in (0, 1.01, float("nan")):
        with pytest.raises(ValueError, match="strength"):
            stylize(content, texture, np.random.default_rng(0), strength=strength)


def test_the_draws_are_those_of_the_generator() -> None:
    content, texture = scenes(64)
    first, again, other = (stylize(content, texture, np.random.default_rng(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


@pytest.mark.parametrize(("size", "texture_size"), [((8, 8), (5, 7)), ((70, 9), (300, 4)), ((33, 64), (33, 64))])
def test_small_and_narrow_images_and_textures(size, texture_size) -> None:
    image, texture = random_image(*size), random_image(*texture_size, seed=1)
    assert stylize(image, texture, np.random.default_rng(0)).shape == image.shape
    flat = np.full_like(image, 90)
    assert stylize(flat, texture, np.random.default_rng(0)).dtype == np.uint8


def test_a_patch_is_a_twelfth_of_the_shorter_side() -> None:
    assert [patch_side(side, 500) for side in (8, 120, 256, 2000)] == [8, 8, 20, 32]


def cheapest_cost(cost: np.ndarray) -> float:
    """By trying every path."""

    def best(row: int, column: int) -> float:
        if row == len(cost) - 1:
            return cost[row, column]
        steps = range(max(column - 1, 0), min(column + 2, cost.shape[1]))
        return cost[row, column] + min(best(row + 1, step) for step in steps)

    return min(best(0, column) for column in range(cost.shape[1]))


@pytest.mark.parametrize("seed", range(5))
def test_the_seam_is_the_cheapest_path(seed) -> None:
    cost = np.random.default_rng(seed).random((7, 4)).astype(np.float32)
    seam = _before_seam(cost).sum(axis=1)
    assert (np.abs(np.diff(seam)) <= 1).all()
    assert cost[np.arange(7), seam].sum() == pytest.approx(cheapest_cost(cost))


def test_a_patch_is_sewn_on_along_the_seams_of_its_overlaps() -> None:
    there, chosen = np.zeros((8, 8, 3), np.float32), np.ones((8, 8, 3), np.float32)
    there[:, 1] = chosen[:, 1]  # they agree in this column and in this row
    there[2, 2:] = chosen[2, 2:]
    sewn = _sew(there, chosen, above=3, left=3)[..., 0]
    assert sewn[3:, 3:].all()
    assert not sewn[3:, 0].any()
    assert not sewn[:2, 3:].any()
    np.testing.assert_array_equal(_sew(there, chosen, above=0, left=0), chosen)


def test_a_quilt_follows_the_brightness_of_the_image_and_shows_no_borders_of_patches() -> None:
    patch, overlap = 12, 3
    blobs = cv2.GaussianBlur(np.random.default_rng(0).normal(0, 1, (120, 120)).astype(np.float32), (0, 0), 2.0)
    texture = np.zeros((120, 120, 3), np.float32)
    texture[..., 0] = (blobs - blobs.min()) / np.ptp(blobs) * 100
    content = np.zeros((96, 96, 3), np.float32)
    content[..., 0] = np.linspace(10, 30, 96)  # darker than nearly all of the texture
    quilt = _quilt(content, texture, patch, np.random.default_rng(0))[..., 0]
    assert quilt[:, -24:].mean() - quilt[:, :24].mean() > texture[..., 0].std()
    steps = np.abs(np.diff(quilt, axis=1)).mean(axis=0)
    assert steps[patch - overlap - 1 :: patch - overlap].mean() < 1.3 * steps.mean()


def test_values_take_over_a_distribution_and_keep_their_order() -> None:
    values = np.random.default_rng(0).random((6, 5)).astype(np.float32)
    wanted = np.random.default_rng(1).normal(50, 10, (12, 10)).astype(np.float32)
    made = _like_distribution(values, wanted)
    np.testing.assert_array_equal(np.argsort(made, axis=None), np.argsort(values, axis=None))
    assert abs(made.mean() - wanted.mean()) < 1
    assert abs(np.median(made) - np.median(wanted)) < 2
