"""Worker processes: order, Ctrl+C in a terminal, workers that are killed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from partbox.data.preparation.worker_pool import ordered_map

REPO = Path(__file__).resolve().parents[2]

# A shell's background jobs, and what they start, ignore the interrupt: the script takes it in any case.
ENDLESS = """
import itertools, signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)
from partbox.data.preparation.worker_pool import ordered_map
slow = (time.sleep(0.01) or item for item in itertools.count())  # workers wait for items most of the time
try:
    for place in ordered_map(abs, slow, workers=3):
        print("working", flush=True)
except KeyboardInterrupt:
    sys.exit(130)
"""


def _twice(item: int) -> int:
    return 2 * item


def _die_at_five(item: int) -> int:
    if item == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    return item


@pytest.mark.parametrize("workers", [1, 3])
def test_results_are_in_the_order_of_the_items(workers):
    assert list(ordered_map(_twice, iter(range(100)), workers=workers)) == list(range(0, 200, 2))


def test_a_killed_worker_is_told_in_one_sentence():
    with pytest.raises(ChildProcessError, match=r"a worker process was killed.*fewer workers"):
        list(ordered_map(_die_at_five, range(100), workers=2))


@pytest.mark.parametrize("turn", range(2))
def test_an_interrupt_of_the_terminal_ends_the_run_at_once_and_quietly(turn):
    """A worker that died of the interrupt could hold the queue's lock: the others, and the run, waited for ever."""
    environment = {**os.environ, "PYTHONPATH": str(REPO / "projects"), "PYTHONWARNINGS": "ignore"}
    process = subprocess.Popen(
        [sys.executable, "-c", ENDLESS], env=environment, start_new_session=True, stdout=-1, stderr=-1, text=True
    )
    try:
        assert process.stdout.readline() == "working\n"
        time.sleep(0.05 * turn)
        os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=15)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 130
    assert errors == ""
