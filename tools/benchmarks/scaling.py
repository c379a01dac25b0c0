"""How much faster several processes evaluate and train than one, in one run; one thread each.

    python tools/benchmarks/scaling.py
    python tools/benchmarks/scaling.py --config-file configs/pascal_part_animals/part_box.yaml --processes 1,2,4

Each number is what ``tools/train_net.py --num-gpus N`` needs as a whole, and what of it is work: for an evaluation
less the time of the same command with nothing left to do (start, reading the dataset, results from finished records);
for a training, the median time of an iteration times their number. Repeats of the numbers of processes are interleaved,
and the median counts. The evaluation's results are compared, too.

On a machine with other work the ratio says little: run it alone, with as many cores as processes.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

from partbox.arguments import ArgumentParser

from tabulate import tabulate

from partbox.progress import track

REPOSITORY = Path(__file__).resolve().parents[2]
PARTS = ("evaluation, whole command", "evaluation, work", "training, whole command", "training, work")


def main() -> int:
    """Measure and print the tables; 1 where the numbers of processes give different results."""
    args = parse_args()
    numbers = [int(number) for number in args.processes.split(",")]
    seconds: dict[tuple[str, int], list[float]] = defaultdict(list)
    results: dict[int, object] = {}
    with tempfile.TemporaryDirectory() as folder:
        weights = trained_weights(args, Path(folder))
        for repeat in track(range(args.repeats), args.repeats, "measuring", "repeat"):
            for number in numbers:
                output = Path(folder) / f"evaluation-{number}-{repeat}"
                whole, nothing = evaluate(args, output, weights, number), evaluate(args, output, weights, number)
                seconds[PARTS[0], number].append(whole)
                seconds[PARTS[1], number].append(whole - nothing)
                results[number] = json.loads((output / "results.json").read_text())["results"]["by_perturbation"]
                output = Path(folder) / f"training-{number}-{repeat}"
                whole, work = train(args, output, number)
                seconds[PARTS[2], number].append(whole)
                seconds[PARTS[3], number].append(work)
    rows = []
    for part in PARTS:
        medians = [statistics.median(seconds[part, number]) for number in numbers]
        rows.append([part, *medians, *[medians[0] / median for median in medians[1:]]])
    titles = [f"{number} process{'es' if number > 1 else ''} s" for number in numbers]
    ratios = [f"speed of {number} over {numbers[0]}" for number in numbers[1:]]
    print(
        f"{args.config_file}: evaluation of {args.images} images under PGD-{args.steps}; {args.iterations} iterations"
    )
    print(f"{len(os.sched_getaffinity(0))} cores; median of {args.repeats}\n")
    print(tabulate(rows, headers=["", *titles, *ratios], floatfmt=".2f"))
    same = all(result == results[numbers[0]] for result in results.values())
    print(f"\nResults of the evaluations: {'equal' if same else 'DIFFERENT'}")
    return 0 if same else 1


def parse_args() -> argparse.Namespace:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument(
        "--config-file",
        default=str(REPOSITORY / "configs/example/part_box.yaml"),
        metavar="FILE",
        help="what is trained and evaluated (%(default)s)",
    )
    parser.add_argument("--weights", metavar="FILE", help="of the evaluated model; without it one is trained shortly")
    parser.add_argument("--weights-iterations", type=int, default=300, help="of that training (%(default)s)")
    parser.add_argument("--processes", default="1,2", metavar="N,N", help="numbers to compare (%(default)s)")
    parser.add_argument("--images", type=int, default=220, help="evaluated (%(default)s)")
    parser.add_argument("--steps", type=int, default=100, help="of PGD (%(default)s)")
    parser.add_argument("--batch-size", type=int, default=10, help="of the evaluation (%(default)s)")
    parser.add_argument("--iterations", type=int, default=101, help="of the training, above 21 (%(default)s)")
    parser.add_argument(
        "--repeats", type=int, default=3, help="of each number of processes; the median counts (%(default)s)"
    )
    return parser.parse_args()


def trained_weights(args: argparse.Namespace, folder: Path) -> Path:
    """The weights of a short training without attack: most images are right, and stay in the attack to its end."""
    if args.weights:
        return Path(args.weights)
    options = ["SOLVER.MAX_ITER", args.weights_iterations, "ADVERSARY.OBJECTIVE", "clean", "DATASETS.VALIDATION", "()"]
    options += ["TEST.EVAL_PERIOD", 0, "SOLVER.EMA.ENABLED", False, "ROBUST_EVAL.SELF_CHECK_IMAGES", 0]
    options += ["ROBUST_EVAL.PERTURBATIONS", "[{'name': 'clean'}]", "ROBUST_EVAL.NUM_IMAGES", 8]
    run(args, 1, [*options, "OUTPUT_DIR", folder / "weights"])
    return folder / "weights" / "model_final.pth"


def evaluate(args: argparse.Namespace, output: Path, weights: Path, number: int) -> float:
    """Seconds of an evaluation; where there are results already, of writing them again from the records."""
    attack = f"[{{'name': 'pgd', 'eps': 0.0004, 'steps': {args.steps}}}]"
    options = ["MODEL.WEIGHTS", weights, "ROBUST_EVAL.PERTURBATIONS", attack, "ROBUST_EVAL.NUM_IMAGES", args.images]
    options += ["ROBUST_EVAL.BATCH_SIZE", args.batch_size, "ROBUST_EVAL.SELF_CHECK_IMAGES", 0]
    return run(args, number, ["--eval-only", *options, "OUTPUT_DIR", output])


def train(args: argparse.Namespace, output: Path, number: int) -> tuple[float, float]:
    """Seconds of the whole command, and of its iterations."""
    options = ["SOLVER.MAX_ITER", args.iterations, "SOLVER.CHECKPOINT_PERIOD", args.iterations]
    options += ["TEST.EVAL_PERIOD", 0, "DATASETS.VALIDATION", "()", "ADVERSARY.CLEAN_ITERS", 0]
    options += ["ADVERSARY.EPS_WARMUP_ITERS", 0, "ROBUST_EVAL.PERTURBATIONS", "[{'name': 'clean'}]"]
    options += ["ROBUST_EVAL.NUM_IMAGES", 8, "ROBUST_EVAL.SELF_CHECK_IMAGES", 0]
    whole = run(args, number, [*options, "OUTPUT_DIR", output])
    lines = [json.loads(line) for line in (output / "metrics.json").read_text().splitlines()]
    per_iteration = statistics.median(line["time"] for line in lines if "time" in line)
    return whole, per_iteration * args.iterations


def run(args: argparse.Namespace, number: int, arguments: list[object]) -> float:
    command = [sys.executable, "-W", "ignore", str(REPOSITORY / "tools/train_net.py"), "--num-gpus", str(number)]
    command += ["--config-file", args.config_file, *map(str, arguments), "MODEL.DEVICE", "cpu"]
    start = time.perf_counter()
    done = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-3000:]}")
    return time.perf_counter() - start


if __name__ == "__main__":
    raise SystemExit(main())
