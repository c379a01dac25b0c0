"""The label-budget sweep through its entry point, and what a budget does to a training."""

from __future__ import annotations

import importlib.util
import json
import sys
from functools import partial

import pytest
from part_dataset_files import forget_builtin_datasets
from small_detectors import REPOSITORY, SMALL_DETECTOR
from small_models import SMALL

import partbox
from partbox.data import get_part_dataset
from partbox.engine.checks import ConfigError
from partbox.engine.detectors import labelled_records
from partbox.engine.label_budget_sweep import SweepFailed, summarise, sweep_runs
from partbox.engine.setup import fill_names, load_config, load_dataset
from partbox.engine.training_records import detector_training_records, within_budget
from partbox.report.label_budget_report import label_budget_table

SHORT = [
    *SMALL,
    *["SOLVER.MAX_ITER", "2", "SOLVER.CHECKPOINT_PERIOD", "2", "TEST.EVAL_PERIOD", "0", "DATASETS.VALIDATION", "()"],
    *["ROBUST_EVAL.PERTURBATIONS", "[{'name': 'clean'}, {'name': 'pgd', 'eps': '8/255', 'steps': 1}]"],
    *["ROBUST_EVAL.NUM_IMAGES", "6", "ADVERSARY.OBJECTIVE", "clean"],
]
CONFIG = REPOSITORY / "configs/example/part_box.yaml"


