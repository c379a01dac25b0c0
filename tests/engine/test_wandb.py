"""wandb: asked for or not there at all, offline for real, the same run after an interruption, no key anywhere."""

from __future__ import annotations

import io
import json
import logging
import os
import pty
import shutil
import socket
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from detectron2.utils.events import EventStorage
from PIL import Image
from small_detectors import SMALL_DETECTOR
from small_models import MODELS, SMALL
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from wandb_files import history, offline_runs

from partbox.engine.checks import ConfigError
from partbox.engine.setup import load_config
from partbox.engine.tracking import wandb_run
from partbox.engine.tracking.wandb_run import RUN_FILE, check_tracking, open_run, run_id
from partbox.engine.tracking.wandb_writer import WandbWriter
from partbox.evaluation.record_files import RecordsError

TESTS = Path(__file__).resolve().parents[1]
PICTURE = "validation/adversarial_images"
CLOCKS = {"time", "data_time", "eta_seconds"}
SECRET = "0123456789abcdef" * 2 + "feedbeef"  # of the length of a key
TRACKED = ["TRACKING.WANDB.ENABLED", "True", "TRACKING.IMAGES", "2"]
TRAINING = [
    *[*SMALL, *MODELS["part_box"], "SOLVER.MAX_ITER", "25", "SOLVER.CHECKPOINT_PERIOD", "10", "TEST.EVAL_PERIOD", "8"],
    *["ADVERSARY.OBJECTIVE", "pgd", "ADVERSARY.STEPS", "1", "ADVERSARY.VALIDATION_STEPS", "1"],
    *["ADVERSARY.VALIDATION_IMAGES", "6", "ROBUST_EVAL.NUM_IMAGES", "22"],
    *[
        "ROBUST_EVAL.PERTURBATIONS",
        "[{'name': 'clean'}, {'name': 'pgd', 'eps': '2/255', 'steps': 2}, {'name': 'pgd', 'eps': '8/255', 'steps': 2}]",
    ],
]


def logged(folder: Path) -> dict[int, dict]:
    """The lines of ``metrics.json`` by iteration."""
    lines = [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]
    return {line.pop("iteration"): line for line in lines}


def assert_same_lines(path: Path, folder: Path, *, pictures: bool) -> None:
    """A file of wandb has the lines of ``metrics.json``, every value of them, and its pictures."""
    tracked = history(path)
    numbers = {step: {k: v for k, v in values.items() if not k.startswith(PICTURE)} for step, values in tracked.items()}
    assert {step: values for step, values in numbers.items() if values} == logged(folder)
    found = {step: values[f"{PICTURE}.path"] for step, values in tracked.items() if f"{PICTURE}.path" in values}
    assert bool(found) == pictures
    if pictures:  # the pixels are those that TensorBoard has
        events = EventAccumulator(str(folder), size_guidance={"images": 0}).Reload()
        drawn = {one.step: one.encoded_image_string for one in events.Images(PICTURE)}
        assert found.keys() == drawn.keys()
        for step, name in found.items():
            pixels = np.asarray(Image.open(path.parent / "files" / name))
            assert np.array_equal(pixels, np.asarray(Image.open(io.BytesIO(drawn[step]))))
            assert pixels.std() > 20


class Listener:
    """A port of this machine where whatever is sent arrives."""

    def __init__(self) -> None:
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.received: list[bytes] = []
        threading.Thread(target=self._listen, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.socket.getsockname()[1]}"

    def _listen(self) -> None:
        while True:
            try:
                connection, _ = self.socket.accept()
            except OSError:
                return
            with connection:
                self.received.append(connection.recv(4096))


@pytest.fixture
def listener():
    found = Listener()
    yield found
    found.socket.close()


def guarded(listener: Listener, example_root: Path, *arguments: object) -> subprocess.CompletedProcess:
    """``tools/train_net.py`` without a network; what would go out, by Python or by wandb's Go process, meets us."""
    environment = {
        **os.environ,
        **{"DETECTRON2_DATASETS": str(example_root), "WANDB_API_KEY": SECRET, "WANDB_BASE_URL": listener.url},
        **dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), listener.url),
        **{"NO_PROXY": "", "no_proxy": "", "PYTHONPATH": os.pathsep.join(sys.path)},
    }
    command = [sys.executable, TESTS / "guarded_run.py", TESTS.parent / "tools/train_net.py", *arguments]
    return subprocess.run([*map(str, command)], env=environment, capture_output=True, text=True, timeout=300)


