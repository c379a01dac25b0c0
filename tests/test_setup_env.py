"""scripts/setup_env.sh on a doll's house: a copy of the repository's frame with tiny wheels instead of torch and co.

Nothing is downloaded. The big installation differs from this one only in what the wheels hold.
"""

import base64
import hashlib
import importlib.metadata
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[1]
BASE_PYTHON = getattr(sys, "_base_executable", sys.executable)
# A fake torch that can be told to be slow, so that the script can be interrupted at a known place.
FAKE_TORCH = "import os, time\ntime.sleep(float(os.environ.get('DOLL_SLEEP', '0')))\n"
MARKER, STAMP = ".partbox-building", ".partbox-stamp"


def write_wheel(
    folder: Path, name: str, version: str, files: dict[str, str], python: str = "py3", metadata: str = ""
) -> Path:
    """Write a wheel of text files, RECORD included, as pip and drop_damaged.py expect it."""
    stem = f"{name}-{version}"
    info = f"{stem}.dist-info"
    files = {
        **files,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{metadata}",
        f"{info}/WHEEL": f"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: {python}-none-any\n",
    }
    record = ""
    for path, text in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
        record += f"{path},sha256={digest},{len(text.encode())}\n"
    wheel = folder / f"{stem}-{python}-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for path, text in {**files, f"{info}/RECORD": f"{record}{info}/RECORD,,\n"}.items():
            archive.writestr(path, text)
    return wheel


def repack(folder: Path, name: str) -> str:
    """Make a wheel of a package that is installed here; returns its version."""
    distribution = importlib.metadata.distribution(name)
    with zipfile.ZipFile(folder / f"{name}-{distribution.version}-py3-none-any.whl", "w") as archive:
        for file in distribution.files or []:
            if ".." in file.parts or file.suffix == ".pyc":
                continue
            if file.name == "RECORD" and len(file.parts) == 2:  # without the scripts in bin/, which pip writes anew
                lines = Path(str(file.locate())).read_text().splitlines(keepends=True)
                archive.writestr(str(file), "".join(line for line in lines if not line.startswith("..")))
            else:
                archive.write(str(file.locate()), str(file))
    return distribution.version


