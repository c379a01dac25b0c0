"""Starting the processes of a run, or finding one's place among those that torchrun or Slurm started."""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing import resource_tracker
from typing import Any

import torch
import torch.distributed as dist
from detectron2.engine import launch as launch_with_detectron2
from detectron2.utils import comm
from torch.distributed.rendezvous import rendezvous

from .checks import ConfigError
from .interruption import SIGNALS
from .user_errors import Errors, errors_as_sentences, sentence_of

logger = logging.getLogger(__name__)

Function = Callable[..., None]
TIMEOUT = timedelta(hours=2)  # the longest wait for another process: for one that reads a large dataset, or validates
FIRST_PORT, PORTS = 15000, 17000  # of jobs under Slurm, where nobody gives one: below the ports that systems hand out


@dataclass(frozen=True)
class Place:
    """This process among those of a run.

    Attributes:
        rank: its number, from 0.
        processes: how many there are.
        local_rank: its number on this machine.
        address: host name of the machine of rank 0.
        port: on which rank 0 listens.
    """

    rank: int
    processes: int
    local_rank: int
    address: str
    port: int


def add_launch_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of a run in several processes."""
    group = parser.add_argument_group(
        "several processes", "One for each GPU; on a CPU too. Under torchrun, or srun with several tasks, leave them."
    )
    group.add_argument(
        "--num-gpus", type=int, default=1, metavar="N", help="processes on this machine, each with its own GPU if any"
    )
    group.add_argument(
        "--num-machines", type=int, default=1, metavar="M", help="machines, each started with this command"
    )
    group.add_argument("--machine-rank", type=int, default=0, metavar="R", help="which of them this is, from 0")
    group.add_argument(
        "--dist-url",
        default="auto",
        metavar="URL",
        help="where the machines meet to train, such as tcp://HOST:PORT of the first one; needed for several machines",
    )


def place_of(environment: Mapping[str, str]) -> Place | None:
    """This process's place, from the variables of torchrun or of srun with several tasks; None without them.

    A batch script of Slurm has variables of its job, too, but is no task of a step: it is on its own.

    Raises:
        ConfigError: a variable is missing or wrong.
    """
    if "TORCHELASTIC_RUN_ID" in environment or {"RANK", "WORLD_SIZE", "MASTER_ADDR"} <= environment.keys():
        return _place_of_torchrun(environment)
    if environment.get("SLURM_STEP_NUM_TASKS", "1") != "1":
        return _place_of_srun(environment)
    return None


def _place_of_torchrun(environment: Mapping[str, str]) -> Place:
    return Place(
        rank=_number(environment, "RANK"),
        processes=_number(environment, "WORLD_SIZE"),
        local_rank=_number(environment, "LOCAL_RANK"),
        address=environment.get("MASTER_ADDR", ""),
        port=_number(environment, "MASTER_PORT"),
    )


def _place_of_srun(environment: Mapping[str, str]) -> Place:
    job = _number(environment, "SLURM_JOB_ID")
    return Place(
        rank=_number(environment, "SLURM_PROCID"),
        processes=_number(environment, "SLURM_STEP_NUM_TASKS"),
        local_rank=_number(environment, "SLURM_LOCALID"),
        address=environment.get("MASTER_ADDR") or _first_host(environment.get("SLURM_STEP_NODELIST", "")),
        port=_number({"MASTER_PORT": str(FIRST_PORT + job % PORTS), **environment}, "MASTER_PORT"),
    )


def _number(environment: Mapping[str, str], name: str) -> int:
    try:
        return int(environment[name])
    except (KeyError, ValueError):
        raise ConfigError(
            f"the environment variable {name} is {environment.get(name)!r}, and must be a number: start with torchrun "
            "or srun, which set it, or with --num-gpus"
        ) from None


def _first_host(nodes: str) -> str:
    """The first of a list of hosts as Slurm writes it, such as ``gpu[07-09,11],cpu1``."""
    try:
        command = ["scontrol", "show", "hostnames", nodes]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.split()[0]
    except (OSError, subprocess.SubprocessError, IndexError) as error:
        raise ConfigError(
            f"scontrol does not say which hosts {nodes!r} are ({error}): set MASTER_ADDR to the first one"
        ) from error


def check_launch(arguments: argparse.Namespace, batch_size: int, device: str) -> int:
    """How many processes the run has altogether.

    Args:
        arguments: with those of :func:`add_launch_arguments`, and ``part`` and ``eval_only``.
        batch_size: images of a training batch, over all processes.
        device: of the configuration.

    Raises:
        ConfigError: numbers that do not fit each other or this machine.
    """
    place = place_of(os.environ)
    here = arguments.num_gpus
    asked = (arguments.num_gpus, arguments.num_machines, arguments.machine_rank, arguments.dist_url)
    if place is not None and asked != (1, 1, 0, "auto"):
        raise ConfigError(
            "torchrun or srun has started this process already: leave --num-gpus, --num-machines, --machine-rank and "
            "--dist-url, and ask it for more processes"
        )
    if arguments.num_gpus < 1 or not 0 <= arguments.machine_rank < arguments.num_machines:
        raise ConfigError("--num-gpus must be at least 1, and --machine-rank lie from 0 to --num-machines - 1")
    if arguments.num_machines > 1 and arguments.dist_url == "auto" and not arguments.eval_only:
        raise ConfigError("several machines need --dist-url tcp://HOST:PORT, an address of the first one")
    gpus = torch.cuda.device_count()
    if device != "cpu" and place is None and here > gpus:  # Slurm may show each of its tasks one GPU alone
        raise ConfigError(f"--num-gpus {here}, and this machine has {gpus}: ask for fewer, or MODEL.DEVICE cpu")
    processes = place.processes if place else arguments.num_gpus * arguments.num_machines
    if processes > 1 and ":" in device:
        raise ConfigError(f"MODEL.DEVICE is {device}, one GPU for {processes} processes: name it without its number")
    if processes > 1 and arguments.part[1] > 1:
        raise ConfigError("--part divides the work by hand: leave it where there are several processes")
    if not arguments.eval_only and batch_size % processes:
        raise ConfigError(f"SOLVER.IMS_PER_BATCH is {batch_size}, which {processes} processes cannot share equally")
    return processes


def train_together(function: Function, arguments: argparse.Namespace, device: str, errors: Errors) -> None:
    """Call ``function(arguments)`` in every process of a run, with a process group between them.

    If one process ends with an error, the others are stopped.

    Args:
        function: of a module that other processes can import.
        arguments: of the command line.
        device: of the configuration.
        errors: that a user can mend; other processes than this one show them as one sentence.

    Raises:
        SystemExit: a process that was started here failed, with its exit code; it has said why.
    """
    place = place_of(os.environ)
    if place is not None:
        with _process_group(place, device), errors_as_sentences(errors, place.rank):
            function(arguments)
            comm.synchronize()  # nobody goes on before the files of the main process are there
        return
    processes = arguments.num_gpus * arguments.num_machines
    if processes == 1:
        function(arguments)
        return
    _prepare_children(arguments.num_gpus, device)
    with _signals_forwarded():
        try:
            launch_with_detectron2(
                _together,
                arguments.num_gpus,
                num_machines=arguments.num_machines,
                machine_rank=arguments.machine_rank,
                dist_url=arguments.dist_url,
                args=(function, arguments, errors),
                timeout=TIMEOUT,
            )
        except torch.multiprocessing.ProcessExitedException as error:
            raise SystemExit(error.exit_code if error.exit_code > 0 else 1) from None


def _together(function: Function, arguments: argparse.Namespace, errors: Errors) -> None:
    try:
        with errors_as_sentences(errors, comm.get_rank()):
            function(arguments)
            comm.synchronize()
    finally:
        dist.destroy_process_group()


def evaluate_apart(function: Function, arguments: argparse.Namespace, device: str, errors: Errors) -> None:
    """Call ``function(arguments, part)`` in every process of a run, part (i, n); they need nothing of each other.

    If one process dies, the others finish their part.

    Args:
        function, arguments, device, errors: see :func:`train_together`.

    Raises:
        SystemExit: a process that was started here failed; what is left is said.
    """
    place = place_of(os.environ)
    if place is not None:
        _choose_gpu(place.local_rank, device)
        function(arguments, (place.rank, place.processes))
        return
    here, everywhere = arguments.num_gpus, arguments.num_gpus * arguments.num_machines
    if everywhere == 1:
        function(arguments, arguments.part)
        return
    parts = [(arguments.machine_rank * here + number, everywhere) for number in range(here)]
    _prepare_children(here, device)
    context = multiprocessing.get_context("spawn")
    said = context.SimpleQueue()
    children = [
        context.Process(target=_apart, args=(function, arguments, part, number, device, errors, said))
        for number, part in enumerate(parts)
    ]
    with _signals_forwarded():
        for child in children:
            child.start()
        for child in children:
            child.join()
    codes = [child.exitcode or 0 for child in children]
    failed = [(part[0], code) for part, code in zip(parts, codes, strict=True) if code]
    for sentence in sorted({said.get() for _ in failed if not said.empty()}):  # one for what all have found
        sys.stderr.write(f"{sentence}\n")
    for number, code in failed:
        why = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        logger.error("Process %d of %d %s; what it finished is kept", number, everywhere, why)
    if failed:
        logger.error("The same command again does what is left")
        raise SystemExit(max((code for _, code in failed if code > 0), default=1))


def _apart(
    function: Function,
    arguments: argparse.Namespace,
    part: tuple[int, int],
    gpu: int,
    device: str,
    errors: Errors,
    said: Any,
) -> None:
    _choose_gpu(gpu, device)
    try:
        function(arguments, part)
    except errors as problem:
        said.put(sentence_of(problem))
        sys.exit(1)


def _choose_gpu(number: int, device: str) -> None:
    if device != "cpu" and torch.cuda.is_available():
        torch.cuda.set_device(number % torch.cuda.device_count())  # 0 where each task sees its own GPU alone


def _prepare_children(number: int, device: str) -> None:
    """What processes that start now shall find in their environment."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores // number)))
    if device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # detectron2 takes NCCL wherever it sees a GPU


