"""A small valid part dataset that tests take apart: the parsed JSON, and its image files."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as mask_util

from partbox.data.catalog import BUILTIN_DATASETS, SHIFTED_NAMES, SPLITS, unregister_part_dataset

Document = dict[str, Any]


def ellipse(height: int, width: int, box: list[float]) -> np.ndarray:
    """A mask (height, width) uint8 of the ellipse in an xywh box, in pycocotools' memory order."""
    rows, columns = np.mgrid[:height, :width] + 0.5
    x, y, w, h = box
    inside = ((columns - x - w / 2) / w) ** 2 + ((rows - y - h / 2) / h) ** 2 < 0.25
    return np.asfortranarray(inside.astype(np.uint8))


def compressed(mask: np.ndarray) -> dict[str, Any]:
    """The compressed RLE of a mask, as it stands in JSON."""
    encoded = mask_util.encode(mask)
    return {"size": encoded["size"], "counts": encoded["counts"].decode()}


def uncompressed(mask: np.ndarray) -> dict[str, Any]:
    """The uncompressed RLE of a mask."""
    flat = mask.ravel(order="F")
    changes = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff(np.concatenate([[0], changes, [len(flat)]])).tolist()
    return {"size": list(mask.shape), "counts": [0] * int(flat[0]) + counts}


def valid_document() -> Document:
    """Two classes, four parts, six images with 9 annotations: polygons, both kinds of RLE, boxes, nothing.

    images: 0 dog, all masks; 1 dog, one mask and one box; 2 car, boxes; 3 car, "none"; 4 dog, no part; 5 car, "mask",
    predicted by a model.
    """
    images = [
        {"id": 10, "file_name": "dogs/a.png", "width": 24, "height": 16, "class_id": 7, "source_image": "photo1"},
        {"id": 11, "file_name": "dogs/b.jpg", "width": 16, "height": 24, "class_id": 7},
        {"id": 12, "file_name": "c.png", "width": 20, "height": 20, "class_id": 5, "part_labels": "box"},
        {"id": 13, "file_name": "d.jpg", "width": 20, "height": 20, "class_id": 5, "part_labels": "none"},
        {"id": 14, "file_name": "e.png", "width": 9, "height": 7, "class_id": 7},
        {"id": 15, "file_name": "f.jpg", "width": 30, "height": 12, "class_id": 5, "part_labels": "mask"},
    ]
    images[5]["label_source"] = "predicted"
    head, wheel = [2.0, 3.0, 10.0, 8.0], [5.0, 1.0, 9.0, 9.0]
    triangle = [2, 3, 12.0, 3, 7, 11]
    large = [0, 0, 29, 0, 15, 12]
    oval = ellipse(12, 30, wheel)
    square = [1, 1, 4, 1, 4, 5, 1, 5]
    annotations = [
        {"id": 101, "image_id": 10, "category_id": 1, "bbox": head, "segmentation": [triangle], "area": 40},
        {"id": 102, "image_id": 10, "category_id": 2, "bbox": head, "segmentation": compressed(ellipse(16, 24, head))},
        {"id": 103, "image_id": 11, "category_id": 1, "bbox": [1, 1, 3, 4], "segmentation": [square], "iscrowd": 0},
        {"id": 104, "image_id": 11, "category_id": 1, "bbox": [8, 9, 8, 15]},
        {"id": 105, "image_id": 12, "category_id": 3, "bbox": wheel, "object_id": 4},
        {"id": 106, "image_id": 12, "category_id": 3, "bbox": [0, 0, 20, 20], "object_id": "car 1"},
        {"id": 107, "image_id": 12, "category_id": 4, "bbox": [1.25, 0.5, 3, 4.5], "segmentation": [square]},
        {"id": 108, "image_id": 15, "category_id": 4, "bbox": wheel, "segmentation": uncompressed(oval)},
        {"id": 109, "image_id": 15, "category_id": 3, "bbox": [0, 0, 29.5, 12], "segmentation": [large, square]},
    ]
    annotations[7]["score"], annotations[8]["score"] = 0.75, 1
    return {
        "info": {"note": "made by a test"},
        "licenses": [],
        "classes": [{"id": 7, "name": "dog"}, {"id": 5, "name": "car"}],
        "categories": [
            {"id": 1, "name": "head", "supercategory": "dog"},
            {"id": 2, "name": "leg", "supercategory": "dog"},
            {"id": 3, "name": "wheel", "supercategory": "car"},
            {"id": 4, "name": "head", "supercategory": "car", "color": "red"},
        ],
        "images": images,
        "annotations": annotations,
    }


def string_id_document() -> Document:
    """:func:`valid_document` with string ids of images and without any mask."""
    document = copy.deepcopy(valid_document())
    for image in document["images"]:
        image["id"] = f"img-{image['id']}"
        image.pop("part_labels", None)
        image.pop("label_source", None)
    for annotation in document["annotations"]:
        annotation["image_id"] = f"img-{annotation['image_id']}"
        annotation.pop("segmentation", None)
    return document


def write_images(root: Path, document: Document) -> None:
    """Make the image files that a document names."""
    rng = np.random.default_rng(0)
    for image in document["images"]:
        path = root / image["file_name"]
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (image["height"], image["width"], 3), dtype=np.uint8)).save(path)


def write_dataset(folder: Path, document: Document) -> tuple[Path, Path]:
    """Write a document and its images below ``folder``; gives the JSON file and the image root."""
    root = folder / "images"
    write_images(root, document)
    json_file = folder / "train.json"
    json_file.write_text(json.dumps(document))
    return json_file, root


def forget_builtin_datasets() -> None:
    """Take the built-in names out of detectron2's catalogs, so that a test can register them for its own folder."""
    for name in (*(f"{dataset}_{split}" for dataset in BUILTIN_DATASETS for split in SPLITS), *SHIFTED_NAMES):
        unregister_part_dataset(name)
