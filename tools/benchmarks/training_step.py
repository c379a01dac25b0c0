"""What one step of adversarial training costs beside the loop that is usually written for it, in one run.

    python tools/benchmarks/training_step.py
    python tools/benchmarks/training_step.py --steps 2 --images 64 --network resnet18

Ours: the objectives of partbox on a plain classifier (the attack with frozen parameters, TRADES' clean logits once).
The usual loop: PGD with ``loss.backward()``, which computes the gradients of all weights in every step of the attack;
and TRADES' published loop, which asks for the clean logits in every step. Both take the same number of steps from a
random start and end with one update's forward and backward pass. The floor is the network's own passes: forward and
input gradient with frozen parameters for each step, forward and backward for the update. Median of interleaved repeats.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

from partbox.arguments import ArgumentParser

import torch
from detectron2.config import CfgNode
from tabulate import tabulate
from torch import Tensor
from torch.nn import functional

import partbox
from partbox.attacks import ThreatModel, attack_mode
from partbox.engine.build import build_classifier
from partbox.engine.objectives.adversarial import AdversarialObjective, PGDObjective, TradesObjective
from partbox.engine.setup import load_config
from partbox.modeling import PartClassifier
from partbox.progress import track

CLASSES = 10
BETA = 6.0
Step = Callable[[], None]


def main() -> int:
    """Measure and print the table."""
    args = parse_args()
    torch.set_num_threads(args.threads)
    model = build_classifier(configuration(args)).train()
    torch.manual_seed(0)
    images, labels = torch.rand(args.images, 3, args.size, args.size), torch.randint(CLASSES, (args.images,))
    threat = ThreatModel("linf", 4 / 255)
    options = {"steps": args.steps, "step_size": None, "random_start": True, "seed": 0}
    steps: dict[str, Step] = {
        "PGD, floor": lambda: floor(model, images, labels, args.steps, clean_passes=0),
        "PGD, ours": lambda: ours(PGDObjective(threat, **options), model, images, labels),
        "PGD, usual loop": lambda: usual_pgd(model, images, labels, threat, args.steps),
        "TRADES, floor": lambda: floor(model, images, labels, args.steps, clean_passes=1),
        "TRADES, ours": lambda: ours(TradesObjective(threat, beta=BETA, **options), model, images, labels),
        "TRADES, usual loop": lambda: usual_trades(model, images, labels, threat, args.steps),
    }
    milliseconds = measure(steps, args.repeats)
    rows = []
    for name, value in milliseconds.items():
        family = name.split(",")[0]
        rows.append([name, value, value / milliseconds[f"{family}, floor"], value / milliseconds[f"{family}, ours"]])
    print(f"{args.network}, {args.images} images of {args.size} x {args.size}, {args.steps} steps of the attack\n")
    headers = ["one training step", "ms", "x floor", "x ours"]
    print(tabulate(rows, headers, tablefmt="github", floatfmt=("", ".0f", ".2f", ".2f")))
    return 0


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--network", default="resnet18", help="of timm (%(default)s)")
    parser.add_argument("--images", type=int, default=32, help="of a batch")
    parser.add_argument("--size", type=int, default=64, help="side of the images, in pixels")
    parser.add_argument("--steps", type=int, default=10, help="of the attack")
    parser.add_argument("--repeats", type=int, default=5, help="of each step; the median counts")
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    return parser.parse_args()


def configuration(args: argparse.Namespace) -> CfgNode:
    """A plain classifier."""
    partbox.register_all()
    options = ["MODEL.PART.EXTRACTOR.NAME", "none", "MODEL.PART.HEAD.NAME", "linear", "MODEL.DEVICE", "cpu"]
    cfg = load_config(None, [*options, "MODEL.PART.BACKBONE.TIMM_NAME", args.network])
    cfg.MODEL.PART.CLASS_NAMES = [str(i) for i in range(CLASSES)]
    return cfg


def ours(objective: AdversarialObjective, model: PartClassifier, images: Tensor, labels: Tensor) -> None:
    """A step of partbox on images that are multiples of 1/255, as a loader gives them."""
    batch = [
        {"image": (image * 255).round().to(torch.uint8), "label": int(label), "image_id": i}
        for i, (image, label) in enumerate(zip(images, labels, strict=True))
    ]
    sum(objective(model, batch, 0).values()).backward()


def usual_pgd(model: PartClassifier, images: Tensor, labels: Tensor, threat: ThreatModel, steps: int) -> None:
    """PGD as most repositories write it."""
    model.eval()
    adversarial = (images + (torch.rand_like(images) * 2 - 1) * threat.eps).clamp(0, 1)
    for _ in range(steps):
        adversarial.requires_grad_(True)
        functional.cross_entropy(model.logits(adversarial), labels).backward()
        moved = adversarial.detach() + 1.25 * threat.eps / steps * adversarial.grad.sign()
        adversarial = (images + (moved - images).clamp(-threat.eps, threat.eps)).clamp(0, 1).detach()
    model.train()
    model.zero_grad()
    functional.cross_entropy(model.logits(adversarial), labels).backward()


def usual_trades(model: PartClassifier, images: Tensor, labels: Tensor, threat: ThreatModel, steps: int) -> None:
    """The loop of the published code: the clean logits in every step."""
    model.eval()
    adversarial = images + 0.001 * torch.randn_like(images)
    for _ in range(steps):
        adversarial.requires_grad_(True)
        loss = divergence(model.logits(images), model.logits(adversarial))
        (gradient,) = torch.autograd.grad(loss, [adversarial])
        moved = adversarial.detach() + 1.25 * threat.eps / steps * gradient.sign()
        adversarial = (images + (moved - images).clamp(-threat.eps, threat.eps)).clamp(0, 1).detach()
    model.train()
    model.zero_grad()
    clean, found = model.logits(images), model.logits(adversarial)
    (functional.cross_entropy(clean, labels) + BETA * divergence(clean, found)).backward()


def divergence(clean: Tensor, found: Tensor) -> Tensor:
    """KL(clean || found) of logits."""
    return functional.kl_div(found.log_softmax(1), clean.softmax(1), reduction="batchmean")


def floor(model: PartClassifier, images: Tensor, labels: Tensor, steps: int, clean_passes: int) -> None:
    """The passes and nothing else."""
    with attack_mode(model):
        for _ in range(clean_passes):
            with torch.no_grad():
                model.logits(images)
        for _ in range(steps):
            leaf = images.clone().requires_grad_(True)
            torch.autograd.grad(functional.cross_entropy(model.logits(leaf), labels), leaf)
    model.zero_grad()
    loss = functional.cross_entropy(model.logits(images), labels)
    for _ in range(clean_passes):
        loss = loss + functional.cross_entropy(model.logits(images), labels)
    loss.backward()


def measure(steps: dict[str, Step], repeats: int) -> dict[str, float]:
    """Median milliseconds of each."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for repeat in track(range(repeats + 1), repeats + 1, "measuring", "repeat"):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            if repeat:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) * 1e3 for name, values in seconds.items()}


if __name__ == "__main__":
    raise SystemExit(main())
