"""Errors of several processes, signals and Slurm."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import socket
from pathlib import Path

import torch

from partbox.engine import launch
from partbox.engine.checks import ConfigError
from partbox.engine.slurm.failures import reason_of
from partbox.engine.slurm.requeue import decide

from .provoking import PROVOKED, entry, logged, said, template


def launched(*given: str, batch: int = 64, environment: dict[str, str] | None = None) -> str:
    parser = argparse.ArgumentParser()
    launch.add_launch_arguments(parser)
    arguments = parser.parse_args(given)
    arguments.part, arguments.eval_only = (0, 1), False
    before = dict(os.environ)
    os.environ.update(environment or {})
    try:
        return said(ConfigError, lambda: launch.check_launch(arguments, batch, "cpu" if batch % 4 else "auto"))
    finally:
        for name in environment or {}:
            del os.environ[name]
        os.environ.update(before)


@entry("The batch cannot be shared")
def _() -> str:
    return launched("--num-gpus", "4", batch=30)


@entry("There are fewer GPUs than processes")
def _() -> str:
    count, torch.cuda.device_count = torch.cuda.device_count, lambda: 1
    try:
        return launched("--num-gpus", "4")
    finally:
        torch.cuda.device_count = count


@entry("Started twice")
def _() -> str:
    place = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    return launched("--num-gpus", "2", environment=place)


@entry("The port is taken")
def _() -> str:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        place = launch.Place(rank=0, processes=2, local_rank=0, address="127.0.0.1", port=port)
        text = said(ConfigError, lambda: launch._process_group(place, "cpu").__enter__())
    return text.replace(str(port), "29500")


PROVOKED["A process was killed"] = lambda: template(
    "projects/partbox/engine/launch.py",
    "Process %d of %d %s; what it finished is kept",
    "Process 1 of 2 was killed by signal 9; what it finished is kept",
)


@entry("A job ran out of memory")
def _() -> str:
    return reason_of({"JobState": "OUT_OF_MEMORY", "MinMemoryNode": "4G"}, 137, "")


@entry("A job ran out of time")
def _() -> str:
    return reason_of({"JobState": "TIMEOUT", "TimeLimit": "08:00:00"}, 1, "")


@entry("A job was requeued and got nowhere")
def _() -> str:
    decision = decide({"JobState": "RUNNING", "Restarts": "3", "Requeue": "1"}, advanced=False)
    assert not decision.requeue
    return f"Not requeued: {decision.reason}"


@entry("A job was cancelled and not requeued")
def _() -> str:
    decision = decide({"JobState": "CANCELLED", "Restarts": "0", "Requeue": "1"}, advanced=True)
    assert not decision.requeue
    return f"Not requeued: {decision.reason}"


@entry("A signal stopped the run")
def _() -> str:
    from partbox.engine.interruption import interruptible

    def act() -> None:
        with contextlib.suppress(SystemExit), interruptible("output/part_box") as signals, signals.at_once():
            os.kill(os.getpid(), signal.SIGUSR1)
            signal.pause()

    return logged(act)


PROVOKED["The Python of the environment is not on the node"] = lambda: template(
    "scripts/slurm/batch.sh",
    "FAILED: there is no $PYTHON",
    "FAILED: there is no /home/me/partbox/.venv/bin/python on node7: set PARTBOX_PYTHON in "
    "/home/me/partbox/scripts/slurm/site.env, or run scripts/setup_env.sh",
)


@entry("A submission's folder holds another one")
def _() -> str:
    from partbox.engine.slurm.plan import Cell, save_plan

    cells = [Cell(name, "train", ("tools/train_net.py",), name, "c", 0) for name in ("a", "b")]
    save_plan(Path("output/sweep"), cells[:1])
    return said(ConfigError, lambda: save_plan(Path("output/sweep"), cells))
