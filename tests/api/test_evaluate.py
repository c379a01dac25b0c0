"""partbox.evaluate is the evaluation of the tools: the same numbers to the last digit, the same folder."""

from __future__ import annotations

import dataclasses
import json
import logging
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from part_dataset_files import forget_builtin_datasets

import partbox
from partbox.api.evaluation import specs_of
from partbox.data import PartDatasetError
from partbox.data.catalog import unregister_part_dataset
from partbox.engine.checks import ConfigError
from partbox.engine.tracking import evaluation_tracking
from partbox.engine.tracking.wandb_run import mode_of
from partbox.evaluation.record_files import RecordsError

ATTACKS = [
    {"name": "pgd", "eps": "8/255", "steps": 2},
    {"name": "square", "eps": "8/255", "queries": 4},
    {"name": "corruption", "kind": "fog", "severity": 3},
    {"name": "noise", "eps": "8/255"},
]


def results_in(folder: Path) -> dict:
    return json.loads((folder / "results.json").read_text())


def test_a_classifier_gets_the_numbers_of_the_tool(run_tool, classifier_run, tmp_path):
    run = classifier_run("part_box", "ROBUST_EVAL.SELF_CHECK_IMAGES", "2", "ROBUST_EVAL.NUM_IMAGES", "9")
    options = ["MODEL.WEIGHTS", run / "model_final.pth", "OUTPUT_DIR", tmp_path / "tool"]
    options += ["ROBUST_EVAL.PERTURBATIONS", ATTACKS]
    run_tool("train_net", "--eval-only", "--config-file", run / "config.yaml", *options)
    found = partbox.evaluate(partbox.load(run), "example_test", ATTACKS, output=tmp_path / "python")
    by_tool, by_python = results_in(tmp_path / "tool"), results_in(tmp_path / "python")
    assert by_python["results"] == by_tool["results"]
    assert by_python["results"]["self_checks"]
    assert len(by_python["results"]["by_perturbation"]) == 5
    for key in ("config_hash", "dataset", "seeds", "weights", "class_names", "versions", "schema_version"):
        assert by_python[key] == by_tool[key], key
    assert by_python["dataset"]["images"] == 9
    assert found.results == by_python
    assert (tmp_path / "python/records.jsonl").read_bytes() == (tmp_path / "tool/records.jsonl").read_bytes()
    assert {path.name for path in (tmp_path / "tool").iterdir()} == {
        path.name for path in (tmp_path / "python").iterdir()
    }
    (shown,) = [line for line in (tmp_path / "tool/log.txt").read_text().splitlines() if line.startswith("| model")]
    assert found.table().splitlines()[0].split() == shown.split()
    assert "| python" in found.table()
    assert len(found.records) == 5 * 9
    assert found.folder == tmp_path / "python"


@pytest.mark.parametrize("name", ["mask_rcnn", "deeplabv3plus"])
def test_a_detector_or_segmenter_gets_the_numbers_of_the_tool(run_tool, detector_run, tmp_path, capsys, name):
    attack = "segmentation-pgd" if name == "deeplabv3plus" else "detector-pgd"
    attacks = [{"name": attack, "eps": "8/255", "steps": 2}, {"name": "corruption", "kind": "snow", "severity": 2}]
    run = detector_run(name)
    options = ["MODEL.WEIGHTS", run / "model_final.pth", "OUTPUT_DIR", tmp_path / "tool"]
    options += ["ROBUST_EVAL.PERTURBATIONS", attacks]
    run_tool("train_detector", "--eval-only", "--config-file", run / "config.yaml", *options)
    capsys.readouterr()
    model = partbox.load(run)
    found = partbox.evaluate(model, "example_test", attacks, output=tmp_path / "python")
    assert "Average Precision" not in capsys.readouterr().out
    by_tool, by_python = results_in(tmp_path / "tool"), results_in(tmp_path / "python")
    assert by_python["results"] == by_tool["results"]
    assert len(by_python["results"]["by_perturbation"]) == 3
    assert by_python["config_hash"] == by_tool["config_hash"]
    assert (tmp_path / "python/records.jsonl").read_bytes() == (tmp_path / "tool/records.jsonl").read_bytes()
    assert found.table() in (tmp_path / "tool/log.txt").read_text()