@pytest.fixture
def sweep(example_root, monkeypatch, tmp_path):
    """Run tools/label_budget.py in this process; its trainings are processes of their own."""

    def call(*arguments: object) -> None:
        forget_builtin_datasets()
        options = ["--config-file", str(CONFIG), "--output", str(tmp_path / "sweep"), *map(str, arguments)]
        monkeypatch.setattr(sys, "argv", ["label_budget.py", *options])
        spec = importlib.util.spec_from_file_location("label_budget_script", REPOSITORY / "tools/label_budget.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        module.main()

    monkeypatch.setenv("DETECTRON2_DATASETS", str(example_root))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    yield call
    forget_builtin_datasets()


def test_a_sweep_trains_every_budget_and_draws_accuracy_against_cost(sweep, tmp_path, capsys):
    budgets = ["--box-shares", "0,0.5", "--mixtures", "0.25+0.25"]
    sweep(*budgets, "--part", "0/2", "--workers", "2", *SHORT)
    folder = tmp_path / "sweep"
    assert json.loads((folder / "label_budget.json").read_text())["missing"] == ["masks0_boxes0.5-seed0"]
    assert "not finished: masks0_boxes0.5-seed0" in capsys.readouterr().out
    sweep(*budgets, "--part", "1/2", "--seconds-per-box", "36", *SHORT)
    summary = json.loads((folder / "label_budget.json").read_text())
    assert summary["missing"] == []
    runs = {run["run"]: run for run in summary["runs"]}
    none, boxes, mixed = (runs[f"masks{name}-seed0"] for name in ("0_boxes0", "0_boxes0.5", "0.25_boxes0.25"))
    assert none["hours"] == none["labelled_parts"] == 0
    assert boxes["images_with_boxes"] == round(summary["training_images"] / 2)
    assert boxes["hours"] == pytest.approx(boxes["labelled_parts"] * 36 / 3600)
    assert mixed["images_with_masks"] + mixed["images_with_boxes"] == boxes["images_with_boxes"]
    assert mixed["labelled_parts"] == boxes["labelled_parts"], "the same images, labelled better"
    for run in runs.values():
        assert set(run["robust_accuracy"]) == {"linf 8/255"}
        results = json.loads((folder / run["run"] / "results.json").read_text())
        assert run["clean_accuracy"] == results["results"]["clean_accuracy"]
        log = (folder / f"{run['run']}.out").read_text()
        assert (
            f"Label budget: {run['images_with_masks']} images with masks, {run['images_with_boxes']} with boxes" in log
        )
    assert (folder / "label_budget.png").stat().st_size > 10_000
    table = (folder / "label_budget.md").read_text()
    assert table.strip() == label_budget_table(summary).strip()
    assert [line.split("|")[2].strip() for line in table.splitlines()[2:5]] == ["0", "50", "25"], "cheapest first"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ([], None),
        (["ROBUST_EVAL.NUM_IMAGES", "3"], "ROBUST_EVAL.NUM_IMAGES is 3 there and 6 here"),
        (["SOLVER.MAX_ITER", "9"], "SOLVER.MAX_ITER is 9 there and 2 here"),
        (["DATASETS.LABEL_BUDGET.SEED", "7"], "DATASETS.LABEL_BUDGET.SEED is 7 there and 0 here"),
        (["SEED", "4"], "its seed is 4"),
        (["DATALOADER.NUM_WORKERS", "3", "TRACKING.IMAGES", "1"], None),
    ],
)
def test_what_another_call_trained_or_measured_is_not_counted(example_root, monkeypatch, tmp_path, change, said):
    """Parts of a sweep may be called on several machines; the same folder names do not make them one sweep."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(example_root))
    forget_builtin_datasets()
    partbox.register_all()
    (one,) = sweep_runs([(0.0, 0.5)], [0])
    cfg = load_config(CONFIG, SHORT)
    theirs = load_config(CONFIG, [*SHORT, *one.options, *change])
    fill_names(theirs, get_part_dataset("example_train"))
    measured = {"clean_accuracy": 0.5, "robust_accuracy": {}}
    document = {"config": theirs.dump(), "seeds": {"training": theirs.SEED}, "results": measured}
    (tmp_path / one.name).mkdir()
    (tmp_path / one.name / "results.json").write_text(json.dumps(document))
    call = partial(summarise, cfg, [one], tmp_path, seconds_per_box=1.0, seconds_per_mask=2.0)
    if said is None:
        assert call()["runs"][0]["clean_accuracy"] == 0.5
    else:
        with pytest.raises(ConfigError, match=said):
            call()
    forget_builtin_datasets()


def test_a_failed_training_is_named_with_its_log(sweep, tmp_path):
    with pytest.raises(SweepFailed, match=r"masks0_boxes0\.5-seed0 failed, see .*masks0_boxes0\.5-seed0\.out"):
        sweep("--box-shares", "0.5", *SHORT, "MODEL.PART.HEAD.NAME", "linear")
    assert "ConfigError" in (tmp_path / "sweep" / "masks0_boxes0.5-seed0.out").read_text()
    assert not (tmp_path / "sweep" / "label_budget.json").exists()


def test_the_plan_of_a_sweep(sweep, tmp_path, capsys):
    sweep("--box-shares", "0,1", "--mask-shares", "0,0.1", "--seeds", "3,4", "--dry-run")
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == [
        f"masks{budget}-seed{seed}" for seed in (3, 4) for budget in ("0_boxes0", "0_boxes1", "0.1_boxes0")
    ]
    assert [("LOSS_WEIGHT 0.0" in line) for line in lines] == [True, False, False] * 2
    assert not (tmp_path / "sweep").exists()
    with pytest.raises(ValueError, match="twice"):
        sweep_runs([(0.0, 0.1), (0.0, 0.1)], [0])
    with pytest.raises(ValueError, match="at most 1"):
        sweep_runs([(0.6, 0.6)], [0])
    with pytest.raises(SystemExit):
        sweep("--seeds", "1")


def test_a_detector_never_learns_from_what_nobody_labelled(example_root, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(example_root))
    forget_builtin_datasets()
    import partbox

    partbox.register_all()
    try:
        budget = ["DATASETS.LABEL_BUDGET.BOX_SHARE", "0.25"]
        cfg = load_config(REPOSITORY / "configs/car_parts/faster_rcnn.yaml", [*SMALL_DETECTOR, *budget])
        whole = load_dataset(load_config(None, []), ("example_train",), "DATASETS.TRAIN").records
        found = detector_training_records(cfg)
        assert len(found) == round(0.25 * len(whole))
        assert all(record["annotations"] and record["part_labels"] == "box" for record in found)
        unlabelled = [{**record, "part_labels": "none", "annotations": []} for record in whole[:2]]
        assert labelled_records(cfg, unlabelled + whole[2:]) == whole[2:], "in evaluation as well"
        kept = within_budget(cfg, whole, "example_train")
        assert [r["image_id"] for r in kept if r["part_labels"] == "box"] == [r["image_id"] for r in found]
        everything = load_config(REPOSITORY / "configs/car_parts/faster_rcnn.yaml", SMALL_DETECTOR)
        assert detector_training_records(everything) == whole, "without a budget every image, in order"
        cfg.MODEL.MASK_ON = True
        with pytest.raises(ConfigError, match="MASK_ON needs masks"):
            detector_training_records(cfg)
        cfg.DATASETS.LABEL_BUDGET.BOX_SHARE = 0.0
        with pytest.raises(ConfigError, match="no image of example_train"):
            detector_training_records(cfg)
        cfg.DATASETS.LABEL_BUDGET.BOX_SHARE = 2.0
        with pytest.raises(ConfigError, match=r"DATASETS\.LABEL_BUDGET: shares"):
            detector_training_records(cfg)
    finally:
        forget_builtin_datasets()


@pytest.mark.parametrize(("filtered", "left"), [("True", 1), ("False", 2)])
def test_images_without_objects_are_left_out_where_the_key_says_so(monkeypatch, filtered, left):
    """A photograph that was looked at and shows nothing is a lesson, unless the recipe drops it as COCO's do."""
    records = [
        {"image_id": 1, "annotations": [], "part_labels": "box"},
        {"image_id": 2, "annotations": [{"iscrowd": 0}], "part_labels": "box"},
    ]
    monkeypatch.setattr("partbox.engine.training_records.records_of", lambda names, key: records)
    options = ["DATALOADER.FILTER_EMPTY_ANNOTATIONS", filtered, "MODEL.META_ARCHITECTURE"]
    assert len(detector_training_records(load_config(None, [*options, "GeneralizedRCNN"]))) == left
    assert detector_training_records(load_config(None, [*options, "SemanticSegmentor"])) == records
