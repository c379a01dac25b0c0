"""Projected gradient descent on the training losses of a detector."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from partbox.progress import note_passes
from partbox.suggestions import unknown

from .base import AttackError, BlindAttackError, whole_numbers
from .draws import ImageId, random_starts
from .threat import ThreatModel, parse_eps

Targets = Literal["truth", "nothing", "mislabelled"]

DetectorLosses = Callable[[Tensor, Targets, int], Mapping[str, Tensor]]
"""``losses(image, targets, draw)``: image (3, H, W) in [0, 1] -> the training losses by name, each a number.

``targets``: the true objects, none at all, or the true boxes with wrong labels. ``draw`` decides what the detector
samples (proposals, anchors): the same draw must give the same losses.
"""

REGRESSION = {"reg", "regression", "loc", "giou", "iou"}
LOCALISATION = REGRESSION | {"box", "bbox", "mask", "dice", "keypoint"}
LOCALISATION |= {"centerness", "ctrness", "ctr"}  # of FCOS; "ctr" is what detectron2 calls it
LOCALISATION |= {"wh", "off", "offset", "dfl"}  # of CenterNet and the YOLO family
NAMING = {"cls", "class", "classifier", "classification"}
CLASSIFICATION = NAMING | {"ce", "objectness", "focal", "logits"}
CLASSIFICATION |= {"obj", "conf", "hm", "heatmap", "agn", "pos", "neg"}  # of YOLO, CenterNet and CenterNet2

# goal -> (targets, kind of losses, whether the attack makes them larger or smaller)
GOALS: dict[str, tuple[Targets, str, int]] = {
    "all": ("truth", "all", 1),
    "classification": ("truth", "classification", 1),
    "localisation": ("truth", "localisation", 1),
    "vanish": ("nothing", "classification", -1),
    "fabricate": ("nothing", "classification", 1),
    "mislabel": ("mislabelled", "classification", -1),
}
NEEDS_OBJECTS = ("localisation", "mislabel")  # goals with nothing to do on an image without objects


def loss_kind(name: str) -> str:
    """``classification``, ``localisation``, ``denoising`` or ``other``, from the words of a detectron2 loss's name.

    ``loss_box_reg``, ``loss_rpn_loc``, ``loss_mask_3`` are localisation, ``loss_cls``, ``loss_rpn_cls``, ``loss_ce_0``
    classification; ``loss_ce_dn_0`` judges denoising queries, which are made from the labels and do not exist when the
    detector is used.
    """
    words = {re.sub(r"\d+$", "", word) for word in name.lower().split("_")}
    if "dn" in words:
        return "denoising"
    if words & LOCALISATION and not (
        words & NAMING and not words & REGRESSION
    ):  # loss_box_cls names what is in the box
        return "localisation"
    return "classification" if words & CLASSIFICATION else "other"


@dataclass(frozen=True)
class DetectorAttackResult:
    """What an attack on one image found.

    Attributes:
        image: (3, H, W) in [0, 1], the iterate with the highest objective.
        objective: what the attack maximised, at that image.
        queries: forward passes.
        zero_gradient: every gradient that the attack saw was exactly zero.
        left_out: names of losses that are part of no goal but ``all``, because their words do not say their kind.
    """

    image: Tensor
    objective: float
    queries: int
    zero_gradient: bool
    left_out: tuple[str, ...] = ()


class DetectorPGD:
    """PGD on a detector's own training losses, one image at a time (detectors sum their losses over a batch).

    Goals:

    - ``all``, ``classification``, ``localisation``: make these losses of the true objects as large as possible (``all``
      but those of denoising queries).
    - ``vanish``: make the classification losses of an image without objects as small as possible: nothing is found.
    - ``fabricate``: make them as large as possible: objects everywhere.
    - ``mislabel``: make the classification losses of the true boxes with wrong labels as small as possible.

    The last three follow TOG (Chow et al. 2020, arXiv 2004.04320), with the detector's training losses.

    A detector samples proposals at random; each step has a draw of its own, from (seed, image id, restart, step), so
    that the attack does not only fool one sample.

    Args:
        threat: norm and eps in [0, 1] pixel space, at the size the detector sees, in the channel order it sees.
        goal: see above.
        steps: gradient steps of a restart, >= 1.
        step_size: in the threat's norm and pixel space; default 2.5 * eps / steps.
        restarts: independent runs, >= 1.
        random_start: start from a random allowed image.

    Raises:
        ValueError: unknown goal, a number out of range, or restarts without random starts.
    """

    def __init__(
        self,
        threat: ThreatModel,
        goal: str = "all",
        steps: int = 20,
        step_size: float | str | None = None,
        restarts: int = 1,
        *,
        random_start: bool = True,
    ) -> None:
        whole_numbers("DetectorPGD", steps=steps, restarts=restarts)
        if goal not in GOALS:
            raise ValueError(unknown("goal of DetectorPGD", goal, GOALS))
        if restarts > 1 and not random_start:
            raise ValueError("restarts without random starts would repeat nearly the same run: set random_start=True")
        self.threat = threat
        self.goal = goal
        self.steps = steps
        self.step_size = 2.5 * threat.eps / steps if step_size is None else parse_eps(step_size, "step size")
        if self.step_size == 0 and threat.eps > 0:
            raise ValueError("a step size of 0 never leaves the start")
        self.restarts = restarts
        self.random_start = random_start

    @property
    def name(self) -> str:
        """How tables call it, such as ``detector-pgd-20-vanish``."""
        restarts = f"x{self.restarts}" if self.restarts > 1 else ""
        return f"detector-pgd-{self.steps}{restarts}-{self.goal}"

    @property
    def passes(self) -> int:
        """Forward passes of an image; all but one a restart have a backward pass."""
        return self.restarts * (self.steps + 1)

    @property
    def settings(self) -> dict[str, int | float | str | bool]:
        """Everything but threat model and seed that decides the outcome."""
        return {
            "goal": self.goal,
            "steps": self.steps,
            "step_size": self.step_size,
            "restarts": self.restarts,
            "random_start": self.random_start,
        }

    def __call__(
        self, losses: DetectorLosses, image: Tensor, *, image_id: ImageId, seed: int = 0
    ) -> DetectorAttackResult:
        """Attack one image (3, H, W), float in [0, 1].

        Raises:
            AttackError: pixels out of range, losses that are not finite, or no loss of the kind that the goal needs.
            BlindAttackError: losses that do not depend on the image in any step.
        """
        check_image(image)
        clean = image.detach()[None]
        names: set[str] = set()

        def noted(*question: Any) -> Mapping[str, Tensor]:
            found = losses(*question)
            names.update(found)
            return found

        best, highest, queries, blind, constant = clean, -torch.inf, 0, True, True
        for restart in range(self.restarts):
            candidate = clean.clone()
            if self.random_start:
                candidate = random_starts(self.threat, clean, [image_id], seed=seed, restart=restart)
            for step in range(self.steps + 1):
                last = step == self.steps
                objective, gradient = self._ascend(noted, candidate, restart * (self.steps + 1) + step, last)
                queries += 1
                if objective > highest:
                    best, highest = candidate, objective
                if last:
                    break
                if gradient is None:  # this draw's losses are constant; another's need not be
                    continue
                constant, blind = False, blind and not bool(gradient.any())
                moved = candidate + self.step_size * self.threat.ascent_direction(gradient)
                candidate = self.threat.project(clean, moved)
        if constant:
            raise BlindAttackError("the detector's losses do not depend on the image: the attack would be blind")
        unknown_kind = sorted(name for name in names if loss_kind(name) == "other") if self.goal != "all" else []
        return DetectorAttackResult(best[0], highest, queries, blind, tuple(unknown_kind))

    def objective(self, losses: Mapping[str, Tensor]) -> Tensor:
        """What is maximised, a number.

        Raises:
            AttackError: no loss of the kind that the goal needs, or one that is not finite.
        """
        _, kind, sign = GOALS[self.goal]
        # A plain number among the losses is a constant.
        kinds = {name: loss_kind(name) for name, value in losses.items() if isinstance(value, Tensor)}
        wanted = {kind} if kind != "all" else {"classification", "localisation", "other"}
        chosen = [losses[name] for name, own in kinds.items() if own in wanted]
        if not chosen:
            raise AttackError(
                f"the goal {self.goal} needs {kind} losses, and this detector's are {', '.join(losses) or 'none'}"
            )
        total = torch.stack([value.reshape(()) for value in chosen]).sum()
        if not bool(torch.isfinite(total)):
            raise AttackError(f"the detector's losses are not finite: {', '.join(losses)}")
        return sign * total

    def _ascend(self, losses: DetectorLosses, candidate: Tensor, draw: int, last: bool) -> tuple[float, Tensor | None]:
        """Objective and its gradient at a candidate (1, 3, H, W).

        The gradient is None for the last look and where the objective does not depend on the candidate.
        """
        image = candidate[0].detach().requires_grad_(not last)
        with torch.set_grad_enabled(not last):
            objective = self.objective(losses(image, GOALS[self.goal][0], draw))
        note_passes(1)
        value = float(objective.detach())
        if not objective.requires_grad:
            return value, None
        (gradient,) = torch.autograd.grad(objective, image, allow_unused=True)
        if gradient is None:
            return value, None
        if not bool(torch.isfinite(gradient).all()):
            raise AttackError("the gradient of the detector's losses is not finite")
        return value, gradient[None]


def check_image(image: Tensor) -> None:
    """Raises AttackError for anything but a float (3, H, W) image in [0, 1]."""
    if image.dim() != 3 or not image.is_floating_point():
        raise AttackError(f"an image must be float (3, H, W) in [0, 1], not {image.dtype} {tuple(image.shape)}")
    if not bool(torch.isfinite(image).all()) or float(image.min()) < 0 or float(image.max()) > 1:
        raise AttackError("an image's pixels must lie in [0, 1]; divide 8-bit images by 255")
