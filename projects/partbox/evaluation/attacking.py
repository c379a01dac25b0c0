"""Attacks on a batch of a part classifier's images, also of one whose answer depends on more than the image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from partbox.attacks import AttackResult
from partbox.attacks.base import Predict


def attack_batch(
    model: Any,
    batch: Sequence[dict[str, Any]],
    attack: Callable[..., AttackResult],
    images: Tensor,
    labels: Tensor,
    *,
    image_ids: Sequence[int | str],
    seed: int,
) -> AttackResult:
    """The attack's result on ``images``, which are those of ``batch``.

    An oracle (``evidence_is_given``) is attacked one image at a time: attacks drop images that are done, and only with
    one image it is certain whose evidence belongs to what they ask about. Draws depend on (seed, image id, restart)
    only, so the verdicts are those of a batch.

    Args:
        model: with ``logits_for`` and, where it is an oracle, ``evidence_is_given``, as PartClassifier has them.
        batch: samples, with the labels that an oracle needs.
        attack: called as ``attack(predict, images, labels, image_ids=, seed=)``.
        images: (B, 3, H, W) in [0, 1].
        labels: (B,) true classes.
        image_ids: one an image.
        seed: of all draws.
    """
    if not is_oracle(model) or not len(batch):
        predict = model.logits_for(batch) if len(batch) else model.logits
        return attack(predict, images, labels, image_ids=image_ids, seed=seed)
    return joined(
        [
            attack(model.logits_for([sample]), images[i : i + 1], labels[i : i + 1], image_ids=[image_id], seed=seed)
            for i, (sample, image_id) in enumerate(zip(batch, image_ids, strict=True))
        ]
    )


def is_oracle(model: Any) -> bool:
    """Whether the model's answer rests on evidence that is given with the batch."""
    return bool(getattr(model, "evidence_is_given", False))


def joined(results: Sequence[AttackResult]) -> AttackResult:
    """The results of one attack on several batches as that on all of them; not of none."""

    def together(values: Sequence[Tensor | None]) -> Tensor | None:
        known = [value for value in values if value is not None]
        return torch.cat(known) if len(known) == len(values) else None

    credited = all(len(one.fooled_by) == len(one.fooled) for one in results)
    return AttackResult(
        images=torch.cat([one.images for one in results]),
        fooled=torch.cat([one.fooled for one in results]),
        queries=torch.cat([one.queries for one in results]),
        loss=together([one.loss for one in results]),
        zero_gradient=together([one.zero_gradient for one in results]),
        notes=tuple(dict.fromkeys(note for one in results for note in one.notes)),
        fooled_by=tuple(name for one in results for name in one.fooled_by) if credited else (),
    )


def predict_of_rows(model: Any, batch: Sequence[dict[str, Any]]) -> Callable[[Sequence[int]], Predict] | None:
    """For an oracle, the function from rows of the batch to images -> logits of those; None for any other model."""
    if not is_oracle(model):
        return None
    return lambda rows: model.logits_for([batch[row] for row in rows])
