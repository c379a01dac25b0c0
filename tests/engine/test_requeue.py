"""Which interrupted jobs go back to the queue; a program that answers what it is told stands for Slurm's own."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
from detectron2.utils.logger import setup_logger

from partbox.engine.interruption import Interrupted, interruptible
from partbox.engine.slurm.job import SlurmError, ask, own_job, parse_jobs
from partbox.engine.slurm.requeue import decide, max_starts, requeue

ANSWER = """\
JobId={job} ArrayJobId=7 ArrayTaskId=3 JobName=sweep
   UserId=me(1000) GroupId=me(1000) MCS_label=N/A
   JobState={state} Reason={reason} Dependency=(null)
   Requeue={requeue} Restarts={restarts} BatchFlag=1 Reboot=0 ExitCode=0:0
   Command=/home/me/train.sbatch --config-file A=B
   StdOut=/home/me/slurm-7_3.out
"""


@pytest.mark.parametrize(
    ("state", "reason", "restarts", "advanced", "expected"),
    [
        ("RUNNING", "None", 0, True, True),
        ("RUNNING", "None", 0, False, True),  # the first start may have spent its time on imports
        ("RUNNING", "None", 1, False, False),
        ("RUNNING", "None", 98, True, True),
        ("RUNNING", "None", 99, True, False),
        ("TIMEOUT", "TimeLimit", 3, True, True),
        ("COMPLETING", "TimeLimit", 3, True, True),
        ("COMPLETING", "None", 0, True, False),  # cancelled by its owner
        ("CANCELLED", "None", 0, True, False),
        ("PREEMPTED", "None", 0, True, False),
        ("PENDING", "BeginTime", 1, True, False),  # somebody requeued it already
        ("NODE_FAIL", "None", 0, True, False),
        ("COMPLETED", "None", 0, True, False),
    ],
)
def test_which_jobs_are_requeued(state, reason, restarts, advanced, expected):
    fields = parse_jobs(ANSWER.format(job=10, state=state, reason=reason, restarts=restarts, requeue=1))
    decision = decide(fields[0], advanced=advanced)
    assert decision.requeue is expected
    assert decision.reason


def test_no_requeue_is_obeyed_and_a_job_of_which_nothing_is_known_is_left_alone():
    fields = parse_jobs(ANSWER.format(job=10, state="RUNNING", reason="None", restarts=0, requeue=0))
    assert "--no-requeue" in decide(fields[0], advanced=True).reason
    assert not decide({}, advanced=True).requeue


def test_the_limit_of_starts_is_read_from_the_environment():
    running = {"JobState": "RUNNING", "Restarts": "1", "Requeue": "1"}
    assert decide(running, advanced=True, most=3).requeue
    assert "2 times, and 2 is the limit" in decide(running, advanced=True, most=2).reason
    assert max_starts({}) == 100
    assert max_starts({"PARTBOX_MAX_STARTS": "7"}) == 7
    for wrong in ("0", "-1", "many"):
        with pytest.raises(ValueError, match="PARTBOX_MAX_STARTS"):
            max_starts({"PARTBOX_MAX_STARTS": wrong})


def test_a_task_of_an_array_is_named_by_the_array():
    """The last task's own number is the array's: requeueing that would requeue all of its tasks."""
    array = {"SLURM_JOB_ID": "7", "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "3"}
    assert own_job(array) == "7_3"
    assert own_job({"SLURM_JOB_ID": "7"}) == "7"
    assert own_job({}) is None


@pytest.fixture
def scontrol(tmp_path, monkeypatch):
    """A program in the place of ``scontrol``: answers with a job's description, and notes what it was asked."""
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin/scontrol"

    def install(answer: str, refuses: str = "") -> Path:
        asked = tmp_path / "asked"
        refuse = f'[ "$1" != requeue ] || {{ echo "{refuses}" >&2; exit 1; }}' if refuses else ""
        program.write_text(f"#!/bin/sh\necho $* >> {asked}\n{refuse}\ncat <<'END'\n{answer}END\n")
        program.chmod(0o755)
        return asked

    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    for name in [name for name in os.environ if name.startswith("SLURM_")]:
        monkeypatch.delenv(name)
    return install


