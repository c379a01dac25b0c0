"""The Python of README.md, run as it is written there, in a folder where the paths that it names exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
import torch
from part_dataset_files import forget_builtin_datasets
from PIL import Image

import partbox
from partbox.data.catalog import unregister_part_dataset
from partbox.engine.checkpoint import save_weights
from partbox.engine.label_budget_sweep import summarise, sweep_runs
from partbox.engine.setup import load_config

README = (Path(__file__).resolve().parents[2] / "README.md").read_text(encoding="utf-8")


def blocks_of(text: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


SECTION = re.search(r"^## From Python\n(.*?)^## ", README, re.DOTALL | re.MULTILINE)[1]
JOURNEYS = dict(zip(re.findall(r"^\*\*(.*?)\.\*\*", SECTION, re.MULTILINE), blocks_of(SECTION), strict=True))


@pytest.fixture
def place(datasets, tmp_path, monkeypatch, photographs):
    """The working directory: photographs, and datasets under the names of the README, which are the example's."""
    monkeypatch.chdir(tmp_path)
    for name in ("pascal_part_animals", "car_parts", "my_parts"):
        Path("datasets_root").mkdir(exist_ok=True)
        (tmp_path / "datasets_root" / name).symlink_to(datasets / "example")
    (tmp_path / "datasets_root/example").symlink_to(datasets / "example")
    monkeypatch.delenv("DETECTRON2_DATASETS")
    forget_builtin_datasets()
    for name, size in {"photograph": (91, 64), "street": (120, 80), "car": (64, 64)}.items():
        Image.open(photographs[0]).resize(size).save(f"{name}.jpg")
    yield tmp_path
    unregister_part_dataset("my_parts_test")


def sure(run: Path) -> Path:
    """The run with a segmenter that is sure of each pixel, so that it shows parts."""
    model = partbox.load(run)
    with torch.no_grad():
        for parameter in model.module.extractor.decoder.predictor.parameters():
            parameter.mul_(1000)
    save_weights(run / "model_best.pth", model.module)
    return run


def run_as_written(block: str, **names: object) -> None:
    exec(compile(block, "README.md", "exec"), dict(names))


def test_five_journeys_in_five_lines_each():
    assert (
        list(JOURNEYS)
        == re.findall(
            r"^\*\*(Newcomer|Researcher|Owner of any detectron2 detector|Owner of part "
            r"labels|Planner of a labelling budget)",
            README,
            re.MULTILINE,
        )[:5]
    )
    for block in JOURNEYS.values():
        lines = [line for line in block.splitlines() if line.strip() and not line.startswith("import ")]
        assert len(lines) <= 5
        ast.parse(block)


def test_newcomer(place, classifier_run, capsys):
    sure(classifier_run("part_box", folder="output/example/part_box"))
    run_as_written(JOURNEYS["Newcomer"])
    first, *parts = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"\w+ 0\.\d+", first)
    assert parts
    assert all(part.endswith("(64, 91)") for part in parts)


def test_researcher(place, classifier_run, capsys):
    classifier_run("part_box", folder="output/part_box")
    run_as_written(JOURNEYS["Researcher"])
    printed = capsys.readouterr().out
    assert "| part_box_attacked" in printed
    assert "robust % linf 4/255 (pgd-20)" in printed
    assert (place / "output/part_box_attacked/results.json").is_file()


def test_owner_of_any_detector(place, detector_run, capsys):
    detector_run("faster_rcnn", folder="output/faster_rcnn")
    forget_builtin_datasets()  # they were registered where they lie for this test
    run_as_written(JOURNEYS["Owner of any detectron2 detector"])
    printed = capsys.readouterr().out
    assert printed.count("Prediction(label=None") == 2
    assert "image_size=(80, 120)" in printed
    assert "box AP" in printed


def test_owner_of_part_labels(place, classifier_run, capsys):
    classifier_run("part_box", folder="output/my_parts")
    run_as_written(JOURNEYS["Owner of part labels"])
    wrong = ast.literal_eval(capsys.readouterr().out)
    assert 0 < len(wrong) <= 22


def test_planner_of_a_labelling_budget(place, classifier_run, capsys):
    runs = sweep_runs([(0.0, 0.1), (0.0, 1.0)], [1])
    for run in runs:
        folder = classifier_run("part_box", *run.options, folder=f"output/budget/{run.name}")
        partbox.evaluate(
            partbox.load(folder), "example_test", {"name": "pgd", "eps": "4/255", "steps": 1}, output=folder
        )
    cfg = load_config(folder / "config_evaluation.yaml")
    summarise(cfg, runs, place / "output/budget", seconds_per_box=10, seconds_per_mask=60)
    capsys.readouterr()
    run_as_written(JOURNEYS["Planner of a labelling budget"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert all("linf 2/255" in line for line in lines)
    assert float(lines[0].split()[0]) < float(lines[1].split()[0])


def test_every_other_block(capsys):
    """Attacks on any callable: the names that the text speaks of are given."""
    others = [block for block in blocks_of(README) if block not in JOURNEYS.values()]
    assert len(others) == 1
    weights = torch.randn(3 * 8 * 8, 5, generator=torch.Generator().manual_seed(0))
    images = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))

    def predict(batch: torch.Tensor) -> torch.Tensor:
        return batch.flatten(1) @ weights

    run_as_written(others[0], predict=predict, images=images, labels=predict(images).argmax(dim=1))
    assert "torch.Size([2, 3, 8, 8])" in capsys.readouterr().out
