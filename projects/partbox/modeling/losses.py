"""Loss terms of a part classifier."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from partbox.data.part_map import IGNORE


def part_loss(
    mask_logits: Tensor,
    part_maps: Tensor,
    *,
    at_image_size: bool,
    focal: float = 0.0,
    weights: Tensor | None = None,
) -> Tensor:
    """Cross-entropy of the part masks, averaged over all labelled pixels of the batch; 0 without any.

    A pixel or image without label adds nothing to the sum and nothing to the number of pixels it is divided by. With
    weights w of the images, the loss is sum over images of w * (sum over its labelled pixels) / (number of labelled
    pixels of all images): an image adds w times what it would add with w = 1, in any batch, and its weight changes
    nothing of what the others add. (A weighted mean, divided by the sum of the weights, would make the weight vanish in
    a batch whose images all have the same.)

    Args:
        mask_logits: (B, 1 + P, h, w).
        part_maps: (B, H, W) int64, 0 = background, -1 = not labelled.
        at_image_size: enlarge the masks to (H, W) bilinearly; else reduce the labels to (h, w), taking the label at
            the centre of each cell.
        focal: weight each pixel by (1 - p)^focal, p the probability of its label (Lin et al. 2017, arXiv 1708.02002,
            equation 4, with a softmax); the average stays one over pixels.
        weights: (B,) of the images; None stands for ones.
    """
    labelled = (part_maps != IGNORE).flatten(1).any(dim=1)
    if not bool(labelled.any()):
        return mask_logits.sum() * 0
    logits, maps = mask_logits[labelled], part_maps[labelled]
    if at_image_size:
        logits = functional.interpolate(logits, size=maps.shape[-2:], mode="bilinear", align_corners=False)
    else:
        size = logits.shape[-2:]
        reduced = functional.interpolate(maps[:, None].double(), size=size, mode="nearest-exact")
        maps = reduced[:, 0].to(torch.int64)
    if focal == 0 and weights is None:
        return functional.cross_entropy(logits, maps, ignore_index=IGNORE)
    losses = functional.cross_entropy(logits, maps, ignore_index=IGNORE, reduction="none")
    if focal:
        losses = (1 - torch.exp(-losses)).clamp_min(0) ** focal * losses
    if weights is not None:
        losses = losses * weights[labelled, None, None]
    return losses.sum() / (maps != IGNORE).sum()
