"""Pseudo-labels through their entry point: what is labelled, in which pixels, above which score; training on them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from pseudo_label_runs import MOST, QUARTER, SHORT, read
from small_detectors import SMALL_DETECTOR, SMALL_TRANSFORMER
from small_models import DETECTOR_MODELS, MODELS
from torch import nn

import partbox
from partbox.data import get_part_dataset
from partbox.data.part_map import paint_part_map
from partbox.engine.checkpoint import CheckpointError, save_weights
from partbox.engine.checks import ConfigError
from partbox.engine.detectors import build_detector
from partbox.engine.part_finders import PartFinder
from partbox.engine.pseudo_labelling import sha256_of
from partbox.engine.setup import load_config
from partbox.evaluation.record_files import RecordsError
from partbox.modeling.evidence import PartDetections, PartEvidence
from partbox.modeling.part_classifier import PartOutput

REPOSITORY = Path(__file__).resolve().parents[2]


def in_split(record: dict) -> tuple[str, ...]:
    """Split and name of an image: image ids begin anew in each split."""
    return Path(record["file_name"]).parts[-2:]


class Planted(nn.Module):
    """A perfect extractor: the true parts, of the sample that it was last asked for, as evidence.

    Args:
        datasets: names of those it knows the truth of.
        size: (height, width) of the network's input.
        queries: boxes of queries instead of masks.
    """

    def __init__(self, datasets: tuple[str, ...], size: tuple[int, int], *, queries: bool) -> None:
        super().__init__()
        self.size, self.queries = size, queries
        self.weight = nn.Parameter(torch.zeros(1))
        self.truth = {in_split(r): r for name in datasets for r in get_part_dataset(name).records}
        self.parts = len(get_part_dataset(datasets[0]).categories)
        self.asked: list[dict] = []

    def images_of(self, batch: list[dict]) -> torch.Tensor:
        self.asked += batch
        return torch.stack([sample["image"] for sample in batch])

    def run(self, images: torch.Tensor) -> PartOutput:
        assert images.shape[-2:] == self.size
        record = self.truth[in_split(self.asked[-1])]
        if self.queries:
            height, width = record["height"], record["width"]
            xywh = torch.tensor([part["bbox"] for part in record["annotations"]], dtype=torch.float64).reshape(-1, 4)
            boxes = torch.cat([xywh[:, :2] + xywh[:, 2:] / 2, xywh[:, 2:]], dim=1)
            boxes = boxes / torch.tensor([width, height, width, height])
            logits = torch.full((len(boxes), self.parts), -20.0)
            logits[range(len(boxes)), [part["category_id"] for part in record["annotations"]]] = 20.0
            return PartOutput(
                torch.zeros(1, 1), PartEvidence(None, self.size, PartDetections(logits[None], boxes[None]))
            )
        maps = torch.from_numpy(paint_part_map(record, "mask")).long()
        maps = torch.nn.functional.interpolate(maps[None, None].double(), self.size, mode="nearest-exact")[0, 0].long()
        one_hot = torch.nn.functional.one_hot(maps, 1 + self.parts).permute(2, 0, 1).float()
        return PartOutput(torch.zeros(1, 1), PartEvidence(20 * one_hot[None], self.size))


@pytest.fixture
def plant(monkeypatch):
    """Put the perfect extractor into the finder that is built."""

    def into(*, queries: bool, size: tuple[int, int] = (64, 96)) -> list[Planted]:
        from partbox.engine import pseudo_labelling

        original, planted = pseudo_labelling.build_finder, []

        def build(cfg, weights, dataset, **choices) -> PartFinder:
            finder = original(cfg, weights, dataset, **choices)
            planted.append(Planted(("example_train", "example_val"), size, queries=queries))
            finder.module = planted[-1]
            return finder

        monkeypatch.setattr(pseudo_labelling, "build_finder", build)
        return planted

    return into


# A photograph of 32 x 32 pixels becomes an input of 64 x 96: every pixel is 2 x 3 of the network's.
LARGER = ["INPUT.SIZE", "(64, 96)"]


def test_a_perfect_segmenter_labels_as_the_truth_does(
    run_tool, teacher, plant, example_root, example_dataset, tmp_path
):
    planted = plant(queries=False)
    folder = teacher(*LARGER, *MODELS["part_box"], *QUARTER)
    run_tool("pseudo_label", "--run", folder, "--labels", "mask", "--output", tmp_path / "out")
    document, found = read(tmp_path / "out")
    truth = {record["image_id"]: record for record in example_dataset.records}
    kinds = [(record["part_labels"], record["label_source"]) for record in found.records]
    assert len(found.records) == len(truth) == 66
    assert kinds.count(("box", "annotated")) == round(0.25 * 66)
    assert kinds.count(("mask", "predicted")) == 66 - round(0.25 * 66)
    for record in found.records:
        if record["label_source"] == "predicted":
            wanted = paint_part_map(truth[record["image_id"]], "mask")
            assert np.array_equal(paint_part_map(record, "mask"), wanted), "in the pixels of the photograph"
            assert all(part["score"] > 0.99 for part in record["annotations"])
        assert record["label"] == truth[record["image_id"]]["label"]
    annotated = {record["image_id"] for record in found.records if record["label_source"] == "annotated"}
    for entry in document["annotations"]:
        if entry["image_id"] in annotated:
            assert "segmentation" not in entry, "the budget has bought boxes"
            assert entry["area"] == entry["bbox"][2] * entry["bbox"][3]
    info = document["info"]["pseudo_labels"]
    assert info["model"]["sha256"] == sha256_of(folder / "model_final.pth")
    assert info["label_budget"] == {"mask_share": 0.0, "box_share": 0.25, "seed": 0}
    assert info["criterion"]["name"] == "F1 of part masks at IoU 0.5"
    assert info["criterion"]["f1"] > 0.8, "touching parts of one kind are one region, parts behind others are several"
    assert info["images"] == {"annotated": 16, "predicted": 50, "not_labelled": 0}
    assert str(tmp_path) not in (tmp_path / "out" / "train.json").read_text()
    assert (tmp_path / "out" / "thresholds.png").stat().st_size > 5_000
    curve = json.loads((tmp_path / "out" / "thresholds.json").read_text())["curve"]["all parts"]
    assert max(curve["f1"]) == pytest.approx(info["criterion"]["f1"], abs=1e-6)
    asked = planted[0].asked
    assert len(asked) == 50 + 22, "annotated images of the training dataset are not looked at"
    assert all(sample["part_labels"] == "none" and not sample["annotations"] for sample in asked), "nor any label"


def test_a_perfect_detector_gives_the_boxes_of_the_truth(run_tool, teacher, plant, example_dataset, tmp_path):
    plant(queries=True)
    folder = teacher(*DETECTOR_MODELS["dino_part_box"], *LARGER, *QUARTER)
    run_tool(
        "pseudo_label",
        "--run",
        folder,
        "--labels",
        "box",
        "--threshold",
        "per-part",
        "--min-labelled",
        "4",
        "--output",
        tmp_path / "out",
    )
    document, found = read(tmp_path / "out")
    truth = {record["image_id"]: record for record in example_dataset.records}
    predicted = [record for record in found.records if record["label_source"] == "predicted"]
    assert len(predicted) == 50
    for record in predicted:
        boxes, wanted = (
            sorted([part["category_id"], *part["bbox"]] for part in one["annotations"])
            for one in (record, truth[record["image_id"]])
        )
        assert np.allclose(boxes, wanted, atol=0.011)
    criterion = document["info"]["pseudo_labels"]["criterion"]
    assert (criterion["f1"], criterion["precision"], criterion["recall"]) == (1.0, 1.0, 1.0)
    thresholds = document["info"]["pseudo_labels"]["threshold"]
    counts = np.bincount([p["category_id"] for r in get_part_dataset("example_val").records for p in r["annotations"]])
    assert len(thresholds["by_part"]) == (counts >= 4).sum() > 0


def test_annotated_images_keep_their_entries_to_the_letter(run_tool, teacher, plant, example_root, tmp_path):
    source = json.loads((example_root / "example" / "train.json").read_text())
    source["images"][0]["license"] = 3
    source["annotations"][0]["attributes"] = {"occluded": True}
    bare = {source["images"][i]["id"] for i in (1, 5)}
    for image in source["images"]:
        image["part_labels"] = "none" if image["id"] in bare else image.get("part_labels", "mask")
    source["annotations"] = [entry for entry in source["annotations"] if entry["image_id"] not in bare]
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "train.json").write_text(json.dumps(source))
    (mine / "images").symlink_to(example_root / "example" / "images")
    plant(queries=False)
    folder = teacher(*LARGER, *MODELS["part_box"], *QUARTER)  # the budget is the run's dataset's, not this one's
    arguments = ["--run", folder, "--dataset", mine / "train.json", "--labels", "box"]
    run_tool("pseudo_label", *arguments, "--output", tmp_path / "both")
    document, _ = read(tmp_path / "both")
    assert [image for image in document["images"] if image["id"] not in bare] == [
        image for image in source["images"] if image["id"] not in bare
    ]
    kept = [entry for entry in document["annotations"] if entry["image_id"] not in bare]
    assert kept == source["annotations"]
    new = [entry for entry in document["annotations"] if entry["image_id"] in bare]
    assert new
    assert min(entry["id"] for entry in new) > max(entry["id"] for entry in source["annotations"])
    assert all("segmentation" not in entry and entry["score"] > 0.9 for entry in new)
    assert document["info"]["pseudo_labels"]["label_budget"] is None
    assert document["info"]["pseudo_labels"]["dataset"] == "mine/train.json"
    run_tool("pseudo_label", *arguments, "--no-keep-true", "--output", tmp_path / "alone")
    alone, _ = read(tmp_path / "alone")
    assert {image["id"] for image in alone["images"]} == bare
    assert [(e["image_id"], e["bbox"]) for e in alone["annotations"]] == [(e["image_id"], e["bbox"]) for e in new]


def test_train_then_label_then_train_on_both(run_tool, tmp_path, caplog):
    run_tool("train_net", *SHORT, *QUARTER, "OUTPUT_DIR", tmp_path / "teacher")
    label = ["pseudo_label", "--run", tmp_path / "teacher", "--labels", "box"]
    run_tool(*label, "--threshold", "0.03", "--output", tmp_path / "out")
    document, found = read(tmp_path / "out")
    predicted = [record for record in found.records if record["label_source"] == "predicted"]
    assert len(predicted) > 20
    for record in predicted:
        owners = {found.categories[part["category_id"]].class_index for part in record["annotations"]}
        assert owners == {record["label"]}
        assert all(part["score"] >= 0.03 for part in record["annotations"])
    assert document["info"]["pseudo_labels"]["threshold"]["common"] == 0.03
    both = [*SHORT, "DATASETS.TRAIN", f"('{tmp_path}/out/train.json',)"]
    weights = ["DATASETS.PSEUDO_LABELS.WEIGHT", "0.5", "DATASETS.PSEUDO_LABELS.TIMES_SCORE", "True"]
    run_tool("train_net", *both, *weights, "OUTPUT_DIR", tmp_path / "student")
    log = (tmp_path / "student" / "log.txt").read_text()
    assert f"Predicted part labels of {len(predicted)} of 66 images; their weight: 0.5 times their mean score" in log
    assert f"Images whose part labels are used: {16 + len(predicted)} of 66" in log
    run_tool("train_net", *both, "DATASETS.PSEUDO_LABELS.WEIGHT", "0", "OUTPUT_DIR", tmp_path / "nothing")
    alone, nothing = (
        torch.load(tmp_path / name / "model_final.pth", weights_only=True) for name in ("teacher", "nothing")
    )
    assert all(torch.equal(value, nothing["model"][key]) for key, value in alone["model"].items()), (
        "a weight of 0 is the label budget without predictions, to the last bit"
    )
    student = torch.load(tmp_path / "student" / "model_final.pth", weights_only=True)
    assert not all(torch.equal(value, student["model"][key]) for key, value in alone["model"].items())
    with pytest.raises(ConfigError, match="set MASK_SHARE and BOX_SHARE to -1"):
        run_tool("train_net", *both, *QUARTER, "OUTPUT_DIR", tmp_path / "twice")
    test = ["DATASETS.TEST", f"('{tmp_path}/out/train.json',)"]
    with pytest.raises(ConfigError, match=r"DATASETS\.TEST: the part labels of .* are predicted"):
        run_tool("train_net", *SHORT, *test, "--dry-run")


def test_the_same_bytes_whatever_interrupts_and_whoever_reads(run_tool, teacher, tmp_path, monkeypatch):
    arguments = [
        "pseudo_label",
        "--run",
        teacher(*MODELS["part_box"], "DATASETS.LABEL_BUDGET.BOX_SHARE", "0.85"),
        "--labels",
        "mask",
    ]
    run_tool(*arguments, "--threshold", "0.03", "--output", tmp_path / "one")
    run_tool(*arguments, "--threshold", "0.03", "--output", tmp_path / "two", "DATALOADER.NUM_WORKERS", "2")
    one, two = ((tmp_path / name / "train.json").read_bytes() for name in ("one", "two"))
    assert one == two
    lines = (tmp_path / "one" / "found_parts.jsonl").read_bytes().splitlines(keepends=True)
    assert len(lines) == 1 + 22 + 10
    looked = []
    original = PartFinder.__call__
    monkeypatch.setattr(
        PartFinder, "__call__", lambda *given: (looked.append(given[1]["image_id"]), original(*given))[1]
    )
    for name in ("train.json", "thresholds.json"):
        (tmp_path / "two" / name).unlink()
    (tmp_path / "two" / "found_parts.jsonl").write_bytes(b"".join(lines[:20]) + lines[20][:17])  # a kill
    run_tool(*arguments, "--threshold", "0.03", "--output", tmp_path / "two")
    assert len(looked) == 1 + 22 + 10 - 20
    assert (tmp_path / "two" / "train.json").read_bytes() == one
    looked.clear()
    run_tool(*arguments, "--threshold", "0.2", "--output", tmp_path / "two")
    assert looked == [], "another threshold asks no model"
    assert (tmp_path / "two" / "train.json").read_bytes() != one
    with pytest.raises(RecordsError, match='labels was "mask", is "box"'):
        run_tool(*arguments[:-1], "box", "--threshold", "0.2", "--output", tmp_path / "two")


def test_an_image_in_which_nothing_is_kept_stays_unlabelled(run_tool, teacher, tmp_path):
    folder = teacher(*MODELS["part_box"], *QUARTER)
    run_tool("pseudo_label", "--run", folder, "--labels", "box", "--threshold", "1", "--output", tmp_path / "out")
    _, found = read(tmp_path / "out")
    kinds = [(record["part_labels"], record["label_source"]) for record in found.records]
    assert kinds.count(("none", "annotated")) == 50
    assert kinds.count(("box", "annotated")) == 16


@pytest.mark.parametrize(
    ("name", "labels", "parts"),
    [
        ("maskdino_part_box", "mask", "of-class"),
        ("maskdino_part_box", "box", "of-class"),
        ("dino_box_sequence", "box", "of-class"),
        ("dino_box_sequence", "box", "any"),
        ("part_pooling", "box", "of-class"),
        ("part_pooling", "mask", "any"),
    ],
)
def test_every_extractor_labels(run_tool, teacher, tmp_path, name, labels, parts):
    folder = teacher(*{**MODELS, **DETECTOR_MODELS}[name], *MOST)
    choice = ["--labels", labels, "--parts", parts, "--threshold", "0.01"]
    run_tool("pseudo_label", "--run", folder, *choice, "--output", tmp_path / "out")
    document, found = read(tmp_path / "out")
    assert document["info"]["pseudo_labels"]["parts"] == parts
    if parts == "of-class":
        assert document["info"]["pseudo_labels"]["predicted_parts"] > 0
    for record in found.records:
        assert all(found.part_to_class[part["category_id"]] == record["label"] for part in record["annotations"])


@pytest.mark.parametrize(
    ("name", "labels"),
    [("faster_rcnn", "box"), ("mask_rcnn", "mask"), ("maskdino", "mask"), ("deeplabv3plus", "mask")],
)
def test_detectors_of_detectron2_label_too(run_tool, example_root, example_dataset, tmp_path, name, labels):
    partbox.register_all()
    options = [*SMALL_DETECTOR, *(SMALL_TRANSFORMER if "dino" in name else [])]
    options += ["MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.0"]
    config = REPOSITORY / f"configs/car_parts/{name}.yaml"
    weights = tmp_path / "model.pth"
    names = [f"{example_dataset.class_names[c.class_index]}:{c.name}" for c in example_dataset.categories]
    save_weights(weights, build_detector(load_config(config, options)), class_names=names)
    arguments = ["--config-file", config, "--weights", weights, "--threshold", "0.01", "--labels", labels]
    run_tool("pseudo_label", *arguments, "--output", tmp_path / "out", *options, *MOST)
    document, found = read(tmp_path / "out")
    info = document["info"]["pseudo_labels"]
    assert info["images"]["annotated"] == 63
    assert info["criterion"] is None, "the run has no validation dataset"
    assert info["predicted_parts"] > 0
    assert {r["part_labels"] for r in found.records if r["label_source"] == "predicted"} == {labels}
    if name == "faster_rcnn":
        with pytest.raises(ConfigError, match="gives boxes alone"):
            run_tool("pseudo_label", *arguments[:-1], "mask", "--output", tmp_path / "other", *options, *MOST)
        with pytest.raises(ConfigError, match="judges each part by itself"):
            run_tool("pseudo_label", *arguments, "--parts", "any", "--output", tmp_path / "other", *options, *MOST)
    save_weights(weights, build_detector(load_config(config, options)), class_names=names[::-1])
    with pytest.raises(CheckpointError, match="was made for other parts than example_train has"):
        run_tool("pseudo_label", *arguments, "--output", tmp_path / "other", *options, *MOST)
