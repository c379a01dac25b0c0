"""One record an image and perturbation: what every summary is computed from."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from partbox.files import write_lines


@dataclass(frozen=True)
class Record:
    """What happened to one image under one perturbation.

    Attributes:
        image_id: as in the dataset file.
        perturbation: name.
        label: true class index.
        prediction: class index on the perturbed image.
        fooled: the prediction is wrong.
        loss: margin of the logits on the perturbed image, positive when fooled.
        queries: forward passes that the perturbation spent.
        distance: size of the perturbation in the threat's norm, [0, 1] pixel space; 0 for clean.
        zero_gradient: the attack saw nothing but zero gradients.
        fooled_by: name of the attack of an ensemble that fooled it; ``clean`` where the clean image is misclassified.
    """

    image_id: int | str
    perturbation: str
    label: int
    prediction: int
    fooled: bool
    loss: float | None
    queries: int
    distance: float
    zero_gradient: bool
    fooled_by: str = ""


def write_records(path: str | Path, records: Iterable[Record]) -> None:
    """Write one JSON object a line, whole or not at all."""
    write_lines(path, (json.dumps(asdict(record)) for record in records))


def read_records(path: str | Path) -> list[Record]:
    """Read what :func:`write_records` wrote."""
    with open(path, encoding="utf-8") as file:
        return [Record(**json.loads(line)) for line in file]
