"""Errors of installing."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import partbox
from partbox.engine.user_errors import sentence_of

from .provoking import PROVOKED, REPOSITORY, entry, said, template


def fail_pip(message: str, what: str) -> Callable[[], str]:
    return lambda: template("scripts/setup_env.sh", what, message)


PROVOKED["The disk is full while packages are installed"] = fail_pip(
    "setup_env.sh: the disk is full while installing the packages of requirements/base.txt; free some space (about 10 "
    "GB under /home/me/partbox/.venv, of which 6 stay in use, and 3 for pip's cache) and run again. "
    "Log: /home/me/partbox/.venv.log",
    "the disk is full while",
)
PROVOKED["The package index cannot be reached"] = fail_pip(
    "setup_env.sh: the package index cannot be reached while installing setuptools; check the network, the proxy and "
    "'pip config list', and run again (what is there is kept). Log: /home/me/partbox/.venv.log",
    "the package index cannot be reached while",
)


@entry("There is not enough disk to begin with")
def _() -> str:
    done = subprocess.run(
        ["bash", str(REPOSITORY / "scripts/setup_env.sh"), "venv"],
        capture_output=True,
        text=True,
        env={**os.environ, "PARTBOX_MIN_DISK_GB": "1000000", "PYTHON": ""},
    )
    text = done.stderr.strip().replace(str(Path.cwd()), "/home/me/partbox").replace("1000000 GB", "10 GB")
    return re.sub(r"has \d+;", "has 4;", text)


@entry("pkg_resources is missing")
def _() -> str:
    import detectron2.model_zoo.model_zoo as zoo

    pins = (REPOSITORY / "setup.py").read_text()
    assert "import pkg_resources" in Path(zoo.__file__).read_text()
    assert "setuptools<81" in pins.replace(" ", "")
    return sentence_of(ModuleNotFoundError("No module named 'pkg_resources'"))


@entry("A tool is started with another Python")
def _() -> str:
    alone = [sys.executable, "-I", "-S", str(REPOSITORY / "tools/train_net.py")]  # without what is installed
    done = subprocess.run(alone, capture_output=True, text=True, timeout=60)
    return done.stderr.splitlines()[-1]


@entry("detectron2 is not installed")
def _() -> str:
    def act() -> None:
        with partbox._explained_imports():
            raise ModuleNotFoundError("No module named 'detectron2'", name="detectron2")

    return said(ImportError, act)


@entry("detectron2's compiled part is not there")
def _() -> str:
    from detectron2.layers import DeformConv

    return said(ImportError, lambda: DeformConv(3, 3, 3))


@entry("libGL is missing")
def _() -> str:
    """Where opencv-python has overwritten the headless one; the pins keep it away."""
    names = {
        line.split("==")[0].strip().lower()
        for file in ("base.txt", "dev.txt", "no_dependencies.txt")
        for line in (REPOSITORY / "requirements" / file).read_text().splitlines()
    }
    assert "opencv-python-headless" in names
    assert "opencv-python" not in names
    return sentence_of(ImportError("libGL.so.1: cannot open shared object file: No such file or directory"))
