"""What tools/pseudo_label.py refuses, and what it warns of."""

from __future__ import annotations

from pathlib import Path

import pytest
from pseudo_label_runs import MOST, QUARTER, read
from small_models import DETECTOR_MODELS, MODELS, ORACLES

from partbox.data import PartDatasetError
from partbox.engine.checkpoint import CheckpointError
from partbox.engine.checks import ConfigError
from partbox.engine.setup import fill_names, load_config

REPOSITORY = Path(__file__).resolve().parents[2]


REFUSALS = {
    "threshold_above_one": (["--threshold", "1.5"], ConfigError, r"--threshold must be auto, per-part or a score in"),
    "threshold_not_a_number": (["--threshold", "nan"], ConfigError, r"--threshold must be"),
    "iou_zero": (["--iou", "0"], ConfigError, r"--iou must lie in \(0, 1\]"),
    "no_minimum": (["--min-labelled", "0"], ConfigError, "--min-labelled must be at least 1"),
    "test_images": (["--dataset", "example_test"], ConfigError, r"--dataset example_test is DATASETS\.TEST"),
    "test_labels": (["--labelled", "example_test"], ConfigError, r"--labelled example_test is DATASETS\.TEST"),
    "unknown_dataset": (["--dataset", "exampel_train"], PartDatasetError, "no part dataset has this name"),
    "nothing_to_label": (["--dataset", "example_val"], ConfigError, "every image has annotated part labels"),
    "too_few_labels": (
        ["--min-labelled", "100000"],
        ConfigError,
        "are too few to choose a threshold by, at least 100000",
    ),
    "no_labels": (["DATASETS.VALIDATION", "()"], ConfigError, "--labelled: name a dataset with annotated parts"),
    "no_weights": (["--weights", "absent.pth"], CheckpointError, r"absent\.pth does not exist"),
    "unknown_key": (["MODEL.NAME", "x"], ConfigError, "unknown configuration key"),
}


@pytest.mark.parametrize(("arguments", "error", "message"), REFUSALS.values(), ids=REFUSALS)
def test_refused_before_any_work(run_tool, teacher, tmp_path, arguments, error, message):
    folder = teacher(*MODELS["part_box"], *QUARTER)
    with pytest.raises(error, match=message):
        run_tool("pseudo_label", "--run", folder, "--labels", "box", "--output", tmp_path / "out", *arguments)
    assert not (tmp_path / "out").exists()


def test_a_dataset_is_the_same_by_its_name_and_by_its_file(run_tool, teacher, example_root, tmp_path):
    """Else the file's path would lead past the label budget, and to the test images."""
    folder = teacher(*MODELS["part_box"], *MOST)
    arguments = ["pseudo_label", "--run", folder, "--labels", "box", "--threshold", "0.5", "--output", tmp_path / "out"]
    file = example_root / "example" / "train.json"
    run_tool(*arguments, "--dataset", file)
    document, found = read(tmp_path / "out")
    annotated = sum(
        record["part_labels"] != "none" and record["label_source"] != "predicted" for record in found.records
    )
    assert annotated == document["info"]["pseudo_labels"]["images"]["annotated"] == 63
    assert document["info"]["pseudo_labels"]["label_budget"]["box_share"] == 0.95
    link = tmp_path / "link.json"
    link.symlink_to(example_root / "example" / "test.json")
    for name in (example_root / "example" / "test.json", link):
        for option in ("--dataset", "--labelled"):
            with pytest.raises(ConfigError, match=rf"{option} .* is DATASETS\.TEST"):
                run_tool(*arguments, option, name)


def test_a_model_that_sees_clean_images_alone_labels_as_the_same_without_attack(run_tool, teacher, tmp_path):
    """FROM_CLEAN_IMAGE holds masks fixed under attack; here there is none, and every image is clean."""
    found = []
    for given in ("True", "False"):
        options = [*ORACLES["clean_concat"], "MODEL.PART.EXTRACTOR.FROM_CLEAN_IMAGE", given, *MOST]
        folder, output = teacher(*options, name=f"clean_{given}"), tmp_path / f"out_{given}"
        run_tool("pseudo_label", "--run", folder, "--labels", "mask", "--threshold", "0.02", "--output", output)
        found.append(read(output)[0]["annotations"])
    assert found[0] == found[1]
    assert any("score" in one for one in found[0])


