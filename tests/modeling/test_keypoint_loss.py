"""The keypoint loss against constructed masks, a slow reference, and finite differences."""

from __future__ import annotations

import math

import pytest
import torch
from finite_differences import assert_whole_gradient
from small_models import MODELS, small_config

from partbox.data.mapper import PartDatasetMapper
from partbox.engine.build import build_classifier
from partbox.modeling import PartEvidence, PartTargets
from partbox.modeling.losses import keypoint_loss, true_centres

TO_CLASS = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])


def boxes_map(height: int, width: int, boxes: dict[int, tuple[int, int, int, int]]) -> torch.Tensor:
    """A part map (1, H, W) with part p (from 1) in the pixels [x0, x1) x [y0, y1)."""
    found = torch.zeros(1, height, width, dtype=torch.int64)
    for part, (x0, y0, x1, y1) in boxes.items():
        found[:, y0:y1, x0:x1] = part
    return found


def evidence_of(part_maps: torch.Tensor, channels: int = 3) -> PartEvidence:
    """Masks that are (nearly) those of the maps."""
    one_hot = torch.nn.functional.one_hot(part_maps.clamp_min(0), 1 + channels).permute(0, 3, 1, 2)
    return PartEvidence(40.0 * one_hot.double(), (part_maps.shape[1], part_maps.shape[2]))


def area_term(areas: list[float], label: int) -> float:
    return math.log(sum(math.exp(area) for area in areas)) - areas[label]


def test_centres_are_those_of_the_pixels_on_both_axes():
    """x runs over the columns and y over the rows, on images that are not square; the original mixed them up."""
    maps = boxes_map(8, 16, {1: (0, 0, 4, 2), 3: (12, 4, 16, 8)})
    maps[0, 7, 0] = -1
    centres, present = true_centres(maps, 3, torch.float64)
    assert present.tolist() == [[True, False, True]]
    assert centres[0, 0].tolist() == pytest.approx([2 / 16 * 2 - 1, 1 / 8 * 2 - 1])
    assert centres[0, 2].tolist() == pytest.approx([14 / 16 * 2 - 1, 6 / 8 * 2 - 1])


def test_masks_at_their_place_leave_the_area_alone_and_a_shift_costs_its_square():
    maps = boxes_map(8, 16, {1: (2, 2, 6, 4), 3: (8, 4, 12, 6)})
    labels = torch.tensor([0])
    areas = [8 / 128, 8 / 128]
    here = float(keypoint_loss(evidence_of(maps), maps, labels, TO_CLASS.double()))
    assert here == pytest.approx(area_term(areas, 0), abs=1e-4)
    # One of two parts moves by 4 of 16 columns, 1/2 of [-1, 1], and 1 of 8 rows, 1/4.
    found = boxes_map(8, 16, {1: (6, 1, 10, 3), 3: (8, 4, 12, 6)})
    there = float(keypoint_loss(evidence_of(found), maps, labels, TO_CLASS.double()))
    assert there - here == pytest.approx((0.5**2 + 0.25**2) / 2, abs=1e-3)


def test_the_area_is_that_of_the_parts_of_the_class():
    """Parts 1 and 2 together are class 0."""
    maps = boxes_map(8, 8, {1: (0, 0, 8, 2), 2: (0, 2, 8, 4), 3: (0, 4, 8, 5)})
    for label in (0, 1):
        loss = float(keypoint_loss(evidence_of(maps), maps, torch.tensor([label]), TO_CLASS.double()))
        assert loss == pytest.approx(area_term([0.5, 0.125], label), abs=1e-4)


