"""The entry point for detectron2's detectors: train, evaluate, go on, refuse what is wrong."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils.events import EventStorage
from small_detectors import DETECTORS, REPOSITORY, SEGMENTER, SMALL_DETECTOR, SMALL_TRANSFORMER, TRANSFORMERS

from partbox.attacks import ThreatModel
from partbox.engine import detectors
from partbox.engine.checkpoint import CheckpointError
from partbox.engine.checks import ConfigError
from partbox.engine.detector_training import DetectorTrainer
from partbox.evaluation.store import RecordsError
from partbox.report.detection_table import detection_table
from partbox.report.examples import read_examples

ANCHORS = ["MODEL.ANCHOR_GENERATOR.SIZES", "[[8, 11], [12, 16], [16, 22], [24, 33], [40, 56]]"]
SHORT = [*SMALL_DETECTOR, "SOLVER.MAX_ITER", "4", "SOLVER.CHECKPOINT_PERIOD", "2", "ROBUST_EVAL.NUM_IMAGES", "3"]


@pytest.fixture
def run(run_tool):
    """Run the entry point in this process with a configuration, by name or path, and command line arguments."""

    def call(name: str, *arguments: str | Path) -> None:
        config = REPOSITORY / f"configs/car_parts/{name}.yaml" if "/" not in name else name
        run_tool("train_detector", "--config-file", config, *arguments)

    return call


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("faster_rcnn", marks=pytest.mark.slow),  # mask_rcnn is that and more
        *[name for name in (*DETECTORS, *TRANSFORMERS, SEGMENTER) if name != "faster_rcnn"],
    ],
)
def test_every_configuration_trains_and_is_evaluated(run, tmp_path, name):
    extra = ANCHORS if name == "retinanet" else SMALL_TRANSFORMER if name in TRANSFORMERS else []
    run(name, *SHORT, *extra, "OUTPUT_DIR", tmp_path / "run")
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    entries = results["results"]["by_perturbation"]
    assert len(entries) == 5
    for entry in entries.values():
        assert ("sem_seg" in entry) == (name == SEGMENTER)
        assert ("segm" in entry) == (name in ("mask_rcnn", "maskdino"))
        assert entry["images"] == 3
    lines = (tmp_path / "run" / "metrics.json").read_text().splitlines()
    assert json.loads(lines[-1])["iteration"] == 3
    table = detection_table(results)
    assert ("mIoU" in table) == (name == SEGMENTER)
    examples = read_examples(tmp_path / "run" / "examples")
    assert len(examples) == 5 * 3
    assert all((one.part_map is not None) == (name == SEGMENTER) for one in examples)
    assert (tmp_path / "run" / "examples.png").exists()
    assert ("objects found" in table) == (name != SEGMENTER)

    config, weights = tmp_path / "run" / "config.yaml", tmp_path / "run" / "model_final.pth"
    run(str(config), "--eval-only", "MODEL.WEIGHTS", weights, "OUTPUT_DIR", tmp_path / "again")
    again = json.loads((tmp_path / "again" / "results.json").read_text())
    assert again["results"] == results["results"]


def test_two_parts_of_an_evaluation_equal_one_run(run, tmp_path):
    options = [*SHORT, "ROBUST_EVAL.BATCH_SIZE", "1", "SOLVER.MAX_ITER", "1"]
    attack = "[{'name': 'detector-pgd', 'eps': '8/255', 'steps': 2, 'goal': 'vanish'}]"
    run("faster_rcnn", *options, "ROBUST_EVAL.PERTURBATIONS", attack, "OUTPUT_DIR", tmp_path / "whole")
    config, weights = tmp_path / "whole" / "config.yaml", tmp_path / "whole" / "model_final.pth"
    again = [str(config), "--eval-only", "MODEL.WEIGHTS", weights, "OUTPUT_DIR", tmp_path / "parts"]
    run(*again, "--part", "1/2")
    folder = tmp_path / "parts"
    assert not (folder / "results.json").exists()
    (folder / "records.jsonl").mkdir()  # nothing can be written there
    with pytest.raises(RecordsError, match=r"cannot write records to .*records\.jsonl"):
        run(*again, "--part", "0/2")
    (folder / "records.jsonl").rmdir()
    run(*again, "--part", "0/2")
    whole, parts = (json.loads((path / "results.json").read_text()) for path in (tmp_path / "whole", folder))
    assert parts["results"] == whole["results"]
    assert (folder / "records.jsonl").read_bytes() == (tmp_path / "whole" / "records.jsonl").read_bytes()
    assert {path.name: path.read_bytes() for path in (folder / "examples").iterdir()} == {
        path.name: path.read_bytes() for path in (tmp_path / "whole" / "examples").iterdir()
    }
    assert {path.name for path in (folder / "records").glob("*.jsonl")} == {
        "process-0-of-2.jsonl",
        "process-1-of-2.jsonl",
    }
    for content in ("", "[]", '{"a"'):
        (folder / "results.json").write_text(content)
        with pytest.raises(RecordsError, match=r"results\.json .*delete that file"):
            run(*again)
    with pytest.raises(ConfigError, match="needs --eval-only"):
        run("faster_rcnn", *options, "--part", "0/2", "OUTPUT_DIR", tmp_path / "training")


def test_training_goes_on_and_another_run_is_refused(run, tmp_path):
    options = [*SHORT, "ROBUST_EVAL.PERTURBATIONS", "[{'name': 'clean'}]", "OUTPUT_DIR", tmp_path]
    run("faster_rcnn", *options)
    (tmp_path / "last_checkpoint").write_text("resume_0000001.pth")
    (tmp_path / "model_final.pth").unlink()
    for path in (tmp_path / "records").iterdir():
        path.unlink()
    run("faster_rcnn", "--resume", *options)
    iterations = [json.loads(line)["iteration"] for line in (tmp_path / "metrics.json").read_text().splitlines()]
    assert iterations[-1] == 3
    assert (tmp_path / "model_final.pth").exists()
    with pytest.raises(ConfigError, match="add --resume"):
        run("faster_rcnn", *options)
    with pytest.raises(ConfigError, match=r"SOLVER\.BASE_LR"):
        run("faster_rcnn", "--resume", *options, "SOLVER.BASE_LR", "0.1")


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        (["--eval-only"], ConfigError, "needs MODEL.WEIGHTS"),
        (["--eval-only", "MODEL.WEIGHTS", "nowhere.pth"], CheckpointError, "nowhere.pth does not exist"),
        (["MODEL.ROI_HEADS.NUM_CLASSES", "3"], ConfigError, "NUM_CLASSES is 3, and example_train has 40"),
        (["DATASETS.TRAIN", "('nothing_train',)"], ConfigError, "no dataset is registered as 'nothing_train'"),
        (["ADVERSARY.OBJECTIVE", "pgd"], ConfigError, "trained clean or free"),
        (["SOLVER.EMA.ENABLED", "True"], ConfigError, "EMA"),
        (["INPUT.AUGMENTATION", "detr", "INPUT.CROP.ENABLED", "True"], ConfigError, "crops by itself"),
        (["MODEL.WEIGHTS_EXCEPT", "['*.box_predictor.*']"], ConfigError, "MODEL.WEIGHTS is empty"),
        (["ADVERSARY.EPS", "1/255"], ConfigError, "ADVERSARY.EPS is '1/255'"),
        (["ADVERSARY.OBJECTIVE", "free", "ADVERSARY.EPS_WARMUP_ITERS", "9"], ConfigError, "EPS_WARMUP_ITERS is 9"),
        (["MODEL.PART.BATCH_NORM", "frozen"], ConfigError, "BATCH_NORM is 'frozen'"),
        (["TEST.EVAL_PERIOD", "5"], ConfigError, "not validated"),
        (["ROBUST_EVAL.PERTURBATIONS", "[{'name': 'detector-pgd'}]"], ConfigError, "needs an eps"),
        (["ROBUST_EVAL.PERTURBATIONS", "[{'name': 'noise', 'eps': 8}]"], ConfigError, "8 grey levels are 8/255"),
        (["ADVERSARY.OBJECTIVE", "free", "ADVERSARY.EPS", "4"], ConfigError, "ADVERSARY.EPS is 4.*4/255"),
        (["ROBUST_EVAL.PERTURBATIONS", "[{'name': 'pgd', 'eps': 1}]"], ConfigError, "attacks a classifier"),
        (["MODEL.ROI_HEADS.NUM_CLASSES", "1"], ConfigError, "mislabel linf 8/255 needs at least two classes"),
        (["SOLVER.MAX_ITERS", "3"], ConfigError, "SOLVER.MAX_ITER"),
    ],
)
def test_mistakes_are_refused(run, tmp_path, options, error, words):
    with pytest.raises(error, match=words):
        run("faster_rcnn", *SHORT, "OUTPUT_DIR", tmp_path / "run", *options)
    assert not (tmp_path / "run" / "metrics.json").exists()


def test_the_table_marks_what_is_missing():
    run = {
        "results": {
            "by_perturbation": {
                "clean": {"bbox": {"AP": 31.25, "AP50": 50.0}, "object_recall": 0.5},
                "noise": {"bbox": {"AP": None, "AP50": 10.0}, "object_recall": None},
            },
            "warnings": ["something"],
        }
    }
    lines = detection_table(run).splitlines()
    assert [cell.strip() for cell in lines[2].strip("|").split("|")] == ["clean", "31.2", "50.0", "50.0"]
    assert [cell.strip() for cell in lines[3].strip("|").split("|")] == ["noise", "-", "10.0", "-"]
    assert lines[-1] == "(!) something"
    run["results"]["by_perturbation"]["clean"]["false_objects_per_image"] = 1.25
    lines = detection_table(run).splitlines()
    assert [cell.strip() for cell in lines[0].strip("|").split("|")][-1] == "false objects an image"
    assert [line.strip("|").split("|")[-1].strip() for line in lines[2:4]] == ["1.2", "-"]


def test_free_adversarial_training_of_a_detector(run, tmp_path):
    """Through the entry point; and what it refuses."""
    free = ["ADVERSARY.OBJECTIVE", "free", "ADVERSARY.EPS", "4/255", "ROBUST_EVAL.PERTURBATIONS", "[{'name': 'clean'}]"]
    run("faster_rcnn", *SHORT, *free, "OUTPUT_DIR", tmp_path / "run")
    assert (tmp_path / "run" / "results.json").exists()
    with pytest.raises(ValueError, match="linf"):
        run("faster_rcnn", *SHORT, *free, "ADVERSARY.NORM", "l2", "OUTPUT_DIR", tmp_path / "l2")
    with pytest.raises(ValueError, match="at least 2"):
        run("faster_rcnn", *SHORT, *free, "ADVERSARY.REPLAYS", "1", "OUTPUT_DIR", tmp_path / "one")


@pytest.mark.parametrize("name", ["mask_rcnn", *TRANSFORMERS])
def test_mixed_precision_trains_float32_weights(run, tmp_path, name):
    """The first losses are those of float32 up to rounding, and not the same."""
    extra = SMALL_TRANSFORMER if name in TRANSFORMERS else []
    options = [*SHORT, *extra, "SOLVER.MAX_ITER", "1", "ROBUST_EVAL.PERTURBATIONS", "[{'name': 'clean'}]"]
    totals = []
    for mixed in ("False", "True"):
        folder = tmp_path / mixed
        run(name, *options, "SOLVER.AMP.ENABLED", mixed, "OUTPUT_DIR", folder)
        totals.append(json.loads((folder / "metrics.json").read_text().splitlines()[-1])["total_loss"])
        weights = torch.load(folder / "model_final.pth", weights_only=True)["model"]
        assert all(tensor.dtype != torch.bfloat16 for tensor in weights.values())
    assert totals[0] != totals[1]
    assert totals[0] == pytest.approx(totals[1], rel=0.05)


def test_a_run_starts_from_the_weights_that_it_names(run, tmp_path):
    """At a rate of almost nothing what was loaded is what is saved; the new class head is another one."""
    still = [*SHORT, "ROBUST_EVAL.PERTURBATIONS", "[{'name': 'clean'}]", "SOLVER.BASE_LR", "1e-12"]
    run("faster_rcnn", *still, "SEED", "5", "OUTPUT_DIR", tmp_path / "one")
    given = tmp_path / "one" / "model_final.pth"
    anew = ["MODEL.WEIGHTS", given, "MODEL.WEIGHTS_EXCEPT", "['*.box_predictor.*']"]
    run("faster_rcnn", *still, "SEED", "6", *anew, "OUTPUT_DIR", tmp_path / "two")
    one, two = (
        torch.load(path / "model_final.pth", weights_only=True)["model"] for path in (given.parent, tmp_path / "two")
    )
    changed = {name for name in one if (one[name].float() - two[name].float()).abs().max() > 1e-6}
    trained = {name for name in changed if "running_" not in name and "num_batches" not in name}
    assert trained == {f"roi_heads.box_predictor.{layer}.weight" for layer in ("cls_score", "bbox_pred")}


def test_a_dry_run_needs_no_data(run, tmp_path, monkeypatch, capsys):
    run("mask_rcnn", *SHORT, "--dry-run", "--dry-run-size", "64", "OUTPUT_DIR", tmp_path / "run")
    plan = capsys.readouterr().out
    assert "GeneralizedRCNN, 40 classes" in plan
    assert "DATASETS.TRAIN: example_train" in plan
    assert "self-checks" not in plan, "ROBUST_EVAL.SELF_CHECK_IMAGES is 0 here"
    assert not (tmp_path / "run").exists()
    with pytest.raises(CheckpointError, match=r"typo\.pth does not exist"):
        run("mask_rcnn", *SHORT, "--dry-run", "MODEL.WEIGHTS", tmp_path / "typo.pth")
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "nowhere"))
    run("deeplabv3plus", *SHORT, "DATASETS.TRAIN", "('car_parts_train',)", "--dry-run", "--dry-run-size", "64")
    plan = capsys.readouterr().out
    assert "SemanticSegmentor, 41 classes" in plan
    assert "car_parts/train.json" in plan
    run("mask_rcnn", *SHORT, "--dry-run", "--dry-run-size", "64", "ROBUST_EVAL.SELF_CHECK_IMAGES", "2")
    assert re.search(r"self-checks, linf 8/255: at most [\d,]+ passes", capsys.readouterr().out)


class Brightness(torch.nn.Module):
    """A detector of sorts: its loss is the mean pixel, and it remembers what it saw."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(()))
        self.seen: list[torch.Tensor] = []

    def forward(self, samples: list[dict]) -> dict:
        self.seen.append(torch.stack([sample["image"].detach() for sample in samples]))
        return {"loss_cls": torch.stack([(sample["image"] * self.weight).mean() for sample in samples]).mean()}