def test_an_offline_run_sends_nothing_and_says_what_metrics_json_says(listener, example_root, tmp_path):
    folder = tmp_path / "run"
    done = guarded(listener, example_root, *TRAINING, *TRACKED, "OUTPUT_DIR", folder)
    assert done.returncode == 0, done.stderr[-3000:]
    assert listener.received == []
    assert "NETWORK" not in done.stdout + done.stderr
    training, evaluation = offline_runs(folder)
    assert_same_lines(training, folder, pictures=True)
    assert [step for step, values in history(training).items() if f"{PICTURE}.path" in values] == [7, 15, 23, 24]
    number = json.loads((folder / RUN_FILE).read_text())["id"]
    assert training.name == evaluation.name == f"run-{number}.wandb"
    results = json.loads((folder / "results.json").read_text())["results"]
    assert results["clean_accuracy"] > 0
    curve = [line for line in history(evaluation).values() if "eps_times_10000" in line]
    key = "robust_accuracy_by_eps_times_10000/pgd-2 linf"
    names = ["clean", "pgd-2 linf 2/255", "pgd-2 linf 8/255"]
    assert [(line["eps_times_10000"], line[key]) for line in curve] == [
        (x, results["by_perturbation"][name]["accuracy"]) for x, name in zip((0, 78, 314), names, strict=True)
    ]
    for path in folder.rglob("*"):  # the key is nowhere
        assert path.is_dir() or SECRET.encode() not in path.read_bytes(), path
    assert SECRET not in done.stdout + done.stderr
    held = b"".join(path.read_bytes() for path in (training, evaluation))
    assert socket.gethostname().encode() not in held or len(socket.gethostname()) < 4
    files = {path.name for path in folder.glob("wandb/*/files/*")}
    assert files == {"media"}  # no description of the machine, no list of packages, no code


@pytest.mark.slow
def test_the_guard_sees_what_an_online_run_sends(listener, example_root, tmp_path):
    """Without this, the test above could be deaf."""
    online = [*TRACKED, "TRACKING.WANDB.MODE", "online"]
    done = guarded(listener, example_root, *TRAINING, *online, "OUTPUT_DIR", tmp_path / "run")
    assert listener.received
    assert done.returncode == 1
    assert "TRACKING.WANDB: wandb cannot begin" in done.stderr
    assert SECRET not in done.stdout + done.stderr


def test_a_resumed_run_is_the_same_run(run_tool, tmp_path, monkeypatch):
    monkeypatch.setattr("partbox.engine.evaluate.evaluate_and_save", lambda *_, **__: None)
    folder = tmp_path / "run"
    run_tool("train_net", *TRAINING, *TRACKED, "OUTPUT_DIR", folder)
    for name in ("model_final.pth", "resume_final.pth"):
        (folder / name).unlink()
    (folder / "last_checkpoint").write_text("resume_0000019.pth")
    run_tool("train_net", *TRAINING, *TRACKED, "--resume", "OUTPUT_DIR", folder)
    start, resumed = offline_runs(folder)
    assert start.name == resumed.name
    assert history(resumed).keys() == {step for step in history(start) if step >= 20}
    differing = {*CLOCKS, f"{PICTURE}.path"}  # a path names wandb's own count of lines
    for step, values in history(resumed).items():
        same = history(start)[step]
        assert values.keys() == same.keys()
        assert all(values[name] == same[name] for name in values.keys() - differing)


def test_tracking_changes_no_bit_of_a_training(run_tool, tmp_path, monkeypatch):
    monkeypatch.setattr("partbox.engine.evaluate.evaluate_and_save", lambda *_, **__: None)
    run_tool("train_net", *TRAINING, *TRACKED, "OUTPUT_DIR", tmp_path / "tracked")
    run_tool("train_net", *TRAINING, "TRACKING.IMAGES", "0", "OUTPUT_DIR", tmp_path / "plain")
    for name in ("model_final.pth", "model_best.pth", "resume_final.pth"):
        one, other = (torch.load(tmp_path / run / name, weights_only=True) for run in ("tracked", "plain"))
        assert str(one) == str(other), name
        assert all(torch.equal(value, other["model"][key]) for key, value in one["model"].items()), name
    lines = [
        {step: {k: v for k, v in line.items() if k not in CLOCKS} for step, line in logged(tmp_path / run).items()}
        for run in ("tracked", "plain")
    ]
    assert lines[0] == lines[1]
    assert not (tmp_path / "plain" / "wandb").exists()
    assert not (tmp_path / "plain" / RUN_FILE).exists()


