"""Runs that a signal ends: a checkpoint after the step, exit code 75, and the same bits when they go on."""

from __future__ import annotations

import fcntl
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from small_models import SMALL
from tool_runs import run_here
from torch.utils.data import DataLoader

from partbox.engine.checkpoint import RunCheckpointer
from partbox.engine.hooks.resume_checkpoints import ResumeCheckpoints
from partbox.engine.hooks.stop_on_signal import StopOnSignal
from partbox.engine.interruption import Interrupted, Interruption, interruptible
from partbox.engine.run_folder import _held, start_line
from partbox.engine.slurm.task import hold_signals

REPOSITORY = Path(__file__).resolve().parents[2]
TRAINING = [
    *SMALL,
    *["SOLVER.MAX_ITER", "24", "SOLVER.CHECKPOINT_PERIOD", "7", "TEST.EVAL_PERIOD", "10"],
    *["ADVERSARY.OBJECTIVE", "pgd", "ADVERSARY.STEPS", "1", "ADVERSARY.VALIDATION_STEPS", "1"],
    *["SOLVER.EMA.ENABLED", "True", "ROBUST_EVAL.PERTURBATIONS", "[{'name': 'clean'}]"],
]


@pytest.fixture
def start(example_root):
    """Start a tool in a process of its own."""
    started = []

    def call(tool: str, *arguments: object, through: Sequence[str] = ()) -> subprocess.Popen:
        environment = {key: value for key, value in os.environ.items() if not key.startswith("SLURM_")}
        script = str(REPOSITORY / f"tools/{tool}.py")
        command = [sys.executable, "-W", "ignore", *through, script, *map(str, arguments)]
        environment |= {"DETECTRON2_DATASETS": str(example_root), "OMP_NUM_THREADS": str(torch.get_num_threads())}
        started.append(subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE))
        return started[-1]

    yield call
    for process in started:
        process.kill()
        process.communicate()


