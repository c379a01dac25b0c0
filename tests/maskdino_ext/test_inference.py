"""From predictions to results, on cases made by hand."""

from __future__ import annotations

import torch

from maskdino_ext.inference import class_scores, instances_from_masks, panoptic_map, semantic_map, top_detections

SURE = 12.0


def masks() -> torch.Tensor:
    """Three queries on 4 x 6 pixels: the left half, the right half, and the top row across both."""
    maps = torch.full((3, 4, 6), -SURE)
    maps[0, :, :3], maps[1, :, 3:], maps[2, 0] = SURE, SURE, SURE
    return maps


def logits(*classes: int, known: int = 3) -> torch.Tensor:
    found = torch.full((len(classes), known), -SURE)
    for query, one in enumerate(classes):
        found[query, one] = SURE - query  # the first query is the surest
    return found


def test_panoptic_segments_of_things_are_apart_and_of_stuff_together():
    options = {"threshold": 0.5, "overlap": 0.6, "temperature": None}
    segments, info = panoptic_map(logits(0, 0, 1), masks(), things=[0], **options)
    # the third query owns no pixel: both halves are surer than it, so less than 60 % of its mask is left
    assert [(one["id"], one["category_id"], one["isthing"]) for one in info] == [(1, 0, True), (2, 0, True)]
    assert segments[:, :3].unique().tolist() == [1]
    assert segments[:, 3:].unique().tolist() == [2]
    together, info = panoptic_map(logits(2, 2, 1), masks(), things=[0], **options)
    assert [(one["id"], one["category_id"], one["isthing"]) for one in info] == [(1, 2, False)]
    assert together.unique().tolist() == [1]


def test_panoptic_queries_need_their_score_and_their_own_pixels():
    low = logits(0, 1, 2)
    low[1] = -3.0  # a score of 0.05
    options = {"things": [0, 1, 2], "overlap": 0.0, "temperature": None}
    segments, info = panoptic_map(low, masks(), threshold=0.5, **options)
    assert [one["category_id"] for one in info] == [0, 2]
    assert segments[1:, 3:].unique().tolist() == [0]  # nobody's
    assert segments[0, 3:].unique().tolist() == [2]
    nothing, info = panoptic_map(torch.full((3, 3), -SURE), masks(), threshold=0.5, **options)
    assert info == []
    assert nothing.unique().tolist() == [0]


def test_a_low_temperature_makes_class_scores_sharp():
    plain = class_scores(torch.tensor([[0.0, 1.0]]), softmax=False, temperature=None)
    sharp = class_scores(torch.tensor([[0.0, 1.0]]), softmax=False, temperature=0.06)
    assert torch.allclose(plain, torch.tensor([[0.5, 0.7311]]), atol=1e-4)
    assert torch.allclose(sharp, (plain / 0.06).softmax(-1))
    shares = class_scores(torch.zeros(1, 3), softmax=True, temperature=None)
    assert torch.allclose(shares, torch.full((1, 2), 1 / 3))


def test_semantic_maps_add_up_scores_times_masks():
    found = semantic_map(torch.tensor([[0.5, 0.0], [0.25, 1.0], [0.0, 0.0]]), masks())
    assert torch.allclose(found[0, :, :3], torch.tensor(0.5), atol=1e-4)
    assert torch.allclose(found[0, :, 3:], torch.tensor(0.25), atol=1e-4)
    assert torch.allclose(found[1, :, :3], torch.tensor(0.0), atol=1e-4)


def test_instances_are_the_best_pairs_of_query_and_class():
    scores = torch.tensor([[0.9, 0.8], [0.1, 0.95], [0.2, 0.3]])
    values, queries, classes = top_detections(scores, 3)
    assert torch.allclose(values, torch.tensor([0.95, 0.9, 0.8]))
    assert (queries.tolist(), classes.tolist()) == ([1, 0, 0], [1, 0, 1])
    boxes = torch.arange(12.0).view(3, 4)
    found = instances_from_masks(scores, masks(), boxes, 3, things=[1])
    assert found.pred_classes.tolist() == [1, 1]
    assert torch.equal(found.pred_boxes.tensor, boxes[[1, 0]])
    assert torch.equal(found.pred_masks[0], (masks()[1] > 0).float())
    unsure = instances_from_masks(scores, masks() / 12, boxes, 1)
    assert abs(unsure.scores[0].item() - 0.95 * torch.tensor(1.0).sigmoid().item()) < 1e-3
    assert instances_from_masks(scores, masks() / 12, boxes, 1, box_scores=True).scores[0] == scores.max()
    assert len(top_detections(scores, 100)[0]) == 6
