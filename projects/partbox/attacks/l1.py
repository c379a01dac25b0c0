"""The l1 ball inside the box of pixels (Croce & Hein 2021, arXiv 2103.01208): projection and sparse steps."""

from __future__ import annotations

import torch
from torch import Tensor

MOST_STEPS = 60  # of the search for the projection, which ends after about ten


def onto_l1_ball(images: Tensor, candidates: Tensor, eps: float) -> Tensor:
    """The image with pixels in [0, 1] at most ``eps`` away in l1 that is nearest to each candidate (in l2).

    Every change is made shorter by the same length, not below 0, and then ends at the wall of its pixel; the length is
    the smallest one that brings the sum of changes down to eps. The sum falls with it in straight pieces, so Newton's
    method finds it, kept between bounds that bisection would have (the pieces are not convex).

    Args:
        images: (B, ...) in [0, 1].
        candidates: (B, ...) any values.
        eps: radius.
    """
    clean = images.flatten(1).double()  # where candidates are far away, single precision would leave the ball
    change = candidates.flatten(1).double() - clean
    size = change.abs()
    room = torch.where(change > 0, 1 - clean, clean)
    low, high, length = torch.zeros_like(size[:, 0]), size.amax(dim=1), torch.zeros_like(size[:, 0])
    moves = torch.minimum(size, room)
    far = moves.sum(dim=1) > eps
    for _ in range(MOST_STEPS):
        shortened = (size - length[:, None]).clamp_min(0)
        moves = torch.minimum(shortened, room)
        excess = moves.sum(dim=1) - eps
        going = far & (excess.abs() > 1e-7 * eps)
        if not bool(going.any()):
            break
        low, high = torch.where(excess > 0, length, low), torch.where(excess < 0, length, high)
        falling = ((shortened > 0) & (shortened < room)).sum(dim=1)
        newton = length + excess / falling.clamp_min(1)
        inside = (falling > 0) & (newton > low) & (newton < high)
        length = torch.where(going, torch.where(inside, newton, (low + high) / 2), length)
    nearest = (clean + change.sign() * moves).clamp(0, 1).view(images.shape)
    return torch.empty_like(images).copy_(nearest)  # in the memory layout of the images


def sparse_direction(gradient: Tensor, share: Tensor) -> Tensor:
    """Ascent of l1 length 1, in equal steps on the coordinates with the largest gradients; (B, ...), (B,) -> (B, ...).

    Args:
        gradient: of the objective.
        share: of the coordinates, in [0, 1]; at least one moves.
    """
    size = gradient.abs().flatten(1)
    count = size.shape[1]
    first = ((1 - share) * count).clamp(0, count - 1).long()
    smallest = size.sort(dim=1).values.gather(1, first[:, None])
    chosen = torch.where(size >= smallest, gradient.flatten(1).sign(), 0.0)
    return (chosen / chosen.abs().sum(dim=1, keepdim=True).clamp_min(1)).view(gradient.shape)


def changed_coordinates(images: Tensor, others: Tensor) -> Tensor:
    """How many entries differ, as floating-point numbers: (B, ...), (B, ...) -> (B,)."""
    return (images != others).flatten(1).sum(dim=1).to(images.dtype)
