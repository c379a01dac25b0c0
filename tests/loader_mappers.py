"""Mappers for tests of loaders, in a module that a spawned process can import."""

from __future__ import annotations

import gc
import os
import random
import signal
import time

import numpy as np
import torch


def draw_from_all(record: dict) -> dict:
    """A sample of numbers from each global generator."""
    return {
        "image_id": record["image_id"],
        "torch": torch.rand(3),
        "integers": torch.randperm(9),
        "numpy": np.random.rand(3),
        "python": random.random(),
    }


class Dies:
    """Ends its process at one image, in one of several ways."""

    def __init__(self, image_id: int, how: str, after: float = 0.0) -> None:
        self.image_id, self.how, self.after = image_id, how, after

    def __call__(self, record: dict) -> dict:
        if record["image_id"] == self.image_id:
            time.sleep(self.after)
            if self.how == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            if self.how == "crashed":
                os.kill(os.getpid(), signal.SIGSEGV)
            if self.how == "exited":
                os._exit(3)
            if self.how == "raised":
                raise RuntimeError("no such colour")
            if self.how == "while it sent":
                return {"image_id": KillsItsSender()}
        return {"image_id": record["image_id"]}


class KillsItsSender:
    def __reduce__(self):
        os.kill(os.getpid(), signal.SIGKILL)
        return (int, ())


COLLECTED_BY: set[int] = set()


def touch_everything(record: dict) -> dict:
    """A sample that took a look at every value of its record; tells the process.

    Garbage is collected once, as it is in any process that lives longer than a test.
    """
    if os.getpid() not in COLLECTED_BY:
        COLLECTED_BY.add(os.getpid())
        gc.collect()
    total = sum(len(part["segmentation"]["counts"]) + sum(part["bbox"]) for part in record["annotations"])
    return {"process": os.getpid(), "total": total}