def test_a_detector_is_tracked_as_well(run_tool, tmp_path, monkeypatch):
    monkeypatch.setattr("partbox.engine.detector_evaluation.evaluate_subject", lambda *_, **__: None)
    config = TESTS.parent / "configs/car_parts/faster_rcnn.yaml"
    options = [*SMALL_DETECTOR, "SOLVER.MAX_ITER", "3", "TRACKING.WANDB.ENABLED", "True", "TRACKING.WANDB.NAME", "mine"]
    run_tool("train_detector", "--config-file", config, *options, "OUTPUT_DIR", tmp_path / "run")
    (path,) = offline_runs(tmp_path / "run")
    assert_same_lines(path, tmp_path / "run", pictures=False)


@pytest.fixture
def without_wandb(monkeypatch):
    """As if it were not installed: importing it raises ImportError."""
    monkeypatch.setitem(sys.modules, "wandb", None)


@pytest.mark.parametrize("options", [[], ["TRACKING.WANDB.ENABLED", "True", "TRACKING.WANDB.MODE", "disabled"]])
def test_nothing_of_wandb_is_imported_unless_asked(run_tool, tmp_path, without_wandb, options):
    short = [
        *SMALL,
        *MODELS["normal"],
        "SOLVER.MAX_ITER",
        "2",
        "DATASETS.VALIDATION",
        "()",
        "ROBUST_EVAL.NUM_IMAGES",
        "2",
    ]
    run_tool("train_net", *short, *options, "OUTPUT_DIR", tmp_path / "run")
    assert not (tmp_path / "run" / "wandb").exists()


