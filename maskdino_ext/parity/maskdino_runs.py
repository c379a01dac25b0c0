"""Comparison of Mask DINO with stored runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Boxes, ImageList, Instances
from torch import Tensor

from maskdino_ext.decoder import DecoderSettings
from maskdino_ext.draws import RecordedDraws
from maskdino_ext.mask_decoder import MaskDecoderSettings, MaskDINODecoder
from maskdino_ext.maskdino import MaskDINO
from maskdino_ext.query_selection import token_proposals
from maskdino_ext.structures import Outputs

from .comparison import Comparison
from .configuration import Described, maskdino_config
from .recording import RecordingMatcher, compare_detections, compare_losses, compare_noised, compare_outputs

Stored = dict[str, Tensor]


def load(path: Path) -> Stored:
    """A stored dictionary of tensors."""
    stored: Stored = torch.load(path, weights_only=True)
    return stored


def build_maskdino(described: Described, state: Stored, denoising: str) -> MaskDINO:
    """The described model with the stored weights, every name and shape of which must fit."""
    model: MaskDINO = build_model(maskdino_config(described, denoising=denoising))
    model.load_state_dict(state, strict=True)
    return model


def samples_of(images: Stored, described: Described) -> list[dict[str, Any]]:
    """detectron2's samples of the stored images."""
    return [
        {"image": images[f"image/{i}"], "height": size[0], "width": size[1]}
        for i, size in enumerate(described["output_sizes"])
    ]


def compare_maskdino_evaluation(name: str, described: Described, state: Stored, images: Stored, stored: Stored) -> Any:
    """An evaluation run: every intermediate value and the final detections."""
    comparison = Comparison(name, stored)
    model = build_maskdino(described, state, "no").eval()
    samples = samples_of(images, described)
    with torch.no_grad():
        batch = model.preprocess_image(samples)
        comparison.compare("image_batch", batch.tensor)
        features = model.backbone(batch.tensor)
        for key, feature in features.items():
            comparison.compare(f"backbone/{key}", feature)
        pixel_decoder, predictor = model.sem_seg_head.pixel_decoder, model.sem_seg_head.predictor
        found = pixel_decoder(features)
        comparison.compare("pixel_decoder/mask_features", found.mask_features)
        for i, (inputs, encoding, level) in enumerate(zip(found.inputs, found.encodings, found.levels, strict=True)):
            comparison.compare(f"pixel_decoder/encoder_in/{i}", inputs)
            comparison.compare(f"pixel_decoder/pos/{i}", encoding)
            comparison.compare(f"pixel_decoder/multi_scale/{i}", level)
        outputs = compare_predictor(comparison, predictor, list(found.levels), found.mask_features)
        _compare_results(comparison, model.results(outputs.layers[-1], batch, samples))
    return comparison


def compare_predictor(
    comparison: Comparison, predictor: MaskDINODecoder, levels: list[Tensor], mask_features: Tensor
) -> Outputs:
    """Query selection, decoder and predictions in evaluation."""
    reverse = levels[::-1]
    shapes = [(level.shape[2], level.shape[3]) for level in reverse]
    tokens = torch.cat([level.flatten(2).transpose(1, 2) for level in reverse], dim=1)
    if predictor.settings.two_stage:
        useful, proposals = token_proposals(tokens, shapes, None)
        selection = predictor.select(tokens, shapes)
        comparison.compare("two_stage/proposals_unsigmoid", proposals)
        comparison.compare("two_stage/output_memory", predictor.enc_output_norm(predictor.enc_output(useful)))
        comparison.compare("two_stage/class_unselected", selection.scores)
        comparison.compare("two_stage/topk_index", selection.index)
        comparison.compare("two_stage/topk_score", selection.scores.amax(dim=-1).gather(1, selection.index))
    watch = watch_decoder(comparison, predictor.decoder)
    outputs: Outputs = predictor(levels, mask_features, draws=RecordedDraws({}), every_mask=True)
    watch.remove()
    compare_outputs(comparison, outputs, "interm")
    return outputs