def test_free_training_moves_each_batch_up_its_own_gradient_within_eps():
    def batches():
        for value in range(100):
            yield [{"image": torch.full((3, 4, 4), 60 + value, dtype=torch.uint8)} for _ in range(2)]

    model = Brightness()
    optimizer = torch.optim.SGD(model.parameters(), 0.0)
    trainer = DetectorTrainer(model, batches(), optimizer, threat=ThreatModel("linf", "10/255"), replays=3)
    with EventStorage(0):
        trainer.train(0, 6)
    first, second, third, fourth = model.seen[:4]
    assert float((first - 60).abs().max()) <= 10 + 1e-3
    assert float((first - 60).std()) > 2, "uniform noise"
    assert not torch.equal(first[0], first[1])
    for one, other in ((first, second), (second, third)):
        moved = torch.minimum(one + 10, torch.tensor(70.0))
        torch.testing.assert_close(other, moved, atol=1e-3, rtol=0)
    assert float((fourth - 61).abs().max()) <= 10 + 1e-3, "after three replays comes the next batch"
    clean = Brightness()
    plain = DetectorTrainer(clean, batches(), torch.optim.SGD(clean.parameters(), 0.0))
    with EventStorage(0):
        plain.train(0, 3)
    assert [float(one.mean()) for one in clean.seen] == pytest.approx([60, 61, 62], abs=1e-3)


