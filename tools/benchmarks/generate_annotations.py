"""Annotation files as large as PACO-LVIS or PartImageNet++, in their layouts, with random masks: input for benchmarks.

    python tools/benchmarks/generate_annotations.py paco_lvis --output output/annotations
    python tools/benchmarks/generate_annotations.py partimagenet_pp --output output/annotations --scale 0.01

Only JSON is written, no images. ``paco_lvis``: paco_lvis_v1_{train,val,test}.json with the published numbers of images
and objects, and as many part masks as both data sets of PACO have (641,405; PACO-LVIS alone has 502,057). The parts of
an image stand far from its objects, as nothing in the layout promises that they are near. ``partimagenet_pp``:
json/<class>.json for 1,000 classes of 100 images.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from partbox.arguments import ArgumentParser

import numpy as np
import orjson
from pycocotools import mask as mask_util

from partbox.files import write_atomically
from partbox.progress import track

PACO_LVIS = {"train": (45_790, 217_117, 395_071), "val": (2_410, 10_794, 20_945), "test": (9_443, 45_861, 86_041)}
"""Split -> images, objects, part masks of PACO-LVIS (docs/PACO_DATASET.md of facebookresearch/paco)."""
PACO_PART_MASKS = 641_405
"""Part masks of PACO-LVIS and PACO-EGO4D together."""
PACO_CLASSES, PACO_PARTS = 75, 456
PACO_WITHOUT_PARTS = (2, 55)  # places of the classes that own no part
PACO_LABELLED = 209.4 / 274  # share of objects with a part (Table 1 of the paper)
PACO_SIZE = 640, 480

PIN_CLASSES, PIN_IMAGES_A_CLASS, PIN_PARTS, PIN_MASKS = 1_000, 100, 3_308, 406_364
PIN_SIZE = 500, 375

_CHUNK = 2_000  # masks made at once
_MEDIAN_SIDE, _SPREAD = 0.12, 0.9  # share of an object's side in that of its image, log-normal


def main() -> int:
    """Write the files; the last line says how many masks a second."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("layout", choices=("paco_lvis", "partimagenet_pp"), help="whose layout")
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER", help="where the files go")
    parser.add_argument("--scale", type=_positive, default=1.0, metavar="SHARE", help="of the published numbers")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="same seed and scale, same bytes")
    args = parser.parse_args()
    start = time.perf_counter()
    write = write_paco_lvis if args.layout == "paco_lvis" else write_partimagenet_pp
    masks = write(args.output, args.scale, args.seed)
    seconds = time.perf_counter() - start
    print(f"{masks:,} masks in {seconds:.1f} s, {masks / seconds:,.0f} a second, in {args.output}")
    return 0


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError("must be above 0")
    return value


# ---------------------------------------------------------------- random shapes


@dataclass(frozen=True)
class Shapes:
    """Random blobs, each a run of pixels a column.

    Attributes:
        boxes: (n, 4) int xywh; each lies inside the image and the columns of its blob are all of its columns.
        tops, bottoms: (total width,) first row of each run and the row after its last, blob after blob.
        starts: (n + 1,) where each blob's columns begin.
    """

    boxes: np.ndarray
    tops: np.ndarray
    bottoms: np.ndarray
    starts: np.ndarray