def watch_decoder(comparison: Comparison, decoder: torch.nn.Module) -> Any:
    """Compare what goes into a decoder and what comes out, as long as the returned handle is not removed."""

    def compare(module: torch.nn.Module, inputs: tuple[Any, ...], found: tuple[list[Tensor], list[Tensor]]) -> None:
        comparison.compare("decoder/tgt0", inputs[0])
        comparison.compare("decoder/refpoints0_unsigmoid", inputs[1])
        comparison.compare("decoder/valid_ratios", inputs[4])
        for i, state in enumerate(found[0]):
            comparison.compare(f"decoder/hs/{i}", state)
        for i, reference in enumerate(found[1]):
            comparison.compare(f"decoder/references/{i}", reference)

    return decoder.register_forward_hook(compare)


def _compare_results(comparison: Comparison, results: list[dict[str, Any]]) -> None:
    for i, result in enumerate(results):
        if "sem_seg" in result:
            comparison.compare(f"final/{i}/sem_seg", result["sem_seg"])
        if "instances" in result:
            found = result["instances"]
            ours = {
                "scores": found.scores,
                "classes": found.pred_classes,
                "boxes": found.pred_boxes.tensor,
                "masks": found.pred_masks,
            }
            compare_detections(comparison, f"final/{i}", ours, "classes")


def compare_maskdino_training(
    name: str, described: Described, state: Stored, images: Stored, stored: Stored, denoising: str
) -> Comparison:
    """A training step: targets, denoising queries, predictions, matches, losses and gradients."""
    comparison = Comparison(name, stored)
    model = build_maskdino(described, state, denoising).train()
    model.draws = RecordedDraws(stored)
    model.criterion.matcher = RecordingMatcher(model.criterion.matcher, comparison)
    batch = model.preprocess_image(samples_of(images, described))
    targets = model.targets(_instances(stored, batch), batch)
    for i, target in enumerate(targets):
        comparison.compare(f"target/{i}/labels", target.labels)
        comparison.compare(f"target/{i}/boxes_cxcywh", target.boxes)
        assert target.masks is not None
        comparison.compare(f"target/{i}/masks_padded", target.masks)
    watch = watch_decoder(comparison, model.sem_seg_head.predictor.decoder)
    outputs = model.outputs(batch.tensor, targets)
    watch.remove()
    compare_noised(comparison, outputs.noised)
    compare_outputs(comparison, outputs, "interm")
    compare_losses(comparison, model, model.criterion(outputs, targets, model.draws))
    return comparison


def _instances(stored: Stored, batch: ImageList) -> list[Instances]:
    instances = []
    for i, size in enumerate(batch.image_sizes):
        one = Instances((int(size[0]), int(size[1])))
        one.gt_boxes = Boxes(stored[f"gt/{i}/boxes_xyxy_abs"])
        one.gt_classes = stored[f"gt/{i}/labels"]
        one.gt_masks = BitMasks(stored[f"gt/{i}/masks"])
        instances.append(one)
    return instances


def compare_decoder_alone(name: str, described: Described, state: Stored, stored: Stored) -> Comparison:
    """A predictor without backbone and pixel decoder, in evaluation."""
    sizes = DecoderSettings(
        dim=described["hidden"],
        feedforward=described["ffn"],
        layers=described["dec_layers"],
        levels=described["levels"],
        heads=described["heads"],
        points=described["n_points"],
        eps=1e-5,
    )
    settings = MaskDecoderSettings(
        decoder=sizes,
        classes=described["c"],
        class_outputs=described["c"],
        queries=described["q"],
        mask_dim=described["md"],
        two_stage=described["two_stage"],
        learned_content=described["learn_tgt"],
        initial_prediction=True,
        box_type=described["init"],
        denoising="no",
        denoising_queries=0,
        denoising_noise=0.0,
        class_prior=False,
    )
    predictor = MaskDINODecoder(settings).eval()
    predictor.load_state_dict(state, strict=True)
    comparison = Comparison(name, stored)
    levels = [stored[f"in/multi_scale/{i}"] for i in range(described["levels"])]
    with torch.no_grad():
        compare_predictor(comparison, predictor, levels, stored["in/mask_features"])
    return comparison