def test_an_evaluation_goes_on_where_the_tool_was_interrupted(run_tool, classifier_run, tmp_path, monkeypatch):
    """A folder is the same whoever began it; batches that are there are not done again."""
    run = classifier_run("normal", "ROBUST_EVAL.BATCH_SIZE", "4")
    options = ["MODEL.WEIGHTS", run / "model_final.pth", "OUTPUT_DIR", tmp_path / "begun"]
    run_tool("train_net", "--eval-only", "--config-file", run / "config.yaml", *options, "--part", "0/2")
    assert not (tmp_path / "begun/results.json").exists()
    model = partbox.load(run)
    asked = count_questions(model, monkeypatch)
    attacks = [{"name": "clean"}, {"name": "pgd", "eps": "8/255", "steps": 2}]
    found = partbox.evaluate(model, "example_test", attacks, output=tmp_path / "begun")
    half = len(asked)
    whole = partbox.evaluate(model, "example_test", attacks)
    assert found.results["results"] == whole.results["results"]
    assert 0 < half < len(asked) - half
    asked.clear()
    assert partbox.evaluate(model, "example_test", attacks, output=tmp_path / "begun").results["results"]
    assert not asked
    with pytest.raises(ConfigError, match=r"another evaluation or training run: choose another OUTPUT_DIR"):
        partbox.evaluate(model, "example_test", attacks, output=tmp_path / "begun", seed=1)
    (tmp_path / "begun/results.json").unlink()
    with pytest.raises(RecordsError, match="another evaluation"):
        partbox.evaluate(model, "example_test", attacks, output=tmp_path / "begun", seed=1)


def count_questions(model, monkeypatch) -> list[int]:
    asked: list[int] = []
    original = model.module.predict_batch

    def counted(images, batch):
        asked.append(len(images))
        return original(images, batch)

    monkeypatch.setattr(model.module, "predict_batch", counted)
    return asked


