"""How long loading a part dataset takes and how much memory it needs, at several sizes.

    python tools/benchmarks/load_dataset.py                    # 25,000, 50,000, 100,000 images; files must exist
    python tools/benchmarks/load_dataset.py --verify header    # their headers are read, too
    python tools/benchmarks/load_dataset.py --verify decode --sizes 2500 5000 10000 --image-side 256

Each size is loaded in a process of its own. Peak memory is that process's, with torch and detectron2 in it.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from partbox.arguments import ArgumentParser

import numpy as np
from PIL import Image

from partbox.data import load_part_dataset, write_part_dataset
from partbox.progress import track

CLASSES, PARTS_A_CLASS = 1_000, 3  # about PartImageNet++: 1,000 classes, 3,308 parts
LINKS_A_FILE = 1_000  # images of the benchmark that share one file; file systems limit hard links


def main() -> int:
    """Print the table; the exit status says whether the limits were kept."""
    args = parse_args()
    if args.measure:
        print(json.dumps(measure(Path(args.measure), args.verify)))
        return 0
    rows = []
    with tempfile.TemporaryDirectory(prefix="partbox-benchmark-", dir=args.folder) as folder:
        for size in args.sizes:
            generate(Path(folder) / str(size), size, args)
            command = [sys.executable, __file__, "--verify", args.verify, "--measure", f"{folder}/{size}"]
            print(f"loading {size:,} images ...", file=sys.stderr, flush=True)
            answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            rows.append(json.loads(answer.splitlines()[-1]))
    return report(rows, args)


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[25_000, 50_000, 100_000], help="images")
    parser.add_argument("--parts", type=float, default=4.5, help="annotations an image, on average")
    parser.add_argument("--polygons", type=float, default=0.5, help="share of annotations that have a polygon")
    parser.add_argument("--rle", type=float, default=0.0, help="share of annotations that have a compressed RLE")
    parser.add_argument("--points", type=int, default=8, help="points of a polygon")
    parser.add_argument(
        "--verify", choices=["decode", "header", "none"], default="none", help="how the image files are checked"
    )
    parser.add_argument("--image-side", type=int, default=64, help="side of the images, in pixels")
    parser.add_argument("--folder", help="where to put the files meanwhile (default: the system's)")
    parser.add_argument("--max-seconds", type=float, default=15.0, help="seconds above which this fails")
    parser.add_argument("--max-gigabytes", type=float, default=1.5, help="peak memory in GB above which this fails")
    parser.add_argument("--measure", help=argparse.SUPPRESS)  # the process that loads; a folder
    return parser.parse_args()


def measure(folder: Path, verify: Any) -> dict[str, float]:
    """Load the data set in ``folder``; seconds and bytes of this process."""
    imported = peak_memory()
    start, cpu_start = time.perf_counter(), time.process_time()
    dataset = load_part_dataset(folder / "train.json", folder / "images", verify_images=verify)
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu_start
    parts = sum(len(record["annotations"]) for record in dataset.records)
    size = (folder / "train.json").stat().st_size
    return {
        "images": len(dataset.records),
        "parts": parts,
        "file": size,
        "seconds": seconds,
        "cpu": cpu,
        "peak": peak_memory(),
        "imported": imported,
    }


def peak_memory() -> int:
    """Peak resident memory of this process, bytes.

    Not ``ru_maxrss`` where it can be helped: on Linux a new process inherits that from the one that started it.
    """
    status = Path("/proc/self/status")
    if status.exists():
        return 1024 * next(int(line.split()[1]) for line in status.read_text().splitlines() if "VmHWM" in line)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def generate(folder: Path, size: int, args: argparse.Namespace) -> None:
    """Write a data set of ``size`` images with random parts into ``folder``."""
    rng = np.random.default_rng(0)
    side = args.image_side
    classes = [{"id": i + 1, "name": f"class {i}"} for i in range(CLASSES)]
    categories = [
        {"id": i + 1, "name": f"part {i % PARTS_A_CLASS}", "supercategory": f"class {i // PARTS_A_CLASS}"}
        for i in range(CLASSES * PARTS_A_CLASS)
    ]
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    (folder / "images").mkdir(parents=True)
    for index in track(range(size), size, f"writing {size:,} images", "image"):
        name = f"{index // LINKS_A_FILE:04d}/{index:08d}.jpg"
        write_image(folder / "images" / name, index, side, rng)
        image = {"id": index + 1, "file_name": name, "width": side, "height": side}
        images.append({**image, "class_id": index % CLASSES + 1, "source_image": f"photo_{index}"})
        for _ in range(int((index + 1) * args.parts) - int(index * args.parts)):
            category = index % CLASSES * PARTS_A_CLASS + int(rng.integers(PARTS_A_CLASS)) + 1
            part = {"id": len(annotations) + 1, "image_id": index + 1, "category_id": category}
            annotations.append({**part, **random_shape(rng, side, args)})
    write_part_dataset(
        folder / "train.json", classes=classes, categories=categories, images=images, annotations=annotations
    )


def write_image(path: Path, index: int, side: int, rng: np.random.Generator) -> None:
    """A JPEG of noise; LINKS_A_FILE consecutive ones are one file under several names."""
    if index % LINKS_A_FILE:
        first = index - index % LINKS_A_FILE
        os.link(path.with_name(f"{first:08d}.jpg"), path)
        return
    path.parent.mkdir()
    Image.fromarray(rng.integers(0, 256, (side, side, 3), dtype=np.uint8)).save(path)


def random_shape(rng: np.random.Generator, side: int, args: argparse.Namespace) -> dict[str, Any]:
    """A random box, and with the wanted probability the ellipse in it as polygon or RLE."""
    x, y = rng.uniform(0, 0.5 * side, 2)
    w, h = rng.uniform(0.2 * side, 0.5 * side, 2)
    box = [round(float(number), 2) for number in (x, y, w, h)]
    draw = rng.random()
    if draw < args.polygons:
        angles = np.linspace(0, 2 * np.pi, args.points, endpoint=False)
        points = np.stack([x + w / 2 * (1 + np.cos(angles)), y + h / 2 * (1 + np.sin(angles))], axis=1)
        return {"bbox": box, "area": round(float(w * h), 2), "segmentation": [points.round(2).ravel().tolist()]}
    if draw < args.polygons + args.rle:
        from pycocotools import mask as mask_util

        rows, columns = np.mgrid[:side, :side] + 0.5
        inside = ((columns - x - w / 2) / w) ** 2 + ((rows - y - h / 2) / h) ** 2 < 0.25
        return {"bbox": box, "segmentation": mask_util.encode(np.asfortranarray(inside.astype(np.uint8)))}
    return {"bbox": box}


def report(rows: list[dict[str, float]], args: argparse.Namespace) -> int:
    """Print the table and say whether it grows linearly and keeps the limits."""
    print(f"verify_images={args.verify!r}, {args.polygons:.0%} polygons of {args.points} points, {args.rle:.0%} RLE")
    heads = ["images", "parts", "file MB", "seconds", "CPU s", "us/part", "peak MB", "imports MB"]
    print(" ".join(f"{head:>10}" for head in heads))
    for row in rows:
        counts = f"{row['images']:>10,} {row['parts']:>10,} {row['file'] / 1e6:>10.1f}"
        times = f"{row['seconds']:>10.2f} {row['cpu']:>10.2f} {1e6 * row['cpu'] / row['parts']:>10.2f}"
        print(f"{counts} {times} {row['peak'] / 1e6:>10.0f} {row['imported'] / 1e6:>10.0f}")
    first, last = rows[0], rows[-1]
    grown, slower = last["images"] / first["images"], last["cpu"] / first["cpu"]
    verdict = "linear" if slower < 1.3 * grown else "NOT linear"
    print(f"{grown:.1f} times the images took {slower:.1f} times the CPU time: {verdict}")
    kept = last["seconds"] <= args.max_seconds and last["peak"] <= args.max_gigabytes * 1e9
    print(f"limits of {args.max_seconds:g} s and {args.max_gigabytes:g} GB: {'kept' if kept else 'EXCEEDED'}")
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