def test_every_configuration_of_a_detector_is_tried_here():
    files = {path.stem for path in (REPOSITORY / "configs/car_parts").glob("*.yaml")}
    assert files == {*DETECTORS, *TRANSFORMERS, SEGMENTER, "base"}


class WithoutEmptyImages(Brightness):
    """Has no losses for images without objects, as some detectors."""

    def forward(self, samples: list[dict]) -> dict:
        self.seen.append(torch.stack([sample["image"].detach() for sample in samples]))
        losses = [(one["image"] * self.weight).mean() for one in samples if len(one["instances"])]
        return {"loss_cls": sum(losses, torch.zeros(()))}


def test_free_training_goes_on_where_an_image_has_no_losses_and_says_it_where_none_has():
    def trainer(*objects: int) -> DetectorTrainer:
        batch = [{"image": torch.full((3, 4, 4), 60, dtype=torch.uint8), "instances": range(n)} for n in objects]
        model = WithoutEmptyImages()
        optimizer = torch.optim.SGD(model.parameters(), 0.0)
        return DetectorTrainer(model, [batch] * 9, optimizer, threat=ThreatModel("linf", "10/255"), replays=2)

    some = trainer(1, 0)
    with EventStorage(0):
        some.train(0, 2)
    first, second = some.model.seen
    assert bool((second[0] > first[0]).any())
    torch.testing.assert_close(first[1], second[1])
    with EventStorage(0), pytest.raises(RuntimeError, match=r"depends on the model's weights .* \[0, 0\]"):
        trainer(0, 0).train(0, 2)


