"""Loss terms of a part classifier."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from partbox.data.part_map import IGNORE
from partbox.processes import averaged_count

from .evidence import PartEvidence
from .heads.part_box import soft_boxes


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

    Where several processes share a batch, the number is that of the whole batch, see
    :func:`partbox.processes.averaged_count`.

    Args:
        mask_logits: (B, 1 + P, h, w).
        part_maps: (B, H, W) int64, 0 = background, -1 = not labelled.
        at_image_size: enlarge the masks to (H, W) bilinearly; else reduce the labels to (h, w), taking the label at
            the centre of each cell.
        focal: weight each pixel by (1 - p)^focal, p the probability of its label (Lin et al. 2017, arXiv 1708.02002,
            equation 4, with a softmax); the average stays one over pixels.
        weights: (B,) of the images; None stands for ones.
    """
    if not at_image_size:
        reduced = functional.interpolate(part_maps[:, None].double(), size=mask_logits.shape[-2:], mode="nearest-exact")
        part_maps = reduced[:, 0].to(torch.int64)
    labelled = (part_maps != IGNORE).flatten(1).any(dim=1)
    pixels = averaged_count((part_maps != IGNORE).sum())
    if not bool(labelled.any()):
        return mask_logits.sum() * 0
    logits, maps = mask_logits[labelled], part_maps[labelled]
    if at_image_size:
        logits = functional.interpolate(logits, size=maps.shape[-2:], mode="bilinear", align_corners=False)
    if focal == 0 and weights is None:
        return functional.cross_entropy(logits, maps, ignore_index=IGNORE, reduction="sum") / pixels
    losses = functional.cross_entropy(logits, maps, ignore_index=IGNORE, reduction="none")
    if focal:
        losses = (1 - torch.exp(-losses)).clamp_min(0) ** focal * losses
    if weights is not None:
        losses = losses * weights[labelled, None, None]
    return losses.sum() / pixels


def true_centres(part_maps: Tensor, num_channels: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Centroid of each part's pixels, and whether it has any.

    Args:
        part_maps: (B, H, W) int64 at the extractor's part level, 0 = background, -1 = not labelled.
        num_channels: P.
        dtype: of the centroids.

    Returns:
        (B, P, 2) as (x, y) in [-1, 1], the sides of the image, 0 where a part is absent; (B, P) bool.
    """
    height, width = part_maps.shape[-2:]
    index = part_maps.clamp_min(0).flatten(1)  # what is not labelled goes where the background goes, and that is cut

    def total(values: Tensor) -> Tensor:
        sums = values.new_zeros(len(index), 1 + num_channels)
        return sums.scatter_add_(1, index, values.expand(len(index), -1))[:, 1:]

    def position(size: int) -> Tensor:
        cells = torch.arange(size, device=part_maps.device, dtype=dtype)
        return (cells + 0.5) / size * 2 - 1

    pixels = total(torch.ones(1, height * width, device=part_maps.device, dtype=dtype))
    x = total(position(width).repeat(height)[None])
    y = total(position(height).repeat_interleave(width)[None])
    return torch.stack([x, y], dim=-1) / pixels.clamp_min(1)[..., None], pixels > 0


def keypoint_loss(
    evidence: PartEvidence,
    part_maps: Tensor,
    labels: Tensor,
    to_class: Tensor,
    weights: Tensor | None = None,
) -> Tensor:
    """The original system's keypoint loss: are the parts where they should be, and is the object of its class?

    mean over the parts p that an image shows of (cx_p - x_p)^2 + (cy_p - y_p)^2, plus the cross-entropy of the classes
    with logits a_k = share of the image that the soft masks of class k's parts cover. (cx, cy) is the centroid of the
    soft mask of :func:`partbox.modeling.heads.part_box.soft_boxes`, (x, y) that of the labelled pixels, both in
    [-1, 1]. Source: ``_semi_keypoint_loss`` of the 2023 code (nab-126/adv-part-based-models), which compares x with
    y (its label masks are transposed) and reads the centroids from the masks' last rows; here each axis is compared
    with itself. Its authors expect the second term to drive all pixels to one class.

    An image without labelled pixels adds nothing to either term; 0 without any labelled image.

    Args:
        evidence: with masks (B, 1 + P, h, w).
        part_maps: (B, H, W) int64 at the extractor's part level, 0 = background, -1 = not labelled.
        labels: (B,) classes.
        to_class: (P, K), the class of each mask channel, rows summing to 1.
        weights: (B,), what an image's terms count, as in :func:`part_loss`; None stands for ones.
    """
    labelled = (part_maps != IGNORE).flatten(1).any(dim=1)
    images = averaged_count(labelled.sum())
    channels = evidence.mask_logits.shape[1] - 1
    wanted, present = true_centres(part_maps[labelled], channels, evidence.mask_logits.dtype)
    parts = averaged_count(present.sum())
    if not bool(labelled.any()):
        return evidence.mask_logits.sum() * 0
    centres = soft_boxes(evidence)[labelled][..., :2] * 2 - 1
    squares = ((centres - wanted) ** 2).sum(dim=-1)
    areas = evidence.masks[labelled][:, 1:].mean(dim=(2, 3)) @ to_class
    classes = functional.cross_entropy(areas, labels[labelled], reduction="none")
    if weights is not None:
        squares, classes = squares * weights[labelled, None], classes * weights[labelled]
    return squares[present].sum() / parts + classes.sum() / images
