"""Runs in several processes from the command line, and the places that torchrun and Slurm give."""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from small_models import SMALL

from partbox.engine.checks import ConfigError
from partbox.engine.launch import Place, add_launch_arguments, check_launch, place_of
from partbox.engine.parts_of_work import add_part_argument

REPOSITORY = Path(__file__).resolve().parents[2]
TOOL = REPOSITORY / "tools/train_net.py"
ATTACKS = "[{'name': 'clean'}, {'name': 'pgd', 'eps': '8/255', 'steps': 2}]"
RUN = [
    *(*SMALL, "MODEL.PART.HEAD.NAME", "part_box", "MODEL.PART.BATCH_NORM", "synchronised"),
    *("DATASETS.TRAIN", "('example_train',)", "DATASETS.VALIDATION", "('example_val',)"),
    *("DATASETS.TEST", "('example_test',)", "SOLVER.MAX_ITER", "3", "SOLVER.CHECKPOINT_PERIOD", "2"),
    *("ADVERSARY.OBJECTIVE", "pgd", "ADVERSARY.STEPS", "1", "TEST.EVAL_PERIOD", "2"),
    *("ROBUST_EVAL.PERTURBATIONS", ATTACKS, "ROBUST_EVAL.BATCH_SIZE", "3"),
]


