"""Memory that the processes of a loader have for themselves after an epoch: records shared, beside a plain list.

    python tools/benchmarks/loader_memory.py                                  # 200,000 records, 8 workers
    python tools/benchmarks/loader_memory.py --records 50000 --workers 4
    python tools/benchmarks/loader_memory.py --parts 12 --only shared

Records as those of a part dataset with run-length-encoded masks; no image is read, but every value of each record is
looked at, in the shuffled order of a training epoch. The memory of a process is its unique set size (Private_* of
/proc/PID/smaps_rollup): what would be free if it alone ended. The last line of a table is the main process, with the
records themselves. Needs Linux. A plain list of the default size takes about as much memory as `workers` datasets.
"""

from __future__ import annotations

import gc
import os
import pickle
import sys
import time
from itertools import islice
from pathlib import Path
from typing import Any

from partbox.arguments import ArgumentParser

import numpy as np
from detectron2.structures import BoxMode
from torch.utils.data import DataLoader, Dataset

from partbox.data.loader import TrainingStream, build_loader
from partbox.progress import track

BATCH = 64


class PlainList(Dataset[dict[str, Any]]):
    """The records as Python objects, as a straightforward dataset has them."""

    def __init__(self, records: list[dict[str, Any]]) -> None:
        self.records = records

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]:
        return look_at(self.records[key[0]])


def main() -> int:
    """Print a table for each way to hold the records."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=200_000, help="images of the data set (%(default)s)")
    parser.add_argument("--parts", type=int, default=4, help="masks an image (%(default)s)")
    parser.add_argument("--workers", type=int, default=8, help="processes (%(default)s)")
    parser.add_argument("--only", choices=("shared", "list"), help="one of the two ways")
    args = parser.parse_args()
    if min(args.records, args.parts, args.workers) < 1:
        parser.error("--records, --parts and --workers must be positive")
    records = make_records(args.records, args.parts)
    size = sum(len(pickle.dumps(record, protocol=-1)) for record in records) / 2**20
    print(f"{args.records:,} records with {args.parts} parts each, {size:.0f} MiB serialised; {args.workers} workers")
    for way in ("shared", "list"):
        if args.only in (None, way):
            report(way, records, args.workers)
    return 0


def make_records(count: int, parts: int) -> list[dict[str, Any]]:
    """Records with boxes and compressed masks of 60 to 200 characters."""
    draw = np.random.default_rng(0)
    text = draw.integers(48, 110, 300, dtype=np.uint8).tobytes().decode("ascii")
    records = []
    for number in range(count):
        boxes = draw.uniform(1, 300, (parts, 4)).round(2).tolist()
        lengths = draw.integers(60, 200, parts).tolist()
        annotations = [
            {
                "id": number * parts + place,
                "bbox": box,
                "bbox_mode": BoxMode.XYWH_ABS,
                "category_id": place,
                "iscrowd": 0,
                "segmentation": {"size": [375, 500], "counts": f"{number}{text[:length]}"},
            }
            for place, (box, length) in enumerate(zip(boxes, lengths, strict=True))
        ]
        records.append(
            {
                "file_name": f"/data/part_dataset/images/train/{number:012d}.jpg",
                "image_id": number,
                "height": 375,
                "width": 500,
                "label": number % 11,
                "part_labels": "mask",
                "annotations": annotations,
            }
        )
    return records


def look_at(record: dict[str, Any]) -> dict[str, Any]:
    """A sample that took a look at every value of its record."""
    total = record["height"] + record["width"] + len(record["file_name"])
    for part in record["annotations"]:
        total += sum(part["bbox"]) + len(part["segmentation"]["counts"]) + part["category_id"]
    return {"process": os.getpid(), "total": total}


def report(way: str, records: list[dict[str, Any]], workers: int) -> None:
    """One epoch, and the memory of each process when its last batch has come."""
    gc.collect()
    start = time.perf_counter()
    stream = TrainingStream(len(records), BATCH, seed=0)
    batches = -(-len(records) // BATCH)
    loader: DataLoader[dict[str, Any]] = (
        build_loader(records, look_at, stream, seed=0, workers=workers)
        if way == "shared"
        else DataLoader(PlainList(records), batch_sampler=stream, num_workers=workers, collate_fn=list)
    )
    running = iter(loader)  # the processes live as long as this
    processes = {batch[0]["process"] for batch in track(islice(running, batches), batches, way, "batch")}
    seconds = time.perf_counter() - start
    own = sorted(own_memory(process) for process in processes)
    print(f"{way}: {len(own)} processes, {own[0]:.0f} to {own[-1]:.0f} MiB of their own, {sum(own):.0f} MiB together")
    print(f"{way}: main process {own_memory(os.getpid()):.0f} MiB of its own; the epoch took {seconds:.0f} s")


def own_memory(process: int) -> float:
    """Unique set size in MiB."""
    lines = Path(f"/proc/{process}/smaps_rollup").read_text(encoding="ascii").splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) / 1024


if __name__ == "__main__":
    sys.exit(main())
