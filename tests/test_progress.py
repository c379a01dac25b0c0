"""Long work tells how far it is: a bar with the time left on a terminal, plain lines at a bounded rate elsewhere."""

from __future__ import annotations

import ast
import fcntl
import logging
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from partbox import progress
from partbox.attacks import PGD, AutoAttack, Square, ThreatModel
from partbox.progress import Progress, note_passes, track

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture
def clock(monkeypatch):
    """A clock that tests move."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


@pytest.fixture
def lines(capsys):
    """What was written to stderr since the last call, without a log to write to."""
    return lambda: capsys.readouterr().err.splitlines()


@pytest.fixture(autouse=True)
def without_a_log(monkeypatch):
    """Tests that ran before may have left the handlers of a run, and loggers that pytest adds one of its own to."""
    for name in progress.LOGGERS:
        monkeypatch.setattr(logging.getLogger(name), "handlers", [])
        monkeypatch.setattr(logging.getLogger(name), "propagate", True)


def test_lines_come_at_a_bounded_rate_and_tell_the_time_left(clock, lines):
    with Progress(1_000, "cutting", "image") as bar:
        for _ in range(1_000):
            clock[0] += 0.125
            bar.step()
    assert lines() == [
        "cutting: 240 of 1,000 images, about 0:01:35 left",
        "cutting: 480 of 1,000 images, about 0:01:05 left",
        "cutting: 720 of 1,000 images, about 0:00:35 left",
        "cutting: 960 of 1,000 images, about 0:00:05 left",
        "cutting: 1,000 of 1,000 images after 0:02:05",
    ]


def test_short_work_says_nothing(clock, lines):
    for _ in track(range(100), 100, "reading", "image"):
        clock[0] += 0.2
    assert lines() == []


def test_what_was_finished_before_does_not_count_as_speed(clock, lines):
    with Progress(10, "evaluation", "batch", done=4) as bar:
        for _ in range(3):
            bar.begin("pgd")
            clock[0] += 20
            bar.step()
    first, last = lines()
    assert first == "evaluation: 6 of 10 batches, now pgd, about 0:01:20 left"
    assert last == "evaluation: 7 of 10 batches after 0:01:00"


def test_dear_units_weigh_more(clock, lines):
    """One clean batch of 2 passes, one attacked of 98: after the first there is not half of the time left."""
    with Progress(2, "evaluation", "batch", weights=(100.0, 0.0)) as bar:
        bar.begin("clean", weight=2)
        clock[0] += 31
        bar.step()
    assert lines()[0] == "evaluation: 1 of 2 batches, now clean, about 0:25:19 left"


def test_nothing_is_promised_where_the_whole_is_not_known(clock, lines):
    with Progress(None, "reading", "image") as bar:
        clock[0] += 40
        bar.step(7)
    assert lines() == ["reading: 7 images, 0:00:40 so far", "reading: 7 images after 0:00:40"]


def test_shown_false_and_lines_false_say_nothing(clock, lines):
    for options in ({"shown": False}, {"lines": False}):
        with Progress(3, "x", "image", **options) as bar:
            clock[0] += 99
            bar.step()
    assert lines() == []


def test_an_error_on_the_way_closes_it(clock, lines):
    def work() -> None:
        with Progress(3, "x", "image") as bar:
            clock[0] += 40
            bar.step()
            raise ValueError("on the way")

    with pytest.raises(ValueError, match="on the way"):
        work()
    assert len(lines()) == 1
    assert not progress._open


class Slow(nn.Module):
    """A network under which the clock moves."""

    def __init__(self, clock: list[float], seconds: float) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 5))
        self.clock, self.seconds, self.images = clock, seconds, 0

    def forward(self, images):
        self.clock[0] += self.seconds
        self.images += len(images)
        return self.net(images)


@pytest.mark.parametrize("attack", [AutoAttack, PGD, Square])
def test_an_attack_inside_one_batch_says_how_far_it_is(clock, lines, attack):
    model = Slow(clock, 1.0)
    attack = attack(
        ThreatModel("linf", 1e-6),
        **({} if attack is AutoAttack else {"steps": 80} if attack is PGD else {"queries": 90}),
    )
    images = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    labels = model(images).argmax(1)
    model.images = 0
    expected = attack.passes * len(images)
    with Progress(1, "evaluation", "batch", weights=(expected, 0.0)) as bar:
        bar.begin("attacked", weight=expected, passes=expected)
        attack(model, images, labels, image_ids=[1, 2])
        counted = bar._passes
        bar.step()
    said = lines()
    assert len(said) >= 3
    assert len(said) <= (clock[0] - 100) / 30 + 1
    shown = [
        int(re.search(r"\(([\d,]+) of at most ([\d,]+) passes over an image\)", one)[1].replace(",", ""))
        for one in said[:-1]
    ]
    assert shown == sorted(shown)
    assert all(re.search(r"about \d.* left$", one) for one in said[:-1])
    assert counted == model.images, "every forward pass of the attack is counted, once"
    assert counted <= expected * 1.05


def test_passes_of_nobody_count_for_nobody(clock, lines):
    note_passes(5)
    with Progress(2, "training", "iteration") as bar:
        note_passes(5)
        assert bar.reached == 0


def test_a_log_file_gets_the_lines_and_not_the_bar(clock, tmp_path, monkeypatch):
    """On a terminal too: there the bar is shown, and the file has the lines all the same."""
    log = tmp_path / "log.txt"
    written = open(log, "w")  # noqa: SIM115 closed below
    handlers = [logging.StreamHandler(sys.stdout), logging.StreamHandler(written)]
    logger = logging.getLogger("partbox")
    monkeypatch.setattr(logger, "handlers", handlers)
    logger.setLevel(logging.INFO)
    for terminal in (False, True):
        monkeypatch.setattr(sys.stderr, "isatty", lambda terminal=terminal: terminal, raising=False)
        monkeypatch.setattr(sys.stdout, "isatty", lambda terminal=terminal: terminal, raising=False)
        with Progress(4, f"terminal {terminal}", "image") as bar:
            for _ in range(4):
                clock[0] += 20
                bar.step()
    written.close()
    text = log.read_text()
    assert "\r" not in text
    assert "%|" not in text
    assert [line.split(",")[0] for line in text.splitlines()] == [
        "terminal False: 2 of 4 images",
        "terminal False: 4 of 4 images",
        "terminal False: 4 of 4 images after 0:01:20",
        "terminal True: 2 of 4 images",
        "terminal True: 4 of 4 images",
        "terminal True: 4 of 4 images after 0:01:20",
    ]


WORK = """
import logging, sys, time
from partbox import progress
progress.SECONDS_BETWEEN_LINES = 0.2
if {log!r}:
    handler = logging.StreamHandler(open({log!r}, "w"))
    logging.getLogger("partbox").handlers = [logging.StreamHandler(sys.stdout), handler]
    logging.getLogger("partbox").setLevel(logging.INFO)
