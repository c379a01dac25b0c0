"""A quick measurement of clean and robust accuracy, for validation during training."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from partbox.attacks import PGD, attack_mode
from partbox.processes import gathered

from .attacking import attack_batch


@dataclass(frozen=True)
class ValidationResult:
    """Accuracies in [0, 1].

    Attributes:
        clean_accuracy: share of images that are right.
        robust_accuracy: share that are right on the clean image and under the attack; equals the clean accuracy
            without attack.
        majority_share: share of the most frequent class.
        images: number of images.
        attacked: whether there was an attack.
        picture: (3, H, W) uint8, a few of the images with what the model sees in them; None where nobody drew one.
    """

    clean_accuracy: float
    robust_accuracy: float
    majority_share: float
    images: int
    attacked: bool
    picture: Tensor | None = field(default=None, compare=False, repr=False)

    @property
    def worse_than_majority(self) -> str:
        """Which accuracy is below the majority class: "clean", "robust", or ""."""
        if self.clean_accuracy < self.majority_share:
            return "clean"
        return "robust" if self.attacked and self.robust_accuracy < self.majority_share else ""

    def __str__(self) -> str:
        robust = f", robust accuracy {self.robust_accuracy:.3f}" if self.attacked else ""
        return f"clean accuracy {self.clean_accuracy:.3f}{robust} ({self.images} images)"


def validate(
    model: Any,
    batches: Iterable[Sequence[dict[str, Any]]],
    attack: PGD | None,
    *,
    seed: int = 0,
    shared: bool = False,
    look: Callable[[Sequence[dict[str, Any]], Tensor, Tensor], None] | None = None,
) -> ValidationResult:
    """Accuracy on clean and (with an attack) on attacked images; the model's mode is restored afterwards.

    Args:
        model: a torch module with ``logits``, ``logits_for`` and ``images_of`` as
            :class:`partbox.modeling.PartClassifier` has them.
        batches: samples have ``image``, ``label`` and ``image_id``.
        attack: None measures clean accuracy only.
        seed: of the attack's random starts.
        look: called with each batch in the end: samples, images (B, 3, H, W) after the attack, and which of them were
            attacked, (B,) bool; those that are wrong before are not.
        shared: the processes of the run have different batches; the result is that of all of them, in each.

    Raises:
        ValueError: no images.
    """
    labels_seen: Counter[int] = Counter()
    right = robust = total = 0
    with attack_mode(model):
        for batch in batches:
            images = model.images_of(batch)
            labels = torch.tensor([sample["label"] for sample in batch], device=images.device)
            with torch.no_grad():
                correct = model.logits_for(batch)(images).argmax(dim=1) == labels
            final = images
            if attack is not None:
                ids = [sample["image_id"] for sample in batch]
                kept = correct.nonzero().squeeze(1)
                samples, kept_ids = [batch[i] for i in kept], [ids[i] for i in kept]
                found = (model, samples, attack, images[kept], labels[kept])
                result = attack_batch(*found, image_ids=kept_ids, seed=seed)
                robust += int((~result.fooled).sum())
                if look is not None:
                    final = images.index_copy(0, kept, result.images)
            if look is not None:
                look(batch, final, correct & (attack is not None))
            labels_seen.update(labels.tolist())
            right += int(correct.sum())
            total += len(batch)
    if shared:
        counts, labels_of_each = zip(*gathered(((right, robust, total), labels_seen)), strict=True)
        right, robust, total = (sum(column) for column in zip(*counts, strict=True))
        labels_seen = sum(labels_of_each, Counter())
    if not total:
        raise ValueError("no images to validate on")
    return ValidationResult(
        clean_accuracy=right / total,
        robust_accuracy=(robust if attack is not None else right) / total,
        majority_share=max(labels_seen.values()) / total,
        images=total,
        attacked=attack is not None,
    )
