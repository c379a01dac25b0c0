"""The main job through its entry point: train, evaluate, resume after a kill, refuse what is wrong."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import torch
import yaml
from config_reads import dotted, record_reads
from detectron2.config import get_cfg
from detectron2.projects.deeplab import add_deeplab_config
from nested_differences import differences
from small_models import DETECTOR_MODELS, MODELS, SMALL

from partbox.config import add_partbox_config
from partbox.engine.checks import ConfigError
from partbox.engine.detectors import mapper_of
from partbox.engine.setup import load_config
from partbox.evaluation.store import RecordsError
from partbox.report.examples import read_examples

REPOSITORY = Path(__file__).resolve().parents[2]
SCRIPT = REPOSITORY / "tools" / "train_net.py"
# Those of detectors are tried in test_train_detector.py and test_full_size_configs.py.
DETECTORS = ("car_parts", "coco", "paco", "partimagenet")
CONFIGS = sorted(
    path
    for path in (REPOSITORY / "configs").rglob("*.yaml")
    if path.name != "base.yaml" and path.parent.name not in DETECTORS
)

SHORT = [
    *SMALL,
    *["SOLVER.MAX_ITER", "12", "SOLVER.CHECKPOINT_PERIOD", "4", "TEST.EVAL_PERIOD", "6"],
    *["ADVERSARY.OBJECTIVE", "pgd", "ADVERSARY.STEPS", "1", "ADVERSARY.CLEAN_ITERS", "2"],
    *["ADVERSARY.EPS_WARMUP_ITERS", "3", "ADVERSARY.VALIDATION_STEPS", "1", "SOLVER.EMA.ENABLED", "True"],
    *["ROBUST_EVAL.PERTURBATIONS", "[{'name': 'clean'}, {'name': 'pgd', 'eps': '8/255', 'steps': 2}]"],
]
FEW_IMAGES = ["ROBUST_EVAL.NUM_IMAGES", "4", "ADVERSARY.VALIDATION_IMAGES", "4"]


@pytest.fixture
def run(run_tool):
    """Run the entry point in this process with command line arguments."""
    return partial(run_tool, "train_net")


@pytest.mark.parametrize(
    ("options", "logged"),
    [
        (["trades", "ADVERSARY.AWP_GAMMA", "0.01"], "loss_robust"),
        (["mart"], "loss_robust"),
        (["mat", "ADVERSARY.BETA", "0.5"], "loss_robust"),
        (["n-fgsm", "ADVERSARY.PROBE_PERIOD", "4"], "probe/pgd_accuracy"),
        (["free", "ADVERSARY.STEPS", "10", "ADVERSARY.PROBE_PERIOD", "4"], "probe/pgd_accuracy"),
    ],
)
def test_every_objective_and_attack_works_from_the_command_line(run, tmp_path, options, logged):
    attacks = [
        {"name": "apgd", "eps": "8/255", "steps": 3, "loss": "dlr-targeted", "targets": 2},
        {"name": "fab", "eps": "8/255", "steps": 2, "targeted": True, "targets": 2},
        {"name": "square", "eps": "8/255", "queries": 5},
    ]
    few = ["ROBUST_EVAL.PERTURBATIONS", attacks, "ROBUST_EVAL.NUM_IMAGES", "8"]
    run(*SHORT, "OUTPUT_DIR", tmp_path, "ADVERSARY.OBJECTIVE", *options, *few)
    lines = [json.loads(line) for line in (tmp_path / "metrics.json").read_text().splitlines()]
    assert any(logged in line for line in lines)
    results = json.loads((tmp_path / "results.json").read_text())["results"]
    assert set(results["by_perturbation"]) == {"clean", "apgd-t linf 8/255", "fab-t linf 8/255", "square linf 8/255"}
    assert results["robust_accuracy"]["linf 8/255"] <= results["clean_accuracy"]


def test_train_evaluate_and_evaluate_again(run, tmp_path):
    run(*SHORT, "OUTPUT_DIR", tmp_path / "run")
    names = {path.name for path in (tmp_path / "run").iterdir()}
    expected = {"README.txt", "config.yaml", "log.txt", "metrics.json", "learning_curves.png", "results.json"}
    assert (
        expected | {"records.jsonl", "examples", "examples.png", "model_best.pth", "model_final.pth", "command.txt"}
        <= names
    )
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["schema_version"] == 2
    assert results["seeds"] == {"training": 1, "evaluation": 0}
    assert results["results"]["images"] == 22
    attack = results["results"]["by_perturbation"]["pgd-2 linf 8/255"]
    assert attack["settings"]["eps"] == pytest.approx(8 / 255)
    assert attack["part_segmentation"]["images"] == 22
    assert "AP" in attack["part_box"]
    assert yaml.safe_load(results["config"])["ADVERSARY"]["STEPS"] == 1
    assert {"torch", "partbox", "python"} <= set(results["versions"])
    passes = [json.loads(line).get("passes") for line in (tmp_path / "run" / "metrics.json").read_text().splitlines()]
    assert passes[-1] == 2 + 10 * 2

    config = tmp_path / "run" / "config.yaml"
    weights = tmp_path / "run" / "model_best.pth"
    run("--eval-only", "--config-file", config, "MODEL.WEIGHTS", weights, "OUTPUT_DIR", tmp_path / "again")
    again = json.loads((tmp_path / "again" / "results.json").read_text())
    assert again["results"] == results["results"]
    check_examples(tmp_path / "run", tmp_path / "again")
    run(
        "--eval-only",
        "--config-file",
        config,
        "MODEL.WEIGHTS",
        weights,
        "OUTPUT_DIR",
        tmp_path / "again",
        "ROBUST_EVAL.EXAMPLES",
        "5",
    )  # other pictures are no other evaluation
    examples = read_examples(tmp_path / "again" / "examples")
    assert len(examples) == 2 * 5
    assert json.loads((tmp_path / "again" / "results.json").read_text())["results"] == results["results"]


def check_examples(folder: Path, again: Path) -> None:
    """All 22 test images (fewer than wanted) under both perturbations, as the records say of them."""
    examples = read_examples(folder / "examples")
    assert len(examples) == 2 * 22
    assert {one.label for one in examples} == set(
        yaml.safe_load((folder / "config.yaml").read_text())["MODEL"]["PART"]["CLASS_NAMES"]
    )
    records = {}
    for line in (folder / "records.jsonl").read_text().splitlines():
        record = json.loads(line)
        records[record["perturbation"], str(record["image_id"])] = record
    for one in examples:
        record = records[one.perturbation, one.image_id]
        assert one.correct == (record["label"] == record["prediction"]) == (one.label == one.prediction)
    assert {path.name: path.read_bytes() for path in (again / "examples").iterdir()} == {
        path.name: path.read_bytes() for path in (folder / "examples").iterdir()
    }


def test_a_run_is_continued_with_the_same_configuration_only(run, tmp_path):
    """Else the results would describe a model that was never trained."""
    quick = [*SHORT, *FEW_IMAGES, "SOLVER.MAX_ITER", "4", "OUTPUT_DIR", tmp_path / "run"]
    run(*quick)
    for change in (["ADVERSARY.EPS", "4/255"], ["SEED", "2"], ["SOLVER.MAX_ITER", "8"]):
        with pytest.raises(ValueError, match=change[0].replace(".", r"\.")):
            run(*quick, "--resume", *change)
    stored = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert stored["ADVERSARY"]["EPS"] == "8/255"
    run(*quick, "--resume", "DATALOADER.NUM_WORKERS", "1")


def test_another_evaluation_does_not_overwrite_the_results(run, tmp_path):
    folder = tmp_path / "run"
    run(*SHORT, *FEW_IMAGES, "SOLVER.MAX_ITER", "4", "OUTPUT_DIR", folder)
    weights = ["--eval-only", "--config-file", folder / "config.yaml", "MODEL.WEIGHTS", folder / "model_best.pth"]
    with pytest.raises(ValueError, match="another OUTPUT_DIR"):
        run(*weights, "ROBUST_EVAL.PERTURBATIONS", "[{'name': 'clean'}]")


def test_two_processes_do_not_share_a_folder(run, tmp_path):
    import fcntl

    (tmp_path / "run").mkdir()
    with open(tmp_path / "run" / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(ValueError, match="another process"):
            run(*SHORT, "OUTPUT_DIR", tmp_path / "run")


def test_mixed_precision_trains(run, tmp_path):
    run(*SHORT, *FEW_IMAGES, "SOLVER.AMP.ENABLED", "True", "SOLVER.MAX_ITER", "4", "OUTPUT_DIR", tmp_path / "run")
    losses = [json.loads(line)["total_loss"] for line in (tmp_path / "run" / "metrics.json").read_text().splitlines()]
    assert losses
    assert all(0 < loss < 10 for loss in losses)
    whole = torch.load(tmp_path / "run" / "model_final.pth", weights_only=True)["model"]
    assert {tensor.dtype for tensor in whole.values()} == {torch.float32, torch.int64}


def test_resuming_a_finished_run_changes_nothing(run, tmp_path):
    folder = tmp_path / "run"
    options = [*SHORT, *FEW_IMAGES, "SOLVER.MAX_ITER", "4", "OUTPUT_DIR", folder]
    run(*options)
    before = (folder / "model_final.pth").read_bytes()
    run(*options, "--resume")
    assert (folder / "model_final.pth").read_bytes() == before


def test_a_finished_folder_is_not_overwritten(run, tmp_path):
    options = [*SHORT, *FEW_IMAGES, "SOLVER.MAX_ITER", "4", "OUTPUT_DIR", tmp_path / "run"]
    run(*options)
    with pytest.raises(ValueError, match="--resume"):
        run(*options)


def test_dry_run_prints_the_plan_and_writes_nothing(run, tmp_path, capsys):
    run("--dry-run", "--experiment", "part-pooling-4-no_bg-semi", *SHORT, "OUTPUT_DIR", tmp_path / "run")
    text = capsys.readouterr().out
    assert "MODEL.PART.HEAD.KEEP_BACKGROUND: False" in text
    assert f"training cost: {8 * (12 + 10):,} forward-backward passes" in text
    assert "training images with part labels that are used: 66" in text
    assert f"pgd-2 linf 8/255: at most {22 * (1 + 3 + 1)} passes" in text
    assert not (tmp_path / "run").exists()


def test_one_class_is_refused_before_work_starts(run, example_root, tmp_path):
    """Its logits would say nothing, and the first attack would end the training."""
    labels = json.loads((example_root / "example/train.json").read_text())
    first = labels["classes"][0]
    labels["images"] = [image for image in labels["images"] if image["class_id"] == first["id"]]
    kept = {image["id"] for image in labels["images"]}
    labels["annotations"] = [one for one in labels["annotations"] if one["image_id"] in kept]
    labels["categories"] = [one for one in labels["categories"] if one["supercategory"] == first["name"]]
    labels["classes"] = [first]
    (tmp_path / "images").symlink_to(example_root / "example/images")
    (tmp_path / "one.json").write_text(json.dumps(labels))
    keys = [f"DATASETS.{split}" for split in ("TRAIN", "VALIDATION", "TEST")]
    options = [word for key in keys for word in (key, f"('{tmp_path}/one.json',)")]
    for extra in (["--dry-run"], []):
        with pytest.raises(ConfigError, match=rf"one\.json, are of one class, {first['name']}: .*train_detector.py"):
            run(*SHORT, "OUTPUT_DIR", tmp_path / "run", *options, *extra)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--eval-only"], "needs MODEL.WEIGHTS"),
        (["--experiment", "part-wbox"], "wbbox"),
        (["ROBUST_EVAL.PERTURBATIONS", "[{'name': 'pgd'}]"], "needs an eps"),
        (["ROBUST_EVAL.PERTURBATIONS", "[{'name': 'detector-pgd', 'eps': 1}]"], "attacks a detector"),
        (["ROBUST_EVAL.PERTURBATIONS", "[]", "DATASETS.TRAIN", "('exampel_train',)"], "example_train"),
        (["DATASETS.TRAIN", "('example_train', 'example_val')"], "exactly one"),
        (["MODEL.WEIGHTS", "nowhere.pth"], "nowhere.pth"),
        (["SOLVER.MAX_ITERS", "3"], "SOLVER.MAX_ITER"),
        (["ADVERSARY.EPS", "big"], "8/255"),
    ],
)
def test_mistakes_are_refused_before_work_starts(run, tmp_path, arguments, words):
    with pytest.raises((ValueError, RuntimeError), match=words):
        run(*SHORT, "OUTPUT_DIR", tmp_path / "run", *arguments)
    assert not (tmp_path / "run" / "metrics.json").exists()


def test_the_command_line_says_one_sentence_and_fails(example_root, tmp_path):
    process = start(example_root, tmp_path, "SOLVER.BASE_RL", "1")
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "did you mean SOLVER.BASE_LR" in errors
    assert "Traceback" not in errors


def start(root: Path, folder: Path, *arguments: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", str(SCRIPT), *SHORT, "OUTPUT_DIR", str(folder), *arguments],
        env={**os.environ, "DETECTRON2_DATASETS": str(root), "OMP_NUM_THREADS": str(torch.get_num_threads())},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize(
    "kill_after", ["resume_0000003.pth", pytest.param("resume_0000007.pth", marks=pytest.mark.slow)]
)
def test_resume_after_kill_ends_in_the_same_bits(run, example_root, tmp_path, kill_after):
    """Killed at whatever moment after a checkpoint; the rest must not notice."""
    process = start(example_root, tmp_path / "killed", "SOLVER.MAX_ITER", "12")
    deadline = time.monotonic() + 300
    while not (tmp_path / "killed" / kill_after).exists():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (tmp_path / "killed" / "model_final.pth").exists(), "the run ended before it was killed"

    run(*SHORT, "--resume", "OUTPUT_DIR", tmp_path / "killed")
    run(*SHORT, "OUTPUT_DIR", tmp_path / "whole")
    for name in ("model_final.pth", "model_best.pth", "resume_final.pth"):
        resumed = torch.load(tmp_path / "killed" / name, weights_only=True)
        whole = torch.load(tmp_path / "whole" / name, weights_only=True)
        assert differences(resumed, whole) == []
    iterations = [
        json.loads(line)["iteration"] for line in (tmp_path / "killed" / "metrics.json").read_text().splitlines()
    ]
    assert iterations == sorted(set(iterations)), "an iteration was logged twice"
    assert len((tmp_path / "killed" / "command.txt").read_text().splitlines()) == 2


def test_a_killed_evaluation_goes_on_and_ends_in_the_same_numbers(run, example_root, tmp_path):
    folder = tmp_path / "run"
    run(*SHORT, "SOLVER.MAX_ITER", "4", "OUTPUT_DIR", folder)
    attacks = "[{'name': 'pgd', 'eps': '8/255', 'steps': 20}, {'name': 'corruption', 'kind': 'fog', 'severity': 2}]"
    again = ["--eval-only", "--config-file", folder / "config.yaml", "MODEL.WEIGHTS", folder / "model_best.pth"]
    again += ["ROBUST_EVAL.PERTURBATIONS", attacks, "ROBUST_EVAL.BATCH_SIZE", "2"]
    # SHORT comes first in start(); what follows overrides its attacks
    process = start(example_root, tmp_path / "killed", *map(str, again))
    records = tmp_path / "killed" / "records" / "process-0-of-1.jsonl"
    deadline = time.monotonic() + 300
    while not records.exists() or records.read_bytes().count(b"\n") < 50:
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (tmp_path / "killed" / "results.json").exists(), "the evaluation ended before it was killed"

    run(*SHORT, *again, "OUTPUT_DIR", tmp_path / "killed")
    run(*SHORT, *again, "OUTPUT_DIR", tmp_path / "whole")
    for part in ("1/2", "0/2"):
        run("--part", part, *SHORT, *again, "OUTPUT_DIR", tmp_path / "parts")
    whole, killed, parts = (read_results(tmp_path / name) for name in ("whole", "killed", "parts"))
    assert whole == killed == parts
    lines = {name: (tmp_path / name / "records.jsonl").read_bytes() for name in ("whole", "killed", "parts")}
    assert lines["whole"] == lines["killed"] == lines["parts"]
    assert whole["results"]["corruptions"]["accuracy"].keys() == {"fog"}
    # the same folder with other weights: what is there stays
    changed = [*again, "MODEL.WEIGHTS", folder / "resume_0000003.pth", "OUTPUT_DIR", tmp_path / "killed"]
    (tmp_path / "killed" / "results.json").unlink()
    with pytest.raises(RecordsError, match="weights was"):
        run(*SHORT, *changed)


def read_results(folder: Path) -> dict:
    """``results.json`` without what tells one start from another."""
    results = json.loads((folder / "results.json").read_text())
    for key in ("created", "command", "seconds"):
        del results[key]
    config = yaml.safe_load(results.pop("config"))
    assert config.pop("OUTPUT_DIR") == str(folder)
    assert results["config_changes"].pop("OUTPUT_DIR")["value"] == str(folder)
    return {**results, "config": config}


@pytest.mark.parametrize("part", ["2/2", "1", "a/b", "-1/2"])
def test_a_part_that_is_none_is_refused(run, tmp_path, part):
    with pytest.raises(SystemExit):
        run("--eval-only", f"--part={part}", *SHORT, "OUTPUT_DIR", tmp_path)
    with pytest.raises(ConfigError, match="--eval-only"):
        run("--part=0/2", *SHORT, "OUTPUT_DIR", tmp_path)


def own_keys() -> set[str]:
    """The keys that partbox adds to detectron2's."""
    plain, ours = get_cfg(), get_cfg()
    add_deeplab_config(plain)
    add_partbox_config(ours)
    return dotted(ours) - dotted(plain)


