"""Which configuration and which weights a model is made of, and what is refused by name."""

from __future__ import annotations

import random
import subprocess
import sys

import numpy as np
import pytest
import torch
from part_dataset_files import forget_builtin_datasets

import partbox
from partbox.engine.checkpoint import CheckpointError, save_weights
from partbox.engine.checks import ConfigError

LEAN = """
import sys, partbox
print('load' in dir(partbox) and 'evaluate' in dir(partbox))
print(sorted({'torch', 'detectron2', 'PIL', 'numpy'} & set(sys.modules)))
from partbox import load
print('torch' in sys.modules, load.__module__)
"""


def test_importing_partbox_stays_light():
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", LEAN], capture_output=True, text=True, timeout=120)
    assert done.stdout.split("\n")[:3] == ["True", "[]", "True partbox.api.loading"], done.stderr


def test_a_run_gives_its_best_weights_else_its_last(classifier_run):
    run = classifier_run("normal", "SEED", "1", weights="model_final.pth")
    last = partbox.load(run)
    assert last.weights == str(run / "model_final.pth")
    assert "model_final.pth: 11 classes, 0 kinds of parts" in repr(last)
    classifier_run("normal", "SEED", "2", weights="model_best.pth")
    best = partbox.load(str(run))
    assert best.weights == str(run / "model_best.pth")
    assert not equal(best, last)
    assert equal(partbox.load(run, weights=run / "model_final.pth"), last)
    assert not best.module.training


def equal(one: partbox.Model, other: partbox.Model) -> bool:
    mine, theirs = one.module.state_dict(), other.module.state_dict()
    return all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_a_configuration_file_gives_the_weights_that_it_names(classifier_run, tmp_path):
    run = classifier_run("normal")
    config = tmp_path / "mine.yaml"
    text = (run / "config.yaml").read_text()
    assert "WEIGHTS: ''" in text
    config.write_text(f"_BASE_: run/config.yaml\nMODEL: {{WEIGHTS: {run / 'model_final.pth'}}}\n")
    assert equal(partbox.load(config), partbox.load(run))
    config.write_text("_BASE_: run/config.yaml\n")
    with pytest.raises(ConfigError, match=r"mine\.yaml names no weights.*weights='random'"):
        partbox.load(config)
    assert equal(partbox.load(config, weights=run / "model_final.pth"), partbox.load(run))


def test_the_configuration_of_a_run_does_not_bring_the_weights_that_the_run_began_with(classifier_run):
    run = classifier_run("normal", "SEED", "1")
    classifier_run("normal", "MODEL.WEIGHTS", str(run / "model_final.pth"), "SEED", "2", folder="second")
    second = run.parent / "second"
    with pytest.raises(ConfigError, match=r"left model_final\.pth: load the folder"):
        partbox.load(second / "config.yaml")
    assert partbox.load(second).weights == str(second / "model_final.pth")


def test_random_weights_only_where_they_are_asked_for(classifier_run):
    run = classifier_run("part_box", "SEED", "5")
    random = partbox.load(run / "config.yaml", weights="random")
    assert random.weights == ""
    assert "random weights" in repr(random)
    assert equal(random, partbox.load(run))  # the seed is the configuration's
    (run / "model_final.pth").unlink()
    with pytest.raises(
        CheckpointError, match=r"run has neither model_best\.pth nor model_final\.pth: finish the train"
    ):
        partbox.load(run)
    save_weights(run / "resume_0000007.pth", random.module)
    with pytest.raises(CheckpointError, match=r"--resume\), or name the weights, such as .*resume_0000007\.pth"):
        partbox.load(run)
    assert equal(partbox.load(run, weights=run / "resume_0000007.pth"), random)


def test_names_come_from_the_weights_where_the_configuration_has_none(classifier_run, monkeypatch, tmp_path):
    run = classifier_run("part_to_class")  # its head reads which part belongs to which class
    config = tmp_path / "without_names.yaml"
    empty = "{CLASS_NAMES: [], PART_NAMES: [], PART_TO_CLASS: []}"
    config.write_text(f"_BASE_: run/config.yaml\nMODEL: {{PART: {empty}}}\n")
    known = partbox.load(run)
    forget_builtin_datasets()
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "nowhere"))
    found = partbox.load(config, weights=run / "model_final.pth")
    assert found.class_names == known.class_names
    assert found.module.part_to_class == known.module.part_to_class
    nameless = tmp_path / "nameless.pth"
    torch.save({"model": known.module.state_dict()}, nameless)
    with pytest.raises(ConfigError, match=r"CLASS_NAMES\) nor .*nameless\.pth names the classes"):
        partbox.load(config, weights=nameless)
    odd = {"class_names": ["a", "a:b"], "part_names": ["a:b:c"]}
    torch.save({"model": known.module.state_dict(), **odd}, nameless)
    with pytest.raises(ConfigError, match="'a:b:c' could belong to 2 of the classes"):
        partbox.load(config, weights=nameless)


def test_a_random_model_takes_its_names_from_the_training_data(classifier_run, tmp_path):
    run = classifier_run("part_box")
    config = tmp_path / "without_names.yaml"
    empty = "{CLASS_NAMES: [], PART_NAMES: [], PART_TO_CLASS: []}"
    config.write_text(f"_BASE_: run/config.yaml\nMODEL: {{PART: {empty}}}\n")
    assert partbox.load(config, weights="random").class_names == partbox.load(run).class_names


