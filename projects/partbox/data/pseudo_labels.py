"""Predicted part labels (pseudo-labels) beside annotated ones, and what they count in training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

Record = dict[str, Any]


def is_predicted(record: Mapping[str, Any]) -> bool:
    """Whether a model made an image's part labels."""
    return record.get("label_source") == "predicted"


def weigh_predicted(records: Sequence[Record], weight: float, *, times_score: bool = False) -> list[Record]:
    """The records of a training dataset, predicted labels with what they count as ``part_weight``.

    The part term of an image with predicted labels counts w = ``weight``, or w = ``weight`` times the mean score of its
    parts (times 1 for an image in which no part is visible). An image whose w is 0 becomes one without part labels. Its
    class counts in full.

    Args:
        records: of a part dataset; those with annotated labels stay as they are.
        weight: in [0, 1].
        times_score: whether scores count.

    Raises:
        ValueError: weight out of range.
    """
    if not 0 <= weight <= 1:
        raise ValueError(f"the weight of predicted labels must lie in [0, 1], not {weight}")
    weighed = []
    for record in records:
        if not is_predicted(record):
            weighed.append(record)
            continue
        scores = [part["score"] for part in record["annotations"]] if times_score else []
        own = weight * (fmean(scores) if scores else 1.0)
        if own:
            weighed.append({**record, "part_weight": own})
        else:
            weighed.append({**record, "part_labels": "none", "label_source": "annotated", "annotations": []})
    return weighed
