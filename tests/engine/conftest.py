"""Fixtures of the tests of entry points: a tool run in this process, a model that was never trained."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
from part_dataset_files import forget_builtin_datasets
from small_models import small_config

from partbox.data.catalog import unregister_part_dataset
from partbox.engine.build import build_classifier
from partbox.engine.checkpoint import save_weights

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def run_tool(example_root, monkeypatch, tmp_path):
    """Run one of the tools in this process with command line arguments."""

    def call(tool: str, *arguments: object) -> None:
        forget_builtin_datasets()
        monkeypatch.setattr(sys, "argv", [f"{tool}.py", *map(str, arguments)])
        spec = importlib.util.spec_from_file_location(f"{tool}_script", REPOSITORY / f"tools/{tool}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        module.main()

    monkeypatch.setenv("DETECTRON2_DATASETS", str(example_root))
    forget_builtin_datasets()
    yield call
    forget_builtin_datasets()
    for file in tmp_path.rglob("*.json"):
        unregister_part_dataset(str(file))


@pytest.fixture
def teacher(example_dataset, tmp_path):
    """The folder of a run that was never trained: configuration and random weights."""

    def make(*options: str, name: str = "teacher") -> Path:
        forget_builtin_datasets()  # tests that ran before may have left them at another root
        cfg = small_config(example_dataset, *options)
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        (folder / "config.yaml").write_text(cfg.dump())
        save_weights(folder / "model_final.pth", build_classifier(cfg))
        return folder

    return make
