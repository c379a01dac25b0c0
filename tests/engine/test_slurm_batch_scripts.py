"""What the batch scripts start in a job; programs that write down what they are asked stand for Slurm's own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
SRUN = """\
#!/bin/bash
printf '%s\\n' "$@" >"$ASKED"
printf 'OMP_NUM_THREADS=%s SRUN_CPUS_PER_TASK=%s SLURM_EXPORT_ENV=%s SEEN=%s\\n' "$OMP_NUM_THREADS" \\
    "${SRUN_CPUS_PER_TASK-}" "${SLURM_EXPORT_ENV-}" "${SEEN-}" >>"$ASKED"
"""


@pytest.fixture
def job(tmp_path) -> Callable[..., tuple[subprocess.CompletedProcess[str], list[str]]]:
    """Run a batch script as a job of Slurm would: what became of it, and the words that srun got."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/srun").write_text(SRUN)
    (tmp_path / "site.env").write_text("")

    def run(script: Path, *arguments: object, repository: bool = True, site: str = "", **variables: str):
        (tmp_path / "site.env").write_text(site)
        shown = f"JobId=5 JobName=x\n   Command={script} {' '.join(map(str, arguments))}\n   StdOut={tmp_path}/5.log\n"
        (tmp_path / "bin/scontrol").write_text(f"#!/bin/sh\ncat <<'END'\n{shown}END\n")
        for program in ("srun", "scontrol"):
            (tmp_path / "bin" / program).chmod(0o755)
        asked = tmp_path / "asked"
        asked.unlink(missing_ok=True)
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "PARTBOX", "OMP"))}
        mine = {"PATH": f"{tmp_path}/bin:{os.environ['PATH']}", "SLURM_JOB_ID": "5", "ASKED": str(asked)}
        mine |= {"PARTBOX_SITE": str(tmp_path / "site.env")}
        mine |= {"PARTBOX_PYTHON": sys.executable} if "PARTBOX_PYTHON" not in site else {}
        command = ["bash", str(REPOSITORY / "scripts/slurm" / script.name), *map(str, arguments)]
        ended = subprocess.run(command, env={**kept, **mine, **variables}, capture_output=True, text=True, cwd=tmp_path)
        return ended, asked.read_text().splitlines() if asked.exists() else []

    return run


TRAIN, EVALUATE, SWEEP = (REPOSITORY / f"scripts/slurm/{name}.sbatch" for name in ("train", "eval", "sweep"))


def test_the_repository_is_where_slurm_says_that_the_script_was_blanks_and_all(job, tmp_path):
    house = tmp_path / "my house"
    house.symlink_to(REPOSITORY)
    ended, words = job(house / "scripts/slurm/train.sbatch", "--config-file", "a/scripts/slurm/x", "OUTPUT_DIR", "b c")
    assert ended.returncode == 0, ended.stderr
    tool = words.index(f"{house}/tools/train_net.py")
    assert words[tool + 1 : -1] == ["--resume", "--config-file", "a/scripts/slurm/x", "OUTPUT_DIR", "b c"]


@pytest.mark.parametrize("script", [TRAIN, EVALUATE, SWEEP])
def test_a_script_that_was_copied_elsewhere_says_what_it_lacks(job, tmp_path, script):
    ended, words = job(tmp_path / script.name, "--config-file", "x")
    assert ended.returncode == 2
    assert "set PARTBOX_REPO to its folder" in ended.stderr.splitlines()[-1]
    assert not words
    assert job(tmp_path / "train.sbatch", PARTBOX_REPO=str(REPOSITORY))[0].returncode == 0


