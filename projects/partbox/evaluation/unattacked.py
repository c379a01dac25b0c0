"""Images that are perturbed without looking at the model: not at all, by a corruption, by noise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from partbox.attacks import AttackError, AttackResult, ThreatModel
from partbox.attacks.base import Predict, check_logits
from partbox.attacks.draws import content_ids, image_seed, random_starts
from partbox.attacks.objectives import margin
from partbox.corruptions import corrupt

ImageId = int | str


def no_attack(
    predict: Predict, images: Tensor, labels: Tensor, *, image_ids: Sequence[ImageId] | None = None, seed: int = 0
) -> AttackResult:
    """The images as they are in the form of an attack's result."""
    with torch.no_grad():
        logits = check_logits(predict(images), labels, images)
    return AttackResult(
        images=images,
        fooled=logits.argmax(dim=1) != labels,
        queries=torch.ones(len(images), dtype=torch.int64),
        loss=margin(logits, labels),
        zero_gradient=torch.zeros(len(images), dtype=torch.bool),
    )


def corruption_seed(seed: int, image_id: ImageId) -> int:
    """The seed of one image's corruption, from (seed, image id) only: 32 bits, as numpy's old generator wants it."""
    return image_seed(seed, image_id, 0) % 2**32


def corrupt_batch(
    kind: str,
    severity: int,
    predict: Predict,
    images: Tensor,
    labels: Tensor,
    *,
    image_ids: Sequence[ImageId] | None = None,
    seed: int = 0,
) -> AttackResult:
    """The images (B, 3, H, W), RGB in [0, 1], under a corruption at their own size, rounded to 8 bits before."""
    ids = image_ids if image_ids is not None else content_ids(images)
    pixels = (images.detach().cpu() * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    found = np.stack(
        [
            corrupt(image, kind, severity, corruption_seed(seed, image_id))
            for image, image_id in zip(pixels, ids, strict=True)
        ]
    )
    corrupted = torch.from_numpy(found).permute(0, 3, 1, 2).to(images) / 255
    return no_attack(predict, corrupted, labels, image_ids=ids, seed=seed)


def noise(
    threat: ThreatModel,
    predict: Predict,
    images: Tensor,
    labels: Tensor,
    *,
    image_ids: Sequence[ImageId] | None = None,
    seed: int = 0,
) -> AttackResult:
    """A random allowed image around each image (B, 3, H, W), uniform in the ball."""
    ids = image_ids if image_ids is not None else content_ids(images)
    noisy = random_starts(threat, images, ids, seed=seed, restart=0)
    return no_attack(predict, noisy, labels, image_ids=ids, seed=seed)


def noisy(threat: ThreatModel, image: Tensor, image_id: ImageId, seed: int) -> Tensor:
    """A random allowed image around (3, H, W); uniform in the ball."""
    return random_starts(threat, image[None], [image_id], seed=seed, restart=0)[0]


def pixels_in(sample: Mapping[str, Any], device: torch.device) -> Tensor:
    """The image of a detectron2 sample, (3, H, W) in [0, 1], in its channel order.

    Raises:
        AttackError: pixels beyond 0..255, or scaled to [0, 1] already, where an eps would mean something else.
    """
    image: Tensor = sample["image"]
    low, high = (float(value) for value in image.aminmax())
    if not (low >= 0 and high <= 255) or (image.is_floating_point() and 0 < high <= 1):
        raise AttackError(
            f"image {sample['image_id']} has pixels in [{low:g}, {high:g}], and detectron2's mappers give 0..255: "
            "let the mapper leave them so, and scale inside the model"
        )
    return image.to(device).float() / 255
