"""AutoAttack (Croce & Hein 2020, arXiv 2003.01690): an ensemble without settings to tune."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from partbox.suggestions import unknown

from .apgd import APGD
from .base import Attack, Predict, Search
from .draws import ImageId
from .fab import FAB
from .square import Square
from .threat import ThreatModel

VERSIONS: dict[str, Callable[[ThreatModel], list[Attack]]] = {
    "standard": lambda threat: [
        APGD(threat),
        APGD(threat, loss="dlr-targeted"),
        FAB(threat, targeted=True),
        Square(threat),
    ],
    "plus": lambda threat: [
        APGD(threat, restarts=5),
        APGD(threat, loss="dlr", restarts=5),
        FAB(threat, restarts=5),
        Square(threat),
        APGD(threat, loss="dlr-targeted"),
        FAB(threat, targeted=True),
    ],
    "rand": lambda threat: [APGD(threat, average=20), APGD(threat, loss="dlr", average=20)],
}
ORDERS = ("published", "cheapest")


class AutoAttack(Attack):
    """The attacks of a version one after the other, each on the images that are still right, from the clean image.

    The versions have the attacks, the order and the budgets of the official implementation: ``standard`` (APGD-CE,
    APGD-T, FAB-T, Square), ``plus`` (more restarts, untargeted forms too) and ``rand`` for models with random answers
    (gradients averaged over 20 passes). With K classes the targeted attacks take min(9, K - 1) targets.

    Args:
        threat: norm and eps in [0, 1] pixel space.
        version: ``standard``, ``plus`` or ``rand``.
        order: ``published``, or ``cheapest``: attacks with fewer passes first. The verdicts are the same, since no draw
            depends on what ran before; only the time and the attack that gets the credit differ.

    Raises:
        ValueError: unknown version or order.
    """

    def __init__(self, threat: ThreatModel, version: str = "standard", *, order: str = "published") -> None:
        threat.only("linf", "l2", of="AutoAttack")
        if version not in VERSIONS:
            raise ValueError(unknown("version of AutoAttack", version, VERSIONS))
        if order not in ORDERS:
            raise ValueError(unknown("order of AutoAttack", order, ORDERS))
        self.threat = threat
        self.version = version
        self.order = order
        self.attacks = VERSIONS[version](threat)
        if order == "cheapest":
            self.attacks.sort(key=lambda attack: attack.passes)

    @property
    def name(self) -> str:
        return "autoattack" + ("" if self.version == "standard" else f"-{self.version}")

    @property
    def passes(self) -> int:
        return 1 + sum(attack.passes - 1 for attack in self.attacks)

    @property
    def settings(self) -> dict[str, int | float | str | bool]:
        names = ", ".join(attack.name for attack in self.attacks)
        return {"version": self.version, "order": self.order, "attacks": names}

    def search(self, predict: Predict, search: Search, image_ids: Sequence[ImageId], seed: int) -> None:
        for attack in self.attacks:
            rows = search.remaining
            if not len(rows):
                return
            part = search.part(rows)
            attack.search(predict, part, [image_ids[row] for row in rows.tolist()], seed)
            part.found_by(attack.name)
            search.merge(rows, part)
