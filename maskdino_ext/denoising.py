"""Denoising queries: labels and boxes of the objects with noise, which the decoder learns to undo.

``noised_objects`` is Mask DINO's form (DN-DETR, arXiv 2203.01305), ``contrastive_objects`` DINO's (section 3.3).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .boxes import cxcywh_to_xyxy, inverse_sigmoid, xyxy_to_cxcywh
from .draws import Draws
from .structures import NoisedQueries, Target


def noised_objects(
    targets: Sequence[Target],
    label_embedding: nn.Embedding,
    *,
    classes: int,
    queries: int,
    number: int,
    noise: float,
    eps: float,
    draws: Draws,
) -> NoisedQueries | None:
    """Mask DINO's denoising queries; None where no image has an object, or one has more than ``number``.

    Args:
        targets: of the images.
        label_embedding: class -> (C,).
        classes: that a noised label is drawn from.
        queries: matching queries that stand behind them.
        number: denoising queries at most; their number of groups is number // (objects of the fullest image).
        noise: labels change with probability noise / 2, centres move by up to noise * side / 2, sides by noise * side.
        eps: of the boxes' logit.
        draws: where random numbers come from.
    """
    slots = max((len(target.labels) for target in targets), default=0)
    groups = number // slots if slots else 0
    if not groups:
        return None
    labels = torch.cat([target.labels for target in targets]).repeat(groups)
    boxes = torch.cat([target.boxes for target in targets]).repeat(groups, 1)
    noised = _noised_labels(labels, noise * 0.5, classes, draws)
    moved = boxes
    if noise:
        reach = torch.cat([boxes[:, 2:] / 2, boxes[:, 2:]], dim=1)
        moves = draws.uniform("dn/rand_box", boxes.shape, boxes.device) * 2 - 1
        moved = (boxes + moves * reach * noise).clamp(0, 1)
    return _arrange(targets, noised, moved, label_embedding, groups, slots, queries, eps)


def contrastive_objects(
    targets: Sequence[Target],
    label_embedding: nn.Embedding,
    *,
    classes: int,
    queries: int,
    number: int,
    label_noise: float,
    box_noise: float,
    eps: float,
    draws: Draws,
) -> NoisedQueries | None:
    """DINO's contrastive denoising: in each group every object once with little noise and once with much.

    A group has, for each image, ``slots / 2`` places for the objects with little noise (corners move by up to half of
    the box's side times ``box_noise``), which are to be found, and as many for those with more (once to twice that),
    which are background.

    Args:
        number: as in the official code: twice this number, divided by twice the objects of the fullest image, is the
            number of groups where that product is at least 100, and otherwise it is itself the number of groups.
        label_noise: labels change with probability label_noise / 2.
        targets, label_embedding, classes, queries, eps, draws: see :func:`noised_objects`.
    """
    most = max((len(target.labels) for target in targets), default=0)
    if not most:
        return None
    groups = number * 2
    if groups >= 100:
        groups = groups // (2 * most)
    groups = max(groups, 1)
    labels = torch.cat([target.labels for target in targets]).repeat(2 * groups)
    boxes = torch.cat([target.boxes for target in targets]).repeat(2 * groups, 1)
    noised = _noised_labels(labels, label_noise * 0.5, classes, draws)
    return _arrange(
        targets,
        noised,
        _moved_corners(boxes, groups, box_noise, draws) if box_noise else boxes,
        label_embedding,
        groups,
        2 * most,
        queries,
        eps,
        repeats_in_group=2,
    )


def matched_slots(targets: Sequence[Target], noised: NoisedQueries) -> list[tuple[Tensor, Tensor]]:
    """Which denoising slots are which objects: (slots, objects) for each image, both (groups * N,) int64."""
    pairs = []
    for target in targets:
        count = len(target.labels)
        objects = torch.arange(count, device=target.labels.device)
        starts = torch.arange(noised.groups, device=objects.device) * noised.slots
        pairs.append(((starts[:, None] + objects).flatten(), objects.repeat(noised.groups)))
    return pairs


def _moved_corners(boxes: Tensor, groups: int, box_noise: float, draws: Draws) -> Tensor:
    """Boxes (2 * groups * objects, 4) cxcywh whose corners moved, in every second repetition further."""
    sign = draws.integers("dn/rand_sign01", boxes.shape, 2, boxes.device) * 2 - 1
    amount = draws.uniform("dn/rand_part", boxes.shape, boxes.device)
    negative = torch.arange(2 * groups, device=boxes.device) % 2
    amount = amount + negative.repeat_interleave(len(boxes) // (2 * groups))[:, None]
    reach = (boxes[:, 2:] / 2).repeat(1, 2)
    return xyxy_to_cxcywh((cxcywh_to_xyxy(boxes) + amount * sign * reach * box_noise).clamp(0, 1))


def _noised_labels(labels: Tensor, probability: float, classes: int, draws: Draws) -> Tensor:
    if not probability:
        return labels
    chance = draws.uniform("dn/rand_label_p", labels.shape, labels.device)
    chosen = (chance < probability).nonzero()[:, 0]
    new = draws.integers("dn/rand_new_label", chosen.shape, classes, labels.device)
    return labels.index_put((chosen,), new)


def _arrange(
    targets: Sequence[Target],
    labels: Tensor,
    boxes: Tensor,
    label_embedding: nn.Embedding,
    groups: int,
    slots: int,
    queries: int,
    eps: float,
    repeats_in_group: int = 1,
) -> NoisedQueries:
    """Put noised objects, groups one after the other and images within a group, into slots of their images."""
    device = labels.device
    counts = [len(target.labels) for target in targets]
    repeats = groups * repeats_in_group
    image = torch.cat([torch.full((count,), i, device=device) for i, count in enumerate(counts)]).repeat(repeats)
    within = torch.cat([torch.arange(count, device=device) for count in counts]).repeat(repeats)
    stride = slots // repeats_in_group
    place = within + torch.arange(repeats, device=device).repeat_interleave(sum(counts)) * stride
    embedded = label_embedding(labels)
    shape = (len(targets), groups * slots)
    content = embedded.new_zeros(*shape, embedded.shape[-1]).index_put((image, place), embedded)
    anchors = boxes.new_zeros(*shape, 4).index_put((image, place), inverse_sigmoid(boxes, eps))
    return NoisedQueries(content, anchors, groups, slots, _blocked(groups, slots, queries, device), labels, boxes)


def _blocked(groups: int, slots: int, queries: int, device: torch.device) -> Tensor:
    """Matching queries see no denoising query; a denoising query sees its own group and the matching queries."""
    count = groups * slots
    group = torch.cat(
        [
            torch.arange(groups, device=device).repeat_interleave(slots),
            torch.full((queries,), -1, device=device),
        ]
    )
    of_row, of_column = group[:, None], group[None]
    blocked: Tensor = (of_column >= 0) & (of_row != of_column)
    assert blocked.shape[0] == count + queries
    return blocked