for number in progress.track(range(60), 60, "working", "image"):
    time.sleep(0.01)
    if number == 30 and {log!r}:
        logging.getLogger("partbox").info("a line of the log")
"""


def in_a_terminal(code: str) -> str:
    """What a program shows on a terminal of its own."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    child = subprocess.Popen([sys.executable, "-c", code], stdout=theirs, stderr=theirs, stdin=theirs)
    os.close(theirs)
    shown = b""
    while True:
        try:
            piece = os.read(ours, 65536)
        except OSError:  # the terminal's other end is closed
            break
        if not piece:
            break
        shown += piece
    os.close(ours)
    assert child.wait(60) == 0
    return shown.decode()


def test_on_a_terminal_there_is_a_bar_with_the_time_left(tmp_path):
    log = tmp_path / "log.txt"
    shown = in_a_terminal(WORK.format(log=str(log)))
    bars = [piece for piece in re.split(r"[\r\n]+", shown) if "%|" in piece]
    assert len(bars) > 3
    assert re.search(r"working, \d+ of 60 images: +\d+%\|.*\| \d\d:\d\d<\d\d:\d\d", bars[-1])
    assert "a line of the log" in re.split(r"[\r\n]+", re.sub(r"\x1b\[\w", "", shown)), (
        "log lines are above the bar, whole"
    )
    assert "left" not in shown, "the plain lines are for the file"
    text = log.read_text()
    assert "\r" not in text
    assert "about 0:00:00 left" in text
    assert "60 of 60 images after" in text


