"""What one pass over an image costs: the unit in which the costs of attacks and of adversarial training are counted.

    python tools/benchmarks/cost_of_a_pass.py
    python tools/benchmarks/cost_of_a_pass.py --backbone resnet18 --classes 11 --parts 40

Three kinds: a forward pass (black-box attacks, clean accuracy), a forward pass with the gradient of the image (a step
of a white-box attack; weights frozen), and an update (forward, gradient of all weights). For each the CPU time of one
thread, or on another device wall time; median of interleaved repeats. GFLOP: what torch counts in a forward pass (a
multiplication and an addition are two); in backward passes it counts grouped convolutions wrongly. Weights are random,
images are noise. docs/scaling.md goes on from here to GPU hours.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

from partbox.arguments import ArgumentParser

import torch
from tabulate import tabulate
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

import partbox
from partbox.attacks import attack_mode
from partbox.engine.build import build_classifier
from partbox.engine.setup import load_config
from partbox.modeling import PartClassifier, PartTargets
from partbox.progress import track

REPOSITORY = Path(__file__).resolve().parents[2]
Pass = Callable[[], object]


def main() -> int:
    """Measure and print the table."""
    args = parse_args()
    torch.set_num_threads(args.threads)
    partbox.register_all()
    torch.manual_seed(0)
    images = torch.rand(args.images, 3, args.size, args.size, device=args.device)
    rows = []
    for name in args.models:
        passes = passes_of(model_of(REPOSITORY / args.folder / f"{name}.yaml", args), images, args)
        seconds: dict[str, list[float]] = defaultdict(list)
        operations = operations_of(passes["forward"]) / args.images / 1e9
        for repeat in track(range(args.repeats + 1), args.repeats + 1, f"measuring {name}", "repeat"):
            for kind, one in passes.items():
                taken = seconds_of(one, args.device)
                if repeat:  # the first warms up
                    seconds[kind].append(taken / args.images)
        medians = {kind: statistics.median(taken) for kind, taken in seconds.items()}
        for kind, median in medians.items():
            rows.append([name, kind, 1e3 * median, median / medians["forward"]])
        print(f"{name}: {operations:.2f} GFLOP forward")
    print(
        f"{args.backbone}, {args.size} x {args.size}, {args.classes} classes, {args.parts} parts; an image of a batch"
    )
    print(f"of {args.images}, {args.device}, {args.threads} thread(s), median of {args.repeats}\n")
    headers = ["model", "pass", "ms an image", "x forward"]
    print(tabulate(rows, headers, tablefmt="github", floatfmt=("", "", ".2f", ".2f")))
    return 0


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--folder", default="configs/pascal_part_animals", help="of the configurations (%(default)s)")
    parser.add_argument("--models", nargs="+", default=["normal", "part_box"], help="its files")
    parser.add_argument("--backbone", default="resnet50", help="timm's name (%(default)s)")
    parser.add_argument("--classes", type=int, default=75, help="as PACO has them (%(default)s)")
    parser.add_argument("--parts", type=int, default=456, help="as PACO has them (%(default)s)")
    parser.add_argument("--images", type=int, default=8, help="of a batch (%(default)s)")
    parser.add_argument("--size", type=int, default=224, help="side of the images, in pixels (%(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="of each call; the median counts (%(default)s)")
    parser.add_argument("--device", default="cpu", help="of torch, such as cpu (%(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="of torch (%(default)s)")
    return parser.parse_args()


def model_of(path: Path, args: argparse.Namespace) -> PartClassifier:
    """The model of a configuration on another backbone, with random weights, for made-up classes and parts."""
    options = [
        "MODEL.DEVICE",
        args.device,
        "MODEL.PART.BACKBONE.WEIGHTS",
        "",
        "INPUT.SIZE",
        f"({args.size}, {args.size})",
    ]
    cfg = load_config(path, [*options, "MODEL.PART.BACKBONE.TIMM_NAME", args.backbone])
    owners = [part % args.classes for part in range(args.parts)]
    cfg.MODEL.PART.CLASS_NAMES = [f"class{i}" for i in range(args.classes)]
    cfg.MODEL.PART.PART_NAMES = [f"class{owner}:part{part}" for part, owner in enumerate(owners)]
    cfg.MODEL.PART.PART_TO_CLASS = owners
    return build_classifier(cfg)


def passes_of(model: PartClassifier, images: Tensor, args: argparse.Namespace) -> dict[str, Pass]:
    """The three kinds of passes over the images."""
    labels = torch.randint(args.classes, (len(images),), device=images.device)
    maps = torch.randint(1 + args.parts, (len(images), args.size // 16, args.size // 16), device=images.device)
    maps = maps.repeat_interleave(16, dim=1).repeat_interleave(16, dim=2)
    targets = PartTargets(labels, maps, (), None, None)

    def forward() -> Tensor:
        with attack_mode(model), torch.no_grad():
            return model.logits(images)

    def image_gradient() -> object:
        with attack_mode(model):
            leaf = images.clone().requires_grad_()
            return torch.autograd.grad(torch.nn.functional.cross_entropy(model.logits(leaf), labels), leaf)

    def update() -> None:
        model.train()
        model.zero_grad(set_to_none=True)
        torch.stack(list(model.losses(images, targets).values())).sum().backward()

    return {"forward": forward, "with the image's gradient": image_gradient, "update": update}


def seconds_of(one: Pass, device: str) -> float:
    """Time of a pass: of the processor on a CPU, so that other processes do not count; else until all is done."""
    if device == "cpu":
        start = time.process_time()
        one()
        return time.process_time() - start
    torch.accelerator.synchronize()
    start = time.perf_counter()
    one()
    torch.accelerator.synchronize()
    return time.perf_counter() - start


def operations_of(one: Pass) -> int:
    """Floating-point operations of a pass."""
    with FlopCounterMode(display=False) as counter:
        one()
    return int(counter.get_total_flops())


if __name__ == "__main__":
    raise SystemExit(main())
