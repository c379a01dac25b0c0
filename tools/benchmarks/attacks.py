"""What our attacks cost beside other libraries', on the same networks and images, in one run.

    python tools/benchmarks/attacks.py                     # PGD-10 and AutoAttack standard, linf
    python tools/benchmarks/attacks.py --skip-autoattack   # a minute
    python tools/benchmarks/attacks.py --images 64 --norm l2 --eps 0.5
    python tools/benchmarks/attacks.py --dataset datasets_root/pascal_part_animals --epochs 40

Two small networks are trained on generated images, or on the photographs of a prepared dataset: one adversarially, one
on clean images ("undefended"). PGD-10 is compared at its full budget (nobody leaves early) with the floor: as many
forward and input-gradient passes with frozen parameters and nothing else. AutoAttack is compared with pyautoattack,
which carries the official code: seconds and images that stay right. Seconds are CPU seconds of one thread, so that
another process on the machine does not count. Every figure of PGD is the median of interleaved repeats; ratios above 1
mean that ours is faster.

Other libraries are measured where they are installed:
    pip install --no-deps torchattacks==3.5.1 foolbox==3.3.4 eagerpy==0.30.0
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import logging
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from partbox.arguments import ArgumentParser

import numpy as np
import torch
from PIL import Image
from tabulate import tabulate
from torch import Tensor, nn
from torch.nn import functional

from partbox.attacks import PGD, AcceleratedAttack, Attack, AutoAttack, ThreatModel, attack_mode
from partbox.data import load_part_dataset
from partbox.data.example import generate_example_dataset
from partbox.progress import track

UNDEFENDED = "undefended"
NETWORKS = ["adversarially trained", UNDEFENDED]
Run = Callable[[], Tensor]


def main() -> int:
    """Train the networks, measure, print the tables."""
    args = parse_args()
    torch.set_num_threads(args.threads)
    logging.disable(logging.INFO)
    train, test = benchmark_images(args)
    threat = ThreatModel(args.norm, args.eps)
    networks = {name: train_network(train, args, threat if name != UNDEFENDED else None) for name in args.networks}
    print(
        f"{len(test[1])} images of {args.size} x {args.size} from {args.dataset or 'the generated example'}, {threat}, "
        f"{args.threads} thread(s), {args.repeats} repeats"
    )
    right = {name: count_right(network, *test) for name, network in networks.items()}
    print(f"Right before any attack: {', '.join(f'{name} {number}' for name, number in right.items())}\n")
    if not args.skip_pgd:
        print(pgd_table(next(iter(networks.values())), test, threat, args.repeats))
    if not args.skip_autoattack:
        print("\n" + autoattack_table(networks, test, threat, args.accelerated))
    return 0


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=128, help="images to attack, one batch")
    parser.add_argument("--size", type=int, default=32, help="side of the images, in pixels")
    parser.add_argument("--train-images", type=int, default=2200, help="images that both networks learn from, at most")
    parser.add_argument(
        "--dataset", type=Path, help="folder of a prepared dataset (train.json, test.json, images) [generated images]"
    )
    parser.add_argument("--epochs", type=int, default=8, help="of both trainings")
    parser.add_argument("--norm", choices=["linf", "l2"], default="linf", help="of the threat model")
    parser.add_argument("--eps", default="8/255", help="radius in [0, 1] pixel space, a number or a fraction")
    parser.add_argument("--repeats", type=int, default=5, help="of PGD; AutoAttack runs once")
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=NETWORKS, help="PGD runs on the first")
    parser.add_argument("--skip-pgd", action="store_true", help="leave PGD out")
    parser.add_argument("--skip-autoattack", action="store_true", help="leave AutoAttack out")
    parser.add_argument("--accelerated", action="store_true", help="AutoAttack in bfloat16 and compiled as well")
    return parser.parse_args()


def benchmark_images(args: argparse.Namespace) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Images (N, 3, size, size) in [0, 1] and labels (N,), to learn from and to attack."""
    if args.dataset:
        return read_split(args.dataset, "train", args.train_images, args.size), read_split(
            args.dataset, "test", args.images, args.size
        )
    with tempfile.TemporaryDirectory(prefix="partbox-benchmark-") as folder:
        root = Path(folder) / "example"
        numbers = {"train": args.train_images, "test": args.images}
        generate_example_dataset(root, num_images=numbers, size=(args.size, args.size), workers=2)
        return read_split(root, "train", args.train_images, args.size), read_split(root, "test", args.images, args.size)