def test_in_a_pipe_there_are_plain_lines():
    done = subprocess.run([sys.executable, "-c", WORK.format(log="")], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0
    assert "\r" not in done.stderr
    assert "%|" not in done.stderr
    assert 2 <= len(done.stderr.splitlines()) <= 8
    assert re.fullmatch(r"working: 60 of 60 images after 0:00:0\d", done.stderr.splitlines()[-1])


def test_a_training_writes_plain_lines_at_a_bounded_rate(monkeypatch, caplog):
    from detectron2.utils.events import EventStorage

    from partbox.engine import run_folder

    now = [0.0]
    monkeypatch.setattr(run_folder.time, "monotonic", lambda: now[0])
    writer = run_folder.LogLines(2_000)
    with EventStorage(0) as storage, caplog.at_level(logging.INFO, logger="detectron2.utils.events"):
        for step in range(2_000):
            storage.put_scalars(total_loss=1.0, time=0.01)
            now[0] += 1 / 128
            if (step + 1) % 20 == 0:
                writer.write()
            storage.step()
    said = [record.getMessage() for record in caplog.records]
    assert [int(re.search(r"iter: (\d+)", line)[1]) for line in said] == [19, 659, 1299, 1939, 1999]
    assert all("eta: " in line for line in said)


def test_no_loop_has_a_bar_of_its_own():
    """tqdm writes carriage returns into a pipe and asks nobody who counts the time: it is used in one place."""
    users = []
    for top in ("projects", "tools", "datasets", "maskdino_ext", "scripts"):
        for path in (REPOSITORY / top).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
                users += [str(path.relative_to(REPOSITORY)) for name in names if name.split(".")[0] == "tqdm"]
    assert set(users) == {"projects/partbox/progress.py"}


def test_the_clock_is_not_asked_in_vain():
    """A step costs microseconds: attacks tell of every pass."""
    with Progress(10, "x", "batch") as bar:
        bar.begin("x", weight=1, passes=1e9)
        start = time.perf_counter()
        for _ in range(20_000):
            note_passes(1)
        assert time.perf_counter() - start < 2
        bar.step()


def test_self_checks_say_how_far_they_are(clock, lines):
    """Units without a weight of their own count as one, also while their passes are being made."""
    with Progress(2, "self-checks", "threat model") as bar:
        bar.begin("linf 8/255", passes=100)
        clock[0] += 40
        note_passes(50)
        assert bar.reached == 0.5
    expected = "self-checks: 0 of 2 threat models, now linf 8/255 (50 of at most 100 passes over an image), "
    assert lines()[0] == f"{expected}about 0:02:00 left"


@pytest.mark.parametrize(("unit", "several"), [("image", "images"), ("batch", "batches"), ("entry", "entries")])
def test_units_are_english(clock, lines, unit, several):
    with Progress(2, "x", unit) as bar:
        clock[0] += 40
        bar.step()
    assert lines()[0].startswith(f"x: 1 of 2 {several},")


@pytest.mark.parametrize("file", sorted((REPOSITORY / "tools/benchmarks").glob("*.py")), ids=lambda file: file.stem)
def test_every_benchmark_says_how_far_it_is(file):
    """Minutes pass before each prints its table. convert_annotations starts programs that say it themselves."""
    calls = [node.func for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Call)]
    assert file.stem == "convert_annotations" or any(getattr(one, "id", "") in ("track", "Progress") for one in calls)
