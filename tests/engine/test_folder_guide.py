"""The folder of every kind of run explains itself, and the commands that its README.txt tells work."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
from folder_guides import check_explained, commands_in, files_of, named
from small_detectors import REPOSITORY, SMALL_DETECTOR
from small_models import SMALL
from tool_examples import examples_in, parsed

from partbox.data import get_part_dataset
from partbox.engine.folder_guide import evaluation_guide, pseudo_label_guide, training_guide
from partbox.engine.setup import fill_names, load_config
from partbox.folder_readme import Entry, text_of

ATTACK = "[{'name': 'clean'}, {'name': 'pgd', 'eps': '8/255', 'steps': 1}]"
FEW = ["SOLVER.MAX_ITER", "2", "SOLVER.CHECKPOINT_PERIOD", "1", "TEST.EVAL_PERIOD", "0", "ROBUST_EVAL.NUM_IMAGES", "4"]
FEW += ["ADVERSARY.VALIDATION_IMAGES", "4", "ROBUST_EVAL.PERTURBATIONS", ATTACK]


def run_command(run_tool, command: str, *more: str) -> None:
    """A command of a README.txt, in this process."""
    python, tool, *words = shlex.split(command)
    assert python == "python"
    run_tool(Path(tool).stem, *words, *more)


def test_a_training_an_evaluation_and_what_they_say_to_do(run_tool, tmp_path):
    run = tmp_path / "a run"  # blanks must not break the commands
    run_tool("train_net", *SMALL, *FEW, "OUTPUT_DIR", run)
    check_explained(run)
    resume, repeat, again, curves, _, compare = commands_in((run / "README.txt").read_text())
    before = {name: (run / name).read_bytes() for name in ("model_best.pth", "records.jsonl", "metrics.json")}
    run_command(run_tool, resume)
    assert {name: (run / name).read_bytes() for name in before} == before, "it was finished: nothing changes"
    assert (run / "command.txt").read_text().count("\n") == 2
    check_explained(run)
    run_command(run_tool, repeat)
    repeated = tmp_path / "a run_repeated"
    assert {name: (repeated / name).read_bytes() for name in ("model_best.pth", "records.jsonl")} == {
        name: before[name] for name in ("model_best.pth", "records.jsonl")
    }
    run_command(run_tool, again, "ROBUST_EVAL.PERTURBATIONS", ATTACK)
    other = tmp_path / "a run_again"
    check_explained(other)
    go_on, repeat, _, _ = commands_in((other / "README.txt").read_text())
    results = (other / "records.jsonl").read_bytes()
    run_command(run_tool, go_on)
    assert (other / "records.jsonl").read_bytes() == results
    run_command(run_tool, repeat)
    assert (tmp_path / "a run_again_repeated" / "records.jsonl").read_bytes() == results
    assert shlex.split(curves) == ["tensorboard", "--logdir", str(run)]
    run_command(run_tool, compare.replace("OTHER_FOLDER", shlex.quote(str(other))))
    # an evaluation in the folder of a training leaves the explanation of the training
    (run / "results.json").unlink()
    run_tool("train_net", "--eval-only", "--config-file", run / "config.yaml", "MODEL.WEIGHTS", run / "model_best.pth")
    check_explained(run)
    assert "model_best.pth" in (run / "README.txt").read_text()


def test_a_file_that_nobody_names_is_found(run_tool, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    entries = (
        Entry("README.txt", "this"),
        Entry("log.txt", "that"),
        Entry("x_*.pth", "maybe", always=False),
        Entry("r/", "all"),
    )
    (folder / "README.txt").write_text(text_of("Title", entries, [("look", "python tools/compare_runs.py a")]))
    (folder / "log.txt").touch()
    (folder / "r").mkdir()
    with pytest.raises(AssertionError, match=r"names \['r/'\], which are not there"):
        check_explained(folder)
    (folder / "r" / "1").touch()
    (folder / "x_1.pth").touch()
    check_explained(folder)
    assert files_of(folder) == ["README.txt", "log.txt", "r/1", "x_1.pth"]
    for name in ("new.json", "r2", "x_1.pt"):
        (folder / name).touch()
        with pytest.raises(AssertionError, match=f"does not name .*{name}"):
            check_explained(folder)
        (folder / name).unlink()


@pytest.mark.parametrize("guide", [training_guide, evaluation_guide])
@pytest.mark.parametrize("architecture", ["PartClassifier", "GeneralizedRCNN"])
def test_the_commands_are_those_of_the_right_tool(guide, architecture, tmp_path):
    cfg = load_config(None, ["MODEL.META_ARCHITECTURE", architecture, "MODEL.WEIGHTS", "w.pth"])
    text = guide(tmp_path, cfg)
    examples = [one for one in examples_in(text) if one.complete]
    assert examples
    for one in examples:
        parsed(one)
    tools = {one.tool for one in examples} - {"tools/compare_runs.py", "tools/make_report.py"}
    assert tools == {"tools/train_net.py" if architecture == "PartClassifier" else "tools/train_detector.py"}
    assert "examples.png" in text


def test_the_weights_are_those_that_the_training_leaves(tmp_path):
    text = training_guide(tmp_path, load_config(None, ["DATASETS.VALIDATION", "()"]))
    assert "MODEL.WEIGHTS " + str(tmp_path / "model_final.pth") in text


def test_a_folder_of_pseudo_labels(run_tool, teacher, example_dataset, tmp_path):
    run, output = teacher("DATASETS.LABEL_BUDGET.MASK_SHARE", "0.5"), tmp_path / "labels"
    run_tool("pseudo_label", "--run", run, "--labels", "box", "--output", output, "--threshold", "0.0")
    check_explained(output)
    again, _ = commands_in((output / "README.txt").read_text())
    made = (output / "train.json").read_bytes()
    run_command(run_tool, again.replace("pseudo_label.py", "tools/pseudo_label.py", 1))
    assert (output / "train.json").read_bytes() == made
    check_explained(output)


def test_a_folder_of_a_sweep(run_tool, tmp_path, monkeypatch):
    """The trainings are left out: each has a folder of its own, which explains itself."""
    import partbox.engine.label_budget_sweep as sweep

    original = sweep.subprocess.run

    def instead(command, **options):
        if "OUTPUT_DIR" not in command:  # the versions of environment.txt
            return original(command, **options)
        folder = Path(command[-1])
        folder.mkdir(parents=True)
        (folder / "README.txt").write_text("a run")
        options = command[command.index("--resume") + 1 : -2]
        cfg = load_config(config, options)
        fill_names(cfg, get_part_dataset("example_train"))
        results = {"results": {"clean_accuracy": 0.5, "robust_accuracy": {"linf 8/255": 0.25}}}
        stated = {"config": cfg.dump(), "seeds": {"training": cfg.SEED}}
        (folder / "results.json").write_text(json.dumps({**results, **stated}))
        return type("Ended", (), {"returncode": 0})

    monkeypatch.setattr(sweep.subprocess, "run", instead)
    config = REPOSITORY / "configs/example/part_box.yaml"
    run_tool("label_budget", "--config-file", config, "--output", tmp_path / "s", "--box-shares", "0.5,1")
    check_explained(tmp_path / "s")
    log = (tmp_path / "s" / "log.txt").read_text()
    assert "start masks0_boxes0.5-seed0" in log
    assert "done masks0_boxes1-seed0" in log
    again, page = commands_in((tmp_path / "s" / "README.txt").read_text())
    assert shlex.split(page) == ["python", "tools/make_report.py", str(tmp_path / "s")]
    assert shlex.split(again)[-2:] == ["--box-shares", "0.5,1"]


def test_a_folder_of_a_submission(tmp_path, monkeypatch):
    from partbox.engine.slurm import plan

    monkeypatch.setattr("sys.argv", ["tools/submit_slurm.py", "sweep", "--folder", str(tmp_path / "s")])
    cell = plan.Cell("a", "train", ("tools/train_net.py",), str(tmp_path / "s/runs/a"), "c", 0)
    plan.save_plan(tmp_path / "s", [cell])
    check_explained(tmp_path / "s")
    plan.save_plan(tmp_path / "s", [cell])
    assert (tmp_path / "s" / "command.txt").read_text().count("sweep --folder") == 2
    for name in (
        "submissions.json",
        "logs/1.log",
        "submitit/x.sh",
        "failures/1.txt",
        "runs/a/x",
        "cells/b/x",
        "jobs.json",
    ):
        (tmp_path / "s" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "s" / name).touch()
    (tmp_path / "s" / "sweep_results.json").touch()
    check_explained(tmp_path / "s")


def test_every_name_of_the_code_is_a_name_of_the_guide():
    """The guides name files as the modules that write them do."""
    from partbox.engine import folder_guide as guide
    from partbox.engine import pseudo_labelling
    from partbox.engine.hooks.best_checkpoint import BEST, FINAL
    from partbox.engine.label_budget_sweep import SUMMARY
    from partbox.engine.slurm import collect, plan, status, submission
    from partbox.report import label_budget_report

    listed = {
        one.name
        for entries in (guide.TRAINED_CLASSIFIER, guide.SWEPT, guide.PSEUDO_LABELLED, guide.SUBMITTED)
        for one in entries
    }
    files = {BEST, FINAL, SUMMARY, plan.PLAN, plan.COMMANDS, submission.SUBMISSIONS, status.KNOWN, collect.RESULTS}
    files |= {pseudo_labelling.DATASET, pseudo_labelling.IMAGES, pseudo_labelling.FOUND, pseudo_labelling.THRESHOLDS}
    files |= {label_budget_report.PLOT, label_budget_report.TABLE}
    assert files <= listed
    assert named("x")[next(iter(named("x")))] == []


def test_a_detector(run_tool, tmp_path):
    config = REPOSITORY / "configs/car_parts/faster_rcnn.yaml"
    few = ["SOLVER.MAX_ITER", "2", "SOLVER.CHECKPOINT_PERIOD", "1", "ROBUST_EVAL.NUM_IMAGES", "2"]
    few += ["ROBUST_EVAL.PERTURBATIONS", "[]", "ROBUST_EVAL.SELF_CHECK_IMAGES", "0"]
    run = tmp_path / "run"
    run_tool("train_detector", "--config-file", config, *SMALL_DETECTOR, *few, "OUTPUT_DIR", run)
    check_explained(run)
    resume, _, again, _, _ = commands_in((run / "README.txt").read_text())
    weights = (run / "model_final.pth").read_bytes()
    run_command(run_tool, resume)
    assert (run / "model_final.pth").read_bytes() == weights
    run_command(run_tool, again, "ROBUST_EVAL.PERTURBATIONS", "[]")
    check_explained(tmp_path / "run_again")


@pytest.mark.parametrize("kind", ["labels", "statistics", "predictions"])
def test_a_folder_of_pictures(run_tool, teacher, tmp_path, kind):
    output = tmp_path / "a look"
    options = ["--dataset", "example_test", "--output", output]
    options += ["--run", teacher()] if kind == "predictions" else []
    options += ["--images", "3"] if kind != "statistics" else []
    run_tool("visualize_parts", kind, *options)
    check_explained(output)
    before = {path: path.read_bytes() for path in output.rglob("*.*") if path.name != "README.txt"}
    (again,) = commands_in((output / "README.txt").read_text())
    run_command(run_tool, again.replace("visualize_parts.py", "tools/visualize_parts.py", 1))
    assert {path: path.read_bytes() for path in output.rglob("*.*") if path.name != "README.txt"} == before
    (once_more,) = commands_in((output / "README.txt").read_text())
    assert once_more.count("--overwrite") == 1


def test_an_evaluation_from_python_is_repeated_from_python(tmp_path):
    """Its datasets may be registered there alone, and a model with random weights has no file of them."""
    cfg = load_config(None, ["MODEL.WEIGHTS", ""])
    text = evaluation_guide(tmp_path, cfg, embedded=True)
    assert "model with random weights" in text
    assert "the same call of partbox.evaluate" in text
    assert not [one for one in commands_in(text) if "--eval-only" in one]


def test_pseudo_labels_in_a_folder_of_any_name_can_be_trained_on():
    folder = Path("it's $mine")
    (train,) = (one for one in commands_in(pseudo_label_guide(folder, ["tools/x.py"])) if "train_net" in one)
    words = shlex.split(train)
    assert (str(folder / "train.json"),) == load_config(None, words[words.index("DATASETS.TRAIN") :]).DATASETS.TRAIN


def test_the_folder_of_datasets_is_told(tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", "/data of mine")
    text = training_guide(tmp_path, load_config(None, []))
    assert "in the folder in which the run was started, with DETECTRON2_DATASETS='/data of mine':" in text
    monkeypatch.delenv("DETECTRON2_DATASETS")
    assert "in the folder in which the run was started:" in training_guide(tmp_path, load_config(None, []))
