"""Folders of runs that were never trained: configuration and random weights, as a training leaves them."""

from __future__ import annotations

from pathlib import Path

import pytest
from part_dataset_files import forget_builtin_datasets
from small_detectors import detector_config
from small_models import DETECTOR_MODELS, MODELS, ORACLES, small_config

import partbox
from partbox.data.catalog import unregister_part_dataset
from partbox.engine.build import build_classifier
from partbox.engine.checkpoint import save_weights
from partbox.engine.detectors import build_detector

# Not the size of the example's images (32, 32), nor square: what is resized or turned wrongly shows.
SIZE = ["INPUT.SIZE", "(48, 40)"]
QUICK = ["ROBUST_EVAL.PERTURBATIONS", "[{'name': 'clean'}, {'name': 'pgd', 'eps': '8/255', 'steps': 2}]"]


@pytest.fixture(autouse=True)
def datasets(example_root, monkeypatch, tmp_path):
    """The example data under their names; what a test registers is forgotten."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(example_root))
    forget_builtin_datasets()
    partbox.register_all()
    yield example_root
    forget_builtin_datasets()
    for file in tmp_path.rglob("*.json"):
        unregister_part_dataset(str(file))


@pytest.fixture
def photographs(example_root) -> list[Path]:
    """Files of the test images, in the order of the dataset."""
    return [
        Path(record["file_name"]) for record in partbox.load_part_dataset(*files_of_test_split(example_root)).records
    ]


def files_of_test_split(root: Path) -> tuple[Path, Path]:
    return root / "example/test.json", root / "example/images"


@pytest.fixture
def classifier_run(example_dataset, tmp_path):
    """Make the folder of a part classifier's run."""

    def make(name: str = "part_box", *options: str, folder: str = "run", weights: str = "model_final.pth") -> Path:
        models = {**MODELS, **DETECTOR_MODELS, **ORACLES}
        size = [] if name in DETECTOR_MODELS else SIZE
        cfg = small_config(example_dataset, *models[name], *size, *QUICK, *options)
        cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("example_train",), ("example_test",)
        path = tmp_path / folder
        path.mkdir(parents=True, exist_ok=True)
        (path / "config.yaml").write_text(cfg.dump())
        save_weights(path / weights, build_classifier(cfg))
        return path

    return make


@pytest.fixture
def detector_run(example_root, example_dataset, tmp_path):
    """Make the folder of a detector's or segmenter's run."""

    def make(name: str = "faster_rcnn", *options: str, folder: str = "run", names: bool = True) -> Path:
        quick = ["ROBUST_EVAL.NUM_IMAGES", "3", "ROBUST_EVAL.PERTURBATIONS", "[{'name': 'clean'}]"]
        cfg = detector_config(name, *quick, *options, root=example_root)
        path = tmp_path / folder
        path.mkdir(parents=True, exist_ok=True)
        (path / "config.yaml").write_text(cfg.dump())
        found = [f"{example_dataset.class_names[c.class_index]}:{c.name}" for c in example_dataset.categories]
        save_weights(path / "model_final.pth", build_detector(cfg), **({"class_names": found} if names else {}))
        return path

    return make
