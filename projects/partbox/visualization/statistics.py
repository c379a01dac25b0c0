"""What a part dataset holds: images and parts by class and kind of label, sizes, parts that appear together."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
from pycocotools import mask as mask_util

from partbox.data import PartDataset
from partbox.progress import track

from .labels import part_names

Record = Mapping[str, Any]
QUANTILES = {"minimum": 0.0, "p05": 0.05, "median": 0.5, "p95": 0.95, "maximum": 1.0}
UNUSED = "masks_not_used"


def dataset_statistics(dataset: PartDataset) -> dict[str, Any]:
    """The numbers of one file, as plain values.

    ``totals``, ``classes`` (a list, in the order of the file), ``parts`` (likewise), ``together`` (pairs of parts and
    the number of images that show both), ``image_width`` and ``image_height`` in pixels. Sizes are shares of the image:
    ``box_area`` and ``mask_area`` of its area, ``box_width`` and ``box_height`` of its sides, in [0, 1]. An image that
    counts as labelled with boxes shows no mask, even if the file has some: ``masks_not_used`` counts those.
    """
    shown: dict[int, set[int]] = {}  # parts that each labelled image shows, by the image's place
    sizes: dict[int, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    unused = 0
    for place, record in enumerate(track(dataset.records, len(dataset.records), "counting", "image")):
        if record["part_labels"] != "none":
            shown[place] = {part["category_id"] for part in record["annotations"]}
        for part in record["annotations"]:
            _measure(record, part, sizes[part["category_id"]])
            unused += "segmentation" in part and record["part_labels"] != "mask"
    return {
        "file": str(dataset.json_file),
        "totals": {**_counts(dataset.records), UNUSED: unused},
        "image_width": _spread([record["width"] for record in dataset.records]),
        "image_height": _spread([record["height"] for record in dataset.records]),
        "classes": _by_class(dataset),
        "parts": _by_part(dataset, shown, sizes),
        "together": _together(dataset, shown.values()),
    }


def _counts(records: Sequence[Record]) -> dict[str, int]:
    """Images, by kind of labels, and annotated parts."""
    kinds = Counter(record["part_labels"] for record in records)
    labelled = [record for record in records if record["part_labels"] != "none"]
    return {
        "images": len(records),
        "mask": kinds["mask"],
        "box": kinds["box"],
        "none": kinds["none"],
        "predicted": sum(record["label_source"] == "predicted" for record in records),
        "no_part_visible": sum(not record["annotations"] for record in labelled),
        "annotations": sum(len(record["annotations"]) for record in records),
    }


def _by_class(dataset: PartDataset) -> list[dict[str, Any]]:
    groups: dict[int, list[Record]] = defaultdict(list)
    for record in dataset.records:
        groups[record["label"]].append(record)
    return [{"class": name, **_counts(groups[index])} for index, name in enumerate(dataset.class_names)]


def _by_part(
    dataset: PartDataset, shown: Mapping[int, set[int]], sizes: Mapping[int, Mapping[str, list[float]]]
) -> list[dict[str, Any]]:
    annotations = Counter(part["category_id"] for record in dataset.records for part in record["annotations"])
    images = Counter(part for parts in shown.values() for part in parts)
    entries = []
    for index, category in enumerate(dataset.categories):
        measured = sizes.get(index, {})
        entries.append(
            {
                "class": dataset.class_names[category.class_index],
                "part": category.name,
                "annotations": annotations[index],
                "images": images[index],
                "masks": len(measured.get("mask_area", ())),
                **{key: _spread(measured.get(key, ())) for key in ("box_area", "box_width", "box_height", "mask_area")},
            }
        )
    return entries


def _measure(record: Record, part: Mapping[str, Any], sizes: dict[str, list[float]]) -> None:
    """Add the sizes of one labelled part, as shares of the image."""
    height, width = record["height"], record["width"]
    _, _, w, h = part["bbox"]  # xywh
    sizes["box_width"].append(w / width)
    sizes["box_height"].append(h / height)
    sizes["box_area"].append(w * h / (width * height))
    if record["part_labels"] == "mask":
        sizes["mask_area"].append(mask_pixels(part["segmentation"], height, width) / (width * height))


def mask_pixels(segmentation: Any, height: int, width: int) -> int:
    """Pixels of polygons or RLE (compressed or not), without decoding the mask."""
    if isinstance(segmentation, list):
        runs = mask_util.merge(mask_util.frPyObjects(segmentation, height, width))
    elif isinstance(segmentation["counts"], list):
        runs = mask_util.frPyObjects(segmentation, height, width)
    else:
        runs = segmentation
    return int(mask_util.area(runs))


def _spread(values: Sequence[float]) -> dict[str, float] | None:
    """Mean and quantiles; None of nothing."""
    if not len(values):
        return None
    array = np.asarray(values, dtype=np.float64)
    return {"mean": float(array.mean()), **{name: float(np.quantile(array, q)) for name, q in QUANTILES.items()}}


def _together(dataset: PartDataset, shown: Iterable[set[int]]) -> list[dict[str, Any]]:
    """Pairs of parts that are seen in one image, the most frequent first."""
    pairs = Counter(pair for parts in shown for pair in combinations(sorted(parts), 2))
    names = part_names(dataset)
    ordered = sorted(pairs.items(), key=lambda pair: (-pair[1], pair[0]))
    return [{"parts": [names[one], names[other]], "images": images} for (one, other), images in ordered]


def shared_photographs(datasets: Mapping[str, PartDataset]) -> list[dict[str, Any]]:
    """Photographs that stand in two of the files, by pair of files: a split with some leaks.

    A photograph is the ``source_image`` of an image, else its file, wherever links lead.
    """
    photographs = {
        name: {record["source_image"] or os.path.realpath(record["file_name"]) for record in dataset.records}
        for name, dataset in datasets.items()
    }
    found = []
    for one, other in combinations(photographs, 2):
        both = photographs[one] & photographs[other]
        if both:
            found.append({"files": [one, other], "photographs": len(both), "for_example": min(both)})
    return found
