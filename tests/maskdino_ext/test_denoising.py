"""Denoising queries: what they are made of, where they stand, and who sees whom."""

from __future__ import annotations

import torch
from torch import nn

from maskdino_ext.boxes import cxcywh_to_xyxy
from maskdino_ext.denoising import contrastive_objects, matched_slots, noised_objects
from maskdino_ext.draws import Draws
from maskdino_ext.structures import NoisedQueries, Target

CLASSES, QUERIES, EPS = 6, 4, 1e-5


def targets(*counts: int) -> list[Target]:
    generator = torch.Generator().manual_seed(0)
    found = []
    for count in counts:
        centre = 0.4 + 0.2 * torch.rand(count, 2, generator=generator)
        boxes = torch.cat([centre, 0.2 + 0.2 * torch.rand(count, 2, generator=generator)], dim=1)
        found.append(Target(torch.randint(CLASSES, (count,), generator=generator), boxes))
    return found


def plain(objects: list[Target], number: int = 9, noise: float = 0.4) -> NoisedQueries | None:
    torch.manual_seed(1)
    return noised_objects(
        objects,
        nn.Embedding(CLASSES, 8),
        classes=CLASSES,
        queries=QUERIES,
        number=number,
        noise=noise,
        eps=EPS,
        draws=Draws(),
    )


def contrastive(objects: list[Target], number: int = 2, noise: float = 0.4) -> NoisedQueries | None:
    torch.manual_seed(1)
    return contrastive_objects(
        objects,
        nn.Embedding(CLASSES + 1, 8),
        classes=CLASSES,
        queries=QUERIES,
        number=number,
        label_noise=0.5,
        box_noise=noise,
        eps=EPS,
        draws=Draws(),
    )


def test_groups_fill_the_number_of_queries():
    assert plain(targets(0, 0)) is None
    assert contrastive(targets(0, 0)) is None
    assert plain(targets(10, 1)) is None  # more objects than queries
    one = plain(targets(3, 2))
    assert (one.groups, one.slots, one.count) == (3, 3, 9)
    assert one.content.shape == (2, 9, 8)
    # twice the number are the groups, until that is a hundred: then they share it with the objects
    assert (contrastive(targets(3, 2)).groups, contrastive(targets(3, 2)).slots) == (4, 6)
    assert contrastive(targets(3, 2), number=50).groups == 100 // 6


def test_objects_stand_in_their_slots_and_the_others_are_empty():
    objects = targets(3, 1)
    for found, repeats in ((plain(objects), 3), (contrastive(objects), 8)):
        used = found.content.abs().sum(dim=-1) > 0
        assert used[0].all()
        assert used[1].nonzero().flatten().tolist() == [3 * i for i in range(repeats)]
        assert (found.anchors[1][~used[1]] == 0).all()
    pairs = matched_slots(objects, contrastive(objects))
    assert pairs[0][0].tolist() == [0, 1, 2, 6, 7, 8, 12, 13, 14, 18, 19, 20]  # not 3 to 5: those are the negatives
    assert pairs[1][0].tolist() == [0, 6, 12, 18]
    assert pairs[0][1].tolist() == [0, 1, 2] * 4


def test_noise_is_of_the_size_that_is_asked_for():
    objects = targets(3, 2)
    boxes = torch.cat([target.boxes for target in objects])
    found = plain(objects).boxes.view(3, 5, 4)
    centre, side = (found - boxes)[..., :2].abs(), (found - boxes)[..., 2:].abs()
    assert (centre <= 0.4 * boxes[:, 2:] / 2 + 1e-6).all()
    assert (side <= 0.4 * boxes[:, 2:] + 1e-6).all()
    assert side.max() > 0.05
    corners, noised = cxcywh_to_xyxy(boxes), cxcywh_to_xyxy(contrastive(objects).boxes).view(8, 5, 4)
    shift = (noised - corners).abs() / (0.4 * boxes[:, 2:] / 2).repeat(1, 2)
    assert (shift[0::2] <= 1 + 1e-4).all()  # positives
    assert (shift[1::2] >= 1 - 1e-4).all()  # negatives: further, and at most twice as far
    assert (shift[1::2] <= 2 + 1e-4).all()


def test_without_noise_nothing_changes_and_nothing_is_drawn():
    class Nothing(Draws):
        def uniform(self, *arguments: object) -> torch.Tensor:
            raise AssertionError("nothing may be drawn")

        integers = uniform

    far = [Target(torch.tensor([2]), torch.tensor([[0.9, 0.5, 0.4, 0.2]]))]
    options = {"classes": CLASSES, "queries": QUERIES, "eps": EPS, "draws": Nothing()}
    one = noised_objects(far, nn.Embedding(CLASSES, 8), number=4, noise=0.0, **options)
    other = contrastive_objects(far, nn.Embedding(CLASSES + 1, 8), number=1, label_noise=0.0, box_noise=0.0, **options)
    for found in (one, other):
        assert torch.equal(found.boxes, far[0].boxes.expand_as(found.boxes))
        assert found.labels.unique().tolist() == [2]


def test_labels_change_as_often_as_asked_for():
    objects = [Target(torch.full((400,), 3), torch.full((400, 4), 0.3))]
    changed = (plain(objects, number=400).labels != 3).float().mean()
    # noise / 2 of them are drawn anew, and one in six of those draws the old label
    assert abs(changed - 0.2 * 5 / 6) < 0.06
    changed = (contrastive(objects, number=1).labels != 3).float().mean()
    assert abs(changed - 0.25 * 5 / 6) < 0.04


def test_who_sees_whom():
    found = plain(targets(2, 1), number=4)
    count, sees = found.count, ~found.blocked
    assert (found.groups, found.slots) == (2, 2)
    assert sees.shape == (count + QUERIES,) * 2
    assert not sees[count:, :count].any()  # a matching query would read the answer
    assert sees[count:, count:].all()
    assert sees[:count, count:].all()
    assert sees[:2, :2].all()
    assert sees[2:4, 2:4].all()
    assert not sees[:2, 2:4].any()
    assert not sees[2:4, :2].any()