def random_shapes(rng: np.random.Generator, boxes: np.ndarray) -> Shapes:
    """An ellipse with a ragged edge in each of (n, 4) int xywh boxes; the boxes that are returned are tight."""
    x, y, w, h = boxes.T
    starts = np.concatenate([[0], np.cumsum(w)])
    column = np.arange(starts[-1]) - np.repeat(starts[:-1], w)
    across = 2 * (column + 0.5) / np.repeat(w, w) - 1
    low, height = np.repeat(y, w), np.repeat(h, w)
    half = 0.5 * height * np.sqrt(1 - across**2)
    ragged = np.maximum(1, height // 16)
    tops = np.floor(low + 0.5 * height - half).astype(np.int64) + rng.integers(0, ragged + 1)
    bottoms = np.ceil(low + 0.5 * height + half).astype(np.int64) - rng.integers(0, ragged + 1)
    tops = np.clip(tops, low, low + height - 1)
    bottoms = np.clip(bottoms, tops + 1, low + height)
    tight_low, tight_high = np.minimum.reduceat(tops, starts[:-1]), np.maximum.reduceat(bottoms, starts[:-1])
    return Shapes(np.stack([x, tight_low, w, tight_high - tight_low], axis=1), tops, bottoms, starts)


def shape_rles(shapes: Shapes, size: tuple[int, int]) -> Iterator[tuple[dict[str, Any], int]]:
    """The compressed RLE of each blob in an image of (width, height) ``size``, and its area in pixels."""
    width, height = size
    gaps = shapes.tops.copy()
    gaps[1:] += height - shapes.bottoms[:-1]
    gaps[shapes.starts[:-1]] = shapes.boxes[:, 0] * height + shapes.tops[shapes.starts[:-1]]
    runs = shapes.bottoms - shapes.tops
    both = np.stack([gaps, runs], axis=1).ravel()
    for start, end in zip(shapes.starts[:-1].tolist(), shapes.starts[1:].tolist(), strict=True):
        counts = both[2 * start : 2 * end]
        rest = width * height - int(counts.sum())
        counts = np.append(counts, rest) if rest else counts
        rle = mask_util.frPyObjects({"size": [height, width], "counts": counts}, height, width)
        yield {"size": [height, width], "counts": rle["counts"].decode("ascii")}, int(runs[start:end].sum())


def shape_polygons(shapes: Shapes, points: int) -> Iterator[np.ndarray]:
    """The outline of each blob: (m, 2) float corners, about ``points`` of them."""
    for index, (start, end) in enumerate(zip(shapes.starts[:-1].tolist(), shapes.starts[1:].tolist(), strict=True)):
        step = max(1, 2 * (end - start) // points)
        columns = np.arange(start, end, step)
        x = shapes.boxes[index, 0] + columns - start
        upper = np.stack([x, shapes.tops[columns]], axis=1)
        lower = np.stack([x + 1, shapes.bottoms[columns]], axis=1)[::-1]
        yield np.concatenate([upper, lower]).astype(float)


def random_boxes(rng: np.random.Generator, count: int, size: tuple[int, int]) -> np.ndarray:
    """(count, 4) int xywh boxes inside an image, most of them small."""
    sides = _MEDIAN_SIDE * np.exp(_SPREAD * rng.standard_normal((count, 2))) * size
    sides = np.clip(sides, 8, 0.95 * np.array(size)).astype(np.int64)
    corners = (rng.random((count, 2)) * (np.array(size) - sides)).astype(np.int64)
    return np.concatenate([corners, sides], axis=1)


def boxes_inside(rng: np.random.Generator, outer: np.ndarray) -> np.ndarray:
    """An xywh box in each of (n, 4) int xywh boxes, of a fifth to seven tenths of their sides, at least 3 pixels."""
    sides = np.clip((outer[:, 2:] * rng.uniform(0.2, 0.7, (len(outer), 2))).astype(np.int64), 3, outer[:, 2:])
    corners = outer[:, :2] + (rng.random((len(outer), 2)) * (outer[:, 2:] - sides + 1)).astype(np.int64)
    return np.concatenate([corners, sides], axis=1)


# ---------------------------------------------------------------- PACO-LVIS


@dataclass(frozen=True)
class PacoPlan:
    """What one file of PACO-LVIS holds, as arrays.

    Attributes:
        images: number of images.
        object_image, object_class: (objects,) place of the image and of the class.
        part_object, part_place: (parts,) place of the object, and of the part among those of its class.
    """

    images: int
    object_image: np.ndarray
    object_class: np.ndarray
    part_object: np.ndarray
    part_place: np.ndarray


def parts_of_classes() -> np.ndarray:
    """(classes,) how many parts each class of PACO has; their sum is PACO_PARTS."""
    with_parts = [place for place in range(PACO_CLASSES) if place not in PACO_WITHOUT_PARTS]
    counts = np.zeros(PACO_CLASSES, dtype=np.int64)
    counts[with_parts] = PACO_PARTS // len(with_parts)
    counts[with_parts[: PACO_PARTS % len(with_parts)]] += 1
    return counts


def plan_paco(rng: np.random.Generator, images: int, objects: int, parts: int) -> PacoPlan:
    """Spread objects over images and parts over objects: every image has an object, no object has a part twice."""
    crowded = rng.gamma(0.5, size=images)  # some images show many
    per_image = 1 + rng.multinomial(objects - images, crowded / crowded.sum())
    object_class = rng.integers(0, PACO_CLASSES, objects)
    labelled = rng.random(objects) < PACO_LABELLED
    ends = np.cumsum(parts_of_classes()[object_class] * labelled)
    chosen = np.sort(rng.choice(int(ends[-1]), parts, replace=False))
    part_object = np.searchsorted(ends, chosen, side="right")
    starts = np.concatenate([[0], ends[:-1]])
    object_image = np.repeat(np.arange(images), per_image)
    return PacoPlan(images, object_image, object_class, part_object, chosen - starts[part_object])


def paco_sizes(scale: float) -> dict[str, tuple[int, int, int]]:
    """Split -> images, objects, part masks of a share of PACO-LVIS, with PACO_PART_MASKS of them in all of it."""
    more = PACO_PART_MASKS / sum(parts for _, _, parts in PACO_LVIS.values())
    sizes = {}
    for split, (images, objects, parts) in PACO_LVIS.items():
        at_least_one = max(1, round(images * scale))
        sizes[split] = at_least_one, max(at_least_one, round(objects * scale)), round(parts * more * scale)
    return sizes


def write_paco_lvis(folder: Path, scale: float, seed: int) -> int:
    """Write paco_lvis_v1_{train,val,test}.json; returns the number of part masks."""
    total, first_image = 0, 1
    for place, (split, (images, objects, parts)) in enumerate(paco_sizes(scale).items()):
        rng = np.random.default_rng((seed, place))
        plan = plan_paco(rng, images, objects, parts)
        lists = {
            "images": _paco_images(plan, first_image),
            "annotations": _paco_annotations(rng, plan, first_image),
            "categories": _paco_categories(),
            "part_categories": [{"supercategory": "PART", "id": i, "name": f"part_{i}"} for i in range(7)],
            "attributes": [{"supercategory": "ATTR", "id": i, "name": f"attribute_{i}"} for i in range(59)],
        }
        _write_lists(folder / f"paco_lvis_v1_{split}.json", lists)
        total, first_image = total + len(plan.part_object), first_image + images
    return total


def _paco_images(plan: PacoPlan, first_image: int) -> Iterator[dict[str, Any]]:
    width, height = PACO_SIZE
    for number in range(first_image, first_image + plan.images):
        image = {"id": number, "file_name": f"train2017/{number:012d}.jpg", "width": width, "height": height}
        federated = {"neg_category_ids": [23], "not_exhaustive_category_ids": []}
        yield {**image, **federated, **{f"{key}_attrs": value for key, value in federated.items()}, "license": 1}


def _paco_categories() -> list[dict[str, Any]]:
    """Objects with ids from 23 on and gaps, parts with ids from 2000 on, as in the files of PACO."""
    shared = {"image_count": 0, "instance_count": 0, "frequency": "f"}
    objects = [
        {"supercategory": "OBJECT", "id": _object_id(place), "name": f"object_{place:02d}", "synset": "", **shared}
        for place in range(PACO_CLASSES)
    ]
    names = [f"object_{place:02d}:part_{i}" for place, n in enumerate(parts_of_classes()) for i in range(n)]
    parts = [
        {"supercategory": "PART", "id": 2000 + index, "name": name, "synset": name.split(":")[1], **shared}
        for index, name in enumerate(names)
    ]
    return objects + parts


def _object_id(place: int) -> int:
    return 23 + 15 * place


def _paco_annotations(rng: np.random.Generator, plan: PacoPlan, first_image: int) -> Iterator[dict[str, Any]]:
    """All objects, then all parts."""
    first_part = np.concatenate([[0], np.cumsum(parts_of_classes())])
    boxes = random_boxes(rng, len(plan.object_image), PACO_SIZE)
    rows = zip(plan.object_image.tolist(), plan.object_class.tolist(), strict=True)
    for number, ((image, class_place), shape) in enumerate(zip(rows, _rle_fields(rng, boxes), strict=True), start=1):
        yield _paco_annotation(number, first_image + image, _object_id(class_place), number, shape)
    inside = boxes_inside(rng, boxes[plan.part_object])
    rows = zip(plan.part_object.tolist(), plan.part_place.tolist(), strict=True)
    for index, ((owner, part_place), shape) in enumerate(zip(rows, _rle_fields(rng, inside), strict=True)):
        category = 2000 + int(first_part[plan.object_class[owner]]) + part_place
        image = first_image + int(plan.object_image[owner])
        yield _paco_annotation(len(boxes) + 1 + index, image, category, owner + 1, shape)


def _paco_annotation(number: int, image: int, category: int, owner: int, shape: dict[str, Any]) -> dict[str, Any]:
    entry = {"id": number, **shape, "category_id": category, "image_id": image, "obj_ann_id": owner}
    unknown = {f"unknown_{kind}": 0 for kind in ("color", "pattern_marking", "material", "transparency")}
    return {**entry, "attribute_ids": [1, 30, 41, 55], "dom_color_ids": [1], **unknown}


def _rle_fields(rng: np.random.Generator, boxes: np.ndarray) -> Iterator[dict[str, Any]]:
    for start in range(0, len(boxes), _CHUNK):
        shapes = random_shapes(rng, boxes[start : start + _CHUNK])
        for box, (rle, area) in zip(shapes.boxes.tolist(), shape_rles(shapes, PACO_SIZE), strict=True):
            yield {"bbox": box, "area": float(area), "segmentation": rle}


# ---------------------------------------------------------------- PartImageNet++


def pin_sizes(scale: float) -> tuple[np.ndarray, np.ndarray]:
    """The number of parts and of masks of each class, for a share of the classes."""
    classes = max(1, round(PIN_CLASSES * scale))
    shares = np.arange(classes + 1) / PIN_CLASSES
    parts, masks = (np.diff(np.round(shares * total)).astype(int) for total in (PIN_PARTS, PIN_MASKS))
    return parts, masks


def write_partimagenet_pp(folder: Path, scale: float, seed: int) -> int:
    """Write json/<class>.json for a share of the classes; returns the number of part masks."""
    parts, masks = pin_sizes(scale)
    for place in range(len(parts)):
        rng = np.random.default_rng((seed, place))
        name = f"n{1_440_764 + 37 * place:08d}"
        width, height = PIN_SIZE
        lists = {
            "images": [
                {"id": i + 1, "file_name": f"{name}_{i + 1}.JPEG", "width": width, "height": height}
                for i in range(PIN_IMAGES_A_CLASS)
            ],
            "annotations": _pin_annotations(rng, int(masks[place]), int(parts[place])),
            "categories": [{"id": i + 1, "name": f"part {i}", "supercategory": name} for i in range(parts[place])],
        }
        _write_lists(folder / "json" / f"{name}.json", lists)
    return int(masks.sum())


def _pin_annotations(rng: np.random.Generator, masks: int, parts: int) -> Iterator[dict[str, Any]]:
    """Parts of the one object that each image shows."""
    objects = random_boxes(rng, PIN_IMAGES_A_CLASS, (PIN_SIZE[0] // 2, PIN_SIZE[1] // 2)) * 2
    images = np.sort(rng.integers(0, PIN_IMAGES_A_CLASS, masks))
    shapes = random_shapes(rng, boxes_inside(rng, objects[images]))
    categories = rng.integers(1, parts + 1, masks).tolist()
    rows = zip(shape_polygons(shapes, points=40), images.tolist(), categories, strict=True)
    for number, (corners, image, category) in enumerate(rows, start=1):
        low, high = corners.min(axis=0), corners.max(axis=0)
        (x, y), (next_x, next_y) = corners.T, np.roll(corners, -1, axis=0).T
        shape = {
            "bbox": [*low.tolist(), *(high - low).tolist()],
            "area": abs(float((x * next_y - next_x * y).sum())) / 2,
        }
        entry = {"id": number, "image_id": image + 1, "category_id": category, **shape}
        yield {**entry, "segmentation": [corners.ravel().tolist()], "iscrowd": 0}


# ---------------------------------------------------------------- files


def _write_lists(file: Path, lists: dict[str, Iterable[dict[str, Any]]]) -> None:
    """Write a JSON object of lists entry by entry; the file is whole or not there."""

    def write(stream: IO[bytes]) -> None:
        stream.write(b'{"info": {"description": "random masks"}')
        for key, entries in lists.items():
            stream.write(b',\n"%s": [' % key.encode())
            for index, entry in enumerate(track(entries, None, f"writing {key}", "entry")):
                stream.write((b",\n" if index else b"\n") + orjson.dumps(entry))
            stream.write(b"]")
        stream.write(b"}\n")

    write_atomically(file, write)


if __name__ == "__main__":
    sys.exit(main())
