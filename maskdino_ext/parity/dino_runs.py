"""Comparison of DINO with stored runs, which start from the backbone's features."""

from __future__ import annotations

import torch
from detectron2.config import CfgNode
from torch import Tensor

from maskdino_ext.dino import dino_criterion, dino_settings
from maskdino_ext.dino_transformer import DINOHeads
from maskdino_ext.draws import RecordedDraws
from maskdino_ext.inference import instances_from_boxes, scaled_boxes
from maskdino_ext.query_selection import token_proposals
from maskdino_ext.structures import Target

from .comparison import Comparison
from .configuration import Described, dino_config
from .maskdino_runs import Stored, watch_decoder
from .recording import RecordingMatcher, compare_detections, compare_losses, compare_noised, compare_outputs


def build_dino(cfg: CfgNode, described: Described, state: Stored) -> DINOHeads:
    """The described model without a backbone, with the stored weights."""
    model = DINOHeads(described["ch"], dino_settings(cfg))
    model.load_state_dict(state, strict=True)
    return model


def features_of(inputs: Stored) -> list[Tensor]:
    """The backbone's features, the finest first."""
    count = sum(name.startswith("in/feature/") for name in inputs)
    return [inputs[f"in/feature/{i}"] for i in range(count)]


def compare_dino_evaluation(
    name: str, described: Described, state: Stored, inputs: Stored, stored: Stored
) -> Comparison:
    """An evaluation run: every intermediate value and the final detections."""
    comparison = Comparison(name, stored)
    model = build_dino(dino_config(described, denoising=False), described, state).eval()
    transformer = model.transformer
    with torch.no_grad():
        tokens = transformer.encode(*model.project(features_of(inputs), inputs["in/mask"]))
        comparison.compare("encoder/src", tokens.inputs)
        comparison.compare("encoder/pos_with_level_embed", tokens.position)
        comparison.compare("encoder/memory", tokens.memory)
        comparison.compare("encoder/valid_ratios", tokens.valid)
        comparison.compare("encoder/padding_mask", tokens.padding)
        if transformer.settings.two_stage:
            useful, proposals = token_proposals(tokens.memory, tokens.shapes, tokens.padding)
            selection = transformer.select(tokens)
            comparison.compare("two_stage/proposals_unsigmoid", proposals)
            comparison.compare("two_stage/output_memory", transformer.enc_output_norm(transformer.enc_output(useful)))
            comparison.compare("two_stage/class_unselected", selection.scores)
            comparison.compare("two_stage/topk_index", selection.index)
            comparison.compare("two_stage/topk_score", selection.scores.amax(dim=-1).gather(1, selection.index))
            comparison.compare("out/interm_outputs_for_matching_pre/pred_boxes", selection.proposals.sigmoid())
        watch = watch_decoder(comparison, transformer.decoder)
        outputs = model.find(features_of(inputs), inputs["in/mask"], None, RecordedDraws({}))
        watch.remove()
        compare_outputs(comparison, outputs, "interm_outputs")
        last = outputs.layers[-1]
        for i, size in enumerate(inputs["in/orig_sizes"].tolist()):
            boxes = scaled_boxes(last.boxes[i], size[1], size[0])
            found = instances_from_boxes(last.logits[i].sigmoid(), boxes, described["num_select"], (size[0], size[1]))
            ours = {"scores": found.scores, "labels": found.pred_classes, "boxes": found.pred_boxes.tensor}
            compare_detections(comparison, f"final/{i}", ours, "labels")
    return comparison


def compare_dino_training(
    name: str, described: Described, state: Stored, inputs: Stored, stored: Stored, *, denoising: bool
) -> Comparison:
    """A training step: denoising queries, predictions, matches, losses and gradients."""
    comparison = Comparison(name, stored)
    cfg = dino_config(described, denoising=denoising)
    model = build_dino(cfg, described, state).train()
    criterion = dino_criterion(cfg)
    criterion.matcher = RecordingMatcher(criterion.matcher, comparison)
    images = len(inputs["in/mask"])
    targets = [Target(inputs[f"gt/{i}/labels"], inputs[f"gt/{i}/boxes_cxcywh"]) for i in range(images)]
    draws = RecordedDraws(stored)
    watch = watch_decoder(comparison, model.transformer.decoder)
    outputs = model.find(features_of(inputs), inputs["in/mask"], targets, draws)
    watch.remove()
    compare_noised(comparison, outputs.noised)
    compare_outputs(comparison, outputs, "interm_outputs")
    compare_losses(comparison, model, criterion(outputs, targets, draws))
    return comparison
