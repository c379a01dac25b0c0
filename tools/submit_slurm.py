#!/usr/bin/env python
r"""Submit trainings, evaluations and sweeps to Slurm; watch them, and collect their results.

Examples:
    # a training on two machines with four GPUs each; it is requeued and continued until it is finished
    python tools/submit_slurm.py train --config-file configs/pascal_part_animals/part_box.yaml \
        --partition gpu --time 24:00:00 --nodes 2 --gpus-per-node 4 --cpus-per-task 8 OUTPUT_DIR output/part_box

    # an evaluation, shared by four processes
    python tools/submit_slurm.py eval --config-file output/part_box/config.yaml --gpus-per-node 4 \
        MODEL.WEIGHTS output/part_box/model_best.pth OUTPUT_DIR output/part_box_autoattack \
        ROBUST_EVAL.PERTURBATIONS "[{'name': 'autoattack', 'eps': '4/255'}]"

    # two models, three seeds each, three perturbations: an array of 6 trainings, then one of 18 evaluations
    python tools/submit_slurm.py sweep --folder output/sweep --parallel 8 --gpus-per-node 1 --seeds 1,2,3 \
        --configs configs/pascal_part_animals/normal.yaml configs/pascal_part_animals/part_box.yaml \
        --perturbation clean --perturbation "{name: pgd, eps: 4/255, steps: 20}" --perturbation corruptions

    # evaluations of runs that are trained already
    python tools/submit_slurm.py sweep --folder output/attacked --runs output/part_box-seed1 output/part_box-seed2 \
        --perturbation "{name: autoattack, eps: 4/255}"

    python tools/submit_slurm.py status output/sweep        # what runs, how far it is, and why what failed did
    python tools/submit_slurm.py collect output/sweep       # one results file, one table

--dry-run prints the batch scripts and the commands, submits nothing, and needs no Slurm. The same command again submits
what is neither finished nor queued. Partition, account and the like stand in scripts/slurm/site.env; docs/slurm.md has
the rest.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from partbox.arguments import ArgumentParser, add_configuration_keys, examples_of

from partbox.engine.checks import ConfigError
from partbox.engine.slurm.collect import RESULTS, collect
from partbox.engine.slurm.job import SlurmError
from partbox.engine.slurm.plan import (
    Cell,
    load_plan,
    parse_perturbation,
    save_plan,
    single,
    sweep_of_configurations,
    sweep_of_runs,
)
from partbox.engine.slurm.site import check_time, load_site, parse_options
from partbox.engine.slurm.status import NO_ANSWER, status_of, to_json
from partbox.engine.slurm.submission import LOGS, REPOSITORY, Resources, dry_run, submit
from partbox.engine.user_errors import errors_as_sentences
from partbox.evaluation.record_files import RecordsError
from partbox.report.sweep_table import status_table, sweep_table

TOOL = "tools/submit_slurm.py"
USER_ERRORS = (ConfigError, RecordsError, SlurmError)
# option here -> long option of sbatch, help
OPTIONS = {
    "partition": ("partition", "where the job goes"),
    "account": ("account", "who pays"),
    "qos": ("qos", "quality of service"),
    "time": ("time", "limit of one start, such as 8:00:00 or 2-00:00:00"),
    "nodes": ("nodes", "machines"),
    "gpus_per_node": ("gpus-per-node", "such as 4 or a100:4"),
    "tasks_per_node": ("ntasks-per-node", "processes on each machine; one per GPU when left out"),
    "cpus_per_task": ("cpus-per-task", "CPUs of each process: its own threads and data workers"),
    "mem": ("mem", "memory of each machine, such as 64G"),
    "constraint": ("constraint", "features of the machines"),
    "exclude": ("exclude", "machines that are not to be used"),
    "reservation": ("reservation", "reservation to use"),
}


def parse_arguments() -> argparse.Namespace:
    parser = ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    parsers = {}
    for name, what in (("train", "one training"), ("eval", "one evaluation"), ("sweep", "many runs as job arrays")):
        parsers[name] = commands.add_parser(
            name, help=f"submit {what}", description=f"Submit {what}.", epilog=_epilog(name)
        )
        if name == "sweep":
            _add_sweep_arguments(parsers[name])
        else:
            parsers[name].add_argument("--config-file", type=Path, required=True, metavar="FILE", help="configuration")
            parsers[name].add_argument("--folder", type=Path, help="of the submission (OUTPUT_DIR/slurm)")
        _add_slurm_arguments(parsers[name])
        add_configuration_keys(parsers[name])
    for name, what in (("status", "say how far a submission is"), ("collect", "merge the results of a submission")):
        parsers[name] = commands.add_parser(name, help=what, description=f"{what.capitalize()}.", epilog=_epilog(name))
        parsers[name].add_argument("folder", type=Path, help="of the submission")
    chosen = parsers.get(sys.argv[1] if len(sys.argv) > 1 else "")
    if chosen is None:
        return parser.parse_args()
    arguments = chosen.parse_intermixed_args(sys.argv[2:])  # KEY VALUE may stand anywhere, which commands cannot do
    arguments.command = sys.argv[1]
    return arguments


def _epilog(command: str) -> str:
    return f"What is not said here comes from the site file. {examples_of(__doc__, TOOL, command)}"


def _add_sweep_arguments(parser: argparse.ArgumentParser) -> None:
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--configs", type=Path, nargs="+", metavar="FILE", help="train these, then evaluate them")
    what.add_argument("--runs", type=Path, nargs="+", metavar="FOLDER", help="evaluate these trained runs")
    parser.add_argument("--seeds", type=_numbers, metavar="SEED,...", help="of the trainings (0)")
    parser.add_argument(
        "--perturbation",
        type=str,
        action="append",
        required=True,
        metavar="NAME",
        help="clean, corruptions, or a mapping such as '{name: pgd, eps: 4/255}'; again for each further one",
    )
    parser.add_argument("--parallel", type=_positive, default=0, metavar="N", help="jobs that run at once (all)")
    parser.add_argument("--folder", type=Path, required=True, help="of the submission and its results")


def _add_slurm_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what each job gets, as sbatch knows it")
    for name, (_, what) in OPTIONS.items():
        group.add_argument(f"--{name.replace('_', '-')}", help=what)
    group.add_argument(
        "--signal-seconds",
        type=_positive,
        metavar="SECONDS",
        help="before the time limit, for the last step, its validation and a checkpoint (site file: 120)",
    )
    group.add_argument("--extra", default="", metavar="OPTIONS", help="more of sbatch's, such as '--mail-type=FAIL'")
    group.add_argument("--name", default="partbox", help="of the jobs (%(default)s)")
    site = os.environ.get("PARTBOX_SITE") or REPOSITORY / "scripts/slurm/site.env"
    parser.add_argument("--site", type=Path, default=site, metavar="FILE", help="site file (%(default)s)")
    parser.add_argument("--dry-run", action="store_true", help="print what would be submitted, and stop")


def _numbers(text: str) -> list[int]:
    try:
        numbers = [int(number) for number in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of whole numbers with commas between them") from None
    if min(numbers) < 0:
        raise argparse.ArgumentTypeError(f"{text!r}: a seed is at least 0, so that it can be given again")
    return numbers


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number above 0")
    return int(text)


def resources_of(arguments: argparse.Namespace) -> Resources:
    """What each job gets, from the command line over the site file."""
    options = {option: getattr(arguments, name) for name, (option, _) in OPTIONS.items() if getattr(arguments, name)}
    if arguments.signal_seconds:
        options["signal"] = f"B:USR1@{arguments.signal_seconds}"
    options = {**parse_options(arguments.extra, "--extra"), **options}
    resources = Resources(load_site(arguments.site), options, parallel=getattr(arguments, "parallel", 0))
    check_time(resources.all)
    return resources


def plan_of(arguments: argparse.Namespace) -> tuple[Path, list[Cell]]:
    """The folder of the submission, and what it runs; everything is checked before anything is submitted."""
    if arguments.command != "sweep":
        kind = "train" if arguments.command == "train" else "evaluate"
        cell = single(kind, arguments.config_file, arguments.options)
        return arguments.folder or Path(cell.output) / "slurm", [cell]
    specs = [parse_perturbation(text) for text in arguments.perturbation]
    if arguments.runs:
        if arguments.seeds:
            raise ConfigError("--seeds are those of trainings, and --runs are trained already")
        return arguments.folder, sweep_of_runs(arguments.runs, specs, arguments.folder, arguments.options)
    seeds = arguments.seeds or [0]
    cells = sweep_of_configurations(arguments.configs, seeds, specs, arguments.folder, arguments.options)
    return arguments.folder, cells


def submit_plan(arguments: argparse.Namespace) -> None:
    """Submit the cells that are neither finished nor queued."""
    folder, cells = plan_of(arguments)
    folder, resources = folder.resolve(), resources_of(arguments)
    if arguments.dry_run:
        print(dry_run(cells, folder, resources, arguments.name))
        return
    save_plan(folder, cells)
    statuses = {status.name: status for status in status_of(folder, cells)}
    silent = next((status for status in statuses.values() if status.state == NO_ANSWER), None)
    if silent is not None:  # a second job of the same run would be worse than none
        raise SlurmError(f"nothing was submitted: job {silent.job} of {silent.name}, {silent.reason}")
    active = {name: status.job for name, status in statuses.items() if status.active}
    left = [cell for cell in cells if cell.name not in active and statuses[cell.name].state != "FINISHED"]
    if not left:
        print(f"Nothing to submit: {len(active)} of {len(cells)} are queued or run, the others are finished.")
        return
    for entry in submit(left, folder, resources, arguments.name, active):
        print(f"job {entry['job']}: {', '.join(entry['cells'].values())}")
    print(f"logs: {folder / LOGS}\nhow far: python tools/submit_slurm.py status {folder}")


def main() -> None:
    """Submit, or look after what was submitted."""
    arguments = parse_arguments()
    if arguments.command not in ("status", "collect"):
        submit_plan(arguments)
        return
    folder = arguments.folder.resolve()
    cells = load_plan(folder)
    statuses = status_of(folder, cells)
    if arguments.command == "status":
        print(status_table(to_json(statuses)))
        return
    print(sweep_table(collect(folder, cells, statuses)))
    print(f"\n{folder / RESULTS}")


if __name__ == "__main__":
    with errors_as_sentences(USER_ERRORS):
        main()
