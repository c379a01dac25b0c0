"""Data and models that many tests share; small, seeded, made by the tests themselves."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import pytest
import torch
from part_dataset_files import forget_builtin_datasets
from tool_runs import run_here

from partbox.data import PartDataset, load_part_dataset
from partbox.data.catalog import unregister_part_dataset
from partbox.data.example import generate_example_dataset

REPOSITORY = Path(__file__).resolve().parents[1]

# Minutes each: they begin first, so that no process is left with one of them at the end.
LONGEST = (
    "test_slurm.py",
    "test_launch.py",
    "test_several_processes.py",
    "test_train_net.py",
    "test_tour.py",
    "test_autoattack.py",
    "test_detectron2_subject.py",
    "test_train_detector.py",
    "test_setup_env.py",
    "test_interruption.py",
    "test_report_in_a_browser.py",
    "test_full_size_configs.py",
)

torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first; the order within a file stays."""
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data and reference numbers, which lies beside a checkout and is not part of it."""
    folder = Path(os.environ.get("PARTBOX_SHARED", REPOSITORY.parent / "shared"))
    if not folder.is_dir():
        pytest.skip(f"needs the shared data folder, which is not at {folder} (set PARTBOX_SHARED)")
    return folder


@pytest.fixture(scope="session")
def example_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A datasets root with a small ``example`` dataset: 66 training, 22 validation and 22 test images of 32 pixels."""
    root = tmp_path_factory.mktemp("datasets")
    generate_example_dataset(root / "example", num_images={"train": 66, "val": 22, "test": 22}, size=(32, 32))
    return root


@pytest.fixture(scope="session")
def example_dataset(example_root: Path) -> PartDataset:
    return load_part_dataset(example_root / "example" / "train.json", example_root / "example" / "images")


@pytest.fixture(scope="module", autouse=True)
def datasets_of_one_module():
    """What the tests of a module registered at their own folder is not left to those of another one."""
    yield
    forget_builtin_datasets()


@pytest.fixture
def run_tool(example_root, monkeypatch, tmp_path):
    """Run one of the tools in this process with command line arguments."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(example_root))
    forget_builtin_datasets()
    yield partial(run_here, example_root)
    forget_builtin_datasets()
    for file in tmp_path.rglob("*.json"):
        unregister_part_dataset(str(file))
