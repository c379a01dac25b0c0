"""A Slurm for the tests: the one that is running, else a private one on this machine, else none.

On a cluster give pytest a folder that all machines see: ``--basetemp FOLDER``.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from slurm_jobs import Job

REPOSITORY = Path(__file__).resolve().parents[2]
PRIVATE = REPOSITORY / "scripts/slurm/private_slurm.sh"
# Tests that are killed leave no Slurm behind.
WATCH = 'while kill -0 "$1"; do sleep 1; done >/dev/null 2>&1; bash "$2" stop "$3" >/dev/null 2>&1; rm -rf "$3"'
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch")


def is_running() -> bool:
    try:
        return subprocess.run(["sinfo", "--noheader"], capture_output=True, timeout=10).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


@pytest.fixture(scope="session")
def slurm() -> Iterator[None]:
    """Commands of Slurm work in the test and in what it starts."""
    if is_running():
        yield
        return
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    missing = [program for program in PROGRAMS if shutil.which(program, path=path) is None]
    if missing:
        pytest.skip(f"no Slurm is running, and to start one {', '.join(missing)} must be installed")
    folder = tempfile.mkdtemp(prefix="slurm-")  # short: unix sockets lie in it
    before = os.environ.get("SLURM_CONF")
    watcher = subprocess.Popen(
        ["bash", "-c", WATCH, "watch", str(os.getpid()), PRIVATE, folder], start_new_session=True
    )
    try:
        started = subprocess.run(["bash", PRIVATE, "start", folder], capture_output=True, text=True, timeout=120)
        if started.returncode:
            pytest.fail(f"the private Slurm does not start: {started.stderr}")
        os.environ["SLURM_CONF"] = f"{folder}/slurm.conf"
        yield
    finally:
        if before is None:
            os.environ.pop("SLURM_CONF", None)
        else:
            os.environ["SLURM_CONF"] = before
        subprocess.run(["bash", PRIVATE, "stop", folder], capture_output=True, timeout=120)
        shutil.rmtree(folder, ignore_errors=True)
        watcher.kill()
        watcher.wait()


@pytest.fixture
def sbatch(slurm, tmp_path) -> Iterator[Callable[..., Job]]:
    """Submit a batch script of the project with options of sbatch and arguments; cancelled at the end of the test."""
    jobs = []

    def submit(script: str, options: list[str], *arguments: object) -> Job:
        log = tmp_path / f"job{len(jobs)}.log"
        command = ["sbatch", "--parsable", f"--output={log}", "--mem=3000", *options]
        command += [str(REPOSITORY / "scripts/slurm" / script), *map(str, arguments)]
        ended = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
        assert ended.returncode == 0, ended.stderr
        jobs.append(Job(ended.stdout.strip(), log))
        return jobs[-1]

    yield submit
    for job in jobs:
        subprocess.run(["scancel", job.number], capture_output=True)
