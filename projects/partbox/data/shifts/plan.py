"""Which images of a part dataset are shifted, and which are left out: the same for every shift.

So the accuracies under two shifts, and on "original", are of the same images and may be subtracted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from partbox.data.part_json_types import PartDataset, PartDatasetError
from partbox.progress import track

from .donors import Donors, photograph
from .foreground import Rectangle, bounding_box, part_union
from .kinds import SHIFTS, Shift

MAX_BOX_SHARE = 0.9
"""Share of an image that the bounding box of its foreground may cover; beyond there is no background to speak of."""

NOT_LABELLED = "its parts are not labelled"
PREDICTED = "a model predicted its part labels"
NO_PART = "no part is visible"
NO_BACKGROUND = f"the bounding box of its parts covers more than {MAX_BOX_SHARE:.0%} of it"
NO_DONOR = "no other photograph of its class has a background"
NO_OTHER_DONOR = "no other photograph of another class has a background"

Record = dict[str, Any]


@dataclass(frozen=True)
class ShiftPlan:
    """What is shifted.

    Attributes:
        records: the images, in the order of the file.
        donors: of backgrounds and textures.
        left_out: reason -> number of images.
        with_neighbours: number of ``records`` whose photograph shows other labelled objects too, which may stand in
            the background.
    """

    records: list[Record]
    donors: Donors
    left_out: Counter[str]
    with_neighbours: int


def plan_shifts(dataset: PartDataset) -> ShiftPlan:
    """Choose the images.

    Raises:
        PartDatasetError: if none is left.
    """
    left_out: Counter[str] = Counter()
    usable: list[Record] = []
    boxes: list[Rectangle] = []
    for record in track(dataset.records, len(dataset.records), "looking at parts", "image"):
        box = _foreground_box(record)
        if isinstance(box, str):
            left_out[box] += 1
        else:
            usable.append(record)
            boxes.append(box)
    donors = Donors(usable, boxes, dataset.records)
    records = []
    for record in usable:
        reason = _why_no_donor(record, donors)
        if reason:
            left_out[reason] += 1
        else:
            records.append(record)
    if not records:
        reasons = "; ".join(f"{count} because {reason}" for reason, count in left_out.most_common())
        reason = f"none of the {len(dataset.records)} images can be shifted: {reasons}"
        raise PartDatasetError(dataset.json_file, "images", reason, "give a file with labelled parts")
    cut = Counter(map(photograph, dataset.records))
    return ShiftPlan(records, donors, left_out, sum(cut[photograph(record)] > 1 for record in records))


def check_shifts(shifts: Sequence[Shift], dataset: PartDataset, plan: ShiftPlan) -> None:
    """Refuse shifts that need images of several classes where there is one.

    Raises:
        PartDatasetError: naming them, and those that are possible.
    """
    across = [shift.name for shift in shifts if shift.donor in ("next", "other")]
    if across and len(plan.donors.labels()) < 2:
        possible = [shift.name for shift in SHIFTS.values() if shift.donor not in ("next", "other")]
        reason = f"images of one class only have a background, and {', '.join(across)} take another class's"
        raise PartDatasetError(dataset.json_file, "classes", reason, f"--shift {' '.join(possible)} are possible")


def _foreground_box(record: Record) -> Rectangle | str:
    """The bounding box of the parts, or why the image is left out."""
    if record["part_labels"] == "none":
        return NOT_LABELLED
    if record["label_source"] == "predicted":
        return PREDICTED  # what is measured must not depend on another model's mistakes
    union = part_union(record)
    if not union.any():
        return NO_PART
    box = bounding_box(union)
    return box if box.area <= MAX_BOX_SHARE * union.size else NO_BACKGROUND


def _why_no_donor(record: Record, donors: Donors) -> str:
    """Why an image is left out though it has foreground and background; "" if it is not."""
    if not donors.has("same", record):
        return NO_DONOR
    if len(donors.labels()) > 1 and not donors.has("other", record):
        return NO_OTHER_DONOR
    return ""