def test_without_a_folder_nothing_is_left(classifier_run, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    monkeypatch.setattr("tempfile.tempdir", None)
    (tmp_path / "temporary").mkdir()
    run = classifier_run("normal")
    before = sorted(run.rglob("*"))
    found = partbox.evaluate(partbox.load(run), "example_test", "clean")
    assert found.folder is None
    assert found.name == "run"
    assert found.results["results"]["images"] == len(found.records) == 22
    assert not list((tmp_path / "temporary").iterdir())
    assert sorted(run.rglob("*")) == before


def test_what_is_given_replaces_the_configuration(classifier_run, monkeypatch, tmp_path):
    run = classifier_run("normal", "ROBUST_EVAL.SEED", "7", "ROBUST_EVAL.NUM_IMAGES", "3")
    model = partbox.load(run)
    attack = {"name": "pgd", "eps": "8/255", "steps": 2}
    as_configured = partbox.evaluate(model, "example_test", attack).results
    assert (as_configured["seeds"]["evaluation"], as_configured["results"]["images"]) == (7, 3)
    assert "self_checks" not in as_configured["results"]
    other = partbox.evaluate(model, "example_test", attack, images=5, seed=2, self_check_images=2).results
    assert (other["seeds"]["evaluation"], other["results"]["images"]) == (2, 5)
    assert other["results"]["self_checks"]
    asked = count_questions(model, monkeypatch)
    partbox.evaluate(model, "example_test", "clean", images=0, batch_size=10)
    assert asked == [10, 10, 2]
    assert (model.cfg.ROBUST_EVAL.SEED, model.cfg.OUTPUT_DIR) == (7, partbox.load(run).cfg.OUTPUT_DIR)
    for wrong in ({"images": -1}, {"batch_size": 0}, {"seed": 1.5}):
        with pytest.raises(ConfigError, match=r"ROBUST_EVAL\.\w+ must be a whole number"):
            partbox.evaluate(model, "example_test", "clean", output=tmp_path / "refused", **wrong)
    assert not (tmp_path / "refused").exists()


def test_a_file_or_a_registered_name_is_a_dataset(classifier_run, datasets, tmp_path):
    model = partbox.load(classifier_run("normal"))
    by_name = partbox.evaluate(model, "example_val", "clean").results
    by_file = partbox.evaluate(model, datasets / "example/val.json", "clean").results
    partbox.register_part_dataset("mine", datasets / "example/val.json", datasets / "example/images")
    registered = partbox.evaluate(model, "mine", "clean").results
    unregister_part_dataset("mine")
    unregister_part_dataset(str(datasets / "example/val.json"))
    assert by_file["results"] == by_name["results"] == registered["results"]
    assert registered["dataset"]["name"] == "mine"
    with pytest.raises(partbox.PartDatasetError, match="no part dataset has this name"):
        partbox.evaluate(model, "nobody_knows_it", "clean")
    with pytest.raises(partbox.PartDatasetError, match="does not exist"):
        partbox.evaluate(model, tmp_path / "gone.json", "clean")
    with pytest.raises(ConfigError, match=r"not a PartDataset: register it, partbox\.register_part_dataset"):
        partbox.evaluate(
            model, partbox.load_part_dataset(datasets / "example/val.json", datasets / "example/images"), "clean"
        )


def test_datasets_of_other_classes_are_refused(classifier_run, detector_run, datasets, tmp_path):
    document = json.loads((datasets / "example/val.json").read_text())
    document["categories"] = document["categories"][::-1]
    other = tmp_path / "val.json"
    other.write_text(json.dumps(document))
    (tmp_path / "images").symlink_to(datasets / "example/images")
    with pytest.raises(ConfigError, match="classes or parts are not the model's"):
        partbox.evaluate(partbox.load(classifier_run("part_box")), other, "clean")
    with pytest.raises(ConfigError, match="are not the model's, or in another order"):
        partbox.evaluate(partbox.load(detector_run(folder="detector")), other, "clean", output=tmp_path / "refused")
    assert not (tmp_path / "refused").exists()


def test_perturbations_are_names_or_mappings(classifier_run, tmp_path):
    assert specs_of("clean") == [{"name": "clean"}]
    assert specs_of({"name": "pgd", "eps": 0.1}) == [{"name": "pgd", "eps": 0.1}]
    given = {"name": "corruptions", "kinds": ["fog"]}
    specs = specs_of(["clean", given])
    specs[1]["kinds"].append("snow")
    assert given["kinds"] == ["fog"]  # the caller's stay the caller's
    assert specs_of(iter(["clean"])) == [{"name": "clean"}]
    for wrong in ([3], 3, None):
        with pytest.raises(ConfigError, match=r"a name or a mapping.*not (3|None)"):
            specs_of(wrong)
    with pytest.raises(ConfigError, match="plain numbers and texts"):
        specs_of([{"name": "pgd", "eps": np.float32(0.1)}])
    model = partbox.load(classifier_run("normal"))
    for wrong, words in {
        "pgd": "needs an eps",
        "fgsm": "unknown perturbation 'fgsm'",
        "corrupton": "unknown perturbation 'corrupton'.*did you mean corruption",
        "segmentation-pgd": "needs an eps",
    }.items():
        with pytest.raises(ConfigError, match=words):
            partbox.evaluate(model, "example_test", wrong, output=tmp_path / "refused")
    with pytest.raises(ConfigError, match="attacks a detector"):
        partbox.evaluate(model, "example_test", {"name": "detector-pgd", "eps": 0.1}, output=tmp_path / "refused")
    with pytest.raises(ConfigError, match=r"a model from partbox.load, not a PartClassifier"):
        partbox.evaluate(model.module, "example_test", "clean")
    assert not (tmp_path / "refused").exists()


def test_oracles_are_evaluated_and_said_to_be_oracles(classifier_run):
    found = partbox.evaluate(partbox.load(classifier_run("oracle_masks")), "example_test", "clean")
    assert "upper bound" in found.table()
    with pytest.raises(ConfigError, match="does not depend on the attacked image"):
        partbox.evaluate(
            partbox.load(classifier_run("oracle_masks")), "example_test", {"name": "pgd", "eps": "8/255", "steps": 1}
        )


def test_the_callers_logging_is_left_as_it_was(classifier_run, tmp_path):
    log = logging.getLogger("partbox")
    model = partbox.load(classifier_run("normal"))
    log.setLevel(logging.ERROR)
    before = list(log.handlers)
    try:
        for name in ("first", "second"):
            partbox.evaluate(model, "example_test", "clean", output=tmp_path / name)
        assert log.handlers == before
        assert log.level == logging.ERROR
    finally:
        log.setLevel(logging.NOTSET)
    first = (tmp_path / "first/log.txt").read_text()
    log.warning("afterwards")
    assert (tmp_path / "first/log.txt").read_text() == first


def test_weights_changed_in_memory_are_another_evaluation(classifier_run, tmp_path):
    model = partbox.load(classifier_run("normal"))
    partbox.evaluate(model, "example_test", "clean", output=tmp_path / "out")
    with torch.no_grad():
        next(model.module.parameters()).add_(1)
    (tmp_path / "out/results.json").unlink()
    with pytest.raises(RecordsError, match="weights"):
        partbox.evaluate(model, "example_test", "clean", output=tmp_path / "out")


def test_random_weights_are_called_random(classifier_run):
    model = partbox.load(classifier_run("normal") / "config.yaml", weights="random")
    found = partbox.evaluate(model, "example_test", "clean")
    assert found.name == "random weights"
    assert found.results["weights"] == ""


def test_the_table_names_the_folder_of_the_weights(classifier_run, monkeypatch, tmp_path):
    """Also where the path does not."""
    run = classifier_run("normal")
    monkeypatch.chdir(run)
    model = partbox.load("config.yaml", weights="model_final.pth")
    assert partbox.evaluate(model, "example_test", "clean", images=2).name == "run"
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert partbox.evaluate(partbox.load(run), "example_test", "clean", images=2, output=".").name == "here"


def test_labels_that_were_mended_are_read_again(classifier_run, datasets, tmp_path, monkeypatch):
    """A program lives longer than a file: neither an old version nor that of another folder is evaluated."""
    model = partbox.load(classifier_run("normal"))
    document = json.loads((datasets / "example/test.json").read_text())
    for name, kept in (("one", 4), ("other", 6)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "images").symlink_to(datasets / "example/images")
        write_first(tmp_path / name / "test.json", document, kept)
    monkeypatch.chdir(tmp_path / "one")
    assert partbox.evaluate(model, "test.json", "clean").results["dataset"] == {
        "name": "test.json",
        "images": 4,
        "of": 4,
    }
    monkeypatch.chdir(tmp_path / "other")
    assert partbox.evaluate(model, "test.json", "clean").results["dataset"]["of"] == 6
    write_first(tmp_path / "other/test.json", document, 9)
    assert partbox.evaluate(model, "test.json", "clean").results["dataset"]["of"] == 9
    unregister_part_dataset("test.json")


def write_first(path: Path, document: dict, count: int) -> None:
    images = document["images"][:count]
    ids = {image["id"] for image in images}
    labels = [one for one in document["annotations"] if one["image_id"] in ids]
    path.write_text(json.dumps({**document, "images": images, "annotations": labels}))


def test_the_folder_of_datasets_may_be_said_after_it_was_missed(classifier_run, datasets, monkeypatch, tmp_path):
    """What the message advises works in the same program."""
    model = partbox.load(classifier_run("normal"))
    forget_builtin_datasets()
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "nowhere"))
    (tmp_path / "somewhere").mkdir()
    (tmp_path / "somewhere/car_parts").symlink_to(datasets / "example")
    with pytest.raises(partbox.PartDatasetError, match=r"does not exist.*set DETECTRON2_DATASETS"):
        partbox.evaluate(model, "car_parts_test", "clean")
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "somewhere"))
    assert partbox.evaluate(model, "car_parts_test", "clean").results["dataset"]["of"] == 22