@pytest.mark.parametrize("kind", ["classifier", "detector"])
def test_random_numbers_of_the_caller_go_on(classifier_run, detector_run, kind):
    """A model is built from a seed of its own; whoever had seeded before draws what he would have drawn."""
    run = classifier_run("part_box") if kind == "classifier" else detector_run("faster_rcnn")
    drawn = []
    for load in (lambda: None, lambda: partbox.load(run), lambda: partbox.load(run / "config.yaml", weights="random")):
        torch.manual_seed(7)
        np.random.seed(7)
        random.seed(7)
        load()
        drawn.append((torch.rand(1).item(), np.random.rand(), random.random()))
    assert drawn[0] == drawn[1] == drawn[2]


@pytest.mark.parametrize("name", ["faster_rcnn", "deeplabv3plus"])
def test_a_detectors_names_come_from_its_weights_its_datasets_or_the_caller(detector_run, monkeypatch, tmp_path, name):
    run = detector_run(name)
    names = partbox.load(run).part_names
    assert len(names) == 40
    nameless = detector_run(name, folder="nameless", names=False)
    assert partbox.load(nameless).part_names == names  # of the datasets that the configuration names
    forget_builtin_datasets()
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "nowhere"))
    with pytest.raises(ConfigError, match=r"names the classes of this model: give class_names"):
        partbox.load(nameless)
    assert not (tmp_path / "nowhere").exists()  # no example data is made for a look at names
    assert partbox.load(nameless, class_names=names).part_names == names
    assert partbox.load(run).part_names == names
    with pytest.raises(ConfigError, match="40 classes, and 2 names"):
        partbox.load(nameless, class_names=["a", "b"])
    with pytest.raises(ConfigError, match="class_names must be a list"):
        partbox.load(nameless, class_names="abc")
    with pytest.raises(CheckpointError, match="made for other class names"):
        partbox.load(run, class_names=names[::-1])


def test_folders_and_files_without_what_is_needed_are_named(classifier_run, tmp_path):
    run = classifier_run("normal")
    with pytest.raises(ConfigError, match=r"nowhere does not exist"):
        partbox.load(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"empty is no folder of a training run: it has no config\.yaml$"):
        partbox.load(tmp_path / "empty")
    other = classifier_run("normal", folder="second")
    with pytest.raises(ConfigError, match=rf"it has no config\.yaml; runs in it: {run}, {other}$"):
        partbox.load(tmp_path)
    evaluation = tmp_path / "evaluated"
    evaluation.mkdir()
    (evaluation / "config_evaluation.yaml").write_text(f"MODEL: {{WEIGHTS: {run / 'model_final.pth'}}}")
    with pytest.raises(ConfigError, match=rf"folder of an evaluation: load the training run that it evaluated, {run}"):
        partbox.load(evaluation)
    (evaluation / "config_evaluation.yaml").write_text("{")
    with pytest.raises(ConfigError, match=r"load the training run that it evaluated$"):
        partbox.load(evaluation)
    with pytest.raises(CheckpointError, match=r"gone\.pth does not exist; whole files beside it: model_final\.pth"):
        partbox.load(run, weights=run / "gone.pth")
    with pytest.raises(ConfigError, match=rf"file of weights: load the folder of its run, {run}, or .* with weights='"):
        partbox.load(run / "model_final.pth")
    (tmp_path / "bytes.yaml").write_bytes((run / "model_final.pth").read_bytes())
    with pytest.raises(ConfigError, match=r"bytes\.yaml is not valid YAML: "):
        partbox.load(tmp_path / "bytes.yaml")
    assert equal(partbox.load(run / "config.yaml", weights=other), partbox.load(other))
    with pytest.raises(CheckpointError, match=r"empty has neither model_best\.pth nor"):
        partbox.load(run, weights=tmp_path / "empty")
    with pytest.raises(ConfigError, match=r"MODEL.DEVICE 'abacus' is no device"):
        partbox.load(run, device="abacus")
    with pytest.raises(ConfigError, match="class_names is for detectors"):
        partbox.load(run, class_names=["a"])
    assert partbox.load(run, device=torch.device("cpu")).device == torch.device("cpu")


def test_a_run_that_does_not_exist_gets_the_nearest_one(classifier_run):
    run = classifier_run("normal", folder="part_box")
    with pytest.raises(
        ConfigError, match=r"part_bx does not exist: no folder of a training run; did you mean .*part_box"
    ):
        partbox.load(run.parent / "part_bx")


def test_weights_that_would_run_code_or_belong_to_others_are_refused(classifier_run, tmp_path):
    run = classifier_run("normal")
    evil = tmp_path / "evil.pth"
    torch.save({"model": {}, "code": Surprise(tmp_path / "surprise")}, evil)
    with pytest.raises(CheckpointError, match="holds more than tensors and plain values"):
        partbox.load(run, weights=evil)
    assert not (tmp_path / "surprise").exists()
    other = classifier_run("part_box", folder="other")
    with pytest.raises(CheckpointError, match="does not fit the model"):
        partbox.load(run, weights=other / "model_final.pth")
    stored = torch.load(run / "model_final.pth", weights_only=True)
    stored["class_names"] = stored["class_names"][::-1]
    torch.save(stored, tmp_path / "turned.pth")
    with pytest.raises(CheckpointError, match="other class names"):
        partbox.load(run, weights=tmp_path / "turned.pth")


class Surprise:
    """Makes a file when it is unpickled by something that runs code."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))