def until(condition, process, seconds=200.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.stderr.read().decode()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def logged(folder: Path, words: str) -> bool:
    return (folder / "log.txt").is_file() and words in (folder / "log.txt").read_text()


def weights_of(folder: Path, name: str) -> dict:
    return torch.load(folder / name, weights_only=True)["model"]


def same(first: dict, second: dict) -> bool:
    return first.keys() == second.keys() and all(torch.equal(value, second[name]) for name, value in first.items())


@pytest.fixture(scope="module")
def whole(example_root, tmp_path_factory):
    """The folder of a training that nothing interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    run_here(example_root, "train_net", *TRAINING, "OUTPUT_DIR", folder)
    return folder


@pytest.mark.parametrize(
    ("number", "workers"), [pytest.param(signal.SIGUSR1, 0, marks=pytest.mark.slow), (signal.SIGTERM, 2)]
)
def test_a_signalled_training_goes_on_and_ends_in_the_same_bits(start, run_tool, whole, tmp_path, number, workers):
    """At whatever moment; everybody hears the signal, as Slurm sends it, also the data workers."""
    folder = tmp_path / "run"
    options = [*TRAINING, "--resume", "OUTPUT_DIR", folder, "DATALOADER.NUM_WORKERS", workers]
    process = start("train_net", *options)
    until(lambda: logged(folder, "Starting training from iteration"), process)
    time.sleep(random.uniform(0, 0.5))
    for pid in children_of(process):
        os.kill(pid, number)
    process.send_signal(number)
    time.sleep(0.01)
    process.send_signal(signal.SIGUSR1)  # a second one is no second end
    assert process.wait(timeout=60) == 75, process.stderr.read().decode()
    last = (folder / "last_checkpoint").read_text()
    text = (folder / "log.txt").read_text()
    assert f": after iteration {int(last[7:14])}, checkpoint {last}; --resume goes on" in text
    assert text.count("Stopped by SIG") == 1
    assert "requeue" not in text, "there is no Slurm here"
    assert "Traceback" not in text

    run_tool("train_net", *options)
    for name in ("model_final.pth", "model_best.pth", "resume_final.pth"):
        assert same(weights_of(folder, name), weights_of(whole, name))
    results = [json.loads((path / "results.json").read_text())["results"] for path in (folder, whole)]
    assert results[0] == results[1]
    assert len((folder / "command.txt").read_text().splitlines()) == 2


def children_of(process: subprocess.Popen) -> list[int]:
    return [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]


def test_an_evaluation_ends_at_once_and_goes_on(start, run_tool, whole, tmp_path):
    attacks = "[{'name': 'pgd', 'eps': '8/255', 'steps': 15}]"
    again = ["--eval-only", "--config-file", whole / "config.yaml", "MODEL.WEIGHTS", whole / "model_best.pth"]
    again += ["ROBUST_EVAL.PERTURBATIONS", attacks, "ROBUST_EVAL.BATCH_SIZE", "1", "DATALOADER.NUM_WORKERS", "1"]
    process = start("train_net", *again, "OUTPUT_DIR", tmp_path / "run")
    records = tmp_path / "run/records/process-0-of-1.jsonl"
    until(lambda: records.exists() and records.read_bytes().count(b"\n") >= 24, process)
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 75, process.stderr.read().decode()
    assert time.monotonic() - began < 10
    assert not (tmp_path / "run/results.json").exists()
    assert not list((tmp_path / "run").rglob("*.tmp"))
    assert all(json.loads(line) for line in records.read_text().splitlines())
    before = records.read_bytes()
    run_tool("train_net", *again, "OUTPUT_DIR", tmp_path / "run")
    assert records.read_bytes().startswith(before)
    run_tool("train_net", *again, "OUTPUT_DIR", tmp_path / "whole")
    names = [tmp_path / name / "records.jsonl" for name in ("run", "whole")]
    assert names[0].read_bytes() == names[1].read_bytes()


def test_a_signal_before_the_first_step_is_not_lost(start, tmp_path):
    """The launcher holds it back until the run listens; one step is then done, so that every start gets on."""
    process = start("train_net", *TRAINING, "OUTPUT_DIR", tmp_path, through=["-m", "partbox.engine.slurm.task"])
    time.sleep(0.5)
    process.send_signal(signal.SIGUSR1)
    assert process.wait(timeout=60) == 75, process.stderr.read().decode()
    assert (tmp_path / "last_checkpoint").read_text() == "resume_0000000.pth"


# --- the pieces -----------------------------------------------------------------------------------------------------


def test_the_handlers_of_before_come_back(tmp_path):
    before = [signal.getsignal(number) for number in (signal.SIGUSR1, signal.SIGTERM)]
    with interruptible(tmp_path) as interruption:
        assert not interruption.received
        os.kill(os.getpid(), signal.SIGUSR1)
        os.kill(os.getpid(), signal.SIGTERM)
        assert interruption.received == "SIGUSR1"
    assert [signal.getsignal(number) for number in (signal.SIGUSR1, signal.SIGTERM)] == before


def test_a_signal_of_before_ends_what_is_to_end_at_once(tmp_path):
    began = []

    def run() -> None:
        with interruptible(tmp_path) as interruption:
            os.kill(os.getpid(), signal.SIGTERM)
            with interruption.at_once():
                began.append(True)

    with pytest.raises(SystemExit) as ended:
        run()
    assert ended.value.code == 75
    assert not began


@pytest.mark.parametrize("more_follows", [False, True])
def test_a_signal_of_the_last_moment_ends_the_run_where_more_follows(tmp_path, more_follows):
    def run() -> None:
        with interruptible(tmp_path, more_follows=more_follows):
            os.kill(os.getpid(), signal.SIGUSR1)

    if not more_follows:
        run()
        return
    with pytest.raises(SystemExit) as ended:
        run()
    assert ended.value.code == 75


def test_what_was_held_back_before_is_held_back_afterwards(tmp_path):
    """Between two parts of a run nobody listens, and a thread that an earlier part left takes the signal."""
    handlers = [signal.getsignal(number) for number in (signal.SIGUSR1, signal.SIGTERM)]
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    done = threading.Event()
    threading.Thread(target=done.wait, daemon=True).start()
    try:
        hold_signals()
        for number in (signal.SIGUSR1, signal.SIGTERM):
            os.kill(os.getpid(), number)
            with interruptible(tmp_path) as interruption:
                assert interruption.received == number.name
        with interruptible(tmp_path) as interruption:
            assert not interruption.received
        assert signal.SIGUSR1 in signal.pthread_sigmask(signal.SIG_BLOCK, [])
    finally:
        done.set()
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        signal.signal(signal.SIGUSR1, handlers[0])
        signal.signal(signal.SIGTERM, handlers[1])


def test_an_error_stays_an_error_and_a_second_signal_does_not_disturb_the_way_out(tmp_path):
    with pytest.raises(ZeroDivisionError), interruptible(tmp_path):
        _ = 1 / 0
    cleaned = []

    def run() -> None:
        with interruptible(tmp_path) as interruption, interruption.at_once():
            try:
                os.kill(os.getpid(), signal.SIGUSR1)
                time.sleep(5)
            finally:
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(0.01)
                cleaned.append(True)

    with pytest.raises(SystemExit):
        run()
    assert cleaned


class Slow(torch.utils.data.Dataset):
    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> int:
        time.sleep(0.05)
        return index


def test_data_workers_are_deaf_to_strangers_and_obey_their_parent(tmp_path):
    with interruptible(tmp_path) as interruption:
        batches = iter(DataLoader(Slow(), num_workers=2, batch_size=None))
        next(batches)
        workers = [worker.pid for worker in batches._workers]
        for pid in workers:
            for number in ("USR1", "TERM"):
                subprocess.run(["kill", f"-{number}", str(pid)], check=True)
        assert [int(one) for one in batches] == [1, 2, 3, 4, 5]
        assert not interruption.received
        stuck = iter(DataLoader(Slow(), num_workers=1, batch_size=None))
        stuck._workers[0].terminate()
        stuck._workers[0].join(timeout=10)
        assert not stuck._workers[0].is_alive()
        with pytest.raises(RuntimeError):
            list(stuck)


def test_data_workers_that_outlive_the_training_do_not_hold_its_folder(tmp_path):
    with _held(tmp_path, fcntl.LOCK_EX):
        batches = iter(DataLoader(Slow(), num_workers=1, batch_size=None))
    with _held(tmp_path, fcntl.LOCK_EX):
        assert next(batches) == 0


class Checkpointer(RunCheckpointer):
    """Remembers what it was told to save, and saves it."""

    def __init__(self, folder: Path) -> None:
        super().__init__(torch.nn.Linear(1, 1), str(folder))
        self.saved: list[str] = []

    def save(self, name: str, **facts: object) -> None:
        self.saved.append(name)
        super().save(name, **facts)


def trained(hook: StopOnSignal, iterations: range, interruption: Interruption, signal_at: int) -> None:
    trainer = SimpleNamespace(start_iter=iterations.start, max_iter=iterations.stop)
    for one in (hook.checkpoints, hook):
        one.trainer = trainer
        one.before_train()
    for trainer.iter in iterations:
        if trainer.iter == signal_at:
            interruption.receive(signal.SIGUSR1, None)
        hook.checkpoints.after_step()
        hook.after_step()


@pytest.mark.parametrize("signal_at", [4, 5])  # between two checkpoints, and where one is due
def test_one_checkpoint_of_the_step_and_two_kept_over_all_starts(tmp_path, signal_at):
    for number in (0, 1, 3, 8):  # the last one by a start that got further, before somebody went back
        (tmp_path / f"resume_{number:07d}.pth").write_text("")
    interruption, checkpointer = Interruption(), Checkpointer(tmp_path)
    hook = StopOnSignal(ResumeCheckpoints(checkpointer, period=3), interruption)
    with pytest.raises(
        Interrupted, match=rf"after iteration {signal_at}, checkpoint resume_000000{signal_at}\.pth"
    ) as end:
        trained(hook, range(4, 9), interruption, signal_at)
    assert end.value.together
    assert checkpointer.saved == [f"resume_000000{signal_at}"]
    assert [int(path.stem[7:]) for path in sorted(tmp_path.glob("*.pth"))] == [3, signal_at, 8]


def test_nothing_is_left_to_stop_after_the_last_step(tmp_path):
    interruption, checkpointer = Interruption(), Checkpointer(tmp_path)
    trained(StopOnSignal(ResumeCheckpoints(checkpointer, 100), interruption), range(3), interruption, 2)
    assert checkpointer.saved == ["resume_final"]


def test_each_start_says_where_it_ran():
    slurm = {"SLURM_ARRAY_JOB_ID": "12", "SLURM_ARRAY_TASK_ID": "3", "SLURM_JOB_ID": "15", "SLURM_RESTART_COUNT": "2"}
    line = start_line(["train_net.py", "A B", "it's"], {**slurm, "SLURM_JOB_NODELIST": "n[1-2]"}, (1, 4))
    assert "job=12_3 requeued=2 nodes=n[1-2]" in line
    assert "processes=1 part=1/4 job=12_3" in line
    assert line.endswith("  python train_net.py 'A B' 'it'\"'\"'s'\n")
    assert f"folder={os.getcwd()} " in line
    assert "job=" not in start_line(["x"], {})


def test_a_line_of_command_txt_is_one_that_a_shell_runs_again(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "say.py").write_text("import os, sys; print(os.environ['DETECTRON2_DATASETS'], sys.argv[1:])")
    line = start_line(["say.py", "A B", "$x", "it's"], {"DETECTRON2_DATASETS": "/my data"})
    facts, command = line.split("  ", 1)
    assert "DETECTRON2_DATASETS" not in facts
    command = command.replace("python", sys.executable, 1)
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout == "/my data ['A B', '$x', \"it's\"]\n"
