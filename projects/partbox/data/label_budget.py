"""How many of the training images have part labels, of which kind, and what these labels cost."""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .part_json_types import PartDatasetError
from .pseudo_labels import is_predicted

SECONDS_PER_BOX = 34.5
"""One high-quality box drawn the usual way, for ILSVRC (Su et al. 2012, quoted by Papadopoulos et al. 2017)."""

SECONDS_PER_EXTREME_CLICK_BOX = 7.0
"""One box from four clicks on its outermost points (Papadopoulos et al. 2017, arXiv 1708.02750)."""

SECONDS_PER_MASK = 79.2
"""One polygon mask of COCO: 22 worker hours per 1,000 segmentations (Lin et al. 2014, arXiv 1405.0312, section 4.3)."""

Record = dict[str, Any]


@dataclass(frozen=True)
class LabelBudget:
    """Shares of the labelled images that keep their masks, or their boxes alone; the others count as not labelled.

    Which images these are depends on (seed, photograph, class) only, and grows with the shares: the images with masks
    at 10 % have masks at 25 % too. In a dataset whose labelled images are all of one kind, an image that is labelled in
    one budget is labelled in any with no smaller share of masks and no smaller sum of both, and no worse. Each class
    gets its share to within one image. Images whose labels a model predicted are no part of the shares and keep their
    labels: a budget is about labels that somebody is paid for.

    Attributes:
        masks: share of the labelled images with masks, in [0, 1].
        boxes: share of the labelled images with boxes alone, in [0, 1]; both together are at most 1.
        seed: of the choice.

    Raises:
        ValueError: shares out of range.
    """

    masks: float
    boxes: float
    seed: int = 0

    def __post_init__(self) -> None:
        shares = (self.masks, self.boxes)
        if not all(math.isfinite(share) and 0 <= share <= 1 for share in shares) or sum(shares) > 1 + 1e-9:
            raise ValueError(
                "shares of masks and boxes must lie in [0, 1] and sum to at most 1, "
                f"not {self.masks:g} and {self.boxes:g}"
            )

    def apply(self, records: Sequence[Record], source: str) -> list[Record]:
        """The records with the labels that the budget pays for, in the same order.

        Args:
            records: of a part dataset; those without part labels, or with predicted ones, stay as they are.
            source: what they are called in messages.

        Raises:
            PartDatasetError: fewer images have masks than the budget asks for.
        """
        order = _in_order(records, self.seed)
        with_masks = [index for index in order if records[index]["part_labels"] == "mask"]
        wanted = round(self.masks * len(order))
        if wanted > len(with_masks):
            raise PartDatasetError(
                source,
                "label budget",
                f"{wanted} of {len(order)} labelled images should have masks, {len(with_masks)} have",
                "lower DATASETS.LABEL_BUDGET.MASK_SHARE",
            )
        masks = set(with_masks[:wanted])
        rest = [index for index in order if index not in masks]
        boxes = set(rest[: round((self.masks + self.boxes) * len(order)) - wanted])
        kept = []
        for index, record in enumerate(records):
            if index in masks or not _is_bought(record):
                kept.append(record)
            else:
                kept.append(
                    _boxes_alone(record) if index in boxes else {**record, "part_labels": "none", "annotations": []}
                )
        return kept


def _is_bought(record: Mapping[str, Any]) -> bool:
    """Whether somebody labelled the image's parts, who wants to be paid for it."""
    return record["part_labels"] != "none" and not is_predicted(record)


def _in_order(records: Sequence[Record], seed: int) -> list[int]:
    """Indices of the bought images; each beginning of the list has each class's share to within one image."""
    by_class: dict[int, list[tuple[bytes, str, int]]] = defaultdict(list)
    for index, record in enumerate(records):
        if _is_bought(record):
            name = f"{record.get('source_image') or ''}|{record['image_id']}"
            by_class[record["label"]].append((budget_draw(seed, name), name, index))
    placed = []
    for label, members in by_class.items():
        for rank, (draw, name, index) in enumerate(sorted(members)):
            placed.append(((rank + 0.5) / len(members), draw, label, name, index))
    return [entry[-1] for entry in sorted(placed)]


def budget_draw(seed: int, name: str) -> bytes:
    """What the images of a class are ordered by; a budget labels the first ones."""
    return hashlib.sha256(f"{seed}|{name}".encode("utf-8", "surrogateescape")).digest()


def _boxes_alone(record: Record) -> Record:
    annotations = [{k: v for k, v in one.items() if k != "segmentation"} for one in record["annotations"]]
    return {**record, "part_labels": "box", "annotations": annotations}


@dataclass(frozen=True)
class LabelCost:
    """What part labels cost.

    Attributes:
        masks, boxes: images labelled with each.
        parts_with_masks, parts_with_boxes: labelled parts.
        hours: of labelling.
    """

    masks: int
    boxes: int
    parts_with_masks: int
    parts_with_boxes: int
    hours: float


def label_cost(
    records: Sequence[Mapping[str, Any]],
    *,
    seconds_per_box: float = SECONDS_PER_BOX,
    seconds_per_mask: float = SECONDS_PER_MASK,
) -> LabelCost:
    """Cost of the part labels of records: each labelled part takes its seconds; a look at an image takes none.

    Predicted labels cost nothing and are not counted.
    """
    bought = [record for record in records if _is_bought(record)]
    parts = {kind: [len(r["annotations"]) for r in bought if r["part_labels"] == kind] for kind in ("mask", "box")}
    seconds = sum(parts["mask"]) * seconds_per_mask + sum(parts["box"]) * seconds_per_box
    return LabelCost(len(parts["mask"]), len(parts["box"]), sum(parts["mask"]), sum(parts["box"]), seconds / 3600)