@dataclass
class House:
    """A small repository with its wheels, and the clean environment variables to run its script with."""

    root: Path

    @property
    def venv(self) -> Path:
        return self.root / ".venv"

    @property
    def site_packages(self) -> Path:
        return self.venv / "lib/python3.11/site-packages"

    @property
    def wheels(self) -> Path:
        return self.root / "wheels"

    def environ(self, **changes: str) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not re.match("PIP_|PYTHON|PARTBOX_", name)}
        doll = {"PIP_CONFIG_FILE": os.devnull, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(self.wheels)}
        merged = kept | doll | {"PYTHON": BASE_PYTHON, "PARTBOX_MIN_DISK_GB": "0"} | changes
        return {name: value for name, value in merged.items() if value}

    def command(self, *arguments: str | Path) -> list[str]:
        return ["bash", str(self.root / "scripts/setup_env.sh"), *map(str, arguments)]

    def run(self, *arguments: str | Path, **environ: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*arguments), env=self.environ(**environ), capture_output=True, text=True, timeout=120
        )

    def start(self, **environ: str) -> subprocess.Popen[str]:
        Path(f"{self.venv}.log").unlink(missing_ok=True)  # wait_for_log must not find an earlier run's words
        return subprocess.Popen(
            self.command(),
            env=self.environ(**environ),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            # A test run in the background of a shell ignores SIGINT, and so would the script that is to be interrupted.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    def complete(self) -> subprocess.CompletedProcess[str]:
        done = self.run()
        assert done.returncode == 0, done.stdout + done.stderr
        assert (self.venv / STAMP).is_file()
        assert not (self.venv / MARKER).exists()
        return done

    def wait_for_log(self, text: str, process: subprocess.Popen[str]) -> None:
        log = Path(f"{self.venv}.log")
        deadline = time.monotonic() + 300
        while not (log.is_file() and text in log.read_text(errors="replace")):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline, f"{text!r} never came"
            time.sleep(0.05)

    def python(self, code: str) -> str:
        python = self.venv / "bin/python"
        return subprocess.run([python, "-I", "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def build_house(root: Path) -> House:
    """Copy the frame of the repository and write the wheels that its pins name."""
    for path in ["scripts/setup_env.sh", "scripts/drop_damaged.py", "setup.py", "pyproject.toml", "LICENSE"]:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPO / path, root / path)
    for package in ["projects/partbox", "maskdino_ext"]:
        (root / package).mkdir(parents=True)
        (root / package / "__init__.py").write_text('__version__ = "0.1.0"\n')
    wheels, requirements = root / "wheels", root / "requirements"
    wheels.mkdir()
    requirements.mkdir()
    pins = [f"{name}=={repack(wheels, name)}" for name in ("setuptools", "wheel", "packaging")]
    for name, code in {"torch": FAKE_TORCH, "torchvision": "", "timm": ""}.items():
        write_wheel(wheels, name, "1.0", {f"{name}/__init__.py": code, f"{name}/data.txt": "x" * 1000})
        pins.append(f"{name}==1.0")
    (requirements / "base.txt").write_text("\n".join(pins) + "\n")
    write_wheel(wheels, "dolltool", "1.0", {"dolltool.py": ""})
    (requirements / "dev.txt").write_text("dolltool==1.0\n")
    # It asks for what no wheel here gives: an installation that followed it would fail.
    corruptions = {"imagecorruptions/__init__.py": ""}
    write_wheel(wheels, "imagecorruptions_imaug", "1.0", corruptions, metadata="Requires-Dist: opencv-python\n")
    (requirements / "no_dependencies.txt").write_text("imagecorruptions-imaug==1.0\n")
    tree = {f"detectron2/{path}": "" for path in ("__init__.py", "projects/__init__.py", "projects/deeplab.py")}
    wheel = write_wheel(wheels, "sal_detectron2", "0.7.2", tree, python="cp310")
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    (requirements / "detectron2.txt").write_text(f"sal-detectron2==0.7.2 --hash=sha256:{digest}\n")
    return House(root)


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> House:
    """A house whose environment is complete; each test that spoils it ends with a complete one again."""
    house = build_house(tmp_path_factory.mktemp("house"))
    house.complete()
    return house


@pytest.fixture
def bare_house(tmp_path: Path) -> House:
    """A house without an environment."""
    return build_house(tmp_path)


def fake_python(folder: Path, body: str) -> str:
    script = folder / "python-fake"
    script.write_text(f"#!/bin/sh\n{body}\n")
    script.chmod(0o755)
    return str(script)


def assert_refused(done: subprocess.CompletedProcess[str], *words: str) -> None:
    """The script failed with one sentence on standard error that holds the words."""
    assert done.returncode == 1, done.stdout + done.stderr
    assert done.stderr.startswith("setup_env.sh: "), done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    for word in words:
        assert word in done.stderr


# --- refusals -------------------------------------------------------------------------------------------------------


def test_help_teaches(bare_house: House) -> None:
    done = bare_house.run("--help")
    assert done.returncode == 0
    for word in ("VENV", "PYTHON", "--detectron2", "PARTBOX_MIN_DISK_GB", "CPU or GPU", "bin/activate"):
        assert word in done.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--fast"], ["unknown option --fast", "--help"]),
        (["a", "b"], ["more than one folder"]),
        (["--detectron2", "git"], ["'auto' or 'installed'", "git"]),
        (["--detectron2"], ["'auto' or 'installed'"]),
        (["--detectron2", "installed"], ["no official detectron2", "--help"]),
    ],
)
def test_wrong_arguments(bare_house: House, arguments: list[str], words: list[str]) -> None:
    assert_refused(bare_house.run(*arguments), *words)
    assert not bare_house.venv.exists()


def test_wrong_python(bare_house: House, tmp_path: Path) -> None:
    python = fake_python(tmp_path, "echo 3.9")
    assert_refused(bare_house.run(PYTHON=python), "Python 3.11 is required", python, "3.9")
    assert_refused(bare_house.run(PYTHON=str(tmp_path / "none")), "does not run", "Python 3.11")
    assert not bare_house.venv.exists()


