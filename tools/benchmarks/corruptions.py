"""What our corruptions cost beside the library's, on one photograph, in one run.

    python tools/benchmarks/corruptions.py                       # a photograph of 375 x 500 from scikit-image
    python tools/benchmarks/corruptions.py --image photo.jpg --repeats 5

Each kind and severity is measured on both sides, interleaved, after both were warmed up; the figure is the smallest of
the repeats, summed over the severities. The results must be equal, else this fails. Ratios above 1: ours is faster.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable

from partbox.arguments import ArgumentParser

import cv2
import imagecorruptions
import numpy as np
from PIL import Image
from skimage import data
from tabulate import tabulate

from partbox.corruptions import BENCHMARK, KINDS, SEVERITIES, corrupt
from partbox.progress import track


def main() -> int:
    """Measure every kind and print the table."""
    args = parse_args()
    cv2.setNumThreads(1)
    image = photograph(args)
    seconds: dict[str, tuple[float, float]] = {}
    for kind in track(KINDS, len(KINDS), "measuring", "kind"):
        both = [measure(image, kind, severity, args.repeats) for severity in SEVERITIES]
        seconds[kind] = (sum(ours for ours, _ in both), sum(theirs for _, theirs in both))
    rows = [[kind, theirs * 1e3, ours * 1e3, theirs / ours] for kind, (ours, theirs) in seconds.items()]
    for name, kinds in (("15 benchmark kinds", BENCHMARK), ("all 19 kinds", KINDS)):
        ours, theirs = (sum(seconds[kind][side] for kind in kinds) for side in (0, 1))
        rows.append([name, theirs * 1e3, ours * 1e3, theirs / ours])
    height, width = image.shape[:2]
    print(f"{height} x {width} pixels, 5 severities each, equal results, one thread\n")
    print(
        tabulate(
            rows, ["kind", "library ms", "ours ms", "ratio"], floatfmt=("", ".1f", ".1f", ".2f"), tablefmt="github"
        )
    )
    return 0


def parse_args() -> argparse.Namespace:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--image", help="a photograph; default: scikit-image's astronaut")
    parser.add_argument("--height", type=int, default=375, help="pixels the photograph is resized to (%(default)s)")
    parser.add_argument("--width", type=int, default=500, help="pixels the photograph is resized to (%(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="of each call; the fastest counts (%(default)s)")
    return parser.parse_args()


def photograph(args: argparse.Namespace) -> np.ndarray:
    picture = Image.open(args.image).convert("RGB") if args.image else Image.fromarray(data.astronaut())
    return np.array(picture.resize((args.width, args.height), Image.Resampling.BICUBIC))


def measure(image: np.ndarray, kind: str, severity: int, repeats: int) -> tuple[float, float]:
    """Seconds of ours and of the library's, the smallest of the repeats; exits where the results differ."""
    options = {"seed": 0} if kind in ("glass_blur", "impulse_noise") else {}

    def library() -> np.ndarray:
        np.random.seed(0)
        return imagecorruptions.corrupt(image, severity=severity, corruption_name=kind, **options)

    def ours() -> np.ndarray:
        return corrupt(image, kind, severity, 0)

    if not np.array_equal(ours(), library()):  # also warms both up
        sys.exit(f"{kind} at severity {severity} differs from the library")
    times = [(timed(ours), timed(library)) for _ in range(repeats)]
    return min(one for one, _ in times), min(other for _, other in times)


def timed(call: Callable[[], np.ndarray]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


if __name__ == "__main__":
    sys.exit(main())
