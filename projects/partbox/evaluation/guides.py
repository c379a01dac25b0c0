"""Part maps of other images, towards which a guided attack moves the parts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from partbox.attacks.draws import image_seed

Mapper = Callable[[dict[str, Any]], dict[str, Any]]


class GuideBook:
    """For each image the part map of an image of another class, drawn from (seed, image id) only.

    Args:
        records: of the evaluated images; those with part labels can guide.
        mapper: gives samples with ``part_map`` (H, W) of one size.
    """

    def __init__(self, records: Sequence[dict[str, Any]], mapper: Mapper) -> None:
        self.mapper = mapper
        self._by_label: dict[int, list[dict[str, Any]]] = {}
        for record in records:
            if record.get("part_labels", "none") != "none" and record.get("annotations"):
                self._by_label.setdefault(record["label"], []).append(record)

    def guide(self, sample: Mapping[str, Any], seed: int) -> Tensor:
        """The part map (H, W) for a sample.

        Raises:
            ValueError: no labelled image of another class.
        """
        classes = sorted(self._by_label.items())
        others = [record for label, of_class in classes if label != sample["label"] for record in of_class]
        if not others:
            raise ValueError("a guided attack needs images of another class with part labels")
        chosen = others[image_seed(seed, f"guide of {sample['image_id']}", 0) % len(others)]
        part_map: Tensor = self.mapper(chosen)["part_map"]
        return part_map
