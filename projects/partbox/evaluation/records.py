"""One record an image and perturbation: what every number is computed from."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from partbox.files import write_lines


@dataclass(frozen=True)
class Record:
    """What happened to one image under one perturbation.

    Attributes:
        image_id: as in the dataset file.
        perturbation: name.
        label: true class index; None from a detector or segmenter.
        prediction: class index on the perturbed image; None from a detector or segmenter.
        fooled: the prediction is wrong. From a detector: the image has objects, and none of them is found.
        loss: of a classifier, the margin of the logits on the perturbed image, positive when fooled; of a detector or
            segmenter, what the attack maximised; None where unknown.
        queries: forward passes that the perturbation spent.
        distance: size of the perturbation in the threat's norm, [0, 1] pixel space; 0 without a threat model.
        zero_gradient: the attack saw nothing but zero gradients.
        fooled_by: name of the attack of an ensemble that fooled it; ``clean`` where the clean image is misclassified.
        notes: sentences on what differs from the published attack.
        objects: labelled objects of a detector's image; None from a classifier or segmenter.
        found: how many of them are found, see :class:`partbox.evaluation.detectron2_subject.DetectorSubject`.
        false_objects: sure predictions on a detector's image that are no labelled object.
        measurements: what each evaluator keeps of the image, by its name.
    """

    image_id: int | str
    perturbation: str
    label: int | None
    prediction: int | None
    fooled: bool
    loss: float | None
    queries: int
    distance: float
    zero_gradient: bool
    fooled_by: str = ""
    notes: tuple[str, ...] = ()
    objects: int | None = None
    found: int | None = None
    false_objects: int | None = None
    measurements: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self, *, measurements: bool = True) -> dict[str, Any]:
        """Plain values; without the evaluators' measurements on request."""
        values = {one.name: getattr(self, one.name) for one in fields(self)}
        values["notes"] = list(self.notes)
        if not measurements:
            del values["measurements"]
        return values

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Record:
        """The record of what :meth:`to_json` gave."""
        return cls(**{**values, "notes": tuple(values["notes"])})


def write_records(path: str | Path, records: Iterable[Record]) -> None:
    """Write one JSON object a line, without the evaluators' measurements; whole or not at all."""
    write_lines(path, (json.dumps(record.to_json(measurements=False)) for record in records))


def read_records(path: str | Path) -> list[Record]:
    """Read what :func:`write_records` wrote."""
    with open(path, encoding="utf-8") as file:
        return [Record.from_json(json.loads(line)) for line in file]
