"""Heads against slow references written for clarity, and the properties that they promise."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from partbox.modeling import PartEvidence
from partbox.modeling.heads import PartBoxHead, PartPoolingHead, PartToClassHead
from partbox.modeling.heads.part_box import part_scores, soft_boxes


def rectangle_evidence(height: int, width: int, box: tuple[int, int, int, int]) -> PartEvidence:
    """One part whose mask is (nearly) 1 in the cells [x0, x1) x [y0, y1) and 0 elsewhere."""
    x0, y0, x1, y1 = box
    logits = torch.zeros(1, 2, height, width)
    logits[:, 0] = 30
    logits[:, 0, y0:y1, x0:x1] = 0
    logits[:, 1, y0:y1, x0:x1] = 30
    return PartEvidence(logits, (height * 4, width * 4))


@pytest.mark.parametrize(("height", "width"), [(12, 12), (8, 20), (20, 8)])
def test_soft_box_of_a_rectangle_is_its_centre_and_its_standard_deviation(height, width):
    """A uniform strip of n cells has variance (n^2 - 1) / 12 cells^2. Non-square images must be right too."""
    x0, y0, x1, y1 = 2, 3, 6, 7
    cx, cy, sx, sy = soft_boxes(rectangle_evidence(height, width, (x0, y0, x1, y1)))[0, 0].tolist()
    assert cx == pytest.approx((x0 + x1) / 2 / width, abs=1e-3)
    assert cy == pytest.approx((y0 + y1) / 2 / height, abs=1e-3)
    assert sx == pytest.approx((((x1 - x0) ** 2 - 1) / 12) ** 0.5 / width, abs=2e-3)
    assert sy == pytest.approx((((y1 - y0) ** 2 - 1) / 12) ** 0.5 / height, abs=2e-3)


def slow_soft_box(mask: Tensor) -> tuple[float, float, float, float]:
    """Moments of one mask (h, w), pixel by pixel."""
    height, width = mask.shape
    weights = {(y, x): float(mask[y, x]) for y in range(height) for x in range(width)}
    mass = sum(weights.values())
    cx = sum(w * (x + 0.5) / width for (_, x), w in weights.items()) / mass
    cy = sum(w * (y + 0.5) / height for (y, _), w in weights.items()) / mass
    vx = sum(w * ((x + 0.5) / width - cx) ** 2 for (_, x), w in weights.items()) / mass
    vy = sum(w * ((y + 0.5) / height - cy) ** 2 for (y, _), w in weights.items()) / mass
    return cx, cy, vx**0.5, vy**0.5


def test_soft_boxes_equal_the_slow_moments():
    evidence = PartEvidence(torch.randn(2, 4, 5, 7, generator=torch.Generator().manual_seed(0)), (20, 28))
    boxes = soft_boxes(evidence)
    for image in range(2):
        for part in range(3):
            expected = slow_soft_box(evidence.masks[image, 1 + part])
            assert boxes[image, part].tolist() == pytest.approx(expected, abs=1e-4)


def test_scores_equal_the_slow_formula():
    logits = torch.randn(2, 4, 5, 7, generator=torch.Generator().manual_seed(0))
    scores = part_scores(PartEvidence(logits, (20, 28)))
    for image in range(2):
        weight = torch.empty(5, 7)
        for y in range(5):
            for x in range(7):
                parts = sum(float(logits[image, c, y, x]) for c in (1, 2, 3))
                weight[y, x] = 1 / (1 + torch.exp(torch.tensor(float(logits[image, 0, y, x]) - parts)))
        weight = weight / weight.sum()
        for part in range(3):
            assert float(scores[image, part]) == pytest.approx(
                float((weight * logits[image, 1 + part]).sum()), abs=1e-5
            )


def test_normalised_boxes_do_not_depend_on_resolution_and_pixels_do():
    small = rectangle_evidence(10, 20, (4, 2, 8, 6))
    large = PartEvidence(small.mask_logits.repeat_interleave(4, dim=2).repeat_interleave(4, dim=3), (4 * 40, 4 * 80))
    normalised = PartBoxHead(1, 3, score=False, normalized=True)
    torch.testing.assert_close(
        normalised.part_features(small)[..., :2], normalised.part_features(large)[..., :2], atol=1e-3, rtol=0
    )
    in_pixels = PartBoxHead(1, 3, score=False, normalized=False)
    cx, cy = in_pixels.part_features(small)[0, 0, :2].tolist()
    assert (cx, cy) == pytest.approx((24, 16), abs=0.1)  # cells of 4 pixels


def test_moving_a_part_moves_its_centre_alone():
    head = PartBoxHead(1, 3, score=False)
    here = head.part_features(rectangle_evidence(12, 12, (1, 1, 4, 4)))[0, 0]
    there = head.part_features(rectangle_evidence(12, 12, (7, 1, 10, 4)))[0, 0]
    assert float(there[0] - here[0]) == pytest.approx(2 * 6 / 12, abs=1e-2)
    torch.testing.assert_close(here[1:], there[1:], atol=1e-2, rtol=0)


@pytest.mark.parametrize("value", [0.0, -50.0, 50.0])
def test_absent_parts_give_finite_features_and_gradients(value):
    """A part that is nowhere, or everywhere, must not end in 0 / 0 or in the square root's infinite slope."""
    logits = torch.zeros(4, 3, 6, 6, dtype=torch.float64)
    logits[:, 1] = value
    logits.requires_grad_(True)
    head = PartBoxHead(2, 3).double()
    output = head(PartEvidence(logits, (24, 24)))
    output.sum().backward()
    assert bool(torch.isfinite(output).all())
    assert bool(torch.isfinite(logits.grad).all())