def arguments_of(*given: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--eval-only", action="store_true")
    add_part_argument(parser)
    add_launch_arguments(parser)
    return parser.parse_args(given)


@pytest.fixture
def start(example_root):
    """Start the tool; the process."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "TORCHELASTIC"))}
    environment |= {"DETECTRON2_DATASETS": str(example_root), "OMP_NUM_THREADS": "1"}
    begun: list[subprocess.Popen[str]] = []

    def of(*command: object) -> subprocess.Popen[str]:
        words = [sys.executable, *map(str, command)]
        pipe = subprocess.PIPE
        begun.append(subprocess.Popen(words, env=environment, stdout=pipe, stderr=pipe, text=True))
        return begun[-1]

    yield of
    for process in begun:
        process.kill()


def finished(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=600)
    return process.returncode, out, err


def results_of(folder: Path) -> dict:
    return json.loads((folder / "results.json").read_text())["results"]


@pytest.mark.slow
def test_torchrun_and_num_gpus_train_the_same_model(start, tmp_path):
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2]
    for name, command in (("two", [TOOL, "--num-gpus", 2]), ("torchrun", [*torchrun, TOOL])):
        code, _, err = finished(start(*command, *RUN, "OUTPUT_DIR", tmp_path / name))
        assert code == 0, err[-3000:]
    one, other = (results_of(tmp_path / name) for name in ("two", "torchrun"))
    assert one["by_perturbation"] == other["by_perturbation"]
    lines = [(tmp_path / name / "metrics.json").read_text().splitlines() for name in ("two", "torchrun")]
    measured = [
        [{k: v for k, v in json.loads(line).items() if "time" not in k and "eta" not in k} for line in run]
        for run in lines
    ]
    assert measured[0] == measured[1]
    assert measured[0]


def test_what_two_processes_trained_one_process_evaluates_to_the_same_numbers(start, run_tool, tmp_path):
    code, out, err = finished(start(TOOL, "--num-gpus", 2, *RUN, "OUTPUT_DIR", tmp_path / "two"))
    assert code == 0, err[-3000:]
    assert "clean" in out  # the table, whichever process finished last
    one = results_of(tmp_path / "two")
    assert "processes=2" in (tmp_path / "two/command.txt").read_text()
    weights = ["MODEL.WEIGHTS", tmp_path / "two/model_best.pth"]
    run_tool("train_net", "--eval-only", *RUN, *weights, "OUTPUT_DIR", tmp_path / "one")
    assert results_of(tmp_path / "one")["by_perturbation"] == one["by_perturbation"]
    records = [(tmp_path / name / "records.jsonl").read_text() for name in ("one", "two")]
    assert records[0] == records[1]
    assert {path.name for path in (tmp_path / "two/records").glob("process-*")} == {
        "process-0-of-2.jsonl",
        "process-1-of-2.jsonl",
    }


def children_of(process: int) -> dict[int, str]:
    """Process number -> command line of the children."""
    listed = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    return {int(child): Path(f"/proc/{child}/cmdline").read_text() for child in listed}


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="needs /proc to find a process's children")
def test_when_one_process_of_an_evaluation_dies_the_others_finish_and_the_same_command_does_the_rest(
    start, run_tool, teacher, tmp_path
):
    folder = teacher(*RUN)
    attack = ["ROBUST_EVAL.PERTURBATIONS", "[{'name': 'pgd', 'eps': '8/255', 'steps': 20, 'restarts': 3}]"]
    weights = ["MODEL.WEIGHTS", folder / "model_final.pth", *attack]
    command = [TOOL, "--eval-only", "--num-gpus", 2, *RUN, *weights, "OUTPUT_DIR", tmp_path / "two"]
    process = start(*command)
    victim = tmp_path / "two/records/process-1-of-2.jsonl"
    deadline = time.monotonic() + 300
    while not (victim.exists() and victim.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.01)
    workers = [child for child, line in children_of(process.pid).items() if "spawn_main" in line]
    holder = [
        worker
        for worker in workers
        if any(os.path.realpath(fd) == str(victim) for fd in Path(f"/proc/{worker}/fd").iterdir())
    ]
    os.kill(holder[0], signal.SIGKILL)
    code, _, err = finished(process)
    assert code == 1
    assert "Process 1 of 2 was killed by signal 9" in err
    assert "The same command again" in err
    kept = victim.read_text().count("\n")
    mine = [json.loads(line) for line in (tmp_path / "two/records/process-0-of-2.jsonl").read_text().splitlines()]
    assert {one["batch"] for one in mine} == {0, 2, 4, 6}  # all of its 8 batches of 3 of 22 images
    assert kept < 11
    assert not (tmp_path / "two/results.json").exists()
    code, _, err = finished(start(*command))
    assert code == 0, err[-3000:]
    run_tool("train_net", "--eval-only", *RUN, *weights, "OUTPUT_DIR", tmp_path / "one")
    assert results_of(tmp_path / "two") == results_of(tmp_path / "one")


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGUSR1, marks=pytest.mark.slow)])
def test_a_signal_to_the_one_who_started_the_processes_ends_all_with_a_checkpoint(start, tmp_path, number):
    long = [*RUN, "SOLVER.MAX_ITER", "5000", "TEST.EVAL_PERIOD", "0", "DATASETS.VALIDATION", "()"]
    command = [TOOL, "--num-gpus", 2, *long, "OUTPUT_DIR", tmp_path]
    process = start(*command)
    log = tmp_path / "log.txt"
    deadline = time.monotonic() + 300
    while not (log.exists() and "Starting training" in log.read_text()) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(number)
    code, _, err = finished(process)
    assert code == 75, err[-3000:]
    last = (tmp_path / "last_checkpoint").read_text()
    assert (tmp_path / last).is_file()
    assert log.read_text().count("Stopped by SIG") == 1
    assert not list(tmp_path.glob(".*.tmp"))
    resumed = int(last.removeprefix("resume_").removesuffix(".pth")) + 1
    again = start(*command, "--resume")
    while f"Starting training from iteration {resumed}" not in log.read_text() and time.monotonic() < deadline:
        time.sleep(0.05)
    again.send_signal(number)
    assert finished(again)[0] == 75
    assert f"Starting training from iteration {resumed}" in log.read_text()


def test_what_all_processes_find_wrong_is_said_once(start, tmp_path):
    (tmp_path / "last_checkpoint").write_text("resume_0000001.pth")
    code, out, err = finished(start(TOOL, "--num-gpus", 2, *RUN, "OUTPUT_DIR", tmp_path))
    assert code == 1
    assert len(re.findall(r"holds a training run already", out + err)) == 1
    assert "Traceback" not in err


TORCHRUN = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "MASTER_ADDR": "node1", "MASTER_PORT": "29500"}
SRUN = {
    **{"SLURM_JOB_ID": "20007", "SLURM_PROCID": "2", "SLURM_LOCALID": "0", "SLURM_STEP_NUM_TASKS": "4"},
    **{"SLURM_STEP_NODELIST": "gpu[07-08]", "SLURM_NTASKS": "4"},
}


def test_torchrun_gives_a_place():
    assert place_of(TORCHRUN) == Place(rank=3, processes=4, local_rank=1, address="node1", port=29500)


def test_srun_gives_a_place_and_jobs_beside_each_other_get_other_ports(monkeypatch, tmp_path):
    scontrol = tmp_path / "scontrol"
    scontrol.write_text('#!/bin/sh\n[ "$*" = "show hostnames gpu[07-08]" ] && printf "gpu07\\ngpu08\\n"\n')
    scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert place_of(SRUN) == Place(rank=2, processes=4, local_rank=0, address="gpu07", port=18007)
    assert place_of({**SRUN, "SLURM_JOB_ID": "20008"}).port == 18008
    assert place_of({**SRUN, "MASTER_ADDR": "a", "MASTER_PORT": "7"}) == Place(2, 4, 0, "a", 7)
    ports = {place_of({**SRUN, "SLURM_JOB_ID": str(job), "MASTER_ADDR": "a"}).port for job in range(40_000)}
    assert (min(ports), max(ports)) == (15000, 31999)  # Linux hands out those from 32768 on


@pytest.mark.slow
def test_processes_of_which_one_has_no_gpu_are_told_so(tmp_path):
    """MODEL.DEVICE auto takes the CPU where no GPU is shown, and the others would wait for hours."""
    code = (
        "import sys; from partbox.engine.launch import Place, _process_group;"
        "rank, port, device = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]\n"
        "with _process_group(Place(rank, 2, rank, '127.0.0.1', port), device): print('together')"
    )
    for devices in (("cpu", "cpu"), ("cpu", "cuda")):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        pair = [
            subprocess.Popen(
                [sys.executable, "-c", code, str(rank), str(port), device], stdout=-1, stderr=-1, text=True
            )
            for rank, device in enumerate(devices)
        ]
        said = [process.communicate(timeout=120) for process in pair]
        if devices[0] == devices[1]:
            assert [out for out, _ in said] == ["together\n"] * 2, said
        else:
            assert re.search(r"process 0 has cpu on \S+, and process 1 has cuda on \S+: ask for a GPU", said[0][1])
            assert all(process.returncode for process in pair)


def test_a_batch_script_and_a_single_task_are_on_their_own():
    batch = {name: value for name, value in SRUN.items() if not name.startswith("SLURM_STEP")}
    assert place_of(batch) is None
    assert place_of({**SRUN, "SLURM_STEP_NUM_TASKS": "1"}) is None
    assert place_of({}) is None


@pytest.mark.parametrize("name", ["RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_PORT"])
def test_a_wrong_variable_is_named(name):
    with pytest.raises(ConfigError, match=name):
        place_of({**TORCHRUN, "TORCHELASTIC_RUN_ID": "x", name: "many"})


def test_hosts_that_nobody_can_name_are_an_error(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="MASTER_ADDR"):
        place_of(SRUN)


@pytest.mark.parametrize(
    ("given", "batch", "message"),
    [
        (["--num-gpus", "0"], 8, "at least 1"),
        (["--num-gpus", "3"], 8, "IMS_PER_BATCH is 8, which 3"),
        (["--num-machines", "2"], 8, "--dist-url"),
        (["--num-machines", "2", "--machine-rank", "2"], 8, "--machine-rank"),
        (["--num-gpus", "2", "--eval-only", "--part", "0/2"], 8, "--part"),
    ],
)
def test_numbers_that_do_not_fit_are_refused(given, batch, message):
    with pytest.raises(ConfigError, match=message):
        check_launch(arguments_of(*given), batch, "cpu")


def test_a_gpu_by_number_is_not_shared_and_more_processes_than_gpus_are_refused(monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    with pytest.raises(ConfigError, match="without its number"):
        check_launch(arguments_of("--num-gpus", "2"), 8, "cuda:1")
    with pytest.raises(ConfigError, match="this machine has 2"):
        check_launch(arguments_of("--num-gpus", "4"), 8, "cuda")
    assert check_launch(arguments_of("--num-gpus", "2"), 8, "cuda") == 2


def test_under_torchrun_its_number_of_processes_counts(monkeypatch):
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)
    assert check_launch(arguments_of(), 8, "cpu") == 4
    with pytest.raises(ConfigError, match="started this process already"):
        check_launch(arguments_of("--num-gpus", "2"), 8, "cpu")
    with pytest.raises(ConfigError, match="IMS_PER_BATCH is 6, which 4"):
        check_launch(arguments_of(), 6, "cpu")
