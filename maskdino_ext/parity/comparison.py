"""Differences between what we compute and what a reference run has stored."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

TOLERANCE = 1e-4
LOOSE = 1e-3  # of losses and gradients
RESULTS = (
    *("image_batch", "backbone", "pixel_decoder", "encoder", "two_stage", "decoder", "out", "dn_out", "final"),
    *("match", "target", "loss", "weighted", "weighted_total", "grad", "grad_norm", "dn"),
)
# Inputs, bookkeeping of the official code, and what it only logs.
NO_RESULT = re.compile(
    r"/points$|/rand_|spatial_shapes$|out_size$|/known_|batch_idx$|map_known_indice$|cardinality_error|class_error"
    r"|loss_xy|loss_hw|out/interm_outputs_for_matching_pre"
)
LOOSE_QUANTITIES = ("loss", "weighted", "weighted_total", "grad", "grad_norm", "grad_input", "grad_param")


@dataclass
class Comparison:
    """Of one run.

    Attributes:
        name: of the run.
        stored: the reference's tensors by name.
        notes: sentences on how it was compared.
        differences: largest absolute difference by name; infinite where shapes differ or infinities do not agree.
    """

    name: str
    stored: Mapping[str, Tensor]
    differences: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def compare(self, name: str, ours: Tensor, *, relative: bool = False) -> None:
        """Compare with the stored tensor of this name; a name that the reference has not is passed over."""
        if name in self.stored:
            self.record(name, ours, self.stored[name], relative=relative)

    def record(self, name: str, ours: Tensor, theirs: Tensor, *, relative: bool = False) -> None:
        """Keep the largest absolute difference; ``relative``: in shares of the larger of 1 and the reference."""
        self.differences[name] = largest_difference(ours, theirs, relative=relative)

    def uncompared(self) -> list[str]:
        """Stored results that nothing was compared with: a comparison that passes over them says nothing about them."""
        return [
            name
            for name, value in self.stored.items()
            if name.split("/")[0] in RESULTS
            and name not in self.differences
            and not NO_RESULT.search(name)
            # the official DINO stores zeros for the denoising losses of a run without denoising
            and not (name.startswith("loss/") and "_dn" in name and not bool(value.any()))
        ]

    def by_quantity(self) -> dict[str, tuple[float, float]]:
        """Largest difference and tolerance of each quantity: the name without its numbers."""
        found: dict[str, tuple[float, float]] = {}
        for name, difference in self.differences.items():
            quantity = quantity_of(name)
            largest = max(difference, found.get(quantity, (0.0, 0.0))[0])
            found[quantity] = (largest, tolerance_of(quantity))
        return found

    @property
    def failures(self) -> list[str]:
        """Names beyond the tolerance."""
        return [
            name for name, difference in self.differences.items() if not difference <= tolerance_of(quantity_of(name))
        ]


def quantity_of(name: str) -> str:
    """``out/2/pred_boxes`` -> ``out/pred_boxes``; gradients and losses are one quantity each."""
    first, *rest = name.split("/")
    if first in LOOSE_QUANTITIES:
        return first
    if first in ("match", "points"):
        return f"{first}/{rest[-1]}"
    return "/".join([first, *(part for part in rest if not part.isdigit())])


def tolerance_of(quantity: str) -> float:
    """1e-4, and 1e-3 on losses and gradients."""
    return LOOSE if quantity.split("/")[0] in LOOSE_QUANTITIES or "grad_" in quantity else TOLERANCE


def largest_difference(ours: Tensor, theirs: Tensor, *, relative: bool = False) -> float:
    """Largest absolute difference; equal infinities differ by 0, anything else that is not finite by infinity."""
    if ours.shape != theirs.shape:
        return float("inf")
    if not ours.numel():
        return 0.0
    ours, theirs = ours.detach().double(), theirs.double()
    same = ours == theirs
    difference = torch.where(same, torch.zeros_like(ours), (ours - theirs).abs())
    if relative:
        difference = difference / theirs.abs().clamp(min=1)
    return float(difference.nan_to_num(nan=float("inf"), posinf=float("inf")).max())
