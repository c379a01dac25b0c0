"""Images a second of the training mapper, beside detectron2's DatasetMapper with the same augmentations, in one run.

    python tools/benchmarks/training_loader.py                        # photographs of 500 x 375 with 4 masks each
    python tools/benchmarks/training_loader.py --segmentation polygon
    python tools/benchmarks/training_loader.py --json FILE --images FOLDER

A part dataset with masks is read as a model supervised by boxes wants it, and as one supervised by masks. Ours makes a
map of parts, and detectors get objects beside it; detectron2's mapper makes objects. It decodes every mask of the
records, unless it is told to drop them (last line): then a box costs it nothing. One thread, files cached, CPU time;
rounds alternate, and the medians are compared.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from partbox.arguments import ArgumentParser

import numpy as np
import torch
from detectron2.data import DatasetMapper
from PIL import Image
from pycocotools import mask as mask_util

from partbox.data import load_part_dataset, write_part_dataset
from partbox.data.augmentations import training_augmentations
from partbox.data.mapper import PartDatasetMapper
from partbox.progress import track

SIZE = 500, 375  # of the photographs: ImageNet's mean


def main() -> int:
    """Print the table."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE", help="a part dataset with masks; default: one is made")
    parser.add_argument("--images", type=Path, metavar="FOLDER", help="its image root")
    parser.add_argument(
        "--segmentation", choices=("rle", "polygon"), default="rle", help="of the data set that is made"
    )
    parser.add_argument("--parts", type=int, default=4, help="masks an image of the data set that is made")
    parser.add_argument("--count", type=int, default=100, help="images")
    parser.add_argument("--rounds", type=int, default=7, help="of each reader; the median counts")
    parser.add_argument("--size", type=int, default=224, help="side of the training image, in pixels")
    args = parser.parse_args()
    if (args.json is None) != (args.images is None):
        parser.error("--json and --images go together")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="partbox-benchmark-") as folder:
        if args.json is None:
            args.json, args.images = make_dataset(Path(folder), args)
        records = load_part_dataset(args.json, args.images).records[: args.count]
        if not all("segmentation" in part for record in records for part in record["annotations"]):
            parser.error("the data set has parts without a mask")
        report(measure(mappers(args.size, records), records, args.rounds), len(records))
    return 0


def make_dataset(folder: Path, args: argparse.Namespace) -> tuple[Path, Path]:
    """Photographs of smooth noise with random ellipses as parts."""
    draw = np.random.default_rng(0)
    images, annotations = [], []
    width, height = SIZE
    for number in range(1, args.count + 1):
        coarse = draw.integers(0, 256, (height // 12, width // 12, 3), dtype=np.uint8)
        (folder / "images").mkdir(exist_ok=True)
        photograph = Image.fromarray(coarse).resize(SIZE, Image.Resampling.BICUBIC)
        photograph.save(folder / "images" / f"{number}.jpg", quality=90)
        images.append({"id": number, "file_name": f"{number}.jpg", "width": width, "height": height, "class_id": 1})
        for _ in range(args.parts):
            part = {"id": len(annotations) + 1, "image_id": number, "category_id": 1}
            annotations.append({**part, **ellipse(draw, args.segmentation)})
    write_part_dataset(
        folder / "train.json",
        classes=[{"id": 1, "name": "thing"}],
        categories=[{"id": 1, "name": "part", "supercategory": "thing"}],
        images=images,
        annotations=annotations,
    )
    return folder / "train.json", folder / "images"


def ellipse(draw: np.random.Generator, segmentation: str) -> dict[str, Any]:
    """A random ellipse of a fifth to half of the image's sides: ``bbox`` and ``segmentation``."""
    (width, height), sides = SIZE, draw.uniform(0.2, 0.5, 2)
    w, h = sides * SIZE
    x, y = draw.uniform(0, [width - w, height - h])
    angles = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    points = np.stack([x + w / 2 * (1 + np.cos(angles)), y + h / 2 * (1 + np.sin(angles))], axis=1).round(2)
    polygon = [points.ravel().tolist()]
    low, high = points.min(axis=0), points.max(axis=0)
    if segmentation == "polygon":
        return {"bbox": [*low.tolist(), *(high - low).round(2).tolist()], "segmentation": polygon}
    rle = mask_util.merge(mask_util.frPyObjects(polygon, height, width))
    return {
        "bbox": mask_util.toBbox(rle).tolist(),
        "segmentation": {"size": [height, width], "counts": rle["counts"].decode()},
    }


def mappers(side: int, records: list[dict[str, Any]]) -> dict[str, Callable[[dict[str, Any]], Any]]:
    """The mappers by name, all with the same augmentations."""
    size = (side, side)

    def steps() -> list[Any]:
        return training_augmentations(size, (0.08, 1.0), (3 / 4, 4 / 3), "horizontal", 0.0)

    def ours(supervision: str, part_objects: str = "none") -> PartDatasetMapper:
        return PartDatasetMapper(size, supervision=supervision, augmentations=steps(), part_objects=part_objects)

    kind = "bitmask" if isinstance(records[0]["annotations"][0]["segmentation"], dict) else "polygon"

    def theirs(masks: bool) -> DatasetMapper:
        settings = {"use_instance_mask": masks, "instance_mask_format": kind}
        return DatasetMapper(is_train=True, augmentations=steps(), image_format="RGB", **settings)

    return {
        "ours, boxes": ours("box"),
        "ours, boxes for a detector": ours("box", "boxes"),
        "ours, masks": ours("mask"),
        f"detectron2, masks ({kind})": theirs(True),
        "detectron2, masks dropped": theirs(False),
    }


def measure(
    candidates: dict[str, Callable[[dict[str, Any]], Any]], records: list[dict[str, Any]], rounds: int
) -> dict[str, float]:
    """CPU seconds of all records: the median of the rounds, in which the mappers take turns."""
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for number in track(range(rounds + 1), rounds + 1, "measuring", "round"):
        for name, mapper in candidates.items():
            np.random.seed(number)  # the same crops for all
            start = time.process_time()
            for record in records:
                mapper(record)
            if number:  # the first round warms up
                times[name].append(time.process_time() - start)
    return {name: statistics.median(some) for name, some in times.items()}


def report(seconds: dict[str, float], images: int) -> None:
    """Print images a second, and ours over detectron2's."""
    peers = [name for name in seconds if name.startswith("detectron2")]
    print(f"{'mapper':30} {'images/s':>9}" + "".join(f"  over {peer}" for peer in peers))
    for name, value in seconds.items():
        ratios = "".join(f"  {seconds[peer] / value:>{len(peer) + 5}.2f}" for peer in peers)
        print(f"{name:30} {images / value:9.0f}{ratios}")


if __name__ == "__main__":
    sys.exit(main())