@pytest.mark.parametrize("tool", ["train_net", "train_detector"])
def test_a_missing_wandb_is_said_before_the_training(run_tool, tmp_path, without_wandb, tool):
    config = [] if tool == "train_net" else ["--config-file", TESTS.parent / "configs/car_parts/faster_rcnn.yaml"]
    options = [*(SMALL if tool == "train_net" else SMALL_DETECTOR), "TRACKING.WANDB.ENABLED", "True"]
    with pytest.raises(ConfigError, match="wandb is not installed: pip install wandb"):
        run_tool(tool, *config, *options, "OUTPUT_DIR", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_settings_that_cannot_begin_are_refused():
    with pytest.raises(ConfigError, match=r"TRACKING.WANDB.PROJECT is empty"):
        check_tracking(load_config(None, ["TRACKING.WANDB.ENABLED", "True", "TRACKING.WANDB.PROJECT", ""]))
    with pytest.raises(ConfigError, match="must be one of offline, online, disabled"):
        load_config(None, ["TRACKING.WANDB.MODE", "dryrun"])
    with pytest.raises(ConfigError, match=r"TRACKING.IMAGES must be a whole number >= 0"):
        load_config(None, ["TRACKING.IMAGES", "-1"])
    with pytest.raises(ConfigError, match=r"unknown configuration key TRACKING.WANDB.API_KEY"):
        load_config(None, ["TRACKING.WANDB.API_KEY", SECRET])


def test_what_wandb_refuses_is_a_sentence_without_the_key(tmp_path, monkeypatch):
    import wandb

    def refuse(**_):
        raise wandb.errors.AuthenticationError(f"{SECRET} is not accepted")

    monkeypatch.setenv("WANDB_API_KEY", SECRET)
    monkeypatch.setattr(wandb, "init", refuse)
    cfg = load_config(None, [*TRACKED, "OUTPUT_DIR", str(tmp_path)])
    with pytest.raises(ConfigError, match="wandb login") as caught:
        open_run(cfg)
    assert SECRET not in str(caught.value)
    assert "*** is not accepted" in str(caught.value)


ONLINE = ["TRACKING.WANDB.ENABLED", "True", "TRACKING.WANDB.MODE", "online"]


@pytest.mark.parametrize(
    ("options", "said", "mode"),
    [
        ([], "online", "disabled"),  # the environment makes no run send
        (TRACKED, "online", "offline"),
        (TRACKED, "run", "offline"),
        (TRACKED, "disabled", "disabled"),
        (ONLINE, None, "online"),
        (ONLINE, "", "online"),
        (ONLINE, "Offline", "offline"),  # and keeps one from it
        (ONLINE, "dryrun", "offline"),
        (ONLINE, "disabled", "disabled"),
    ],
)
def test_the_environment_can_only_ask_for_less(monkeypatch, options, said, mode):
    monkeypatch.delenv("WANDB_MODE", raising=False)
    if said is not None:
        monkeypatch.setenv("WANDB_MODE", said)
    cfg = load_config(None, options)
    assert wandb_run.mode_of(cfg) == mode
    assert wandb_run.is_tracked(cfg) == (mode != "disabled")


def asked_of_wandb(monkeypatch, tmp_path, options) -> dict:
    """What ``wandb.init`` gets."""
    import wandb

    asked: dict = {}
    monkeypatch.setattr(wandb, "init", lambda **given: asked.update(given) or SimpleNamespace(url="", dir=""))
    open_run(load_config(None, [*options, "OUTPUT_DIR", str(tmp_path)]))
    return asked


def test_a_run_of_a_quiet_environment_says_that_it_is_quiet(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(logging.getLogger("partbox"), "propagate", True)  # tools turn it off
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert asked_of_wandb(monkeypatch, tmp_path, ONLINE)["mode"] == "offline"
    assert "wandb is offline, not online: the environment says WANDB_MODE=offline" in caplog.text
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert asked_of_wandb(monkeypatch, tmp_path, ONLINE) == {}
    assert "wandb is disabled, not online: the environment says WANDB_MODE=disabled" in caplog.text


def test_no_job_waits_for_ever_for_what_cannot_be_sent(tmp_path, monkeypatch):
    monkeypatch.delenv("WANDB_MODE", raising=False)
    settings = asked_of_wandb(monkeypatch, tmp_path, TRACKED)["settings"]
    assert 0 < settings["finish_timeout"] <= 600
    assert settings["finish_timeout_raises"] is True  # else nobody would hear of it


def test_nobody_is_asked_for_an_account(tmp_path):
    """On a terminal, where wandb would ask and wait."""
    program = (
        "from partbox.engine.setup import load_config; from partbox.engine.tracking.wandb_run import open_run; "
        f"open_run(load_config(None, {[*ONLINE, 'OUTPUT_DIR', str(tmp_path)]!r}))"
    )
    left_out = ("WANDB_API_KEY", "WANDB_MODE", "WANDB_IDENTITY_TOKEN_FILE")
    environment = {key: value for key, value in os.environ.items() if key not in left_out}
    environment |= {"HOME": str(tmp_path), "NETRC": str(tmp_path / "netrc"), "PYTHONPATH": os.pathsep.join(sys.path)}
    environment |= {"WANDB_CONFIG_DIR": str(tmp_path / "config"), "TERM": "xterm"}
    ours, theirs = pty.openpty()
    try:
        done = subprocess.run(
            [sys.executable, "-c", program],
            **{"stdin": theirs, "stdout": theirs, "stderr": subprocess.PIPE, "env": environment},
            **{"text": True, "timeout": 120, "cwd": tmp_path},
        )
    finally:
        os.close(ours)
        os.close(theirs)
    assert done.returncode == 1
    assert "ConfigError: TRACKING.WANDB: wandb cannot begin (nobody has logged in on this machine)" in done.stderr
    assert not (tmp_path / "wandb").exists()


def test_the_id_stays_with_the_folder(tmp_path):
    cfg = load_config(None, TRACKED)
    assert run_id(tmp_path, cfg) == run_id(tmp_path, cfg)
    shutil.rmtree(tmp_path)
    tmp_path.mkdir()
    (tmp_path / RUN_FILE).write_text('{"id": 3}')
    with pytest.raises(ConfigError, match="holds no id"):
        run_id(tmp_path, cfg)
    (tmp_path / RUN_FILE).write_text("[]")
    with pytest.raises(RecordsError, match=f"{RUN_FILE} holds no JSON object: delete that file"):
        run_id(tmp_path, cfg)


class FakeRun:
    """Of wandb: keeps what it is given."""

    def __init__(self, starting_step: int = 0) -> None:
        self.starting_step = self.step = starting_step
        self.lines: list[tuple[int, dict]] = []
        self.metrics: dict[str, str] = {}
        self.exit_code: int | None = None

    def log(self, values: dict, step: int) -> None:
        assert step >= self.step, "wandb drops what goes back"
        self.step = step
        self.lines.append((step, values))

    def define_metric(self, name: str, step_metric: str) -> None:
        self.metrics[name] = step_metric

    def finish(self, exit_code: int) -> None:
        self.exit_code = exit_code


def test_lines_go_in_the_order_of_iterations_and_none_twice():
    run = FakeRun()
    writer = WandbWriter(run, window=20)
    with EventStorage() as storage:
        storage.iter = 19
        storage.put_scalar("loss", 2.0)
        storage.put_scalar("validation", 0.5, smoothing_hint=False, cur_iter=11)
        writer.write()
        writer.write()
        storage.iter = 39
        storage.put_scalar("loss", 4.0)
        writer.write()
    assert run.lines == [(11, {"validation": 0.5}), (19, {"loss": 2.0}), (39, {"loss": 4.0})]


def test_a_continued_online_run_gets_what_it_does_not_have():
    run = FakeRun(starting_step=20)
    writer = WandbWriter(run, window=20)
    with EventStorage() as storage:
        for iteration in (19, 39):
            storage.iter = iteration
            storage.put_scalar("loss", 1.0)
            writer.write()
    assert [step for step, _ in run.lines] == [39]


def test_a_curve_keeps_its_axis_behind_the_iterations():
    run = FakeRun(starting_step=3)
    writer = WandbWriter(run, window=1, axis="eps", first=100)
    with EventStorage() as storage:
        for x in (0, 5):
            storage.iter = x
            storage.put_scalar("accuracy", 1.0 - x / 10)
            writer.write()
    assert run.lines == [(101, {"eps": 0, "accuracy": 1.0}), (102, {"eps": 5, "accuracy": 0.5})]
    assert run.metrics == {"accuracy": "eps"}


def test_an_error_of_wandb_does_not_end_a_run(caplog, monkeypatch):
    class Broken(FakeRun):
        def log(self, values: dict, step: int) -> None:
            raise BrokenPipeError("its process is gone")

    run = Broken()
    writer = WandbWriter(run, window=20)
    monkeypatch.setattr(logging.getLogger("partbox"), "propagate", True)  # tools turn it off
    with EventStorage() as storage, caplog.at_level(logging.ERROR):
        for iteration in (0, 1):
            storage.iter = iteration
            storage.put_scalar("loss", 1.0)
            writer.write()
        writer.close()
    records = {id(record): record for record in caplog.records}  # two handlers may have seen one
    assert [record.getMessage() for record in records.values()] == [
        "wandb does not go on (BrokenPipeError: its process is gone); the run does, untracked by it"
    ]


@pytest.mark.parametrize("complete", [True, False])
def test_an_interrupted_run_is_not_shown_as_finished(complete):
    run = FakeRun()
    writer = WandbWriter(run, window=20)
    writer.complete = complete
    writer.close()
    assert run.exit_code == (0 if complete else 1)


def test_pictures_of_either_kind_are_rows_of_pixels():
    from partbox.engine.tracking.wandb_writer import _pixels

    floats = torch.tensor([0.0, 0.5, 1.0]).reshape(3, 1, 1).expand(3, 2, 4)
    assert _pixels(floats).shape == (2, 4, 3)
    assert _pixels(floats)[0, 0].tolist() == [0, 128, 255]
    assert np.array_equal(_pixels((floats * 255).round().to(torch.uint8)), _pixels(floats))


def test_what_wandb_gets_is_listed_in_one_place():
    """Terminal output, code, git, host and the machine's load stay here."""
    for key in ("disable_code", "disable_git", "x_disable_meta", "x_disable_stats", "x_disable_machine_info"):
        assert wandb_run.PRIVATE[key] is True
    assert wandb_run.PRIVATE["console"] == "off"
    assert wandb_run.PRIVATE["save_code"] is False
