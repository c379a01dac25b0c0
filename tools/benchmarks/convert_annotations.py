"""Masks a second and peak memory of converting official annotation files, at one, two and four times the full size.

    python tools/benchmarks/convert_annotations.py paco_lvis
    python tools/benchmarks/convert_annotations.py partimagenet_pp --scales 0.05,0.1,0.2      # a look

Files in the owner's layout are made with random masks (``generate_annotations.py``) and converted by the same code as
``datasets/prepare_<dataset>.py --labels-only``: read, put together by image, split, cut to the crops, checked, written.
Photographs are not touched. Each size runs in a process of its own; memory is that of the process that reads and writes
and of the largest of its workers. The exit status says whether there were 3,000 masks a second and flat memory.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from partbox.arguments import ArgumentParser

WANTED_SPEED = 3_000  # masks a second on 2 cores
FLAT = 1.15  # memory at the largest size over that at the smallest

GENERATOR = Path(__file__).with_name("generate_annotations.py")


def main() -> int:
    """Print the table; the exit status says whether the limits were kept."""
    args = parse_args()
    if args.measure:
        print(json.dumps(measure(args.dataset, Path(args.measure), args.workers)))
        return 0
    rows = []
    for scale in args.scales:
        with tempfile.TemporaryDirectory(prefix="partbox-benchmark-", dir=args.folder) as folder:
            print(f"making {scale:g} times {args.dataset} ...", file=sys.stderr, flush=True)
            made = [sys.executable, str(GENERATOR), args.dataset, "--output", f"{folder}/input", "--scale", str(scale)]
            subprocess.run(made, check=True, stdout=subprocess.DEVNULL)
            print("converting ...", file=sys.stderr, flush=True)
            command = [sys.executable, __file__, args.dataset, "--workers", str(args.workers), "--measure", folder]
            environment = {**os.environ, "TMPDIR": folder}
            answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment).stdout
            rows.append({"scale": scale, **json.loads(answer.splitlines()[-1])})
    return report(rows)


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("dataset", choices=("paco_lvis", "partimagenet_pp"), help="whose layout and numbers")
    parser.add_argument(
        "--scales",
        type=lambda text: [float(part) for part in text.split(",")],
        default="1,2,4",
        metavar="SHARE,...",
        help="of the full numbers, with commas between them",
    )
    parser.add_argument("--workers", type=int, default=2, help="processes")
    parser.add_argument("--folder", help="where to put the files meanwhile (default: the system's)")
    parser.add_argument("--measure", help=argparse.SUPPRESS)  # the process that converts; a folder with input/
    return parser.parse_args()


def measure(dataset: str, folder: Path, workers: int) -> dict[str, float]:
    """Convert the files in ``folder``/input; seconds and bytes."""
    from partbox.data.preparation import PrepareOptions, prepare_photos

    imported = peak_memory("self")
    start, used = time.perf_counter(), _cpu()
    with _Largest() as largest:
        reader = make_reader(dataset, folder / "input")
        options = PrepareOptions(fractions=(0.8, 0.1, 0.1), labels_only=True)
        report = prepare_photos(reader, folder / "output", options, workers=workers)
    seconds = time.perf_counter() - start
    kept = sum(counts["parts"] for counts in report.kept.values())
    lost = sum(count for (_, _, what, _), count in report.dropped.items() if what == "part")
    return {
        "photographs": sum(report.photographs.values()),
        "masks": kept + lost,
        "kept": kept,
        "file": sum(path.stat().st_size for path in (folder / "input").rglob("*.json")),
        "seconds": seconds,
        "cpu": _cpu() - used,
        "peak": peak_memory("self"),
        "worker_peak": largest.bytes,
        "imported": imported,
    }


def make_reader(dataset: str, folder: Path) -> Any:
    """The reader that the data set's own script makes."""
    if dataset == "paco_lvis":
        from partbox.data.preparation.readers.paco import PacoReader
        from partbox.data.preparation.readers.paco_release import PACO_LVIS

        return PacoReader(PACO_LVIS, folder, folder, labels="mask", empty="unlabelled", say=lambda text: None)
    from partbox.data.preparation.readers.partimagenet_pp import PartImageNetPPReader

    return PartImageNetPPReader(folder, folder, empty="unlabelled", find_photos=False, say=lambda text: None)


def _cpu() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def peak_memory(process: str) -> int:
    """Peak resident memory of a process, bytes; 0 if it has ended."""
    try:
        status = Path(f"/proc/{process}/status").read_text()
        return 1024 * next(int(line.split()[1]) for line in status.splitlines() if "VmHWM" in line)
    except (OSError, StopIteration):
        return 0


class _Largest:
    """The largest peak memory of this process's children, looked at ten times a second."""

    def __enter__(self) -> _Largest:
        self.bytes, self._over = 0, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        children = Path(f"/proc/self/task/{os.getpid()}/children")
        while not self._over.wait(0.1):
            self.bytes = max([self.bytes, *map(peak_memory, children.read_text().split())])


def report(rows: list[dict[str, float]]) -> int:
    """Print the table and what it means."""
    heads = ["scale", "photographs", "masks", "file MB", "seconds", "CPU s", "masks/s", "peak MB", "worker MB"]
    print(" ".join(f"{head:>11}" for head in heads))
    for row in rows:
        counts = f"{row['scale']:>11g} {row['photographs']:>11,} {row['masks']:>11,} {row['file'] / 1e6:>11,.0f}"
        times = f"{row['seconds']:>11.1f} {row['cpu']:>11.1f} {row['masks'] / row['seconds']:>11,.0f}"
        print(f"{counts} {times} {row['peak'] / 1e6:>11,.0f} {row['worker_peak'] / 1e6:>11,.0f}")
    slowest = min(row["masks"] / row["seconds"] for row in rows)
    grown = max(rows[-1][key] / rows[0][key] for key in ("peak", "worker_peak") if rows[0][key])
    print(f"imports alone: {rows[0]['imported'] / 1e6:,.0f} MB; kept {rows[-1]['kept']:,} masks of the last size")
    print(f"at least {slowest:,.0f} masks a second ({WANTED_SPEED:,} wanted)")
    print(f"memory of the largest size over that of the smallest: {grown:.2f} (at most {FLAT} wanted)")
    return 0 if slowest >= WANTED_SPEED and grown <= FLAT else 1


if __name__ == "__main__":
    sys.exit(main())