@contextmanager
def _process_group(place: Place, device: str) -> Iterator[None]:
    _choose_gpu(place.local_rank, device)
    try:
        url = f"tcp://{place.address}:{place.port}"
        store, _, _ = next(rendezvous(url, place.rank, place.processes, timeout=TIMEOUT))
        store.set_timeout(TIMEOUT)
        _check_same_device(store, place, device)
        dist.init_process_group(
            "gloo" if device == "cpu" else "nccl",
            store=dist.PrefixStore("processes", store),
            rank=place.rank,
            world_size=place.processes,
            timeout=TIMEOUT,
        )
    except ConfigError:
        raise
    except (OSError, RuntimeError, ValueError) as error:
        raise ConfigError(
            f"the processes do not find each other at {place.address}:{place.port} ({error}): is the port taken? set "
            "MASTER_ADDR and MASTER_PORT"
        ) from error
    try:
        yield
    finally:
        dist.destroy_process_group()


def _check_same_device(store: dist.Store, place: Place, device: str) -> None:
    """Refuse processes of which some have a GPU: they would wait for each other's messages for hours."""
    store.set(f"device of {place.rank}", f"{device.split(':')[0]} on {socket.gethostname()}")
    devices = [store.get(f"device of {rank}").decode() for rank in range(place.processes)]
    others = [rank for rank, one in enumerate(devices) if one.split()[0] != devices[0].split()[0]]
    if others:
        raise ConfigError(
            f"process 0 has {devices[0]}, and process {others[0]} has {devices[others[0]]}: ask for a GPU for each, "
            "leave out the node that shows none (--exclude), or say MODEL.DEVICE"
        )


@contextmanager
def _signals_forwarded() -> Iterator[None]:
    """Hand the signals that ask for an end on to the processes that are started inside, and go on waiting for them.

    The signals are blocked here and in the new processes, so that none is lost before a process is ready for it
    (:func:`partbox.engine.interruption.interruptible`); a thread takes those that come.
    """
    done = threading.Event()

    def forward() -> None:
        while not done.is_set():
            got = signal.sigtimedwait(SIGNALS, 0.2)
            if got is None:
                continue
            for child in multiprocessing.active_children():
                if child.pid is not None:
                    os.kill(child.pid, got.si_signo)

    resource_tracker.ensure_running()  # multiprocessing's helper; starting it would unblock SIGTERM again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    thread = threading.Thread(target=forward, name="signals", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