@pytest.mark.parametrize(
    "arguments", [["--threshold", "best"], ["--labels", "boxes"], ["--parts", "all"], ["--iou", "x"]]
)
def test_mistyped_arguments_end_in_usage(run_tool, tmp_path, arguments, capsys):
    with pytest.raises(SystemExit):
        run_tool("pseudo_label", "--run", tmp_path, "--labels", "box", "--output", tmp_path / "out", *arguments)
    assert "usage:" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        run_tool("pseudo_label", "--config-file", "x.yaml", "--labels", "box", "--output", tmp_path / "out")


@pytest.mark.parametrize(
    ("options", "labels", "message"),
    [
        (MODELS["normal"], "box", "EXTRACTOR.NAME none finds no parts"),
        (MODELS["part_auxiliary"], "box", "EXTRACTOR.NAME auxiliary finds no parts"),
        ([*MODELS["part_box"], "MODEL.PART.EXTRACTOR.NAME", "oracle"], "box", "EXTRACTOR.NAME oracle finds no parts"),
        (MODELS["part_box_object"], "box", "LEVEL object"),
        (DETECTOR_MODELS["dino_box_sequence"], "mask", "extractor dino of this model gives boxes alone"),
    ],
)
def test_models_that_find_no_parts_are_refused(run_tool, teacher, tmp_path, options, labels, message):
    with pytest.raises(ConfigError, match=message):
        run_tool("pseudo_label", "--run", teacher(*options, *QUARTER), "--labels", labels, "--output", tmp_path / "out")


def test_a_model_that_is_never_right_is_of_no_use(run_tool, teacher, tmp_path):
    folder = teacher(*MODELS["part_box"], *QUARTER)
    with pytest.raises(
        ConfigError, match=r"none of the .* parts that the model found is right; the model is of no use"
    ):
        run_tool("pseudo_label", "--run", folder, "--labels", "box", "--iou", "1", "--output", tmp_path / "out")
    assert not (tmp_path / "out" / "train.json").exists()


def test_other_things_in_the_folder_are_not_touched(run_tool, teacher, example_root, tmp_path):
    folder = teacher(*MODELS["part_box"], *QUARTER)
    arguments = ["pseudo_label", "--run", folder, "--labels", "box", "--threshold", "0.5"]
    mine = example_root / "example" / "train.json"
    before = mine.read_bytes()
    with pytest.raises(ConfigError, match=r"train\.json is no file of this tool"):
        run_tool(*arguments, "--output", example_root / "example")
    assert mine.read_bytes() == before
    (tmp_path / "out" / "images").mkdir(parents=True)
    with pytest.raises(ConfigError, match="images is there and is no link to"):
        run_tool(*arguments, "--output", tmp_path / "out")
    (folder / "model_final.pth").unlink()
    with pytest.raises(CheckpointError, match=r"neither model_best\.pth nor model_final\.pth"):
        run_tool(*arguments, "--output", tmp_path / "new")


def test_labels_of_the_training_images_are_said_to_flatter(run_tool, teacher, tmp_path, caplog):
    folder = teacher(*MODELS["part_box"], *QUARTER)
    labelled = ["--labelled", "example_train", "--threshold", "0.5"]
    run_tool("pseudo_label", "--run", folder, "--labels", "box", *labelled, "--output", tmp_path / "out")
    assert "is what the model learned from" in caplog.text
    document, _ = read(tmp_path / "out")
    assert document["info"]["pseudo_labels"]["criterion"]["images"] == 16, "only labels that the budget paid for"


def test_weights_of_other_parts_are_refused(run_tool, teacher, tmp_path, example_dataset):
    folder = teacher(*MODELS["part_box"], *QUARTER)
    cfg = load_config(folder / "config.yaml")
    cfg.MODEL.PART.PART_NAMES = list(cfg.MODEL.PART.PART_NAMES)[::-1]
    with pytest.raises(ConfigError, match="its classes or parts are not the model's"):
        fill_names(cfg, example_dataset)
    (folder / "config.yaml").write_text(cfg.dump())
    with pytest.raises(ConfigError, match="its classes or parts are not the model's"):
        run_tool("pseudo_label", "--run", folder, "--labels", "box", "--output", tmp_path / "out")
