"""Freed memory stays with the process: no new pages for every large tensor."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from partbox.engine import allocator

SCRIPT = """
import resource, statistics, sys
import torch
from partbox.engine.allocator import keep_freed_memory
torch.set_num_threads(1)
if sys.argv[1] == "kept":
    assert keep_freed_memory()
layers = []
for inputs, outputs, stride in ((3, 32, 1), (32, 64, 2), (64, 64, 1), (64, 128, 2)):
    layers += [torch.nn.Conv2d(inputs, outputs, 3, stride, 1), torch.nn.BatchNorm2d(outputs), torch.nn.ReLU()]
network, images = torch.nn.Sequential(*layers).eval(), torch.rand(96, 3, 32, 32)
def use():
    leaf = images.clone().requires_grad_(True)
    network(leaf).sum().backward()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
new_pages = []
for _ in range(20):
    before = faults()
    use()
    new_pages.append(faults() - before)
print(int(statistics.median(new_pages[5:])))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the settings are glibc's")
def test_large_tensors_cost_no_new_pages():
    # of one use, the median: now and then the heap still grows by one tensor, as its free parts are cut differently
    faults = {
        setting: int(subprocess.run([sys.executable, "-c", SCRIPT, setting], capture_output=True, check=True).stdout)
        for setting in ("default", "kept")
    }
    if faults["default"] < 1000:
        pytest.skip("this C library gives nothing back by default: there is nothing to save")
    assert faults["kept"] < 0.05 * faults["default"]


def test_another_c_library_is_left_alone(monkeypatch):
    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda name: object())
    assert not allocator.keep_freed_memory()
