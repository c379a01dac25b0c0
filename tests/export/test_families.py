"""Every family of models as a file: what onnxruntime says is what the model's own evaluation says, at any batch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from detectron2.config import CfgNode
from onnx_files import OnnxFile, make_run, pixels, samples
from part_dataset_files import forget_builtin_datasets
from small_detectors import DETECTORS, SEGMENTER, TRANSFORMERS, detector_config
from small_models import DETECTOR_MODELS, MODELS, ORACLES, small_config
from torch import Tensor

import partbox
from partbox.data import get_part_dataset
from partbox.engine.checkpoint import save_weights
from partbox.engine.setup import load_config
from partbox.export import ExportError, ExportOptions, export_onnx
from partbox.export.build import build_graph
from partbox.export.pictures import pictures_for

CONFIGS = Path(__file__).resolve().parents[2] / "configs/example"
QUICK = ("part_box",)  # the others are slow: some seconds each, detectors 20


def marked(names: list[str], quick: tuple[str, ...]) -> list:
    return [name if name in quick else pytest.param(name, marks=pytest.mark.slow) for name in names]


@pytest.fixture
def data(example_root, monkeypatch):
    """The example data, where every registration looks for it; forgotten afterwards."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(example_root))
    forget_builtin_datasets()
    yield example_root
    forget_builtin_datasets()


def exported(folder: Path, cfg: CfgNode, **options) -> OnnxFile:
    """The file of a run, compared on draws: the test's own images are for the test."""
    draws = cfg.clone()
    draws.DATASETS.TEST = ()
    export_onnx(
        draws, str(folder / "model_final.pth"), folder / "model.onnx", ExportOptions(**{"images": 2, **options})
    )
    return OnnxFile(folder / "model.onnx")


