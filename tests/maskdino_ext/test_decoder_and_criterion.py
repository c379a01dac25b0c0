"""Where gradients of boxes go, what the heads see, and what losses are divided by."""

from __future__ import annotations

import torch
from small_transformers import CLASSES, small_transformer
from torch import nn

from maskdino_ext.criterion import Criterion, CriterionSettings
from maskdino_ext.decoder import Decoder, DecoderSettings, predicted_boxes
from maskdino_ext.draws import Draws
from maskdino_ext.layers import MLP
from maskdino_ext.matcher import HungarianMatcher, MatchingCosts
from maskdino_ext.structures import NoisedQueries, Outputs, Predictions, Target


def decoder() -> Decoder:
    torch.manual_seed(0)
    made = Decoder(DecoderSettings(dim=16, feedforward=16, layers=2, levels=1, heads=2, points=2, eps=1e-5))
    made.bbox_embed = nn.ModuleList(MLP(16, 16, 4, 2) for _ in range(2))
    nn.init.normal_(made.norm.weight)  # as after training: a new norm changes nothing that is normed already
    return made


def test_a_layer_starts_from_boxes_without_gradient_and_its_prediction_looks_back_once():
    """Look forward twice (DINO section 3.5): layer 2's loss trains the box head of layer 1, and its queries do not."""
    made = decoder()
    states, references = made(
        torch.randn(1, 3, 16), torch.randn(1, 3, 4), torch.randn(1, 16, 16), [(4, 4)], torch.ones(1, 1, 2)
    )
    boxes = predicted_boxes(states, references, made.bbox_embed, 1e-5)
    first = list(made.bbox_embed[0].parameters())
    through_queries = torch.autograd.grad(states[1].square().sum(), first, retain_graph=True, allow_unused=True)
    assert all(gradient is None for gradient in through_queries)
    through_boxes = torch.autograd.grad(boxes[1].square().sum(), first, retain_graph=True)
    assert all(gradient.abs().max() > 0 for gradient in through_boxes)
    assert len(references) == 3


def test_boxes_are_predicted_from_normed_queries_and_passed_on_from_plain_ones():
    made = decoder()
    states, references = made(
        torch.randn(1, 3, 16), torch.randn(1, 3, 4), torch.randn(1, 16, 16), [(4, 4)], torch.ones(1, 1, 2)
    )
    boxes = predicted_boxes(states, references, made.bbox_embed, 1e-5)
    assert (boxes[0] - references[1]).abs().max() > 1e-4


def test_class_and_mask_heads_of_mask_dino_see_normed_queries():
    predictor = small_transformer("MaskDINO").eval().sem_seg_head.predictor
    state, pixels = torch.randn(1, 5, 64) * 7 + 3, torch.randn(1, 16, 4, 4)
    logits, masks = predictor.heads(state, pixels)
    normed = predictor.decoder.norm(state)
    assert not torch.allclose(logits, predictor.class_embed(state))
    assert torch.allclose(logits, predictor.class_embed(normed))
    assert torch.allclose(masks, torch.einsum("bqc,bchw->bqhw", predictor.mask_embed(normed), pixels))


def criterion() -> Criterion:
    weights = {"ce": 1.0, "bbox": 5.0, "giou": 2.0}
    settings = CriterionSettings(classes=CLASSES, weights=weights, denoising_kinds=tuple(weights), saved=False)
    return Criterion(settings, HungarianMatcher(MatchingCosts(label=2.0, box=5.0, overlap=2.0)))


def test_losses_are_divided_by_objects_and_groups():
    """As many groups as one likes, all of the same queries: the same loss; twice the same image: the same loss."""
    torch.manual_seed(0)
    target = Target(torch.tensor([1, 3]), torch.tensor([[0.3, 0.3, 0.2, 0.2], [0.7, 0.6, 0.3, 0.1]]))
    found = Predictions(torch.randn(1, 6, CLASSES), torch.rand(1, 6, 4) * 0.5 + 0.2)
    noised = Predictions(torch.randn(1, 2, CLASSES), torch.rand(1, 2, 4) * 0.5 + 0.2)

    def losses(groups: int, images: int = 1) -> dict[str, float]:
        def repeated(one: Predictions, times: int) -> Predictions:
            return Predictions(one.logits.repeat(images, times, 1), one.boxes.repeat(images, times, 1))

        nothing = torch.zeros(0)
        queries = NoisedQueries(nothing, nothing, groups, 2, nothing, nothing, nothing)
        outputs = Outputs((repeated(found, 1),), None, (repeated(noised, groups),), queries)
        return {term.name: float(term.value) for term in criterion()(outputs, [target] * images, Draws())}

    one, three, twice = losses(1), losses(3), losses(1, images=2)
    assert {"loss_ce_dn", "loss_bbox_dn", "loss_giou", "loss_ce"} <= set(one)
    for name, value in one.items():
        assert value > 0
        assert abs(three[name] - value) < 1e-5, name
        assert abs(twice[name] - value) < 1e-5, name