def test_random_numbers_and_state_of_the_caller_go_on(classifier_run):
    model = partbox.load(classifier_run("part_box", "ROBUST_EVAL.SELF_CHECK_IMAGES", "2"))
    model.module.train()
    model.module.backbone.eval()
    threads, drawn = torch.get_num_threads(), []
    for work in (lambda: None, lambda: partbox.evaluate(model, "example_test", ATTACKS, images=3)):
        torch.manual_seed(7)
        np.random.seed(7)
        random.seed(7)
        work()
        drawn.append((torch.rand(1).item(), np.random.rand(), random.random()))
    assert drawn[0] == drawn[1]
    assert torch.get_num_threads() == threads
    assert (model.module.training, model.module.backbone.training) == (True, False)
    assert all(parameter.requires_grad for parameter in model.module.parameters())


@pytest.mark.parametrize("kind", ["classifier", "detector"])
def test_an_interrupted_evaluation_goes_on(classifier_run, detector_run, tmp_path, monkeypatch, kind):
    """Ctrl-C in the middle: what is done is kept, nothing stays locked or logged to, and the end is the same."""
    if kind == "classifier":
        run, attack = (
            classifier_run("normal", "ROBUST_EVAL.BATCH_SIZE", "2"),
            {"name": "pgd", "eps": "8/255", "steps": 2},
        )
    else:
        run = detector_run("faster_rcnn", "ROBUST_EVAL.BATCH_SIZE", "1")
        attack = {"name": "detector-pgd", "eps": "8/255", "steps": 2}
    model, handlers = partbox.load(run), list(logging.getLogger("partbox").handlers)
    whole = partbox.evaluate(model, "example_test", attack, images=6)
    method, calls = "forward" if kind == "detector" else "predict_batch", []
    original = getattr(model.module, method)

    def interrupted(*arguments):
        calls.append(1)
        if len(calls) == 8 - 3 * (kind == "classifier"):
            raise KeyboardInterrupt
        return original(*arguments)

    monkeypatch.setattr(model.module, method, interrupted)
    with pytest.raises(KeyboardInterrupt):
        partbox.evaluate(model, "example_test", attack, images=6, output=tmp_path / "out")
    assert logging.getLogger("partbox").handlers == handlers
    assert all(parameter.requires_grad for parameter in model.module.parameters())
    assert not model.module.training
    assert not (tmp_path / "out/results.json").exists()
    with pytest.raises(RecordsError, match="another evaluation"):
        partbox.evaluate(model, "example_test", attack, images=5, output=tmp_path / "out")
    monkeypatch.setattr(model.module, method, original)
    found = partbox.evaluate(model, "example_test", attack, images=6, output=tmp_path / "out")
    assert found.results["results"] == whole.results["results"]
    assert list(map(dataclasses.asdict, found.records)) == list(map(dataclasses.asdict, whole.records))
    for other in ({"seed": 3}, {"batch_size": 3}, {"self_check_images": 1}):
        with pytest.raises(ConfigError, match="another evaluation or training run: choose another OUTPUT_DIR"):
            partbox.evaluate(model, "example_test", attack, images=6, output=tmp_path / "out", **other)
    stronger = {**attack, "eps": "16/255"}
    with pytest.raises(ConfigError, match="another evaluation or training run: choose another OUTPUT_DIR"):
        partbox.evaluate(model, "example_test", stronger, images=6, output=tmp_path / "out")


