"""What keeping freed memory is worth: CPU time of a network's passes with glibc's defaults and with partbox's settings.

    python tools/benchmarks/allocator.py
    python tools/benchmarks/allocator.py --network tf_efficientnet_lite0 --size 96 --images 8 32

Each setting runs in a process of its own, since an allocator remembers; the processes take turns, the median of
``--repeats`` counts. CPU milliseconds of one thread, so that another process on the machine does not count.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time

from partbox.arguments import ArgumentParser

import timm
import torch
from tabulate import tabulate
from torch.nn import functional

from partbox.engine.allocator import keep_freed_memory
from partbox.progress import track

PASSES = 8


def main() -> int:
    """Measure in child processes and print the table; or be such a process."""
    args = parse_args()
    if args.child:
        print(json.dumps(measure(args)))
        return 0
    rows = []
    for images in args.images:
        found: dict[str, list[list[float]]] = {"default": [], "kept": []}
        for _ in track(range(args.repeats), args.repeats, f"measuring {images} images", "repeat"):
            for setting, values in found.items():
                options = ["--child", setting, "--images", str(images), "--network", args.network]
                command = [sys.executable, __file__, *options, "--size", str(args.size)]
                ended = subprocess.run(command, capture_output=True, text=True, check=True)
                values.append(json.loads(ended.stdout.splitlines()[-1]))
        medians = {
            setting: [statistics.median(column) for column in zip(*values, strict=True)]
            for setting, values in found.items()
        }
        for number, name in enumerate(("forward", "forward + input gradient", "training step")):
            default, kept = medians["default"][number], medians["kept"][number]
            rows.append([images, name, default, kept, default / kept])
    print(f"{args.network}, images of {args.size} x {args.size}, one thread\n")
    headers = ["images", "pass", "default ms", "kept ms", "ratio"]
    print(tabulate(rows, headers, tablefmt="github", floatfmt=("", "", ".1f", ".1f", ".2f")))
    return 0


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--network", default="resnet18", help="of timm (%(default)s)")
    parser.add_argument("--images", type=int, nargs="+", default=[16, 64], help="images of a batch, one table row each")
    parser.add_argument("--size", type=int, default=64, help="side of the images, in pixels")
    parser.add_argument("--repeats", type=int, default=3, help="processes of each setting; the median counts")
    parser.add_argument("--child", choices=["default", "kept"], help=argparse.SUPPRESS)
    return parser.parse_args()


def measure(args: argparse.Namespace) -> list[float]:
    """CPU milliseconds of the three passes."""
    torch.set_num_threads(1)
    if args.child == "kept":
        keep_freed_memory()
    torch.manual_seed(0)
    model = timm.create_model(args.network, num_classes=10)
    images, labels = torch.rand(args.images[0], 3, args.size, args.size), torch.zeros(args.images[0], dtype=torch.long)

    def forward() -> None:
        with torch.no_grad():
            model(images)

    def gradient() -> None:
        leaf = images.clone().requires_grad_(True)
        torch.autograd.grad(functional.cross_entropy(model(leaf), labels), leaf)

    def step() -> None:
        model.zero_grad()
        functional.cross_entropy(model(images), labels).backward()

    found = []
    for run, training in ((forward, False), (gradient, False), (step, True)):
        model.train(training).requires_grad_(training)
        run()
        run()
        start = time.process_time()
        for _ in range(PASSES):
            run()
        found.append((time.process_time() - start) / PASSES * 1e3)
    return found


if __name__ == "__main__":
    raise SystemExit(main())
