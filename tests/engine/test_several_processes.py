"""Two processes that share each batch train the model that one process trains."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from part_dataset_files import forget_builtin_datasets
from shared_batches import CASES, DETECTORS, STEPS, train, train_detector

TESTS = Path(__file__).resolve().parents[1]
EXACT = [name for name, options in CASES.items() if "synchronised" in options]


@pytest.fixture(scope="module")
def runs(example_root, tmp_path_factory):
    """What each of two processes found in each case."""
    folder = tmp_path_factory.mktemp("processes")
    environment = {
        **os.environ,
        "DETECTRON2_DATASETS": str(example_root),
        "PYTHONPATH": os.pathsep.join([str(TESTS), *sys.path]),
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, str(TESTS / "shared_batches.py"), str(example_root), str(folder), "2"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    return [torch.load(folder / f"process{rank}.pt", weights_only=False) for rank in range(2)]


@pytest.fixture(scope="module")
def alone(example_root, tmp_path_factory):
    """What one process finds in a case."""
    found = {}
    patch = pytest.MonkeyPatch()
    patch.setenv("DETECTRON2_DATASETS", str(example_root))
    forget_builtin_datasets()

    def of(case: str) -> dict:
        if case not in found:
            found[case] = train(example_root, CASES[case], tmp_path_factory.mktemp("alone"))
        return found[case]

    yield of
    patch.undo()
    forget_builtin_datasets()


def same(first: dict, second: dict, tolerance: float = 0.0) -> None:
    assert first.keys() == second.keys()
    for name, value in first.items():
        difference = (value.double() - second[name].double()).abs().max() if value.numel() else torch.zeros(())
        assert difference <= tolerance, f"{name} differs by {float(difference)}"


@pytest.mark.parametrize("case", EXACT)
def test_losses_and_weights_are_those_of_one_process(runs, alone, case):
    expected, found = alone(case), runs[0][case]
    assert len(expected["losses"]) == STEPS
    for before, now in zip(expected["losses"], found["losses"], strict=True):
        assert before.keys() == now.keys()
        assert now == pytest.approx(before, abs=1e-6)
    same(expected["model"], found["model"], 1e-6)
    same(expected["average"], found["average"], 1e-6)
    assert found["validation"] == expected["validation"]
    assert found["best"] == expected["best"]


@pytest.mark.parametrize("case", CASES)
def test_all_processes_end_with_the_same_model(runs, case):
    first, second = (run[case] for run in runs)
    same(first["model"], second["model"])  # to the last bit, running statistics too
    same(first["average"], second["average"])
    assert first["losses"] == second["losses"]
    assert (first["best"], first["validation"]) == (second["best"], second["validation"])


def test_without_synchronisation_each_process_normalises_by_its_own_images(runs, alone):
    case = "statistics of each process"
    expected, found = alone(case)["losses"][0], runs[0][case]["losses"][0]
    assert abs(expected["loss_class"] - found["loss_class"]) > 1e-4


@pytest.mark.parametrize("case", [case for case in EXACT if case not in ("clean", "free")])
def test_each_process_attacks_its_own_images_as_one_process_attacks_all(runs, alone, case):
    expected = alone(case)["adversarial"]
    first, second = (run[case]["adversarial"] for run in runs)
    assert not first.keys() & second.keys()
    assert len(first) == len(second) == len(expected) // 2
    same(dict(sorted({**first, **second}.items())), dict(sorted(expected.items())), 1e-9)


def test_a_checkpoint_of_free_training_holds_the_whole_batch(runs, alone):
    expected = alone("free")["objective"]
    for run in runs:
        same(run["free"]["objective"], expected, 1e-6)
    assert len(expected["delta"]) == 8


@pytest.mark.parametrize("name", DETECTORS)
def test_processes_share_the_batches_of_a_detector_and_end_with_one_model(runs, alone, example_root, name):
    first, second = (run[name] for run in runs)
    same(first["model"], second["model"])
    assert first["losses"] == second["losses"]
    one = train_detector(example_root, name)
    assert [a + b for a, b in zip(first["images"], second["images"], strict=True)] == one["images"]
    assert {len(images) for images in first["images"]} == {2}
    for run in (first, second):  # a checkpoint holds the whole batch's, in its order
        assert [delta.shape for delta in run["perturbations"]] == [delta.shape for delta in one["perturbations"]]
        for found, expected in zip(run["perturbations"], one["perturbations"], strict=True):
            # one step from the same noise, along the sign of a gradient of slightly other weights: detectron2's losses
            # divide by the numbers of each process
            assert float((found == expected).float().mean()) > 0.5
    assert len(first["normalizers"]) == 2
    assert first["normalizers"] == second["normalizers"]