def test_absent_parts_and_unlabelled_images_add_nothing():
    """Parts that are not in the labels may be anywhere; an image without labels changes neither sum nor mean."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 4, 6, 5, generator=generator, dtype=torch.float64)
    maps = torch.cat([boxes_map(12, 10, {2: (1, 1, 4, 9)}), torch.full((1, 12, 10), -1)])
    labels = torch.tensor([1, 0])
    both = keypoint_loss(PartEvidence(logits, (12, 10)), maps, labels, TO_CLASS.double())
    alone = keypoint_loss(PartEvidence(logits[:1], (12, 10)), maps[:1], labels[:1], TO_CLASS.double())
    torch.testing.assert_close(both, alone)
    turned = PartEvidence(logits.flip(0), (12, 10))  # the unlabelled one first: nobody else's label is taken
    torch.testing.assert_close(keypoint_loss(turned, maps.flip(0), labels.flip(0), TO_CLASS.double()), alone)
    centre = logits[:1].softmax(dim=1)[0, 2] + 1e-6 / 6  # about what axis_moments adds
    x = float((centre.sum(dim=0) * (torch.arange(5) + 0.5) / 5).sum() / centre.sum()) * 2 - 1
    y = float((centre.sum(dim=1) * (torch.arange(6) + 0.5) / 6).sum() / centre.sum()) * 2 - 1
    position = (x - (2.5 / 10 * 2 - 1)) ** 2 + (y - (5 / 12 * 2 - 1)) ** 2
    mask = logits[:1].softmax(dim=1).mean(dim=(2, 3))[0]
    assert float(alone) == pytest.approx(position + area_term([float(mask[1] + mask[2]), float(mask[3])], 1), abs=1e-4)
    leaf = logits.clone().requires_grad_(True)
    nothing = keypoint_loss(PartEvidence(leaf, (12, 10)), torch.full_like(maps, -1), labels, TO_CLASS.double())
    nothing.backward()
    assert float(nothing) == 0
    assert not bool(leaf.grad.any())


def test_an_image_that_shows_no_part_has_the_area_term_alone():
    maps = torch.zeros(1, 4, 4, dtype=torch.int64)
    loss = keypoint_loss(evidence_of(maps), maps, torch.tensor([0]), TO_CLASS.double())
    assert float(loss) == pytest.approx(math.log(2), abs=1e-4)


def test_the_gradient_is_that_of_finite_differences():
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(3, 4, 6, 5, generator=generator, dtype=torch.float64)
    maps = torch.randint(-1, 4, (3, 12, 10), generator=generator)
    maps[2] = -1
    labels = torch.tensor([1, 0, 0])
    assert_whole_gradient(
        lambda leaf: keypoint_loss(PartEvidence(leaf, (12, 10)), maps, labels, TO_CLASS.double()), logits
    )


def test_the_weights_of_the_part_term(example_dataset):
    """c x (pixels x cross-entropy + keypoints x keypoint loss), each weight where it belongs."""

    def losses(*options: str) -> dict[str, float]:
        cfg = small_config(example_dataset, *MODELS["part_box"], *options)
        model = build_classifier(cfg).eval()
        mapper = PartDatasetMapper.from_config(cfg, is_train=False)
        batch = [mapper(record) for record in example_dataset.records[:8]]
        images, targets = model.images_of(batch), model.targets_of(batch)
        unlabelled = PartTargets(targets.labels, torch.full_like(targets.part_maps, -1))
        assert all(
            float(model.losses(images, unlabelled)[name]) == 0
            for name in model.losses(images, targets)
            if name != "loss_class"
        )
        return {name: float(value) for name, value in model.losses(images, targets).items()}

    plain = losses()
    assert "loss_keypoint" not in plain
    one = losses("MODEL.PART.KEYPOINT_LOSS_WEIGHT", "1.0")
    other = losses("MODEL.PART.KEYPOINT_LOSS_WEIGHT", "3.0", "MODEL.PART.PIXEL_LOSS_WEIGHT", "0.25")
    quarter = losses("MODEL.PART.KEYPOINT_LOSS_WEIGHT", "1.0", "MODEL.PART.LOSS_WEIGHT", "0.25")
    assert one["loss_part"] == pytest.approx(plain["loss_part"])
    assert one["loss_class"] == pytest.approx(plain["loss_class"])
    assert other["loss_part"] == pytest.approx(0.25 * plain["loss_part"])
    assert other["loss_keypoint"] == pytest.approx(3 * one["loss_keypoint"])
    assert quarter["loss_keypoint"] == pytest.approx(one["loss_keypoint"] / 2)
    assert one["loss_keypoint"] > 0.1


def test_centroids_are_learned_from_the_keypoint_loss_alone(example_dataset):
    options = ["MODEL.PART.KEYPOINT_LOSS_WEIGHT", "1.0", "MODEL.PART.PIXEL_LOSS_WEIGHT", "0.0"]
    cfg = small_config(example_dataset, *MODELS["part_box"], *options, "MODEL.PART.LOSS_WEIGHT", "0.9")
    model = build_classifier(cfg).train()
    mapper = PartDatasetMapper((32, 32), supervision="box", augmentations=[])
    batch = [mapper(record) for record in example_dataset.records[:8]]
    images, targets = model.images_of(batch), model.targets_of(batch)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    seen = []
    for _ in range(40):
        optimizer.zero_grad()
        losses = model.losses(images, targets)
        seen.append(float(losses["loss_keypoint"]) / 0.9 - math.log(11))
        sum(losses.values()).backward()
        optimizer.step()
    assert float(losses["loss_part"]) == 0
    assert seen[-1] < 0.5 * seen[0], "the position term, above what areas of 0 cost"
