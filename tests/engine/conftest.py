"""Fixtures of the tests of entry points: a model that was never trained."""

from __future__ import annotations

from pathlib import Path

import pytest
from part_dataset_files import forget_builtin_datasets
from small_models import small_config

from partbox.engine.build import build_classifier
from partbox.engine.checkpoint import save_weights


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
