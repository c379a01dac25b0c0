"""The training loss: every prediction is matched and judged (deep supervision), and so are denoising queries."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from detectron2.projects.point_rend.point_features import point_sample
from detectron2.utils.comm import get_world_size
from torch import Tensor, nn
from torch.nn import functional

from .denoising import matched_slots
from .draws import Draws
from .layers import widened
from .losses import box_losses, focal_loss, mask_losses, times, uncertain_points
from .matcher import HungarianMatcher, Pairs
from .structures import Outputs, Predictions, Target


@dataclass(frozen=True)
class Term:
    """One number of the loss.

    Attributes:
        kind: ``ce``, ``bbox``, ``giou``, ``mask`` or ``dice``.
        stage: what was judged: ``final``, ``aux_0`` (the first prediction) and so on, ``interm`` (the chosen tokens),
            ``dn`` and ``dn_aux_0`` (denoising queries).
        value: scalar, divided by the number of objects and not yet weighted.
        weight: what it counts.
    """

    kind: str
    stage: str
    value: Tensor
    weight: float

    @property
    def name(self) -> str:
        """As official logs call it, such as ``loss_mask_dn_0``."""
        if self.stage == "final":
            return f"loss_{self.kind}"
        return f"loss_{self.kind}_" + self.stage.replace("aux_", "")


@dataclass(frozen=True)
class CriterionSettings:
    """Which terms there are and what they count.

    Attributes:
        classes: of objects.
        weights: kind -> weight; kinds without one are not computed.
        softmax: cross-entropy over classes and "no object" instead of the focal loss.
        no_object: weight of "no object" in that cross-entropy.
        denoising_kinds: kinds that denoising queries are judged by; none without denoising.
        deep_supervision: judge every layer and not the last only.
        first_denoised: the first layer whose denoising queries are judged; the official one-stage models leave out 0.
        saved: keep the class weights in the state dict, as official Mask DINO checkpoints do.
        points, oversample, important: see :func:`uncertain_points`.
    """

    classes: int
    weights: dict[str, float]
    softmax: bool = False
    no_object: float = 0.1
    denoising_kinds: tuple[str, ...] = ()
    deep_supervision: bool = True
    first_denoised: int = 0
    points: int = 0
    oversample: float = 3.0
    important: float = 0.75
    saved: bool = True


class Criterion(nn.Module):
    """Computes the terms of the loss.

    Args:
        settings: see :class:`CriterionSettings`.
        matcher: decides which prediction is which object.
    """

    empty_weight: Tensor

    def __init__(self, settings: CriterionSettings, matcher: HungarianMatcher) -> None:
        super().__init__()
        self.settings = settings
        self.matcher = matcher
        weight = torch.ones(settings.classes + 1)
        weight[-1] = settings.no_object
        self.register_buffer("empty_weight", weight, persistent=settings.saved)

    @property
    def needs_masks(self) -> bool:
        """Whether the loss or the matching looks at masks."""
        costs = self.matcher.costs
        return bool({"mask", "dice"} & set(self.settings.weights) or costs.mask or costs.dice)

    def forward(
        self, outputs: Outputs, targets: Sequence[Target], draws: Draws, weights: Tensor | None = None
    ) -> list[Term]:
        """The terms, in the order final, its denoising queries, earlier layers, chosen tokens.

        Every output has a gradient, of zero where no term looks at it, as distributed training wants it.

        Args:
            outputs: of the model.
            targets: of each image.
            draws: of the points where masks are compared.
            weights: (B,) multiplies what each image adds to every term, and not the number that terms are divided by:
                each image counts weight times what it counted with a weight of 1, whatever the others' weights are.
                None stands for ones.
        """
        number = mean_over_processes(sum(len(target.labels) for target in targets), outputs.layers[-1].logits)
        kinds = tuple(self.settings.weights)
        slots = None if outputs.noised is None else matched_slots(targets, outputs.noised)
        terms: list[Term] = []
        for stage, layer in self._stages(outputs):
            prediction = outputs.layers[layer]
            pairs = self.matcher(prediction, targets, stage, draws)
            terms += self._judge(prediction, targets, pairs, number, stage, kinds, draws, weights)
            terms += self._judge_denoising(outputs, layer, targets, slots, number, stage, draws, weights)
        if outputs.proposals is not None:
            pairs = self.matcher(outputs.proposals, targets, "interm", draws)
            terms += self._judge(outputs.proposals, targets, pairs, number, "interm", kinds, draws, weights)
        last = outputs.layers[-1]
        unseen = last.logits.sum() + last.boxes.sum() + (0.0 if last.masks is None else last.masks.sum())
        return [replace(terms[0], value=terms[0].value + 0.0 * unseen), *terms[1:]]

    def _stages(self, outputs: Outputs) -> Iterator[tuple[str, int]]:
        last = len(outputs.layers) - 1
        yield "final", last
        if self.settings.deep_supervision:
            for layer in range(last):
                yield f"aux_{layer}", layer

    def _judge_denoising(
        self,
        outputs: Outputs,
        layer: int,
        targets: Sequence[Target],
        slots: Pairs | None,
        number: float,
        stage: str,
        draws: Draws,
        weights: Tensor | None,
    ) -> list[Term]:
        kinds = tuple(kind for kind in self.settings.denoising_kinds if kind in self.settings.weights)
        skipped = stage != "final" and layer < self.settings.first_denoised
        if not kinds or skipped:
            return []
        name = "dn" if stage == "final" else f"dn_{stage}"
        if outputs.noised is None or slots is None:  # no objects, or too many: the terms stay, as zeros
            nothing = outputs.layers[layer].logits.sum() * 0.0
            return [Term(kind, name, nothing, self.settings.weights[kind]) for kind in kinds]
        total = number * outputs.noised.groups
        return self._judge(outputs.denoising[layer], targets, slots, total, name, kinds, draws, weights)

    def _judge(
        self,
        predictions: Predictions,
        targets: Sequence[Target],
        pairs: Pairs,
        number: float,
        stage: str,
        kinds: Sequence[str],
        draws: Draws,
        weights: Tensor | None,
    ) -> list[Term]:
        images = torch.cat([torch.full_like(query, image) for image, (query, _) in enumerate(pairs)])
        queries = torch.cat([query for query, _ in pairs])
        of_pairs = None if weights is None else weights[images]
        values: dict[str, Tensor] = {}
        if "ce" in kinds:
            labels = torch.cat([target.labels[row] for target, (_, row) in zip(targets, pairs, strict=True)])
            values["ce"] = self._label_loss(predictions.logits, images, queries, labels, number, weights)
        if "bbox" in kinds or "giou" in kinds:
            wanted = torch.cat([target.boxes[row] for target, (_, row) in zip(targets, pairs, strict=True)])
            distance, overlap = box_losses(predictions.boxes[images, queries], wanted, of_pairs)
            values |= {"bbox": distance / number, "giou": overlap / number}
        if "mask" in kinds or "dice" in kinds:
            entropy, dice = self._mask_loss(predictions, targets, pairs, images, queries, stage, draws, of_pairs)
            values |= {"mask": entropy / number, "dice": dice / number}
        return [Term(kind, stage, values[kind], self.settings.weights[kind]) for kind in kinds if kind in values]

    def _label_loss(
        self,
        logits: Tensor,
        images: Tensor,
        queries: Tensor,
        labels: Tensor,
        number: float,
        weights: Tensor | None,
    ) -> Tensor:
        nothing = self.settings.classes
        classes = torch.full(logits.shape[:2], nothing, dtype=torch.int64, device=logits.device)
        classes[images, queries] = labels
        if self.settings.softmax:
            # a weighted mean, so not divided by the number of objects
            scores = widened(logits).transpose(1, 2)
            if weights is None:
                return functional.cross_entropy(scores, classes, self.empty_weight)
            entropy = functional.cross_entropy(scores, classes, self.empty_weight, reduction="none")
            return times(entropy, weights).sum() / self.empty_weight[classes].sum()
        return focal_loss(widened(logits), classes, weights) / number

    def _mask_loss(
        self,
        predictions: Predictions,
        targets: Sequence[Target],
        pairs: Pairs,
        images: Tensor,
        queries: Tensor,
        stage: str,
        draws: Draws,
        weights: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        if predictions.masks is None or any(target.masks is None for target in targets):
            raise ValueError("mask terms need masks, predicted and labelled; set their weights to 0 to train on boxes")
        found = widened(predictions.masks[images, queries])
        if not len(found):
            return found.sum(), found.sum()
        wanted = torch.cat(
            [target.masks[row] for target, (_, row) in zip(targets, pairs, strict=True) if target.masks is not None]
        )
        settings = self.settings
        points = uncertain_points(
            found, settings.points, settings.oversample, settings.important, f"points/{stage}", draws
        )
        logits = point_sample(found[:, None], points, align_corners=False)[:, 0]
        with torch.no_grad():
            there = point_sample(wanted[:, None].to(found.dtype), points, align_corners=False)[:, 0]
        return mask_losses(logits, there, weights)


def mean_over_processes(count: int, like: Tensor) -> float:
    """Objects of a batch, averaged over processes, at least 1: what the criterion divides by.

    Every process must call it as often as the others, one without any image to judge with a count of 0.
    """
    total = torch.tensor(float(count), device=like.device)
    if get_world_size() > 1:
        torch.distributed.all_reduce(total)
    return max(total.item() / get_world_size(), 1.0)
