"""A part-dataset file with the labels that there are and the labels that a model predicted for the other images."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .part_json_types import PartDataset
from .part_json_write import write_part_dataset
from .pseudo_labels import is_predicted

Entry = dict[str, Any]


@dataclass(frozen=True)
class PredictedPart:
    """A predicted label.

    Attributes:
        category: index of the part.
        score: in [0, 1].
        box: x, y, width, height in pixels.
        mask: RLE, or None.
    """

    category: int
    score: float
    box: Sequence[float]
    mask: Mapping[str, Any] | None


def is_annotated(record: Mapping[str, Any]) -> bool:
    """Whether an image has labels that no model made."""
    return record["part_labels"] != "none" and not is_predicted(record)


def write_merged_labels(
    json_file: str | Path,
    dataset: PartDataset,
    records: Sequence[Mapping[str, Any]],
    predicted: Mapping[int | str, Sequence[PredictedPart]],
    *,
    kind: str,
    keep_annotated: bool,
    info: Mapping[str, Any],
) -> None:
    """Write annotated and predicted labels of a dataset into one part-dataset file; classes and parts stay.

    Annotated images keep the entries of their file, unknown keys included, but for ``part_labels``, which is written
    out, and for the masks that a label budget took away. An image in which nothing was predicted is "none": not
    labelled. That a model is sure of no part of an image does not mean that none is there.

    Args:
        json_file: where to.
        dataset: the images.
        records: its records, with the labels that may be used (of a label budget).
        predicted: image id -> what was predicted, for the images without annotated labels.
        kind: what is predicted, "mask" or "box".
        keep_annotated: whether annotated images are in the file.
        info: goes into ``info.pseudo_labels``.

    Raises:
        PartDatasetError: a predicted label that the format refuses.
    """
    source = json.loads(Path(dataset.json_file).read_bytes())
    of_image: dict[int | str, list[Entry]] = {record["image_id"]: [] for record in records}
    for entry in source["annotations"]:
        of_image[entry["image_id"]].append(entry)
    images: list[Entry] = []
    annotations: list[Entry] = []
    new_id = max((entry["id"] for entry in source["annotations"]), default=0)
    for image, record in zip(source["images"], records, strict=True):
        if is_annotated(record):
            if keep_annotated:
                images.append({**image, "part_labels": record["part_labels"]})
                annotations += _kept(of_image[image["id"]], record)
            continue
        parts = predicted[image["id"]]
        bare = {key: value for key, value in image.items() if key not in ("part_labels", "label_source")}
        labels = {"part_labels": kind, "label_source": "predicted"} if parts else {"part_labels": "none"}
        images.append({**bare, **labels})
        for part in parts:
            new_id += 1
            annotations.append(_annotation(new_id, image["id"], dataset.categories[part.category].id, part))
    before = source.get("info")
    write_part_dataset(
        json_file,
        classes=source["classes"],
        categories=source["categories"],
        images=images,
        annotations=annotations,
        info={**(before if isinstance(before, dict) else {}), "pseudo_labels": info},
    )


def _kept(entries: Sequence[Entry], record: Mapping[str, Any]) -> list[Entry]:
    """The annotations of an image as they stand in its file, without masks where the record has none any more."""
    kept = []
    for entry, part in zip(entries, record["annotations"], strict=True):
        taken = "segmentation" in entry and "segmentation" not in part
        # the area is that of the mask: the box's takes its place
        kept.append({k: v for k, v in entry.items() if not taken or k not in ("segmentation", "area")})
    return kept


def _annotation(annotation_id: int, image_id: int | str, category_id: int, part: PredictedPart) -> Entry:
    entry = {
        "id": annotation_id,
        "image_id": image_id,
        "category_id": category_id,
        "bbox": list(part.box),
        "score": part.score,
    }
    return entry if part.mask is None else {**entry, "segmentation": dict(part.mask)}
