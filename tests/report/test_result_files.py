"""What a report refuses, by name and before any work, and which runs it takes for one model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from report_runs import PGD, SQUARE, write_run

from partbox.report import ReportError
from partbox.report.models import group_by_seed
from partbox.report.result_files import read_results, right_images

NAMES = ("clean", "pgd-20 linf 8/255")
FOOLED = {NAMES[0]: [False, False, True, False], NAMES[1]: [False, True, False, True]}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path / "part_box", FOOLED)


def test_a_run_is_read_once_whichever_way_it_is_named(run: Path, tmp_path: Path) -> None:
    results = read_results([run, run / "results.json", tmp_path / "." / "part_box" / ".." / "part_box"])
    assert [one.name for one in results.runs] == ["part_box"]
    assert len(results.sources) == 3


def test_verdicts_are_those_of_the_accuracy(run: Path) -> None:
    one = read_results([run]).runs[0]
    # the third image is wrong when clean: what the attack leaves does not count
    assert list(right_images(one, NAMES[1]).values()) == [True, False, False, False]
    assert one.entries[NAMES[1]]["accuracy"] == 0.25


def test_names_tell_runs_apart(tmp_path: Path) -> None:
    first, second = write_run(tmp_path / "a" / "run", FOOLED), write_run(tmp_path / "b" / "run", FOOLED, seed=2)
    assert [one.name for one in read_results([first, second]).runs] == ["a/run", "b/run"]


def edit(path: Path, change: object) -> None:
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


BAD = {
    "no such folder": (lambda run: shutil.rmtree(run), "part_box does not exist"),
    "not evaluated": (
        lambda run: [(run / "results.json").unlink(), shutil.rmtree(run / "records")],
        r"part_box has no results.json: evaluate the run with tools/train_net.py",
    ),
    "unfinished": (lambda run: (run / "results.json").unlink(), "unfinished evaluation.*start the same command again"),
    "cut": (lambda run: (run / "results.json").write_text('{"schema'), "results.json is damaged"),
    "a list": (lambda run: (run / "results.json").write_text("[]"), "results.json holds no JSON object"),
    "another version": (
        lambda run: edit(run / "results.json", lambda d: d.update(schema_version=9)),
        "schema version 9, this report reads 2",
    ),
    "incomplete": (lambda run: edit(run / "results.json", lambda d: d.pop("config")), "not a complete results file"),
    "no results": (lambda run: edit(run / "results.json", lambda d: d.update(results=[])), "not a complete results"),
    "no settings": (
        lambda run: edit(run / "results.json", lambda d: d["results"]["by_perturbation"]["clean"].pop("settings")),
        "not a complete results file",
    ),
    "records cut": (
        lambda run: (run / "records.jsonl").write_text((run / "records.jsonl").read_text()[:-30]),
        "records.jsonl, line 8 is damaged",
    ),
    "records of another run": (
        lambda run: (run / "records.jsonl").write_text(
            (run / "records.jsonl").read_text().replace('"fooled": true', '"fooled": false', 1)
        ),
        "does not give the numbers of .*results.json under clean",
    ),
    "records of fewer images": (
        lambda run: (run / "records.jsonl").write_text("\n".join((run / "records.jsonl").read_text().split("\n")[1:])),
        "does not give the numbers",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_results_are_refused_by_name(run: Path, name: str) -> None:
    spoil, message = BAD[name]
    spoil(run)
    with pytest.raises(ReportError, match=message):
        read_results([run])


def test_nothing_at_all_is_refused() -> None:
    with pytest.raises(ReportError, match="no results"):
        read_results([])


def test_a_copy_does_not_take_the_records_beside_it_for_its_own(run: Path, tmp_path: Path) -> None:
    other = write_run(tmp_path / "other", {name: [True] * 4 for name in NAMES})
    shutil.copy(run / "results.json", other / "part_box.json")
    copied = read_results([other / "part_box.json"]).runs[0]
    assert copied.name == "other/part_box" or copied.name == "part_box"
    assert copied.records is None
    assert copied.folder is None


def test_a_folder_of_a_sweep_stands_for_its_runs(tmp_path: Path) -> None:
    sweep = tmp_path / "budget"
    write_run(sweep / "a-seed1", FOOLED)
    facts = {
        **dict.fromkeys(("images_with_masks", "images_with_boxes", "labelled_parts", "hours"), 1),
        **{"seed": 1, "mask_share": 0, "box_share": 1, "clean_accuracy": 0.5, "robust_accuracy": {}, "unreliable": []},
    }
    summary = {
        "runs": [{"run": "a-seed1", **facts}, {"run": "gone", **facts}],
        "missing": ["late"],
        **{"dataset": "pets_train", "training_images": 9, "seconds_per_box": 1, "seconds_per_mask": 2},
    }
    (sweep / "label_budget.json").write_text(json.dumps(summary))
    results = read_results([sweep])
    assert [one.name for one in results.runs] == ["a-seed1"]
    assert list(results.budgets) == ["budget"]
    assert results.missing == [
        "budget: late is not finished",
        "budget: the folder of gone is not there, only its line in label_budget.json",
    ]


def test_a_sweep_of_slurm_stands_for_its_cells_wherever_it_was_moved(tmp_path: Path) -> None:
    sweep = tmp_path / "sweep"
    write_run(sweep / "cell 1", FOOLED)
    cells = [{"name": "cell 1", "folder": "/elsewhere/cell 1"}]
    document = {"cells": cells, "missing": [{"name": "cell 2", "reason": "out of memory"}]}
    (sweep / "sweep_results.json").write_text(json.dumps(document))
    results = read_results([sweep])
    assert [one.name for one in results.runs] == ["cell 1"]
    assert results.missing == ["sweep: cell 2 is missing (out of memory)"]
    shutil.rmtree(sweep / "cell 1")
    with pytest.raises(ReportError, match="the results of cell 1 are not in /elsewhere/cell 1"):
        read_results([sweep])


# --- which runs are one model ---------------------------------------------------------------------------------------


def models(*folders: Path) -> dict[str, list[int]]:
    return {model.name: model.seeds for model in group_by_seed(read_results(folders).runs)}


def test_runs_that_differ_in_their_seed_are_one_model(tmp_path: Path) -> None:
    folders = [write_run(tmp_path / f"box-seed{seed}", FOOLED, seed=seed) for seed in (3, 1, 2)]
    other = write_run(tmp_path / "normal", FOOLED, config={"MODEL": {"PART": {"LOSS_WEIGHT": 0.0}}})
    assert models(*folders, other) == {"box (3 seeds)": [3, 1, 2], "normal": [1]}


@pytest.mark.parametrize(
    "changes",
    [
        {"config": {"SOLVER": {"BASE_LR": 0.2}}},
        {"config": {"MODEL": {"WEIGHTS": "other.pth"}}},
        {"class_names": ("cat", "horse")},
        {"specs": ({**PGD, "step_size": 0.001},)},
        {"labels": [0, 0, 0, 1, 1], "fooled": {name: [*values, False] for name, values in FOOLED.items()}},
    ],
)
def test_runs_that_differ_in_anything_else_are_not(tmp_path: Path, changes: dict) -> None:
    first = write_run(tmp_path / "box-seed1", FOOLED, seed=1)
    second = write_run(tmp_path / "box-seed2", changes.pop("fooled", FOOLED), seed=2, **changes)
    assert models(first, second) == {"box-seed1": [1], "box-seed2": [2]}


def test_what_does_not_decide_numbers_keeps_no_seeds_apart(tmp_path: Path) -> None:
    first = write_run(tmp_path / "a", FOOLED, seed=1, config={"DATALOADER": {"NUM_WORKERS": 1}})
    second = write_run(tmp_path / "b", FOOLED, seed=2, config={"DATALOADER": {"NUM_WORKERS": 2}})
    assert models(first, second) == {"a (2 seeds)": [1, 2]}


def test_two_evaluations_of_one_training_are_not_two_seeds(tmp_path: Path) -> None:
    folders = [write_run(tmp_path / name, FOOLED, seed=1) for name in ("best", "last")]
    assert models(*folders) == {"best": [1], "last": [1]}


def test_other_images_are_not_the_same_model(tmp_path: Path) -> None:
    first = write_run(tmp_path / "a-seed1", FOOLED, seed=1)
    second = write_run(tmp_path / "a-seed2", FOOLED, seed=2)
    text = (second / "records.jsonl").read_text()
    (second / "records.jsonl").write_text(text.replace("image 0", "another"))
    assert len(models(first, second)) == 2


def test_another_seed_of_the_evaluation_is_not_another_seed_of_the_training(tmp_path: Path) -> None:
    first = write_run(tmp_path / "a-seed1", FOOLED, seed=1)
    second = write_run(tmp_path / "a-seed2", FOOLED, seed=2)
    edit(second / "results.json", lambda document: document["seeds"].update(evaluation=7))
    assert len(models(first, second)) == 2


def test_the_attack_belongs_to_the_model(tmp_path: Path) -> None:
    first = write_run(tmp_path / "a-seed1", FOOLED, seed=1)
    fooled = {**FOOLED, "square linf 8/255": [False] * 4}
    second = write_run(tmp_path / "a-seed2", fooled, (PGD, SQUARE), seed=2)
    assert len(models(first, second)) == 2