def test_python_without_venv_module(bare_house: House, tmp_path: Path) -> None:
    body = f'case "$*" in *_base_executable*) echo "$0" ;; *ensurepip*) exit 1 ;; *) exec {BASE_PYTHON} "$@" ;; esac'
    python = fake_python(tmp_path, body)
    assert_refused(bare_house.run(PYTHON=python), "cannot make virtual environments", "python3.11-venv")


def test_no_python_on_path(bare_house: House, tmp_path: Path) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ["bash", "cat", "dirname", "flock", "sha256sum", "realpath", "df", "ls", "sed"]:
        (tools / name).symlink_to(str(shutil.which(name)))
    assert_refused(bare_house.run(PYTHON="", PATH=str(tools)), "none is on PATH", "python3.11")


def test_python_is_found_on_path_past_a_broken_one(bare_house: House, tmp_path: Path) -> None:
    shims = tmp_path / "shims"
    shims.mkdir()
    Path(fake_python(shims, "exit 127")).rename(shims / "python3.11")
    path = f"{shims}:{Path(BASE_PYTHON).parent}:{os.environ['PATH']}"
    done = bare_house.run(PYTHON="", PATH=path, PARTBOX_MIN_DISK_GB="999999")
    assert_refused(done, "999999 GB")  # Python was found: the next check speaks


def test_too_little_disk(bare_house: House) -> None:
    done = bare_house.run("deep/er/venv", PARTBOX_MIN_DISK_GB="999999")
    assert_refused(done, "999999 GB of free disk", "larger disk")
    assert_refused(bare_house.run(PARTBOX_MIN_DISK_GB="much"), "whole number")


def test_folder_that_is_no_environment(bare_house: House) -> None:
    (bare_house.root / "notes").mkdir()
    (bare_house.root / "notes/todo.txt").write_text("keep me")
    assert_refused(bare_house.run(bare_house.root / "notes"), "not a virtual environment", "another folder")
    assert_refused(bare_house.run(bare_house.root / "setup.py"), "not a folder")
    assert (bare_house.root / "notes/todo.txt").read_text() == "keep me"


def test_index_that_cannot_be_reached(bare_house: House) -> None:
    (bare_house.wheels / f"setuptools-{importlib.metadata.version('setuptools')}-py3-none-any.whl").unlink()
    offline = {"PIP_NO_INDEX": "", "PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_RETRIES": "1"}
    done = bare_house.run(**offline, PIP_TIMEOUT="1")
    assert_refused(done, "package index", "reached", "check the network", f"{bare_house.venv}.log")
    assert Path(f"{bare_house.venv}.log").is_file()


# --- the installation -----------------------------------------------------------------------------------------------


def test_installs_everything_and_a_second_run_does_nothing(house: House) -> None:
    assert house.python("import partbox; print(partbox.__file__)") == str(house.root / "projects/partbox/__init__.py")
    assert house.python("import maskdino_ext as m; print(m.__file__)") == str(house.root / "maskdino_ext/__init__.py")
    assert house.python("import dolltool, detectron2.projects.deeplab") == ""
    assert not (house.venv / ".tmp").exists()
    before = (house.venv / STAMP).stat().st_mtime_ns
    start = time.monotonic()
    done = house.complete()
    assert time.monotonic() - start < 5
    assert "is complete" in done.stdout
    assert (house.venv / STAMP).stat().st_mtime_ns == before


def test_a_changed_pin_is_noticed(house: House) -> None:
    write_wheel(house.wheels, "dolltool", "1.1", {"dolltool.py": "NEW = True"})
    (house.root / "requirements/dev.txt").write_text("dolltool==1.1\n")
    assert "Done" in house.complete().stdout
    assert house.python("import dolltool; print(dolltool.NEW)") == "True"


def test_a_package_taken_out_by_hand_is_put_back(house: House) -> None:
    shutil.rmtree(house.site_packages / "timm")
    shutil.rmtree(house.site_packages / "timm-1.0.dist-info")
    house.complete()
    assert house.python("import timm") == ""