ARRAY = {"SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "3", "SLURM_JOB_ID": "10"}
RUNNING = ANSWER.format(job=10, state="RUNNING", reason="None", restarts=1, requeue=1)


def test_slurm_is_asked_and_told(scontrol):
    asked = scontrol(RUNNING)
    assert requeue(advanced=True, environment=ARRAY).requeue
    assert asked.read_text().splitlines() == ["show job 7_3", "requeue 7_3"]
    assert not requeue(advanced=False, environment=ARRAY).requeue
    assert len(asked.read_text().splitlines()) == 3
    assert requeue(advanced=True, environment={}) is None


def test_what_slurm_refuses_is_said(scontrol):
    scontrol(RUNNING, refuses="Requested operation is presently disabled")
    decision = requeue(advanced=True, environment=ARRAY)
    assert not decision.requeue
    assert "presently disabled" in decision.reason
    scontrol("slurm_load_jobs error: Invalid job id specified\n")
    assert "knows 0 jobs" in requeue(advanced=True, environment=ARRAY).reason
    with pytest.raises(SlurmError, match="not on PATH"):
        ask("a-program-that-nobody-has")
    with pytest.raises(SlurmError, match="did not answer"):
        ask("sleep", "5", timeout=0.1)


@pytest.mark.parametrize("process", [0, 1])
@pytest.mark.parametrize(("refuses", "said"), [("", "goes back to the queue"), ("disabled", "Not requeued: ")])
def test_whichever_process_decides_says_so_once_in_the_log_of_the_job(
    scontrol, tmp_path, monkeypatch, capsys, process, refuses, said
):
    """The log of a job is what its tasks print; the loggers of all processes but the first print nothing."""
    scontrol(RUNNING, refuses=refuses)
    monkeypatch.setenv("SLURM_JOB_ID", "10")
    log = logging.getLogger("partbox")
    monkeypatch.setattr(log, "handlers", [])
    monkeypatch.setattr(log, "propagate", False)
    setup_logger(str(tmp_path), distributed_rank=process, name="partbox")

    def run() -> None:
        with interruptible(tmp_path):
            (tmp_path / "last_checkpoint").write_text("resume_0000001.pth")
            raise Interrupted("half way", together=False)

    with pytest.raises(SystemExit):
        run()
    printed = capsys.readouterr()
    assert (printed.out + printed.err).count(said) == 1
    assert sum(file.read_text().count(said) for file in tmp_path.glob("log.txt*")) == 1


@pytest.mark.parametrize(
    ("state", "code", "log", "requeued", "said"),
    [
        ("RUNNING", 138, "importing\n", True, "goes back to the queue"),  # killed before it listened
        ("RUNNING", 143, "importing\n", True, "goes back to the queue"),
        ("COMPLETING", 137, "Job 7_3 goes back to the queue: start 2\n", False, ""),  # the run did it
        (
            "RUNNING",
            75,
            "Job 7_3 goes back to the queue: start 2\nx]: Not requeued: scontrol requeue 7_3: disabled\n",
            False,
            "signal and not requeued: scontrol requeue 7_3: disabled",
        ),
        ("RUNNING", 1, "ConfigError: no such key\n", False, "FAILED: ConfigError: no such key"),
        (
            "COMPLETING",
            143,
            "*** JOB 10 ON n1 CANCELLED AT 2026-01-01T00:00:00 ***\n",
            False,
            "FAILED: it was cancelled",
        ),
        ("RUNNING", 75, "x]: Not requeued: it got nowhere\n", False, "signal and not requeued: it got nowhere"),
    ],
)
def test_the_end_of_a_step(scontrol, tmp_path, state, code, log, requeued, said):
    answer = ANSWER.format(job=10, state=state, reason="None", restarts=0, requeue=1)
    asked = scontrol(answer.replace("/home/me/slurm-7_3.out", str(tmp_path / "my job.log")))
    (tmp_path / "my job.log").write_text(f"ValueError: of an earlier start\n--- start 2 of job 7_3 on n1\n{log}")
    environment = {**os.environ, **ARRAY, "PARTBOX_SUBMISSION": str(tmp_path)}
    command = [sys.executable, "-m", "partbox.engine.slurm.ended", str(code)]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert ("requeue 7_3" in asked.read_text()) == requeued
    assert said in ended.stderr if said else not ended.stderr
    assert (tmp_path / "failures/7_3.txt").is_file() == ("FAILED" in said or "not requeued" in said)


@pytest.mark.parametrize(("restarts", "moves", "expected"), [(0, False, True), (1, False, False), (1, True, True)])
def test_an_interrupted_run_requeues_its_job_if_it_got_on(
    scontrol, tmp_path, monkeypatch, caplog, restarts, moves, expected
):
    asked = scontrol(ANSWER.format(job=10, state="RUNNING", reason="None", restarts=restarts, requeue=1))
    monkeypatch.setenv("SLURM_JOB_ID", "10")
    folder = tmp_path / "run"
    (folder / "records").mkdir(parents=True)
    (folder / "records/process-0-of-1.jsonl").write_text("{}\n")

    def run() -> None:
        with interruptible(folder):
            if moves:
                (folder / "records/process-0-of-1.jsonl").write_text("{}\n{}\n")
            raise Interrupted("half way", together=False)

    with caplog.at_level(logging.WARNING), pytest.raises(SystemExit) as ended:
        run()
    assert ended.value.code == 75
    assert ("requeue 10" in asked.read_text()) == expected
    assert ("Not requeued: it did not finish one iteration" in caplog.text) == (not expected)
    assert "half way" in caplog.text