def test_no_key_is_parsed_and_ignored(run, monkeypatch, tmp_path):
    """Every key that partbox adds is read while the models are trained; an option that nothing reads does nothing."""
    reads = record_reads(monkeypatch)
    quick = [*SHORT, "SOLVER.MAX_ITER", "2", "TEST.EVAL_PERIOD", "1", "SOLVER.EMA.DECAY", "0.9", *FEW_IMAGES]
    for name in ("normal", "part_box", "part_pooling", "part_to_class", "masks_multiply", "part_box_keypoint"):
        run(*quick, *MODELS[name], "OUTPUT_DIR", tmp_path / name)
    run(*quick, *DETECTOR_MODELS["dino_box_sequence_sorted"], "OUTPUT_DIR", tmp_path / "detector")
    mixed = ["ADVERSARY.OBJECTIVE", "mat", "ADVERSARY.BETA", "0.5", "ADVERSARY.GOAL", "both"]
    budget = ["DATASETS.LABEL_BUDGET.BOX_SHARE", "0.5"]
    tracked = ["TRACKING.WANDB.ENABLED", "True"]  # offline
    run(*quick, *MODELS["part_box"], *mixed, *budget, *tracked, "OUTPUT_DIR", tmp_path / "mixed")
    # keys of detectors alone
    jitter = ["MODEL.META_ARCHITECTURE", "GeneralizedRCNN", "INPUT.AUGMENTATION", "large_scale_jitter"]
    mapper_of(load_config(None, jitter), is_train=True)
    assert sorted(own_keys() - reads) == []
    assert "ADVERSARY.NEVER_READ" not in reads
    assert len(own_keys()) > 40


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_configuration_file_trains(run, tmp_path, config):
    """10 iterations of each, on the example data and small images, with everything else as the file says."""
    run(
        *["--config-file", config, "OUTPUT_DIR", tmp_path / "run"],
        # a detector needs as many tokens as it has queries
        *["INPUT.SIZE", "(64, 64)" if "dino" in config.stem else "(32, 32)"],
        *["SOLVER.MAX_ITER", "10", "SOLVER.IMS_PER_BATCH", "4", "ROBUST_EVAL.NUM_IMAGES", "4", "TEST.EVAL_PERIOD", "0"],
        *["SOLVER.BASE_LR", "0.0001"],  # the files' rates are for their own batch sizes
        *["ADVERSARY.CLEAN_ITERS", "4", "ADVERSARY.EPS_WARMUP_ITERS", "3", "ADVERSARY.VALIDATION_IMAGES", "4"],
        *["DATASETS.TRAIN", "('example_train',)", "DATASETS.VALIDATION", "('example_val',)"],
        *["DATASETS.TEST", "('example_test',)", "MODEL.DEVICE", "cpu"],
        *["ROBUST_EVAL.SELF_CHECK_IMAGES", "1" if config.stem in ("normal", "part_box", "masked_images") else "0"],
    )
    results = json.loads((tmp_path / "run" / "results.json").read_text())["results"]
    assert results["images"] == 4
    assert bool(results["robust_accuracy"]) == (config.stem != "oracle_masks")
    assert ("oracle" in results) == config.stem.startswith("oracle")