def test_dropping_the_background_removes_exactly_that_channel():
    """The original documented ``no_bg`` and never removed anything."""
    torch.manual_seed(0)
    evidence = PartEvidence(torch.randn(4, 3, 8, 8), (32, 32))
    with_background = PartPoolingHead(2, 5, cells=2, keep_background=True)
    without = PartPoolingHead(2, 5, cells=2, keep_background=False)
    assert with_background.mix[0].in_channels == 3
    assert without.mix[0].in_channels == 2
    # The background's probability changes and the parts' probabilities stay: only one head may notice.
    masks = evidence.masks
    for head, notices in ((with_background, True), (without, False)):
        head.eval()
        seen = []
        head.pool.register_forward_hook(lambda _, inputs, __, seen=seen: seen.append(inputs[0]))
        head(evidence)
        assert torch.equal(seen[0], masks if notices else masks[:, 1:])


def test_pooling_reduces_to_cells_by_averaging():
    evidence = PartEvidence(torch.randn(2, 3, 8, 8), (32, 32))
    head = PartPoolingHead(2, 5, cells=4)
    pooled = head.pool(evidence.masks)
    torch.testing.assert_close(pooled[0, 1, 2, 3], evidence.masks[0, 1, 4:6, 6:8].mean())


def test_part_to_class_is_the_mean_vote_of_each_class_parts():
    matrix = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    logits = torch.randn(2, 4, 3, 5)
    votes = PartToClassHead(matrix)(PartEvidence(logits, (12, 20)))
    expected_first = (logits[:, 1] + logits[:, 2]).mean(dim=(1, 2))
    torch.testing.assert_close(votes[:, 0], expected_first)
    torch.testing.assert_close(votes[:, 1], logits[:, 3].mean(dim=(1, 2)))
    assert not list(PartToClassHead(matrix).parameters())
    assert [p.shape for p in PartToClassHead(matrix, learned=True).parameters()] == [(3, 2)]


def test_a_part_that_belongs_to_no_class_is_refused():
    """In the original a shifted table left whole rows empty."""
    with pytest.raises(ValueError, match="sum to 1"):
        PartToClassHead(torch.tensor([[1.0, 0.0], [0.0, 0.0]]))
    with pytest.raises(ValueError, match="pixel weight"):
        PartToClassHead(torch.eye(2), pixel_weight="everywhere")


def test_evidence_needs_a_background_and_a_part():
    with pytest.raises(ValueError, match="mask logits"):
        PartEvidence(torch.zeros(2, 1, 4, 4), (16, 16))
