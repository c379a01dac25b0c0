"""A matcher that remembers what it did, and the training half of a comparison."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from maskdino_ext.criterion import Term
from maskdino_ext.draws import Draws
from maskdino_ext.matcher import HungarianMatcher, Pairs
from maskdino_ext.structures import NoisedQueries, Outputs, Predictions, Target

from .comparison import Comparison


class RecordingMatcher(HungarianMatcher):
    """Compares every cost and every pair with the reference."""

    def __init__(self, matcher: HungarianMatcher, comparison: Comparison) -> None:
        super().__init__(matcher.costs)
        self.comparison = comparison

    def __call__(self, predictions: Predictions, targets: Sequence[Target], stage: str, draws: Draws) -> Pairs:
        """See :class:`HungarianMatcher`."""
        pairs = super().__call__(predictions, targets, stage, draws)
        for image, (queries, objects) in enumerate(pairs):
            self.comparison.compare(f"match/{stage}/{image}/src", queries)
            self.comparison.compare(f"match/{stage}/{image}/tgt", objects)
        return pairs

    def cost(self, predictions: Predictions, image: int, target: Target, purpose: str, draws: Draws) -> Tensor:
        """See :class:`HungarianMatcher`."""
        cost = super().cost(predictions, image, target, purpose, draws)
        self.comparison.compare(f"{purpose}/cost", cost)
        return cost


def compare_predictions(comparison: Comparison, prefix: str, predictions: Predictions) -> None:
    """Logits, boxes and masks of one layer."""
    comparison.compare(f"{prefix}/pred_logits", predictions.logits)
    comparison.compare(f"{prefix}/pred_boxes", predictions.boxes)
    if predictions.masks is not None:
        comparison.compare(f"{prefix}/pred_masks", predictions.masks)


def compare_outputs(comparison: Comparison, outputs: Outputs, proposals: str) -> None:
    """All layers, the chosen tokens under the name ``proposals``, and denoising queries."""
    for number, layer in enumerate(outputs.layers):
        compare_predictions(comparison, f"out/{number}", layer)
    for number, layer in enumerate(outputs.denoising):
        compare_predictions(comparison, f"dn_out/{number}", layer)
    if outputs.proposals is not None:
        compare_predictions(comparison, f"out/{proposals}", outputs.proposals)


def compare_detections(comparison: Comparison, prefix: str, ours: Mapping[str, Tensor], classes: str) -> None:
    """Detections with ``scores``, ``boxes``, perhaps ``masks``, and the classes under the name ``classes``.

    Their order means nothing (scores may be equal), so ours are first assigned to the stored ones.
    """
    absent = [key for key in ours if f"{prefix}/{key}" not in comparison.stored]
    if absent:  # without all of them nothing can be assigned; what is stored stays uncompared, and so an error
        comparison.notes.append(f"{prefix}: {', '.join(absent)} of the detections are not stored")
        return
    stored = {key: comparison.stored[f"{prefix}/{key}"] for key in ours}
    if any(stored[key].shape != value.shape for key, value in ours.items()):
        for key, value in ours.items():
            comparison.record(f"{prefix}/{key}", value, stored[key])
        return
    cost = (ours["scores"][:, None] - stored["scores"][None]).abs() * 100
    cost = cost + (ours["boxes"][:, None] - stored["boxes"][None]).abs().amax(dim=-1)
    cost = cost + (ours[classes][:, None] != stored[classes][None]) * 1e4
    rows, columns = linear_sum_assignment(cost.double().numpy())
    for key in ("scores", "boxes", classes):
        comparison.record(f"{prefix}/{key}", ours[key][rows], stored[key][columns])
    if "masks" in ours:
        different = ours["masks"][rows] != stored["masks"][columns]
        # the share of pixels: a logit of 1e-6 may fall on either side of 0
        comparison.record(f"{prefix}/masks", different.double().mean(), torch.tensor(0.0))


def compare_noised(comparison: Comparison, noised: NoisedQueries | None) -> None:
    """Everything about denoising queries."""
    if noised is None:
        return
    comparison.compare("dn/noised_labels", noised.labels)
    comparison.compare("dn/noised_boxes_cxcywh", noised.boxes)
    comparison.compare("dn/query_label_embed", noised.content)
    comparison.compare("dn/query_bbox_unsigmoid", noised.anchors)
    comparison.compare("dn/attn_mask", noised.blocked)
    comparison.compare("dn/pad_size", torch.tensor(noised.count))
    for name in ("dn/scalar", "dn/num_groups"):
        comparison.compare(name, torch.tensor(noised.groups))


def compare_losses(comparison: Comparison, model: nn.Module, terms: Sequence[Term]) -> None:
    """Each term, their weighted sum, and the gradients of that sum."""
    for term in terms:
        comparison.compare(f"loss/{term.name}", term.value)
        comparison.compare(f"weighted/{term.name}", term.value * term.weight)
    total = torch.stack([term.value * term.weight for term in terms]).sum()
    comparison.compare("weighted_total", total)
    model.zero_grad()
    total.backward()
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if parameter.grad is not None:
            comparison.compare(f"grad/{name}", parameter.grad)
            comparison.compare(f"grad_norm/{name}", parameter.grad.norm(), relative=True)