def test_one_model_is_built_for_all_76_cells(run, tmp_path, monkeypatch):
    clean = ["ROBUST_EVAL.PERTURBATIONS", "[{'name': 'clean'}]"]
    run("faster_rcnn", *SHORT, *clean, "SOLVER.MAX_ITER", "1", "OUTPUT_DIR", tmp_path / "run")
    built, build = [], detectors.build_model
    monkeypatch.setattr(detectors, "build_model", lambda cfg: built.append(cfg) or build(cfg))
    config, weights = tmp_path / "run" / "config.yaml", tmp_path / "run" / "model_final.pth"
    cells = ["ROBUST_EVAL.PERTURBATIONS", "[{'name': 'corruptions'}]", "ROBUST_EVAL.NUM_IMAGES", "1"]
    run(str(config), "--eval-only", "MODEL.WEIGHTS", weights, *cells, "OUTPUT_DIR", tmp_path / "cells")
    results = json.loads((tmp_path / "cells" / "results.json").read_text())["results"]
    assert len(results["by_perturbation"]) == 76
    assert {"mPC", "rPC"} <= set(results["performance_under_corruptions"]["bbox AP"])
    assert len(built) == 1


def test_a_dataset_without_images_is_a_sentence(run, tmp_path):
    DatasetCatalog.register("nothing_test", list)
    MetadataCatalog.get("nothing_test").thing_classes = [str(i) for i in range(40)]
    try:
        with pytest.raises(ConfigError, match=r"DATASETS\.TEST, nothing_test: there are no images to evaluate"):
            run("faster_rcnn", *SHORT, "DATASETS.TEST", "('nothing_test',)", "OUTPUT_DIR", tmp_path / "run")
    finally:
        DatasetCatalog.remove("nothing_test")
        MetadataCatalog.remove("nothing_test")


