"""What a part model costs in inference and under attack, beside the plain classifier on the same backbone, in one run.

    python tools/benchmarks/inference_cost.py
    python tools/benchmarks/inference_cost.py --folder configs/example --models normal part_auxiliary two_head

Forward: the logits that an evaluation asks for. With gradient: one step of a white-box attack. Parameters: of the whole
model, and of what inference runs. CPU milliseconds of one thread, so that another process on the machine does not
count; median of interleaved repeats; weights are random, images are noise.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

from partbox.arguments import ArgumentParser

import torch
from tabulate import tabulate
from torch import Tensor, nn

import partbox
from partbox.attacks import attack_mode
from partbox.engine.build import build_classifier
from partbox.engine.setup import load_config
from partbox.modeling import PartClassifier
from partbox.progress import track

REPOSITORY = Path(__file__).resolve().parents[2]
CLASSES, PARTS_OF_A_CLASS = 5, 8


def main() -> int:
    """Measure and print the table."""
    args = parse_args()
    torch.set_num_threads(args.threads)
    partbox.register_all()
    models = {name: model_of(args.folder / f"{name}.yaml", args.size) for name in args.models}
    images = torch.rand(args.images, 3, args.size, args.size)
    forward: dict[str, list[float]] = {name: [] for name in models}
    gradient: dict[str, list[float]] = {name: [] for name in models}
    for repeat in track(range(args.repeats + 1), args.repeats + 1, "measuring", "repeat"):
        for name, model in models.items():
            seconds = forward_seconds(model, images), gradient_seconds(model, images)
            if repeat:  # the first warms up
                forward[name].append(seconds[0])
                gradient[name].append(seconds[1])
    base = args.models[0]
    rows = []
    for name, model in models.items():
        row: list[object] = [name, sum(p.numel() for p in model.parameters()), used_parameters(model, images)]
        for measured in (forward, gradient):
            value = statistics.median(measured[name])
            row += [1e3 * value, value / statistics.median(measured[base])]
        rows.append(row)
    print(f"{args.folder.name}, {args.images} images of {args.size} x {args.size}, {args.threads} thread(s)\n")
    headers = ["model", "parameters", "run in inference", "forward ms", f"x {base}", "with gradient ms", f"x {base}"]
    print(tabulate(rows, headers, tablefmt="github", intfmt=",", floatfmt=("", "", "", ".1f", ".2f", ".1f", ".2f")))
    return 0


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument(
        "--folder", type=Path, default=REPOSITORY / "configs/pascal_part_animals", help="of the configuration files"
    )
    parser.add_argument(
        "--models",
        nargs="+",
        default=["normal", "part_auxiliary", "two_head", "part_box"],
        help="configuration files of the folder; ratios are relative to the first",
    )
    parser.add_argument("--images", type=int, default=16, help="of a batch")
    parser.add_argument("--size", type=int, default=96, help="side of the images, in pixels")
    parser.add_argument("--repeats", type=int, default=15, help="of each call; the median counts")
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    return parser.parse_args()


def model_of(path: Path, size: int) -> PartClassifier:
    """The model of a configuration with random weights, in evaluation mode."""
    options = ["MODEL.DEVICE", "cpu", "MODEL.PART.BACKBONE.WEIGHTS", "", "INPUT.SIZE", f"({size}, {size})"]
    cfg = load_config(path, options)
    part = cfg.MODEL.PART
    part.CLASS_NAMES = [f"class{i}" for i in range(CLASSES)]
    part.PART_NAMES = [f"class{i}:part{j}" for i in range(CLASSES) for j in range(PARTS_OF_A_CLASS)]
    part.PART_TO_CLASS = [i for i in range(CLASSES) for _ in range(PARTS_OF_A_CLASS)]
    return build_classifier(cfg).eval()


def used_parameters(model: PartClassifier, images: Tensor) -> int:
    """Parameters of the layers that a forward pass runs."""
    seen: set[nn.Module] = set()
    handles = [module.register_forward_hook(lambda module, *_: seen.add(module)) for module in model.modules()]
    with torch.no_grad():
        model.logits(images[:1])
    for handle in handles:
        handle.remove()
    return sum({id(p): p.numel() for module in seen for p in module.parameters(recurse=False)}.values())


def forward_seconds(model: PartClassifier, images: Tensor) -> float:
    """CPU seconds of the logits."""
    start = time.process_time()
    with torch.no_grad():
        model.logits(images)
    return time.process_time() - start


def gradient_seconds(model: PartClassifier, images: Tensor) -> float:
    """CPU seconds of the logits and the gradient of their largest at the images."""
    with attack_mode(model):
        leaf = images.clone().requires_grad_(True)
        start = time.process_time()
        torch.autograd.grad(model.logits(leaf).amax(dim=1).sum(), leaf)
        return time.process_time() - start


if __name__ == "__main__":
    raise SystemExit(main())