def test_one_task_per_gpu_shares_the_cpus_that_the_job_got_for_one(job):
    """Without a number of tasks Slurm gives the CPUs of one task for each node."""
    gpus = {"SLURM_GPUS_ON_NODE": "4", "SLURM_CPUS_PER_TASK": "8", "SLURM_CPUS_ON_NODE": "8"}
    ended, words = job(TRAIN, **gpus, SLURM_JOB_NUM_NODES="2")
    assert words[:5] == [
        "--kill-on-bad-exit=1",
        "--ntasks-per-node=4",
        "--overcommit",
        "--cpus-per-task=2",
        "--label",
    ]
    assert words[-1].startswith("OMP_NUM_THREADS=2 SRUN_CPUS_PER_TASK= ")
    assert "4 tasks on each node share its 8 CPUs: with --ntasks-per-node=4" in ended.stdout
    few = job(TRAIN, **{**gpus, "SLURM_CPUS_ON_NODE": "2"})[1]
    assert "--cpus-per-task=1" in few
    asked, words = job(TRAIN, **gpus, SLURM_NTASKS="8", SLURM_NTASKS_PER_NODE="4", SLURM_JOB_NUM_NODES="2")
    assert words[:2] == ["--kill-on-bad-exit=1", "--label"]
    assert words[-1].startswith("OMP_NUM_THREADS=8 SRUN_CPUS_PER_TASK=8 ")
    assert "share" not in asked.stdout
    assert job(TRAIN, SLURM_GPUS_ON_NODE="1")[1][:2] == ["--kill-on-bad-exit=1", sys.executable]


def test_tasks_get_the_whole_environment_where_the_job_got_a_part(job):
    """srun hands on what sbatch --export named, and nothing that the batch script added, unless it is told to."""
    assert "SLURM_EXPORT_ENV=ALL" in job(TRAIN, SLURM_EXPORT_ENV="NONE")[1][-1]


def test_commands_of_the_site_may_use_variables_that_are_not_set(job):
    """As the functions of modules and conda do."""
    ended, words = job(TRAIN, site="PARTBOX_SETUP='export SEEN=a$NOBODY_HAS_SET_THIS'\n")
    assert ended.returncode == 0, ended.stderr
    assert words[-1].endswith("SEEN=a")


def test_commands_of_the_site_that_fail_end_the_job_with_the_reason(job):
    ended, words = job(TRAIN, site="PARTBOX_SETUP='no_such_module load cuda'\n")
    assert ended.returncode == 2
    assert "FAILED: PARTBOX_SETUP of " in ended.stderr
    assert not words


def test_the_python_of_the_site_file_counts_where_nobody_asked_for_another(job, tmp_path):
    (tmp_path / "python").symlink_to(sys.executable)
    site = f"PARTBOX_PYTHON={tmp_path}/python\n"
    assert str(tmp_path / "python") in job(TRAIN, site=site)[1]
    words = job(TRAIN, site=site, PARTBOX_PYTHON=sys.executable)[1]
    assert sys.executable in words
    assert str(tmp_path / "python") not in words


def test_each_task_of_a_sweep_does_its_line(job, tmp_path):
    lines = [
        "tools/train_net.py --resume A 'b c'",
        "",
        "tools/train_net.py --eval-only X \"[{'name': 'y'}]\"",
        "# no",
        "a (",
    ]
    (tmp_path / "commands.txt").write_text("\n".join(lines) + "\n")

    def task(number: int) -> tuple[subprocess.CompletedProcess[str], list[str]]:
        return job(SWEEP, "commands.txt", SLURM_ARRAY_TASK_ID=str(number), SLURM_ARRAY_JOB_ID="5")

    train, evaluate = task(1)[1], task(3)[1]
    assert train[0] == "--kill-on-bad-exit=1"
    assert train[-5:-1] == [f"{REPOSITORY}/tools/train_net.py", "--resume", "A", "b c"]
    assert evaluate[:2] == ["--kill-on-bad-exit=0", "--wait=0"]
    assert evaluate[-2] == "[{'name': 'y'}]"
    for number, why in (
        (2, "no line 2"),
        (4, "line 4 of commands.txt is no command"),
        (5, "is no command"),
        (6, "no line 6"),
    ):
        ended, words = task(number)
        assert (ended.returncode, words) == (2, [])
        assert why in ended.stderr.splitlines()[-1]


@pytest.mark.slow
def test_on_a_machine_without_slurm_its_tests_are_skipped_with_the_reason(tmp_path):
    """A test of its own session, with nothing but a shell on its PATH."""
    (tmp_path / "bash").symlink_to("/bin/bash")
    name = "tests/slurm/test_slurm.py::test_a_broken_configuration_is_refused_before_anything_is_submitted"
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "PYTEST"))}
    command = [sys.executable, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", name]
    environment = {**kept, "PATH": str(tmp_path)}
    ended = subprocess.run(command, env=environment, cwd=REPOSITORY, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout
    assert "1 skipped" in ended.stdout
    assert re.search(r"no Slurm is running, and to start one .*sbatch must be installed", ended.stdout)