def read_split(root: Path, split: str, number: int, size: int) -> tuple[Tensor, Tensor]:
    """Evenly chosen images, squeezed into squares, and labels of a split; all where it has no more than ``number``."""
    records = load_part_dataset(root / f"{split}.json", root / "images").records
    chosen = [records[i * len(records) // number] for i in range(number)] if number < len(records) else records
    pixels = [np.asarray(Image.open(one["file_name"]).convert("RGB").resize((size, size))) for one in chosen]
    labels = torch.tensor([one["label"] for one in chosen])
    return torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).contiguous().float() / 255, labels


def new_network(classes: int) -> nn.Module:
    """A residual-free convolutional network with BatchNorm, 0.3 million parameters."""
    layers: list[nn.Module] = []
    for inputs, outputs, stride in ((3, 32, 1), (32, 64, 2), (64, 64, 1), (64, 128, 2), (128, 128, 1)):
        layers += [nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(512, classes))


def train_network(train: tuple[Tensor, Tensor], args: argparse.Namespace, threat: ThreatModel | None) -> nn.Module:
    """A network in evaluation mode with frozen parameters, trained on clean or on PGD-2 images."""
    torch.manual_seed(0)
    images, labels = train
    model = new_network(int(labels.max()) + 1)
    steps = args.epochs * (len(images) // 50)
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
    attack = PGD(threat, 2, 1.25 * threat.eps / 2) if threat is not None else None
    what = "training " + ("adversarially" if attack else "on clean images")
    for step in track(range(steps), steps, what, "step"):
        rows = torch.randperm(len(images))[:50]
        batch, target = images[rows], labels[rows]
        if attack is not None:
            with attack_mode(model):
                ids = [f"{step}|{row}" for row in rows.tolist()]
                batch = attack.perturb(model, batch, target, image_ids=ids, seed=0)
        optimizer.zero_grad()
        functional.cross_entropy(model.train()(batch), target).backward()
        optimizer.step()
        schedule.step()
    return model.eval().requires_grad_(False)


def iterates(attack: PGD, model: nn.Module, images: Tensor, labels: Tensor) -> list[Tensor]:
    """The images that the attack asks the network about, in order.

    The floor runs on these: on the clean images, where a network is sure of itself, gradients are so small that a CPU
    computes with denormal numbers, and the floor would be slower than the attack.
    """
    seen: list[Tensor] = []

    def watched(batch: Tensor) -> Tensor:
        seen.append(batch.detach().clone())
        return model(batch)

    attack.perturb(watched, images, labels, image_ids=range(len(images)), seed=0)
    return seen


def floor(model: nn.Module, batches: list[Tensor], labels: Tensor) -> Tensor:
    """Forward and input-gradient passes and nothing else."""
    for batch in batches:
        leaf = batch.detach().requires_grad_(True)
        torch.autograd.grad(functional.cross_entropy(model(leaf), labels, reduction="sum"), leaf)
    return batches[-1]


def pgd_runs(model: nn.Module, test: tuple[Tensor, Tensor], threat: ThreatModel) -> dict[str, Run]:
    """Every way to run PGD-10 with random start, step 2.5 eps / 10, away from the network's own answers."""
    images = test[0]
    with torch.no_grad():
        labels = model(images).argmax(1)  # nobody is wrong from the start, so every library attacks every image
    last = images.contiguous(memory_format=torch.channels_last)
    attack = PGD(threat, 10)
    ids = range(len(images))
    visited = iterates(attack, model, images, labels)
    runs: dict[str, Run] = {
        f"floor: {len(visited)} forward + input-gradient passes": lambda: floor(model, visited, labels),
        "partbox": lambda: attack.perturb(model, images, labels, image_ids=ids, seed=0),
        "partbox, channels last": lambda: attack.perturb(model, last, labels, image_ids=ids, seed=0),
    }
    if importlib.util.find_spec("torchattacks"):
        import torchattacks

        kind, radius = ("PGD", {"eps": threat.eps}) if threat.norm == "linf" else ("PGDL2", {"eps": threat.eps})
        peer = getattr(torchattacks, kind)(model, alpha=attack.step_size, steps=10, random_start=True, **radius)
        runs["torchattacks"] = lambda: peer(images, labels)
        runs["torchattacks, channels last"] = lambda: peer(last, labels)
    if importlib.util.find_spec("foolbox"):
        import foolbox

        wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
        kind = "LinfPGD" if threat.norm == "linf" else "L2PGD"
        box = getattr(foolbox.attacks, kind)(abs_stepsize=attack.step_size, steps=10)
        runs["foolbox"] = lambda: box(wrapped, images, labels, epsilons=threat.eps)[1]
        runs["foolbox, channels last"] = lambda: box(wrapped, last, labels, epsilons=threat.eps)[1]
    if importlib.util.find_spec("pyautoattack"):
        from pyautoattack.autopgd_base import APGDAttack

        official = APGDAttack(
            model, n_iter=10, n_restarts=1, eps=threat.eps, norm="Linf" if threat.norm == "linf" else "L2", device="cpu"
        )
        runs["pyautoattack (APGD, 10 steps)"] = lambda: official.perturb(images, labels)
        runs["pyautoattack, channels last"] = lambda: official.perturb(last, labels)
    return runs


def hash_of(name: str, repeat: int) -> bytes:
    """Something to shuffle by, the same on every machine."""
    return hashlib.sha256(f"{repeat}|{name}".encode()).digest()


def pgd_table(model: nn.Module, test: tuple[Tensor, Tensor], threat: ThreatModel, repeats: int) -> str:
    """Seconds of each library, relative to the floor and to ours."""
    runs = pgd_runs(model, test, threat)
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    robust = {}
    for repeat in track(range(repeats + 1), repeats + 1, "measuring", "repeat"):
        # another order each time: what runs after an expensive neighbour finds another cache and another clock
        for name in sorted(runs, key=lambda name: hash_of(name, repeat)):
            run = runs[name]
            start = time.process_time()
            found = run()
            if repeat:  # the first warms up
                seconds[name].append(time.process_time() - start)
            with torch.no_grad():
                robust[name] = int((model(found).argmax(1) == model(test[0]).argmax(1)).sum())
    median = {name: statistics.median(values) for name, values in seconds.items()}
    base = next(iter(median.values()))
    rows = [
        [name, value, value / base, value / median["partbox"], robust[name] if i else "-"]
        for i, (name, value) in enumerate(median.items())
    ]
    headers = ["PGD-10, full budget", "CPU s", "x floor", "x partbox", "answer stays"]
    return tabulate(rows, headers, tablefmt="github", floatfmt=("", ".3f", ".2f", ".2f"))


def autoattack_table(
    networks: dict[str, nn.Module], test: tuple[Tensor, Tensor], threat: ThreatModel, accelerated: bool
) -> str:
    """AutoAttack standard on each network."""
    rows = []
    for network, model in networks.items():
        measured = {}
        runs = autoattack_runs(model, test, threat, accelerated)
        for name, run in track(runs.items(), len(runs), f"attacking the {network} network", "run"):
            start = time.process_time()
            robust = run()
            measured[name] = (time.process_time() - start, robust)
        ours = measured["partbox"][0]
        rows += [[network, name, *values, values[0] / ours] for name, values in measured.items()]
    headers = ["network", "AutoAttack standard", "CPU s", "still right", "x partbox"]
    return tabulate(rows, headers, tablefmt="github", floatfmt=("", "", ".1f", "", ".2f"))


def autoattack_runs(
    model: nn.Module, test: tuple[Tensor, Tensor], threat: ThreatModel, accelerated: bool
) -> dict[str, Callable[[], int]]:
    """Ours in either memory layout; pyautoattack, which stops with an error on channels-last images, in the usual one.

    A network comes with parameters that require gradients. Our evaluation freezes them (``attack_mode``); FAB of the
    official code calls ``backward`` and so computes the gradients of all weights where nobody has frozen them.
    """
    images, labels = test
    last = images.contiguous(memory_format=torch.channels_last)

    def ours(attack: Attack, batch: Tensor) -> int:
        with attack_mode(model.requires_grad_(True)):
            return count(attack, model, batch, labels)

    folded = AcceleratedAttack(AutoAttack(threat), fold_batch_norm=True)
    runs: dict[str, Callable[[], int]] = {
        "partbox": lambda: ours(AutoAttack(threat), images),
        "partbox, channels last": lambda: ours(AutoAttack(threat), last),
        "partbox, folded": lambda: ours(folded, images),
        "partbox, folded, channels last": lambda: ours(folded, last),
    }
    if accelerated:
        for options in ({"precision": "bfloat16"}, {"compiled": True}):
            faster = AcceleratedAttack(AutoAttack(threat), **options)
            runs[f"partbox, {faster.name.split('(')[1][:-1]}"] = lambda faster=faster: ours(faster, images)
    if importlib.util.find_spec("pyautoattack"):
        from pyautoattack import AutoAttack as Official

        def official(frozen: bool) -> int:
            attack = Official(
                model.requires_grad_(not frozen), norm=threat.norm.capitalize(), eps=threat.eps, seed=0, device="cpu"
            )
            found, _ = attack.run_standard_evaluation(images, labels, batch_size=len(images))
            return count_right(model, found, labels)

        runs["pyautoattack"] = lambda: official(frozen=False)
        runs["pyautoattack, frozen"] = lambda: official(frozen=True)
    return runs


@torch.no_grad()
def count_right(model: nn.Module, images: Tensor, labels: Tensor) -> int:
    """Images that the network names rightly."""
    return int((model(images).argmax(1) == labels).sum())


def count(attack: Attack, model: nn.Module, images: Tensor, labels: Tensor) -> int:
    """Images that stay right."""
    return int((~attack(model, images, labels, image_ids=range(len(images))).fooled).sum())


if __name__ == "__main__":
    raise SystemExit(main())
