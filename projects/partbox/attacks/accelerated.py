"""Searching with a faster form of the network; every verdict is confirmed with the network itself."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .base import Attack, Predict, Search, forward
from .draws import ImageId
from .folding import FoldedNetwork
from .objectives import margin

PRECISIONS = ("float32", "bfloat16")


class AcceleratedAttack(Attack):
    """Any attack on logits, searching with a faster form of the network.

    What it finds is asked of the network itself, as given, and only that answer counts. An image that only the faster
    form took for fooled is attacked again by the plain attack. So no image is called fooled that the network
    classifies correctly; the other way round, rounded gradients may lead the search elsewhere, and an image that the
    plain attack fools may stay right. Both effects are measured in ``docs/measurements.md``.

    Args:
        attack: the attack.
        precision: ``float32``, or ``bfloat16`` for convolutions and matrix products (``torch.autocast``).
        compiled: ``torch.compile`` the network: needs a C++ compiler on a CPU, and some seconds for each network.
        fold_batch_norm: fold every BatchNorm into the convolution before it, see :class:`FoldedNetwork`: the same
            function up to rounding. The network must be a module, or ``predict`` a method of one.

    Raises:
        ValueError: an unknown precision, or nothing to accelerate; when called, a network that cannot be folded.
    """

    def __init__(
        self, attack: Attack, *, precision: str = "float32", compiled: bool = False, fold_batch_norm: bool = False
    ) -> None:
        if precision not in PRECISIONS:
            raise ValueError(f"unknown precision {precision!r}; known: {', '.join(PRECISIONS)}")
        if precision == "float32" and not compiled and not fold_batch_norm:
            raise ValueError(
                "nothing to accelerate: give precision='bfloat16', compiled=True, fold_batch_norm=True, or the attack "
                "as it is"
            )
        self.attack = attack
        self.threat = attack.threat
        self.precision = precision
        self.compiled = compiled
        self.fold_batch_norm = fold_batch_norm
        self._folded_form: tuple[Predict, FoldedNetwork] | None = None
        self._compiled_form: tuple[Predict, Predict] | None = None

    @property
    def name(self) -> str:
        how = [self.precision] if self.precision != "float32" else []
        how += ["compiled"] * self.compiled + ["folded"] * self.fold_batch_norm
        return f"{self.attack.name} ({', '.join(how)})"

    @property
    def passes(self) -> int:
        # the clean pass, the search, the verdict, and the search without acceleration where the verdict was another
        return 2 * self.attack.passes

    @property
    def settings(self) -> dict[str, int | float | str | bool]:
        forms = {"compiled": self.compiled, "fold_batch_norm": self.fold_batch_norm}
        return {**self.attack.settings, "precision": self.precision, **forms}

    def search(self, predict: Predict, search: Search, image_ids: Sequence[ImageId], seed: int) -> None:
        rows = search.remaining
        if not len(rows):
            return
        ids = [image_ids[row] for row in rows.tolist()]
        part = search.part(rows)
        self.attack.search(self._faster(predict, part.images), part, ids, seed)
        part.found_by(self.attack.name)
        doubtful = self._confirm(predict, part)
        if len(doubtful):
            again = part.part(doubtful)
            self.attack.search(predict, again, [ids[row] for row in doubtful.tolist()], seed)
            again.found_by(self.attack.name)
            part.merge(doubtful, again)
            part.notes.append("images that only the accelerated network took for fooled were attacked again without it")
        search.merge(rows, part)

    @staticmethod
    def _confirm(predict: Predict, part: Search) -> Tensor:
        """Ask the network about the images found; rows (N,) that the faster form wrongly took for fooled."""
        logits = forward(predict, part.images, part.labels)
        part.queries += 1
        wrong = logits.argmax(dim=1) != part.labels
        doubtful = (part.fooled & ~wrong).nonzero().squeeze(1)
        for row in doubtful.tolist():
            part.fooled_by[row] = ""
        part.fooled, part.margin = wrong, margin(logits, part.labels)
        return doubtful

    def _faster(self, predict: Predict, images: Tensor) -> Predict:
        fast = self._fold(predict, images) if self.fold_batch_norm else predict
        fast = self._compile(fast) if self.compiled else fast
        if self.precision == "float32":
            return fast

        def rounded(images: Tensor) -> Tensor:
            with torch.autocast(images.device.type, dtype=torch.bfloat16):
                return fast(images).float()

        return rounded

    def _fold(self, predict: Predict, images: Tensor) -> Predict:
        """The folded network, kept from batch to batch; its weights are those of now."""
        if self._folded_form is None or self._folded_form[0] != predict:
            self._folded_form = (predict, FoldedNetwork(predict, images))
        self._folded_form[1].refresh()
        return self._folded_form[1].predict

    def _compile(self, predict: Predict) -> Predict:
        """The compiled network, kept from batch to batch; the batch size stays free, since images leave early."""
        if self._compiled_form is None or self._compiled_form[0] != predict:
            compiled: Predict = torch.compile(predict, dynamic=True)
            self._compiled_form = (predict, compiled)
        return self._compiled_form[1]
