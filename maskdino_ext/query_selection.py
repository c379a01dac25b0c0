"""Two-stage query selection (Deformable DETR, appendix A.4; Mask DINO, sections 3.3 and 3.4)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .boxes import boxes_of_masks, inverse_sigmoid, xyxy_to_cxcywh
from .ms_deform_attn import Shapes

SMALLEST_SIDE = 0.05  # of a proposal on the first level, in shares of the image; doubled on each further level
MARGIN = 0.01  # proposals nearer to 0 or 1 are left out
BOX_TYPES = ("no", "bitmask", "mask2box")


@dataclass(frozen=True)
class Selection:
    """The tokens that become queries.

    Attributes:
        memory: (B, Q, C) features of the chosen tokens, with a gradient.
        anchors: (B, Q, 4) logits of their boxes, with a gradient.
        proposals: (B, Q, 4) logits of the boxes they started from.
        index: (B, Q) which tokens.
        scores: (B, S, K) class logits of all tokens.
    """

    memory: Tensor
    anchors: Tensor
    proposals: Tensor
    index: Tensor
    scores: Tensor


def token_proposals(tokens: Tensor, shapes: Shapes, padding: Tensor | None) -> tuple[Tensor, Tensor]:
    """A box around each token, and the tokens without those whose box is of no use.

    Args:
        tokens: (B, S, C).
        shapes: (H, W) of the levels; boxes double in size from level to level.
        padding: (B, S) bool, True on padding; None for none.

    Returns:
        Tokens (B, S, C), zero where padded or too near to the border, and logits (B, S, 4) of cxcywh, inf there.
    """
    boxes = []
    start = 0
    for level, (height, width) in enumerate(shapes):
        y, x = torch.meshgrid(
            torch.arange(height, dtype=torch.float32, device=tokens.device),
            torch.arange(width, dtype=torch.float32, device=tokens.device),
            indexing="ij",
        )
        centre = torch.stack([x, y], dim=-1).flatten(0, 1) + 0.5
        if padding is None:
            scale = centre.new_tensor([[width, height]]).expand(tokens.shape[0], 2)
        else:
            real = ~padding[:, start : start + height * width].view(-1, height, width)
            scale = torch.stack([real[:, 0].sum(dim=1), real[:, :, 0].sum(dim=1)], dim=-1)
        centre = centre / scale[:, None]
        boxes.append(torch.cat([centre, torch.full_like(centre, SMALLEST_SIDE * 2.0**level)], dim=-1))
        start += height * width
    proposals = torch.cat(boxes, dim=1)
    useless = ~((proposals > MARGIN) & (proposals < 1 - MARGIN)).all(dim=-1, keepdim=True)
    if padding is not None:
        useless = useless | padding[..., None]
    logits = torch.log(proposals / (1 - proposals)).masked_fill(useless, torch.inf)
    return tokens.masked_fill(useless, 0.0), logits


def select_tokens(
    memory: Tensor, proposals: Tensor, class_head: nn.Module, box_head: nn.Module, count: int
) -> Selection:
    """The ``count`` tokens with the largest class logit.

    Args:
        memory: (B, S, C) after the selection's own projection and norm.
        proposals: (B, S, 4) logits of cxcywh.
        class_head, box_head: (B, S, C) -> (B, S, K) and (B, S, 4).
        count: Q.

    Raises:
        ValueError: fewer tokens than queries.
    """
    if memory.shape[1] < count:
        raise ValueError(
            f"the image gives {memory.shape[1]} tokens and {count} queries are asked for: "
            "use larger images, more levels or fewer queries"
        )
    scores = class_head(memory)
    anchors = box_head(memory) + proposals
    index = scores.amax(dim=-1).topk(count, dim=1).indices

    def chosen(values: Tensor) -> Tensor:
        return values.gather(1, index[..., None].expand(-1, -1, values.shape[-1]))

    return Selection(chosen(memory), chosen(anchors), chosen(proposals), index, scores)


def anchors_from_masks(mask_logits: Tensor, kind: str, eps: float) -> Tensor:
    """Mask-enhanced anchors (Mask DINO section 3.4): boxes around the masks that the chosen tokens predict.

    Args:
        mask_logits: (B, Q, h, w).
        kind: ``bitmask`` or ``mask2box``, see :func:`boxes_of_masks`.
        eps: of the logit.

    Returns:
        (B, Q, 4) logits of cxcywh, without a gradient.
    """
    height, width = mask_logits.shape[-2:]
    boxes = boxes_of_masks(mask_logits.detach().flatten(0, 1) > 0, closed=kind == "mask2box")
    share = xyxy_to_cxcywh(boxes) / boxes.new_tensor([width, height, width, height])
    return inverse_sigmoid(share, eps).view(*mask_logits.shape[:2], 4)
