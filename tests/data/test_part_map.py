"""Part maps: what is painted, in which order, and how it follows the image."""

from __future__ import annotations

import numpy as np
import pytest
from detectron2.data import transforms as T
from detectron2.structures import BoxMode
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from partbox.data.mapper import transform_part_map
from partbox.data.part_map import paint_part_map


def record(parts: list[dict], part_labels: str = "box", height: int = 10, width: int = 20) -> dict:
    for part in parts:
        part["bbox_mode"] = BoxMode.XYWH_ABS
    return {"height": height, "width": width, "part_labels": part_labels, "annotations": parts}


BODY = {"bbox": [2.0, 2.0, 10.0, 6.0], "category_id": 0}
HEAD = {"bbox": [3.0, 3.0, 2.0, 2.0], "category_id": 1}


def test_boxes_are_filled_and_small_parts_stay_visible_whatever_the_order():
    for parts in ([dict(BODY), dict(HEAD)], [dict(HEAD), dict(BODY)]):
        painted = paint_part_map(record(parts), "box")
        assert painted.shape == (10, 20)
        assert (painted == 2).sum() == 4
        assert (painted == 1).sum() == 60 - 4
        assert painted[3, 3] == 2
        assert painted[0, 0] == 0


def test_masks_are_painted_exactly_and_small_ones_on_top():
    triangle = {**BODY, "segmentation": [[2, 2, 12, 2, 12, 8, 2, 8]]}
    inner = {**HEAD, "segmentation": [[3, 3, 5, 3, 5, 5, 3, 5]]}
    painted = paint_part_map(record([inner, triangle], "mask"), "mask")
    assert (painted == 2).sum() == 4
    assert (painted == 1).sum() == 60 - 4


@pytest.mark.parametrize(
    ("part_labels", "supervision", "labelled"),
    [
        ("none", "mask", False),
        ("none", "box", False),
        ("box", "mask", False),
        ("box", "box", True),
        ("mask", "box", True),
    ],
)
def test_what_is_not_labelled_stays_unlabelled(part_labels, supervision, labelled):
    """No part visible (background everywhere) is not the same as no label."""
    painted = paint_part_map(record([], part_labels), supervision)
    assert bool((painted == (0 if labelled else -1)).all())


def test_box_supervision_never_decodes_a_mask():
    broken = {**BODY, "segmentation": "would fail to decode"}
    assert (paint_part_map(record([broken], "mask"), "box") == 1).sum() == 60


@given(x=st.floats(0, 19), y=st.floats(0, 9), w=st.floats(0.01, 20), h=st.floats(0.01, 10), labels=st.integers(0, 400))
def test_every_box_covers_at_least_one_pixel(x, y, w, h, labels):
    part = {"bbox": [x, y, min(w, 20 - x), min(h, 10 - y)], "category_id": labels}
    assert (paint_part_map(record([part]), "box") == 1 + labels).sum() >= 1


def test_unknown_supervision_is_refused():
    with pytest.raises(ValueError, match="mask or box"):
        paint_part_map(record([]), "points")


@pytest.mark.parametrize("parts", [3, 300, 3311])
def test_transforms_keep_every_label_and_follow_the_image(parts):
    """An image of two halves and its map must stay aligned under crop, resize and flip, with many parts too."""
    part_map = np.full((40, 60), -1, dtype=np.int32)
    part_map[:, 30:] = parts
    part_map[:10] = 0
    image = np.zeros((40, 60, 3), dtype=np.uint8)
    image[:, 30:, 0] = 255
    image[:10] = [0, 255, 0]
    steps = T.TransformList(
        [
            T.CropTransform(10, 4, 40, 30, 60, 40),
            T.ResizeTransform(30, 40, 75, 100, Image.Resampling.BILINEAR),
            T.HFlipTransform(100),
        ]
    )
    moved, moved_image = transform_part_map(part_map, steps), steps.apply_image(image)
    assert moved.dtype == np.int64
    assert set(np.unique(moved)) == {-1, 0, parts}
    sharp = (moved_image % 255 == 0).all(axis=2)
    expected = np.where(moved_image[..., 1] == 255, 0, np.where(moved_image[..., 0] == 255, parts, -1))
    assert (moved == expected)[sharp].all()
    assert sharp.mean() > 0.9