def best_pairs(scores: Tensor, boxes: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """The best (query, part) of an image: scores, parts, boxes, as docs/export.md says."""
    best = scores.flatten().topk(count)
    return best.values, best.indices % scores.shape[1], boxes[best.indices // scores.shape[1]]


@pytest.mark.parametrize("name", [*marked(list(MODELS), QUICK), *marked(list(DETECTOR_MODELS), ())])
def test_a_part_classifier(example_dataset, tmp_path, name):
    cfg = small_config(example_dataset, *(MODELS | DETECTOR_MODELS)[name])
    model = make_run(tmp_path, cfg)
    file = exported(tmp_path, cfg)
    batch = samples(cfg, example_dataset)
    predictions = model(batch)
    spread = torch.stack([prediction["probabilities"] for prediction in predictions]).std(dim=0).max()
    assert float(spread) > 1e-4, "all images give the same answer: this test would not notice anything"
    for size in (1, 2, 5):
        found = file(pixels(batch[:size]))
        torch.testing.assert_close(
            found["logits"].softmax(dim=1),
            torch.stack([p["probabilities"] for p in predictions[:size]]),
            atol=2e-5,
            rtol=0,
        )
        masks = [p["part_probabilities"] for p in predictions[:size] if "part_probabilities" in p]
        assert ("part_probabilities" in found) == bool(masks)
        if masks:
            torch.testing.assert_close(found["part_probabilities"], torch.stack(masks), atol=2e-5, rtol=0)
        instances = [p["instances"] for p in predictions[:size] if "instances" in p]
        assert ("part_scores" in found) == ("part_boxes" in found) == bool(instances)
        for row, one in enumerate(instances):
            scores, parts, boxes = best_pairs(found["part_scores"][row], found["part_boxes"][row], len(one))
            height, width = one.image_size
            torch.testing.assert_close(scores, one.scores, atol=2e-5, rtol=0)
            assert (parts == one.pred_classes).float().mean() > 0.9  # the order of equal scores is free
            inside = boxes * torch.tensor([width, height, width, height])
            same = (inside - one.pred_boxes.tensor).abs().amax(dim=1) < 1e-2
            assert same.float().mean() > 0.9
    assert not file.operations & {"Dropout", "RandomNormal", "RandomUniform"}


def test_an_image_means_the_same_in_every_batch_and_place(example_dataset, tmp_path):
    cfg = small_config(example_dataset, *MODELS["part_pooling"])
    make_run(tmp_path, cfg)
    file = exported(tmp_path, cfg)
    images = pixels(samples(cfg, example_dataset))
    alone = torch.cat([file(images[i : i + 1])["logits"] for i in range(5)])
    for order in ([0, 1, 2, 3, 4], [4, 2, 0, 3, 1], [0, 0, 0, 0, 0, 0, 0, 1]):
        torch.testing.assert_close(file(images[order])["logits"], alone[order], atol=1e-5, rtol=0)


def test_an_image_of_another_size_is_an_error_and_no_answer(example_dataset, tmp_path):
    cfg = small_config(example_dataset, *MODELS["normal"], "INPUT.SIZE", "(32, 48)")
    make_run(tmp_path, cfg)
    file = exported(tmp_path, cfg)
    assert [side for side in file.session.get_inputs()[0].shape] == ["batch", 3, 32, 48]
    assert (file.facts["image_height"], file.facts["image_width"]) == ("32", "48")
    assert file(np.zeros((1, 3, 32, 48), np.float32))["logits"].shape == (1, 11)
    for wrong in ((1, 3, 48, 32), (1, 3, 64, 64), (1, 1, 32, 48)):
        with pytest.raises(onnxruntime.capi.onnxruntime_pybind11_state.InvalidArgument):
            file(np.zeros(wrong, np.float32))


def test_logits_only_leaves_out_the_parts_and_what_makes_them(example_dataset, tmp_path):
    cfg = small_config(example_dataset, *MODELS["two_head"])
    model = make_run(tmp_path, cfg)
    whole = exported(tmp_path, cfg)
    whole_size = (tmp_path / "model.onnx").stat().st_size
    alone = exported(tmp_path, cfg, parts=False)
    assert (tmp_path / "model.onnx").stat().st_size < whole_size
    assert [output.name for output in whole.session.get_outputs()] == ["logits", "part_probabilities"]
    assert [output.name for output in alone.session.get_outputs()] == ["logits"]
    assert alone.json("part_names") == []
    batch = samples(cfg, example_dataset)
    with torch.no_grad():
        expected = model.logits(model.images_of(batch))
    torch.testing.assert_close(alone(pixels(batch))["logits"], expected, atol=2e-5, rtol=0)


# --- detectors and segmenters as they are ----------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", TRANSFORMERS)
def test_a_transformer_detector(data, tmp_path, name):
    cfg = detector_config(name, root=data)
    dataset = get_part_dataset("example_test")
    model = make_run(tmp_path, cfg, class_names=[f"part {number}" for number in range(40)])
    file = exported(tmp_path, cfg, size=(64, 96))
    small = small_config(dataset, "INPUT.SIZE", "(64, 96)")
    batch = samples(small, dataset)
    found = file(pixels(batch))
    assert file.json("part_names")[:2] == ["part 0", "part 1"]
    assert ("part_masks" in found) == (name == "maskdino")
    for row, sample in enumerate(batch):
        [answer] = model([{"image": sample["image"], "height": 64, "width": 96}])
        one = answer["instances"]
        scores, parts, boxes = best_pairs(found["part_scores"][row], found["part_boxes"][row], len(one))
        same = (boxes * torch.tensor([96, 64, 96, 64]) - one.pred_boxes.tensor).abs().amax(dim=1) < 1e-2
        assert same.float().mean() > 0.9
        assert (parts == one.pred_classes).float().mean() > 0.9
        if name == "dino":  # Mask DINO multiplies the scores of its instances with how sure their masks are
            torch.testing.assert_close(scores, one.scores, atol=2e-5, rtol=0)
    if name == "maskdino":
        assert found["part_masks"].shape == (5, 10, 16, 24)
        assert float(found["part_masks"].min()) >= 0
        assert float(found["part_masks"].max()) <= 1


@pytest.mark.slow
@pytest.mark.parametrize("channels", ["RGB", "BGR"])
def test_a_segmenter_in_either_order_of_channels(data, tmp_path, channels):
    mean = ["MODEL.PIXEL_MEAN", "[100.0, 120.0, 140.0]", "MODEL.PIXEL_STD", "[50.0, 60.0, 70.0]"]
    cfg = detector_config(SEGMENTER, "INPUT.FORMAT", channels, *mean, root=data)
    dataset = get_part_dataset("example_test")
    model = make_run(tmp_path, cfg, class_names=[f"part {number}" for number in range(40)])
    file = exported(tmp_path, cfg)
    batch = samples(cfg, dataset)
    found = file(pixels(batch))["part_probabilities"]
    for row, sample in enumerate(batch):
        image = sample["image"] if channels == "RGB" else sample["image"].flip(0)
        [answer] = model([{"image": image}])
        torch.testing.assert_close(found[row], answer["sem_seg"].softmax(dim=0), atol=2e-5, rtol=0)


@pytest.mark.parametrize("name", DETECTORS)
def test_a_detector_that_decides_how_much_it_finds_is_refused_by_its_operation(data, tmp_path, name):
    """And is not asked first for a size or for names, which would change nothing."""
    cfg = detector_config(name, "DATASETS.TEST", "()", root=data)
    make_run(tmp_path, cfg)
    with pytest.raises(ExportError, match=r"cannot be exported: .*detectron2/") as caught:
        exported(tmp_path, cfg)
    message = str(caught.value)
    assert message.startswith("RetinaNet" if name == "retinanet" else "GeneralizedRCNN")
    assert "`" in message, "the line of code"
    assert "\n" not in message
    assert not (tmp_path / "model.onnx").exists()
    with pytest.raises(ExportError) as again:
        exported(tmp_path, cfg, size=(64, 64))
    assert str(again.value) == message


# --- what has no place in a file -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ORACLES)
def test_an_oracle_is_refused_by_the_input_that_it_needs(example_dataset, tmp_path, name):
    cfg = small_config(example_dataset, *ORACLES[name])
    make_run(tmp_path, cfg)
    wanted = "OracleExtractor reads the true parts" if "oracle" in name else "reads a second image"
    with pytest.raises(ExportError, match=wanted):
        exported(tmp_path, cfg)
    assert not (tmp_path / "model.onnx").exists()


@pytest.mark.slow
def test_the_clean_image_oracle_without_its_oracle_is_a_model(example_dataset, tmp_path):
    cfg = small_config(example_dataset, *ORACLES["clean_concat"])
    make_run(tmp_path, cfg)
    cfg.MODEL.PART.EXTRACTOR.FROM_CLEAN_IMAGE = False
    assert exported(tmp_path, cfg).json("comparison")["same_label"] == 2


def test_sizes_are_asked_for_where_the_model_has_none_and_refused_where_it_has(data, example_dataset, tmp_path):
    cfg = detector_config("dino", root=data)
    make_run(tmp_path, cfg, class_names=[f"part {number}" for number in range(40)])
    with pytest.raises(ExportError, match=r"a DINO is tested at many sizes .*--size HEIGHT WIDTH"):
        exported(tmp_path, cfg)
    with pytest.raises(ExportError, match="--logits-only: a DINO has no logits"):
        exported(tmp_path, cfg, size=(64, 64), parts=False)
    classifier = small_config(example_dataset, *MODELS["normal"])
    save_weights(tmp_path / "model_final.pth", make_run(tmp_path / "other", classifier))
    with pytest.raises(ExportError, match=r"--size 64 64: .*INPUT.SIZE, which is 32 x 32"):
        exported(tmp_path, classifier, size=(64, 64))


def test_names_of_a_dataset_that_is_not_here_are_known_all_the_same(data):
    """Those of COCO are part of detectron2: its images are only needed to compare on."""
    cfg = detector_config("dino", "DATASETS.TEST", "('coco_2017_val',)", "MODEL.DINO.NUM_CLASSES", "80", root=data)
    graph = build_graph(cfg, "", size=(64, 64))
    assert graph.part_names[:2] == ("person", "bicycle")
    assert len(graph.part_names) == 80
    assert "coco_2017_val is not on this machine" in pictures_for(cfg, (64, 64), 1, seed=0).source
    cfg.DATASETS.TEST = ("ade20k_sem_seg_val",)  # without things
    with pytest.raises(ExportError, match="ade20k_sem_seg_val, which has the names of the parts, cannot be read"):
        build_graph(cfg, "", size=(64, 64))


def test_names_that_nobody_knows_are_asked_for(data, tmp_path):
    cfg = detector_config("dino", root=data)
    make_run(tmp_path, cfg)
    with pytest.raises(ExportError, match="names of the parts"):
        exported(tmp_path, cfg, size=(64, 64))
    cfg.MODEL.DINO.NUM_CLASSES = 39
    make_run(tmp_path, cfg, class_names=[f"part {number}" for number in range(40)])
    with pytest.raises(ExportError, match=r"39 parts .* and 40 names"):
        exported(tmp_path, cfg, size=(64, 64))


@pytest.mark.slow
@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_example_configuration_is_exported_or_refused_by_reason(data, tmp_path, path):
    if path.stem == "base":
        pytest.skip("not an experiment")
    cfg = load_config(path)
    partbox.register_all()
    options = ExportOptions(images=3)
    if path.stem.startswith("oracle"):
        with pytest.raises(ExportError, match="reads"):
            export_onnx(cfg, "", tmp_path / "model.onnx", options)
        return
    done = export_onnx(cfg, "", tmp_path / "model.onnx", options)
    assert done.comparison.source == "photographs of example_test"
    assert done.comparison.same_label == done.comparison.images == 3
    assert done.graph.size == (64, 64)
