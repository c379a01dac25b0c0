"""Threat model: which perturbations an attacker may make, in [0, 1] pixel space."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from partbox.eps import eps_text, parse_eps
from partbox.suggestions import unknown

from .l1 import onto_l1_ball

Norm = Literal["linf", "l2", "l1"]


def step_length(threat: ThreatModel, steps: int, step_size: float | str | None) -> float:
    """The step size given, or 2.5 * eps / steps (Madry et al. 2018).

    Raises:
        ValueError: a step size that is no number, negative, or 0 where eps is not.
    """
    length = 2.5 * threat.eps / steps if step_size is None else parse_eps(step_size, "step size")
    if length == 0 and threat.eps > 0:
        raise ValueError("a step size of 0 never leaves the start")
    return length


def per_image(values: Tensor, images: Tensor) -> Tensor:
    """Reshape (B,) so that it broadcasts over (B, ...)."""
    return values.reshape(-1, *[1] * (images.dim() - 1))


@dataclass(frozen=True)
class ThreatModel:
    """All images within ``eps`` of the clean image in ``norm``, with pixels in [0, 1].

    Attributes:
        norm: ``"linf"`` (largest change of any channel of any pixel), ``"l2"`` (Euclidean over the whole image), or
            ``"l1"`` (sum of all changes; for :class:`partbox.attacks.APGD` and noise only).
        eps: radius in [0, 1] pixel space; may be given as text, ``"8/255"``.

    Raises:
        ValueError: unknown norm, or eps not finite, negative, or beyond 1 in linf.
    """

    norm: Norm
    eps: float

    def __post_init__(self) -> None:
        if self.norm not in get_args(Norm):
            raise ValueError(unknown("norm", self.norm, get_args(Norm)))
        object.__setattr__(self, "eps", parse_eps(self.eps))
        if self.norm == "linf" and self.eps > 1:
            grey = f"{self.eps:g} grey levels are {self.eps:g}/255"
            raise ValueError(f"pixels lie in [0, 1], and a linf eps of {self.eps:g} would allow everything; {grey}")

    def __str__(self) -> str:
        return f"{self.norm} {eps_text(self.eps)}"

    def only(self, *norms: Norm, of: str) -> None:
        """Raises ValueError where the norm is none of those that an attack knows."""
        if self.norm not in norms:
            known = " and ".join(norms)
            raise ValueError(f"{of} knows {known}, not {self.norm}")

    def scaled(self, factor: float) -> ThreatModel:
        """The same norm with ``factor * eps`` (used by eps warm-up)."""
        wider = copy.copy(self)  # a search may begin in a ball beyond all images, of which the projection knows nothing
        object.__setattr__(wider, "eps", self.eps * factor)
        return wider

    def distance(self, images: Tensor, other: Tensor) -> Tensor:
        """Size of the perturbation of each image: (B, ...), (B, ...) -> (B,)."""
        delta = (other - images).flatten(1)
        if self.norm == "linf":
            return delta.abs().amax(dim=1)
        return delta.norm(p=1 if self.norm == "l1" else 2, dim=1)

    def project(self, images: Tensor, candidates: Tensor) -> Tensor:
        """The allowed image nearest to each candidate, up to the order ball, then [0, 1]; (B, C, H, W) each.

        An l2 perturbation inside the ball stays as it is: it is scaled by min(1, eps / norm), not onto the sphere.
        In l1 ball and [0, 1] are taken together: clipping afterwards would leave much of eps unused.
        """
        if self.norm == "l1":
            return onto_l1_ball(images, candidates, self.eps)
        if self.norm == "linf":
            inside = torch.minimum(torch.maximum(candidates, images - self.eps), images + self.eps)
        else:
            delta = candidates - images
            norms = per_image(delta.flatten(1).norm(dim=1), delta)
            inside = images + delta * (self.eps / norms.clamp_min(1e-12)).clamp(max=1.0)
        return inside.clamp(0.0, 1.0)

    def ascent_direction(self, gradient: Tensor) -> Tensor:
        """Steepest ascent of unit size: the sign (linf) or the normalised gradient (l2), (B, C, H, W).

        Raises:
            ValueError: l1, where that is a single entry: see :func:`partbox.attacks.l1.sparse_direction`.
        """
        self.only("linf", "l2", of="steepest ascent")
        if self.norm == "linf":
            return gradient.sign()
        # Confident models have gradients far below 1; scaled by their largest entry first, none is too small.
        largest = per_image(gradient.flatten(1).abs().amax(dim=1), gradient)
        scaled = gradient / torch.where(largest > 0, largest, 1.0)
        return scaled / per_image(scaled.flatten(1).norm(dim=1), scaled).clamp_min(1.0)