def test_nothing_is_sent_by_the_evaluation_of_a_run_that_was(classifier_run, tmp_path, monkeypatch):
    """Who evaluates a run that somebody else trained has not asked for it."""
    modes = []
    monkeypatch.setattr(evaluation_tracking, "open_run", lambda cfg: modes.append(mode_of(cfg)))
    asked = ["TRACKING.WANDB.ENABLED", "True", "TRACKING.WANDB.MODE", "online"]
    model = partbox.load(classifier_run("normal", *asked))
    attack = {"name": "pgd", "eps": "8/255", "steps": 1}
    for output in (None, tmp_path / "evaluation"):
        attacked = partbox.evaluate(model, "example_test", attack, output=output, images=2)
        assert attacked.results["results"]["images"] == 2
    assert modes == ["disabled", "disabled"]
    assert model.cfg.TRACKING.WANDB.ENABLED  # the model's own configuration is left as it was


def test_a_model_with_a_folder_of_datasets_is_not_evaluated_on_those_of_another(classifier_run, datasets, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(datasets / "example", other / "example")
    model = partbox.load(classifier_run("normal", "DATASETS.ROOT", str(other)))
    with pytest.raises(PartDatasetError, match=r"example_test: is registered for .*DATASETS.ROOT is .*name the file"):
        partbox.evaluate(model, "example_test", "clean", images=2)
    by_file = partbox.evaluate(model, other / "example/test.json", "clean", images=2)
    assert by_file.results["results"]["images"] == 2
    (other / "example/test.json").unlink()  # on another machine: the name is what is registered here
    assert partbox.evaluate(model, "example_test", "clean", images=2).results["results"]["images"] == 2


def test_the_folder_of_a_training_still_says_how_it_goes_on(classifier_run, tmp_path):
    run = classifier_run("normal")
    (run / "metrics.json").write_text("{}\n")  # of a training that was stopped
    partbox.evaluate(partbox.load(run), "example_test", "clean", output=run, images=2)
    assert "--resume" in (run / "README.txt").read_text()
