"""Jobs that tests submit to Slurm."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from partbox.engine.slurm.job import parse_jobs

ACTIVE = ("RUNNING", "PENDING", "COMPLETING", "CONFIGURING")


class Job:
    """A job that a test submitted."""

    def __init__(self, number: str, log: Path) -> None:
        self.number, self.log = number, log

    @property
    def text(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    @property
    def tasks(self) -> list[dict[str, str]]:
        """What Slurm says: of the job, or of each task of an array."""
        return parse_jobs(
            subprocess.run(["scontrol", "show", "job", self.number], capture_output=True, text=True).stdout
        )

    @property
    def fields(self) -> dict[str, str]:
        return self.tasks[0]

    def until(self, condition: Callable[[], object], seconds: float = 240.0) -> None:
        """Wait for something that this job does."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"{self.fields}\n{self.text}"
            assert self.fields.get("JobState") not in ("FAILED", "CANCELLED", "COMPLETED"), self.text
            time.sleep(0.05)

    def ended(self, seconds: float = 240.0) -> str:
        """Wait for its end, and that of all tasks; the state of the first."""
        deadline = time.monotonic() + seconds
        while any(task["JobState"] in ACTIVE for task in self.tasks):
            assert time.monotonic() < deadline, f"{self.tasks}\n{self.text}"
            time.sleep(0.1)
        return self.fields["JobState"]

    def signal(self, name: str, *, batch: bool) -> None:
        """Send a signal to the batch script alone, as before the time limit, or to its steps, as in preemption."""
        whom = ["--batch"] if batch else []
        subprocess.run(["scancel", *whom, f"--signal={name}", self.number], check=True, capture_output=True)