def test_half_installed_packages_are_put_back(house: House) -> None:
    (house.venv / MARKER).write_text(f"{house.venv}\n")
    (house.site_packages / "torch/data.txt").write_text("cut off")
    (house.site_packages / "timm-1.0.dist-info/RECORD").unlink()
    (house.site_packages / "detectron2/projects/deeplab.py").unlink()
    (house.site_packages / "~orchvision").mkdir()
    done = house.complete()
    assert "4 half-installed packages will be put back" in done.stdout
    assert (house.site_packages / "torch/data.txt").stat().st_size == 1000
    assert house.python("import timm, detectron2.projects.deeplab") == ""
    assert not (house.site_packages / "~orchvision").exists()


def test_an_environment_cut_off_while_pip_was_installed_is_remade(house: House) -> None:
    (house.venv / MARKER).write_text(f"{house.venv}\n")
    (house.venv / STAMP).unlink(missing_ok=True)
    shutil.rmtree(house.site_packages / "pip/_internal")
    done = house.complete()
    assert "of no use" in done.stdout
    assert house.python("import torch") == ""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_goes_on_after_an_interruption(house: House, how: signal.Signals) -> None:
    (house.venv / STAMP).unlink(missing_ok=True)
    (house.venv / MARKER).write_text(f"{house.venv}\n")
    process = house.start(DOLL_SLEEP="30")
    house.wait_for_log("importing torch\n", process)
    start = time.monotonic()
    os.killpg(process.pid, how)
    _, error = process.communicate(timeout=60)
    assert process.returncode == (-signal.SIGKILL if how == signal.SIGKILL else 130)
    assert ("Interrupted" in error) == (how != signal.SIGKILL)
    assert time.monotonic() - start < 20  # the sleep that was interrupted lasts 30
    assert (house.venv / MARKER).exists()
    assert not (house.venv / STAMP).exists()
    house.complete()


def test_a_second_run_waits_for_the_first(house: House) -> None:
    (house.venv / STAMP).unlink(missing_ok=True)
    (house.venv / MARKER).write_text(f"{house.venv}\n")
    first = house.start(DOLL_SLEEP="3")
    house.wait_for_log("importing torch\n", first)
    second = house.run()
    assert "waiting" in second.stdout
    assert "is complete" in second.stdout
    first_output, first_error = first.communicate(timeout=120)
    assert first.returncode == second.returncode == 0, first_error
    assert "Done" in first_output


def test_an_import_that_fails_is_named(house: House) -> None:
    (house.venv / STAMP).unlink(missing_ok=True)
    (house.venv / MARKER).write_text(f"{house.venv}\n")
    (house.root / "projects/partbox/__init__.py").write_text('import no_such_module\n__version__ = "0.1.0"\n')
    assert_refused(house.run(), "partbox cannot be imported", "No module named 'no_such_module'")
    (house.root / "projects/partbox/__init__.py").write_text('__version__ = "0.1.0"\n')
    house.complete()


# --- what the user brought ------------------------------------------------------------------------------------------


def test_keeps_the_users_torch_build_and_official_detectron2(bare_house: House) -> None:
    house = bare_house
    subprocess.run([BASE_PYTHON, "-m", "venv", house.venv], check=True)
    folder = house.root / "brought"
    folder.mkdir()
    brought = [
        write_wheel(folder, "torch", "1.0+cpu", {"torch/__init__.py": "CPU = True"}),
        write_wheel(folder, "detectron2", "0.6", {f"detectron2/{p}.py": "" for p in ("__init__", "projects/deeplab")}),
    ]
    pip = [house.venv / "bin/python", "-m", "pip", "install", "-q", *brought]
    subprocess.run(pip, check=True, env=house.environ())
    done = house.complete()
    assert "the official one that was there is kept" in done.stdout
    assert house.python("import torch; print(torch.CPU)") == "True"
    assert not list(house.site_packages.glob("sal_detectron2*"))
    again = house.run("--detectron2", "installed")
    assert again.returncode == 0
    assert "is complete" in again.stdout


def test_a_download_with_another_hash_is_refused(house: House) -> None:
    requirements = house.root / "requirements/detectron2.txt"
    right = requirements.read_text()
    requirements.write_text(re.sub("sha256:.{64}", "sha256:" + "0" * 64, right))
    shutil.rmtree(next(house.site_packages.glob("sal_detectron2-*.dist-info")))
    assert_refused(house.run(), "does not match its pinned hash")
    requirements.write_text(right)
    house.complete()
