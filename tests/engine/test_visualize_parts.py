"""Looking at datasets and predictions through the tool: what is shown, what is counted, what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances
from part_dataset_files import valid_document, write_dataset
from PIL import Image
from small_detectors import detector_config
from small_models import DETECTOR_MODELS, MODELS, ORACLES

from partbox.colours import PALETTE
from partbox.data import PartDatasetError, get_part_dataset
from partbox.engine.build import build_classifier
from partbox.engine.checkpoint import CheckpointError, save_weights
from partbox.engine.checks import ConfigError
from partbox.engine.detectors import build_detector
from partbox.engine.setup import load_config
from partbox.engine.shown_parts import parts_of_classifier, parts_of_instances, parts_of_probabilities
from partbox.engine.shown_predictions import Seen
from partbox.visualization.choice import SelectionError
from partbox.visualization.labels import part_names
from partbox.visualization.whole_folder import OutputError


def listed(folder: Path) -> dict:
    return json.loads((folder / "visualization.json").read_text())


def test_labels_of_a_registered_dataset(run_tool, tmp_path, capsys):
    run_tool("visualize_parts", "labels", "--dataset", "example_train", "--images", 12, "--output", tmp_path / "look")
    record = listed(tmp_path / "look")
    assert len(record["pictures"]) == 12
    assert len({one["class"] for one in record["pictures"]}) == 11  # spread over the classes
    for one in record["pictures"]:
        picture = np.asarray(Image.open(tmp_path / "look" / one["picture"]))
        assert min(picture.shape[:2]) > 200
        assert one["labels"].startswith("masks of ")
    assert (tmp_path / "look" / "sheet_01.png").exists()
    assert "  masks: 12\n" in capsys.readouterr().out
    run_tool("visualize_parts", "labels", "--dataset", "example_train", "--images", 12, "--output", tmp_path / "again")
    for one in record["pictures"]:
        assert (tmp_path / "again" / one["picture"]).read_bytes() == (tmp_path / "look" / one["picture"]).read_bytes()


def test_labels_of_a_file_say_what_is_not_labelled_and_count_what_cannot_be_read(run_tool, tmp_path, capsys):
    json_file, images = write_dataset(tmp_path, valid_document())
    (images / "c.png").write_bytes((images / "c.png").read_bytes()[:60])
    run_tool("visualize_parts", "labels", "--dataset", json_file, "--output", tmp_path / "look")
    record = listed(tmp_path / "look")
    words = {one["image_id"]: one["labels"] for one in record["pictures"]}
    assert words == {
        **{10: "masks of 2 parts", 11: "boxes of 2 parts", 13: "parts not labelled", 14: "labelled: no part visible"},
        15: "predicted masks of 2 parts",
    }
    assert [one["image_id"] for one in record["unreadable"]] == [12]
    out = capsys.readouterr().out
    assert "5 of 6 images" in out
    assert f"(!) not shown: {images / 'c.png'} (image 12)" in out


def test_where_no_image_can_be_read_there_is_no_folder(run_tool, tmp_path):
    json_file, images = write_dataset(tmp_path, valid_document())
    for path in images.rglob("*.*"):
        path.write_bytes(b"nothing")
    with pytest.raises(SelectionError, match="none of the 6 chosen images can be shown"):
        run_tool("visualize_parts", "labels", "--dataset", json_file, "--output", tmp_path / "look")
    assert not (tmp_path / "look").exists()
    with pytest.raises(PartDatasetError):
        run_tool("visualize_parts", "labels", "--dataset", json_file, "--verify", "header", "--output", tmp_path / "l")


def odd_document() -> dict:
    """Images of one base name in two folders, names that are no ASCII, a deep image."""
    document = valid_document()
    document["images"][1]["file_name"] = "cats/a.png"
    document["images"][2]["file_name"] = "$x$ <b> 頭\U0001fae8.png"
    document["classes"][1]["name"] = "car \U0001fae8/../x"
    for one in document["categories"][2:]:
        one["supercategory"] = "car \U0001fae8/../x"
    return document


def test_odd_names_are_shown_and_nothing_is_left_out_silently(run_tool, tmp_path, capsys):
    json_file, images = write_dataset(tmp_path, odd_document())
    Image.fromarray(np.full((20, 20), 40_000, np.uint16)).save(images / "d.jpg", format="PNG")
    run_tool("visualize_parts", "labels", "--dataset", json_file, "--output", tmp_path / "look")
    record = listed(tmp_path / "look")
    assert sorted(one["image_id"] for one in record["pictures"]) == [10, 11, 12, 14, 15]
    assert len({one["picture"] for one in record["pictures"]}) == 5
    assert {path.name for path in (tmp_path / "look" / "pictures").iterdir()} == {
        one["picture"].removeprefix("pictures/") for one in record["pictures"]
    }
    out = capsys.readouterr().out
    assert f"(!) not shown: {images / 'd.jpg'} (image 13): has pixels of mode I" in out
    assert out.count("U+1FAE8") == 1
    run_tool("visualize_parts", "statistics", "--dataset", json_file, "--output", tmp_path / "numbers")
    assert capsys.readouterr().out.count("U+1FAE8") == 1
    assert "car \U0001fae8/../x" in (tmp_path / "numbers" / "statistics.txt").read_text()


def test_images_that_somebody_asks_about(run_tool, tmp_path):
    json_file, _ = write_dataset(tmp_path, valid_document())
    look = ["visualize_parts", "labels", "--dataset", json_file, "--only", "15", "dogs/a.png"]
    run_tool(*look, "--output", tmp_path / "look")
    assert [one["image_id"] for one in listed(tmp_path / "look")["pictures"]] == [15, 10]
    for more in (["--images", "3"], ["--seed", "0"], ["--classes", "dog"], ["--parts", "head"], ["--labels", "box"]):
        with pytest.raises(SelectionError, match=f"--only names the images: leave out {more[0]}"):
            run_tool(*look, *more, "--output", tmp_path / "other")
    with pytest.raises(SelectionError, match="has no image '99'"):
        run_tool(*look, "99", "--output", tmp_path / "other")


def test_pictures_are_as_large_as_they_are_drawn(run_tool, tmp_path):
    document = valid_document()
    document["images"] = [{**document["images"][3], "width": 2000, "height": 1500}]
    document["annotations"] = []
    json_file, images = write_dataset(tmp_path, document)
    Image.fromarray(np.zeros((1500, 2000, 3), np.uint8)).save(images / "d.jpg")
    run_tool("visualize_parts", "labels", "--dataset", json_file, "--output", tmp_path / "look")
    (one,) = listed(tmp_path / "look")["pictures"]
    picture = np.asarray(Image.open(tmp_path / "look" / one["picture"]))
    assert (picture.max(axis=2) < 20).any(axis=0).sum() >= 780
    sheet = np.asarray(Image.open(tmp_path / "look" / "sheet_01.png"))
    assert (sheet.max(axis=2) < 20).any(axis=0).sum() >= 480


def test_statistics_of_several_files_side_by_side(run_tool, tmp_path, capsys, example_root):
    names = ["example_train", "example_val", "example_test"]
    run_tool("visualize_parts", "statistics", "--dataset", *names, "--output", tmp_path / "numbers")
    stored = json.loads((tmp_path / "numbers" / "statistics.json").read_text())
    assert {name: one["totals"]["images"] for name, one in stored["files"].items()} == {
        **{"example_train": 66, "example_val": 22, "example_test": 22}
    }
    assert stored["shared_photographs"] == []
    text = (tmp_path / "numbers" / "statistics.txt").read_text()
    assert text in capsys.readouterr().out
    assert text.splitlines()[2].split() == ["images", "66", "22", "22"]
    assert (tmp_path / "numbers" / "statistics.png").stat().st_size > 10_000
    with pytest.raises(SelectionError, match="names one file twice"):
        run_tool("visualize_parts", "statistics", "--dataset", *names[:1] * 2, "--output", tmp_path / "other")
    again = example_root / "example" / ".." / "example" / "train.json"
    with pytest.raises(SelectionError, match="names one file twice"):
        run_tool("visualize_parts", "statistics", "--dataset", names[0], again, "--output", tmp_path / "other")


@pytest.mark.parametrize("name", ["normal", "part_box", "part_box_group", "dino_part_box", "oracle_masks"])
def test_predictions_of_a_part_classifier(run_tool, teacher, tmp_path, capsys, name):
    run = teacher(*{**MODELS, **DETECTOR_MODELS, **ORACLES}[name])
    arguments = ["--run", run, "--dataset", "example_test", "--images", 4, "--score", 0, "--output", tmp_path / "found"]
    run_tool("visualize_parts", "predictions", *arguments, "MODEL.DEVICE", "cpu")
    record = listed(tmp_path / "found")
    assert len(record["pictures"]) == 4
    out = capsys.readouterr().out
    assert f"right: {sum(one['right'] for one in record['pictures'])} of these 4" in out
    assert ("this model finds no parts" in out) == (name == "normal")
    assert ("oracle" in out) == (name == "oracle_masks")
    assert any(one["found"] for one in record["pictures"]) == (name != "normal")
    for one in record["pictures"]:
        assert one["right"] == (one["predicted"] == one["class"])
        wide = np.asarray(Image.open(tmp_path / "found" / one["picture"]))
        assert wide.shape[1] > 700  # labels and predictions side by side


def test_predictions_are_those_of_the_model(teacher, example_dataset):
    """What is drawn is the argmax of what the model gives, at the size of the photograph."""
    cfg = load_config(teacher(*MODELS["part_box"]) / "config.yaml")
    model = build_classifier(cfg).eval()
    image = torch.rand(1, 3, 32, 32)
    output = model.predict_batch(image, [{}])[0]
    parts = parts_of_classifier(model, output, (32, 32), score=0.5)
    enlarged = torch.nn.functional.interpolate(output["part_probabilities"][None], size=(32, 32), mode="bilinear")[0]
    winner = enlarged.argmax(dim=0).numpy()
    covered = np.zeros((32, 32), bool)
    for part in parts:
        assert not (covered & part.mask).any()
        channels = np.unique(winner[part.mask])
        assert len(channels) == 1
        assert model.channel_names[channels[0] - 1].endswith(f":{part.name}")
        covered |= part.mask
    assert np.array_equal(covered, winner > 0)


def test_boxes_are_kept_by_score_and_brought_to_the_photograph():
    found = Instances((10, 20))
    found.pred_boxes = Boxes(torch.tensor([[1.0, 2.0, 5.0, 6.0], [0.0, 0.0, 20.0, 10.0]]))
    found.scores, found.pred_classes = torch.tensor([0.9, 0.4]), torch.tensor([1, 0])
    shown = parts_of_instances(found, ["dog:head", "dog:leg"], PALETTE, 0.5)
    assert [(part.text, part.box, part.mask) for part in shown] == [("leg 90%", (1.0, 2.0, 5.0, 6.0), None)]

    class Model:
        channel_names = ("dog:head", "dog:leg")

    (part, whole) = parts_of_classifier(Model(), {"instances": found}, (30, 40), score=0.1)
    assert part.box == (2.0, 6.0, 10.0, 18.0)
    assert whole.box == (0.0, 0.0, 40.0, 30.0)
    assert found.pred_boxes.tensor[0].tolist() == [1.0, 2.0, 5.0, 6.0]  # the model's answer stays as it is


def test_the_score_of_a_region_is_its_mean_probability():
    probabilities = torch.tensor([[[0.2, 0.9]], [[0.7, 0.05]], [[0.1, 0.05]]])  # background, head, leg
    (part,) = parts_of_probabilities(probabilities, (1, 2), ["dog:head", "dog:leg"], PALETTE)
    assert (part.name, part.mask.tolist(), part.score) == ("head", [[True, False]], pytest.approx(0.7))


def test_what_is_said_above_a_picture():
    assert Seen([], "dog", 0.934, True).in_words == "predicted: dog 93% (right), 0 parts"
    assert Seen([], "cat", 0.5, False).in_words == "predicted: cat 50% (wrong), 0 parts"
    assert Seen([]).in_words == "predicted: 0 parts"


@pytest.mark.parametrize("name", ["mask_rcnn", "deeplabv3plus"])
def test_predictions_of_a_detector_and_a_segmenter(run_tool, example_root, tmp_path, capsys, name):
    cfg = detector_config(name, "MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.0", root=example_root)
    (tmp_path / "config.yaml").write_text(cfg.dump())
    names = part_names(get_part_dataset("example_train"))
    save_weights(tmp_path / "weights.pth", build_detector(cfg), class_names=names)
    model = ["--config-file", tmp_path / "config.yaml", "--weights", tmp_path / "weights.pth"]
    arguments = ["--dataset", "example_test", "--images", 3, "--score", 0]
    run_tool("visualize_parts", "predictions", *model, *arguments, "--output", tmp_path / "found")
    record = listed(tmp_path / "found")
    assert len(record["pictures"]) == 3
    assert all(one["right"] is None and one["confidence"] is None for one in record["pictures"])
    assert any(one["found"] for one in record["pictures"])
    assert "do not say what their classes are" not in capsys.readouterr().out
    torch.save({"model": build_detector(cfg).state_dict(), "iteration": 3}, tmp_path / "weights.pth")  # as detectron2's
    run_tool("visualize_parts", "predictions", *model, *arguments, "--output", tmp_path / "plain")
    assert listed(tmp_path / "plain")["pictures"] == record["pictures"]
    assert "(!) these weights do not say what their classes are" in capsys.readouterr().out
    save_weights(tmp_path / "weights.pth", build_detector(cfg), class_names=names[::-1])
    with pytest.raises(CheckpointError, match="made for other parts"):
        run_tool("visualize_parts", "predictions", *model, *arguments, "--output", tmp_path / "other")


def refused(run_tool, tmp_path, *arguments):
    run_tool("visualize_parts", *arguments, "--output", tmp_path / "look")


def test_mistakes_are_refused_and_leave_nothing(run_tool, teacher, tmp_path):
    run = teacher(*MODELS["part_box"])
    for arguments, error, words in (
        (["labels", "--dataset", "example_trian"], PartDatasetError, "did you mean"),
        (["labels", "--dataset", "example_train", "--classes", "dgo"], SelectionError, "no class 'dgo'"),
        (["labels", "--dataset", "example_train", "--images", "0"], SelectionError, "at least 1"),
        (["statistics", "--dataset", tmp_path / "none.json"], PartDatasetError, "does not exist"),
        (["predictions", "--run", tmp_path, "--dataset", "example_test"], ConfigError, "does not exist"),
        (["predictions", "--run", run, "--dataset", "example_test", "--score", "2"], ConfigError, "--score must lie"),
        (["predictions", "--run", run, "--dataset", "example_test", "NO.KEY", "1"], ConfigError, "unknown"),
    ):
        with pytest.raises(error, match=words):
            refused(run_tool, tmp_path, *arguments)
    (run / "model_final.pth").unlink()
    with pytest.raises(CheckpointError, match=r"neither model_best.pth nor model_final.pth"):
        refused(run_tool, tmp_path, "predictions", "--run", run, "--dataset", "example_test")
    assert not (tmp_path / "look").exists()
    assert not list(tmp_path.glob(".look*"))


def test_a_model_of_other_classes_is_refused(run_tool, teacher, tmp_path):
    json_file, _ = write_dataset(tmp_path, valid_document())
    with pytest.raises(ConfigError, match="classes or parts are not the model's"):
        refused(run_tool, tmp_path, "predictions", "--run", teacher(*MODELS["part_box"]), "--dataset", json_file)


def test_an_output_folder_is_replaced_only_on_request(run_tool, tmp_path):
    look = ["labels", "--dataset", "example_val", "--images", 1]
    refused(run_tool, tmp_path, *look)
    with pytest.raises(OutputError, match="exists"):
        refused(run_tool, tmp_path, *look)
    refused(run_tool, tmp_path, *look, "--seed", "5", "--overwrite")
    assert listed(tmp_path / "look")["seed"] == 5
    assert len(list((tmp_path / "look" / "pictures").iterdir())) == 1


def test_help_teaches_with_an_example(run_tool, capsys):
    with pytest.raises(SystemExit):
        run_tool("visualize_parts", "--help")
    assert "python tools/visualize_parts.py labels --dataset my_parts/train.json" in capsys.readouterr().out
