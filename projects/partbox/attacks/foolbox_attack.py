"""Any attack of the foolbox library by name: HopSkipJump, Boundary, ..."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from partbox.suggestions import did_you_mean

from .base import Attack, Predict, Search, forward
from .draws import ImageId, drawn_from, image_seed
from .objectives import margin
from .threat import ThreatModel

REFUSED = {
    "BinarizationRefinementAttack": "it refines what another attack has found",
    "DatasetAttack": "it needs other images to be fed to it first",
    "GenAttack": "it is for targeted misclassification only",
}


def follows_gradients(attack: str) -> bool:
    """Whether an attack of ``foolbox.attacks`` asks for gradients; the others look at the model's answers alone."""
    searches = ("HopSkipJumpAttack", "BoundaryAttack", "PointwiseAttack", "GaussianBlurAttack", "InversionAttack")
    return attack not in searches and not attack.endswith("NoiseAttack") and "ContrastReduction" not in attack


class FoolboxAttack(Attack):
    """An attack of ``foolbox.attacks``, one image at a time, so that the draw of each image is its own.

    Attacks that search the smallest perturbation count as successful when it lies within eps. Those with a
    ``constraint`` (HopSkipJumpAttack) or a ``distance`` of their choice get the threat's norm.

    Args:
        threat: norm and eps in [0, 1] pixel space.
        attack: name of a class in ``foolbox.attacks``.
        options: of its constructor, plain values.

    Raises:
        ValueError: no such attack, an option that it does not have, an attack of another norm, or one that needs more
            than an image and its label.
        ImportError: foolbox is not installed.
    """

    def __init__(
        self, threat: ThreatModel, attack: str = "HopSkipJumpAttack", options: dict[str, Any] | None = None
    ) -> None:
        import foolbox

        threat.only("linf", "l2", of="FoolboxAttack")
        kind = getattr(foolbox.attacks, attack, None)
        if not inspect.isclass(kind) or not issubclass(kind, foolbox.attacks.base.Attack):
            raise ValueError(
                f"foolbox has no attack {attack!r}; such as HopSkipJumpAttack, BoundaryAttack"
                f"{did_you_mean(attack, (name for name in dir(foolbox.attacks) if name.endswith('Attack')))}"
            )
        if attack in REFUSED:
            raise ValueError(f"foolbox's {attack} cannot be used here: {REFUSED[attack]}")
        distance = {"linf": foolbox.distances.linf, "l2": foolbox.distances.l2}[threat.norm]
        known = inspect.signature(kind).parameters
        given = dict(options or {})
        unknown = sorted(set(given) - set(known))
        if unknown:
            hint = did_you_mean(unknown[0], known)
            raise ValueError(f"foolbox's {attack} has no option {', '.join(unknown)}; it has {', '.join(known)}{hint}")
        if "constraint" in known:
            given.setdefault("constraint", threat.norm)
            if given["constraint"] != threat.norm:
                raise ValueError(
                    f"{attack}: the constraint {given['constraint']} is not the threat's norm {threat.norm}"
                )
        if "distance" in given:
            raise ValueError(f"{attack}: the distance is the threat's, {threat.norm}")
        try:
            self._attack: Any = kind(**given, **({"distance": distance} if "distance" in known else {}))
        except TypeError as error:
            raise ValueError(f"foolbox's {attack} cannot be built: {error}") from error
        flexible = foolbox.attacks.base.FlexibleDistanceMinimizationAttack
        if isinstance(self._attack, flexible) and not hasattr(self._attack, "_distance"):
            self._attack._distance = distance  # PointwiseAttack forgets to
        own = getattr(self._attack, "distance", None)
        if own is not None and type(own) is type(distance) and own.p != distance.p:
            raise ValueError(f"foolbox's {attack} works in {own}, not in {threat.norm}")
        self.threat = threat
        self.attack = attack
        self.options = given

    @property
    def name(self) -> str:
        return f"foolbox-{self.attack}"

    @property
    def passes(self) -> int:
        """Unknown before the attack has run; foolbox counts in steps. What was spent stands in the result."""
        return 2

    @property
    def settings(self) -> dict[str, int | float | str | bool]:
        return {"attack": self.attack, **{f"option_{key}": value for key, value in self.options.items()}}

    def search(self, predict: Predict, search: Search, image_ids: Sequence[ImageId], seed: int) -> None:
        import foolbox

        for row in search.remaining.tolist():
            image, label = search.clean[row : row + 1].contiguous(), search.labels[row : row + 1]
            counted = _Counted(predict)
            model = foolbox.PyTorchModel(counted, bounds=(0, 1), device=image.device)
            with drawn_from(image_seed(seed, image_ids[row], 0)):
                try:
                    criterion = foolbox.criteria.Misclassification(label)
                    _, found, _ = self._attack(model, image, criterion, epsilons=self.threat.eps)
                except ValueError as error:
                    if "init_attack" not in str(error):  # no start was found: the image stays right
                        raise
                    found = image
            search.queries[row] += counted.images
            found = self.threat.project(image, found.detach())
            logits = forward(predict, found, label)
            if int(logits.argmax()) != int(label):
                search.accept(torch.tensor([row], device=image.device), found, margin(logits, label))


class _Counted(nn.Module):
    """A model that counts the images it is asked about."""

    def __init__(self, predict: Predict) -> None:
        super().__init__()
        self.predict, self.images = predict, 0
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        self.images += len(images)
        return self.predict(images)
