"""A miniature part dataset whose pixels tell which image they came from, for the tests of shifts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from part_dataset_files import compressed, ellipse
from PIL import Image

from partbox.data import PartDataset, load_part_dataset

WIDTH, HEIGHT = 48, 40
OBJECT = [14.0, 10.0, 20.0, 18.0]
"""xywh of the object of every image; its two parts are an ellipse and a box below it."""
OBJECT_RED = 200
"""Red of the object; background has less than 100."""

Document = dict[str, Any]


def masks() -> list[np.ndarray]:
    """The two parts, (HEIGHT, WIDTH) uint8: the upper one an ellipse, the lower one a rectangle."""
    x, y, w, h = OBJECT
    leg = np.zeros((HEIGHT, WIDTH), np.uint8, order="F")
    leg[int(y + 12) : int(y + h), int(x + 8) : int(x + 12)] = 1
    return [ellipse(HEIGHT, WIDTH, [x, y, w, 12.0]), leg]


def document(per_class: int = 4, classes: int = 3, labels: str = "mask") -> Document:
    """Classes of images, every object with two parts, labelled by masks or by boxes."""
    entries: Document = {"info": {"note": "kept nowhere"}, "images": [], "annotations": []}
    entries["classes"] = [{"id": 10 * k + 10, "name": f"class{k}"} for k in range(classes)]
    entries["categories"] = [
        {"id": 2 * k + part, "name": ("body", "leg")[part], "supercategory": f"class{k}"}
        for k in range(classes)
        for part in range(2)
    ]
    for k in range(classes):
        for number in range(per_class):
            image_id = 100 * k + number
            entries["images"].append(
                {
                    "id": image_id,
                    "file_name": f"c{k}/{number}.png",
                    "width": WIDTH,
                    "height": HEIGHT,
                    "class_id": 10 * k + 10,
                    "part_labels": labels,
                }
            )
            for part, mask in enumerate(masks()):
                rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
                x, y = int(columns[0]), int(rows[0])
                annotation = {"id": 10 * image_id + part + 1, "image_id": image_id, "category_id": 2 * k + part}
                annotation["bbox"] = [x, y, int(columns[-1]) + 1 - x, int(rows[-1]) + 1 - y]
                if labels == "mask":
                    annotation["segmentation"] = compressed(mask)
                entries["annotations"].append(annotation)
    return entries


def pixels(image: Document) -> np.ndarray:
    """(HEIGHT, WIDTH, 3): green and blue of the background tell class and number, red varies; the object is red."""
    k, number = divmod(int(image["id"]), 100)
    canvas = np.empty((image["height"], image["width"], 3), np.uint8)
    canvas[..., 0] = np.random.default_rng(image["id"]).integers(0, 100, canvas.shape[:2])
    canvas[..., 1], canvas[..., 2] = 20 * k + 10, 10 * number + 5
    for mask in masks():
        canvas[mask.astype(bool), 0] = OBJECT_RED
    return canvas


def write(folder: Path, entries: Document) -> tuple[Path, Path]:
    """Write a document and its images; the JSON file and the image root."""
    for image in entries["images"]:
        path = folder / "images" / image["file_name"]
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels(image)).save(path)
    json_file = folder / "test.json"
    json_file.write_text(json.dumps(entries))
    return json_file, folder / "images"


def load(folder: Path) -> PartDataset:
    """A shifted data set, every image decoded."""
    return load_part_dataset(folder / "part_dataset.json", folder / "images", verify_images="decode")


def read(file_name: str | Path) -> np.ndarray:
    """The pixels of an image file."""
    return np.array(Image.open(file_name).convert("RGB"))