def test_a_surrogate_takes_part_in_the_self_checks_and_another_kind_is_refused(run, tmp_path):
    attack = "[{'name': 'segmentation-pgd', 'eps': '8/255', 'steps': 2}]"
    options = [*SHORT, "SOLVER.MAX_ITER", "1", "ROBUST_EVAL.PERTURBATIONS"]
    run(SEGMENTER, *options, "[{'name': 'clean'}]", "SEED", "2", "OUTPUT_DIR", tmp_path / "other")
    checked = [*options, attack, "ROBUST_EVAL.NUM_IMAGES", "1", "ROBUST_EVAL.SELF_CHECK_IMAGES", "1"]
    run(SEGMENTER, *checked, "ROBUST_EVAL.SURROGATE", tmp_path / "other", "OUTPUT_DIR", tmp_path / "run")
    (checks,) = json.loads((tmp_path / "run" / "results.json").read_text())["results"]["self_checks"].values()
    assert [one["name"] for one in checks][-2:] == ["black box", "transfer"]
    config, weights = tmp_path / "run" / "config.yaml", tmp_path / "run" / "model_final.pth"
    again = [str(config), "--eval-only", "MODEL.WEIGHTS", weights, "OUTPUT_DIR", tmp_path / "again"]
    with pytest.raises(ConfigError, match=r"nowhere/config\.yaml does not exist"):
        run(*again, "ROBUST_EVAL.SURROGATE", tmp_path / "nowhere")
    with pytest.raises(ConfigError, match=r"SURROGATE: .* reads RGB and not BGR"):
        run(*again, "ROBUST_EVAL.SURROGATE", tmp_path / "other", "INPUT.FORMAT", "BGR")
    run("faster_rcnn", *options, "[{'name': 'clean'}]", "OUTPUT_DIR", tmp_path / "detector")
    with pytest.raises(ConfigError, match="holds a model of another kind"):
        run(*again, "ROBUST_EVAL.SURROGATE", tmp_path / "detector")
