"""tools/export_onnx.py: what it writes and prints, what it refuses, and that a file that differs is not left behind."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from onnx_files import OnnxFile, make_run
from part_dataset_files import forget_builtin_datasets
from PIL import Image
from small_models import DETECTOR_MODELS, MODELS, small_config

import partbox
from partbox.data.mapper import PartDatasetMapper
from partbox.engine.checkpoint import CheckpointError
from partbox.engine.setup import load_config
from partbox.export import ExportError, ExportOptions, build, capture, comparison, export
from partbox.export.graphs import Graph
from partbox.export.pictures import drawn_image, pictures_for, read_image

REPOSITORY = Path(__file__).resolve().parents[2]
TOOL = REPOSITORY / "tools/export_onnx.py"


@pytest.fixture
def tool(run_tool):
    """Run the entry point in this process with command line arguments."""
    return partial(run_tool, "export_onnx")


@pytest.fixture
def run(example_dataset, tmp_path):
    """The folder of a run of a part-box model on the example data."""
    options = [*MODELS["part_box"], "DATASETS.TEST", "('example_test',)"]
    make_run(tmp_path / "run", small_config(example_dataset, *options))
    return tmp_path / "run"


def left_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != "run")


def test_the_file_tells_all_that_its_user_needs(tool, run, tmp_path, capsys):
    tool("--run", run, "--output", tmp_path / "part_box.onnx", "--images", 7)
    printed = capsys.readouterr().out
    file = OnnxFile(tmp_path / "part_box.onnx")
    cfg = load_config(run / "config.yaml")
    part = cfg.MODEL.PART
    assert file.json("class_names") == list(part.CLASS_NAMES)
    assert file.json("part_names") == list(part.PART_NAMES)
    assert file.facts["weights_name"] == "model_final.pth"
    assert file.facts["weights_sha256"] == hashlib.sha256((run / "model_final.pth").read_bytes()).hexdigest()
    assert file.facts["partbox_version"] == partbox.__version__
    assert (file.facts["image_height"], file.facts["image_width"]) == ("32", "32")
    assert (file.facts["channel_order"], file.facts["pixel_range"]) == ("RGB", "[0, 1]")
    assert (file.facts["extractor"], file.facts["head"], file.facts["part_level"]) == ("segmenter", "part_box", "part")
    opset = {one.domain: one.version for one in file.proto.opset_import}
    assert file.facts["opset"] == str(opset[""]) == str(capture.DEFAULT_OPSET)
    outputs = {
        one.name: [d.dim_param or d.dim_value for d in one.type.tensor_type.shape.dim]
        for one in file.proto.graph.output
    }
    assert outputs == {"logits": ["batch", 11], "part_probabilities": ["batch", 41, 8, 8]}
    assert list(file.json("outputs")) == list(outputs)
    assert all(len(file.json("outputs")[name]["axes"]) == len(shape) for name, shape in outputs.items())
    compared = file.json("comparison")
    assert (compared["images"], compared["same_label"], compared["batch_sizes"]) == (7, 7, [1, 2, 5])
    assert compared["source"] == "photographs of example_test"
    assert 0 < max(compared["largest_difference"].values()) <= 1e-4
    assert "7 photographs of example_test, in batches of 1, 2, 5" in printed
    assert "same label: 7 of 7" in printed
    assert f"opset {capture.DEFAULT_OPSET}, images (B, 3, 32, 32)" in printed
    assert f"largest difference of logits: {compared['largest_difference']['logits']:.2g} (from image" in printed
    assert compared["image_to_image"]["logits"] > 1e-3
    assert f"(from image to image: {compared['image_to_image']['logits']:.2g})" in printed
    assert str(run) not in str(file.facts), "a path of this machine"
    contents = (tmp_path / "part_box.onnx").read_bytes()
    assert contents.count(b"logits") > 0
    for path in (str(REPOSITORY), sys.prefix, str(Path(torch.__file__).parent), "part_classifier.py"):
        assert path.encode() not in contents, "the exporter notes the line of code of each operation"


def code_of_the_docs(*, queries: bool = False) -> str:
    """The examples for a classifier: the label, and the parts of a model with masks or with queries."""
    text = (REPOSITORY / "docs/export.md").read_text()
    label, masks, boxes = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(label.strip().splitlines()) <= 12
    return label + (boxes if queries else masks)


def run_alone(code: str, folder: Path) -> list[str]:
    """What the code prints, line by line, where nothing but onnxruntime is installed."""
    guard = "import sys\nfor name in ('torch', 'detectron2', 'partbox', 'onnx'):\n    sys.modules[name] = None\n"
    done = subprocess.run([sys.executable, "-c", guard + code], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def turned_photograph(source: Path | str, file: Path) -> None:
    """A photograph of an upright camera's kind: stored lying on its side, with a mark that says so."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(source).convert("RGB").resize((50, 40)).save(file, exif=exif)


def test_the_example_of_the_docs_runs_as_written_without_torch(tool, run, tmp_path, example_dataset):
    tool("--run", run, "--output", tmp_path / "part_box.onnx", "--images", 1)
    turned_photograph(example_dataset.records[3]["file_name"], tmp_path / "photograph.jpg")
    label, *parts = run_alone(code_of_the_docs(), tmp_path)
    cfg = load_config(run / "config.yaml")
    model = make_run(tmp_path / "again", cfg)  # the same seed: the same weights
    image = read_image(str(tmp_path / "photograph.jpg"), (32, 32))
    [prediction] = model([{"image": image}])
    name = cfg.MODEL.PART.CLASS_NAMES[prediction["label"]]
    assert label == f"{name} {float(prediction['probabilities'].max()):.3f}"
    seen = prediction["part_probabilities"].argmax(dim=0)
    names = ["background", *cfg.MODEL.PART.PART_NAMES]
    shares = {names[channel]: float((seen == channel).float().mean()) for channel in seen.unique().tolist()}
    assert parts == [f"{one} {share:.1%} of the image" for one, share in shares.items()]


@pytest.mark.slow
def test_the_example_with_boxes_runs_as_written_without_torch(tool, tmp_path, example_dataset):
    options = [*DETECTOR_MODELS["dino_box_sequence"], "DATASETS.TEST", "('example_test',)"]
    cfg = small_config(example_dataset, *options)
    model = make_run(tmp_path / "run", cfg)
    tool("--run", tmp_path / "run", "--output", tmp_path / "part_box.onnx", "--images", 1)
    turned_photograph(example_dataset.records[3]["file_name"], tmp_path / "photograph.jpg")
    label, *parts = run_alone(code_of_the_docs(queries=True), tmp_path)
    image = read_image(str(tmp_path / "photograph.jpg"), (64, 64))
    [prediction] = model([{"image": image}])
    assert label.startswith(cfg.MODEL.PART.CLASS_NAMES[prediction["label"]])
    instances = prediction["instances"][:10]
    in_photograph = instances.pred_boxes.tensor * torch.tensor([40, 50, 40, 50]) / 64
    assert len(parts) == 10
    for line, part, score, box in zip(
        parts, instances.pred_classes.tolist(), instances.scores.tolist(), in_photograph.tolist(), strict=True
    ):
        name, written, numbers = re.fullmatch(r"(.+) (\d\.\d{3}) \[(.*)\]", line).groups()
        assert name == cfg.MODEL.PART.PART_NAMES[part]
        assert float(written) == pytest.approx(score, abs=6e-4)
        assert [float(number) for number in numbers.split()] == pytest.approx(box, abs=0.51)


def test_photographs_are_resized_as_the_test_does(example_dataset, tmp_path):
    """Half a pixel off in the resize would be a few grey levels off everywhere."""
    cfg = small_config(example_dataset, "INPUT.SIZE", "(24, 40)")
    mapper = PartDatasetMapper.from_config(cfg, is_train=False, part_maps=False)
    for record in example_dataset.records[:3]:
        assert torch.equal(read_image(record["file_name"], (24, 40)), mapper(record)["image"])


def test_pictures_are_seeded_and_say_what_they_are(example_dataset, example_root, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(example_root))
    forget_builtin_datasets()
    cfg = small_config(example_dataset, "DATASETS.TEST", "('example_test',)")
    photographs = pictures_for(cfg, (32, 32), 4, seed=0)
    assert photographs.source == "photographs of example_test"
    assert photographs.names == pictures_for(cfg, (32, 32), 4, seed=0).names
    assert photographs.names != pictures_for(cfg, (32, 32), 4, seed=1).names
    assert len(pictures_for(cfg, (32, 32), 1000, seed=0).images) == 22
    for names, why in (((), "names 0 datasets"), (("nobody",), "no dataset is registered as nobody")):
        cfg.DATASETS.TEST = names
        drawn = pictures_for(cfg, (32, 32), 4, seed=5)
        assert drawn.source == f"images drawn with seed 5, since {'DATASETS.TEST ' * (not names)}{why}"
    cfg.DATASETS.TEST = ("partimagenet_test",)
    assert "partimagenet_test is not on this machine" in pictures_for(cfg, (32, 32), 1, seed=5).source
    assert torch.equal(drawn.images[2], drawn_image((32, 32), 5, 2))
    assert not torch.equal(drawn_image((32, 32), 5, 2), drawn_image((32, 32), 5, 3))
    assert not torch.equal(drawn_image((32, 32), 5, 2), drawn_image((32, 32), 6, 2))
    values = drawn_image((32, 32), 0, 0).float()
    assert values.std() > 20
    forget_builtin_datasets()


# --- a file that differs ---------------------------------------------------------------------------------------------


def wrong_mean(model: onnx.ModelProto) -> None:
    change_constant(model, "pixel_mean", lambda value: value + 0.02)


def wrong_weights(model: onnx.ModelProto) -> None:
    change_constant(model, "head.classifier", lambda value: value * 1.01)


def change_constant(model: onnx.ModelProto, name: str, change) -> None:
    found = [one for one in model.graph.initializer if name in one.name]
    assert found, [one.name for one in model.graph.initializer]
    for one in found:
        one.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(one)).astype(np.float32), one.name))


def other_resize(model: onnx.ModelProto) -> None:
    """Corners instead of half pixels, the difference that a careless exporter makes."""
    found = [a for node in model.graph.node if node.op_type == "Resize" for a in node.attribute]
    found = [a for a in found if a.name == "coordinate_transformation_mode"]
    assert found
    for attribute in found:
        attribute.s = b"asymmetric"


def fixed_batch(model: onnx.ModelProto) -> None:
    """A batch that was written into the graph as a constant: reshapes that know 2 images."""
    [logits] = [node for node in model.graph.node if "logits" in node.output]
    shape = numpy_helper.from_array(np.array([2, 11], np.int64), "two")
    model.graph.initializer.append(shape)
    logits.output[0] = "free"
    model.graph.node.append(onnx.helper.make_node("Reshape", ["free", "two"], ["logits"]))


def not_a_number(model: onnx.ModelProto) -> None:
    change_constant(model, "head.classifier", lambda value: value * np.nan)


MUTATIONS = {
    wrong_mean: "differ by",
    wrong_weights: "differ by",
    other_resize: "differ by",
    fixed_batch: "onnxruntime fails on a batch of 1|rows of logits",
    not_a_number: "not finite in onnxruntime",
}


@pytest.fixture
def captured(run):
    """The run's graph, and what the exporter makes of it (as bytes, to be parsed anew)."""
    graph = build.build_graph(load_config(run / "config.yaml"), str(run / "model_final.pth"))
    return graph, capture.to_onnx(graph).SerializeToString()


def test_a_graph_that_says_something_else_is_found(captured, run, tmp_path, monkeypatch):
    graph, original = captured
    pictures = pictures_for(load_config(run / "config.yaml", ["DATASETS.TEST", "()"]), graph.size, 6, seed=0)
    same = comparison.compare(original, graph, pictures, 1e-4)
    assert same.same_label == 6
    for mutate, message in MUTATIONS.items():
        model = onnx.load_from_string(original)
        mutate(model)
        with pytest.raises(ExportError, match=message):
            comparison.compare(model.SerializeToString(), graph, pictures, 1e-4)

    # and through the whole export, over a file that is there already
    def mutated(graph: Graph, opset: int) -> onnx.ModelProto:
        model = onnx.load_from_string(original)
        wrong_mean(model)
        return model

    monkeypatch.setattr(export, "to_onnx", mutated)
    output = tmp_path / "old.onnx"
    output.write_bytes(b"an older file")
    cfg = load_config(run / "config.yaml", ["DATASETS.TEST", "()"])
    with pytest.raises(ExportError, match=r"differ by .* in logits of draw \d \(in a batch of 1\).*no file is written"):
        export.export_onnx(cfg, str(run / "model_final.pth"), output, ExportOptions())
    assert output.read_bytes() == b"an older file"
    assert left_in(tmp_path) == ["old.onnx"]
    done = export.export_onnx(cfg, str(run / "model_final.pth"), output, ExportOptions(tolerance=1e3))
    assert done.comparison.largest["logits"] > 1e-4
    assert OnnxFile(output).json("comparison")["largest_difference"]["logits"] == done.comparison.largest["logits"]


def test_a_graph_that_trains_or_is_too_large_is_not_captured(run, monkeypatch):
    graph = build.build_graph(load_config(run / "config.yaml"), str(run / "model_final.pth"))
    monkeypatch.setattr(capture, "LARGEST_BYTES", 100_000)
    with pytest.raises(ExportError, match="one ONNX file holds at most 2"):
        capture.to_onnx(graph)
    graph.model.head.classifier[3].train()
    with pytest.raises(ValueError, match="is in training mode"):
        capture.to_onnx(graph)


@pytest.mark.slow
@pytest.mark.parametrize("opset", capture.OPSETS)
def test_every_opset_that_is_offered_is_written_and_says_the_same(tool, run, tmp_path, opset):
    tool("--run", run, "--output", tmp_path / "model.onnx", "--images", 5, "--opset", opset)
    file = OnnxFile(tmp_path / "model.onnx")
    assert {one.domain: one.version for one in file.proto.opset_import}[""] == opset
    assert file.facts["opset"] == str(opset)


# --- operations with no place in a graph -----------------------------------------------------------------------------


class Decides(torch.nn.Module):
    """Stands in for a model's code that does what ``step`` does."""

    def __init__(self, step) -> None:
        super().__init__()
        self.step = step

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.step(images)


class Single(Graph):
    outputs = (capture.OneByOneGraph.outputs[0],)
    part_names = ("a",)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return (self.model(images),)

    def reference(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return self.forward(image[None] / 255)


def branches(images):
    return images.mean(dim=(2, 3)) if bool(images.mean() > 0.5) else images.amax(dim=(2, 3))


def selects(images):
    found = images.flatten().nonzero()
    if len(found) == 0:
        return images.mean(dim=(2, 3))
    return images.amax(dim=(2, 3))


def compares(images):
    return images.mean(dim=(2, 3)) * torch.equal(images, images.flip(1))


def walks(images):
    return torch.stack([image.mean(dim=(1, 2)) for image in images])


def untranslated(images):
    return torch.linalg.svdvals(images.mean(dim=1)) + images.mean()


def counts(images):
    return torch.zeros(len(images), 3) + images.mean(dim=(2, 3))


REFUSED = {
    branches: r"aten\._local_scalar_dense.* makes a number that depends on the image, and the code goes one way",
    selects: r"aten\.nonzero\.default at `found = .* depends on the image, and the code at `if len.* goes one way",
    compares: r"aten\.equal.* depends on the image",
    walks: r"takes the number of images in a batch as a fixed number",
    counts: r"takes the number of images in a batch as a fixed number",
    untranslated: r"linalg_svd.* has no translation into ONNX",
}


@pytest.mark.parametrize("step", REFUSED, ids=lambda step: step.__name__)
def test_a_refusal_names_the_operation_and_why(step, capfd):
    with pytest.raises(ExportError, match=REFUSED[step]) as caught:
        capture.to_onnx(Single(Decides(step), (8, 8)).eval())
    message = str(caught.value)
    assert message.startswith("Decides cannot be exported: ")
    assert "\n" not in message
    assert "Traceback" not in message
    assert str(Path.home()) not in message
    if step is not untranslated:
        assert f"test_export_onnx.py, {step.__name__}" in message
        assert message.count("`") == 2 * (1 + (step is selects)), "the line of code"
    assert capfd.readouterr() == ("", "")


def test_faint_values_keep_their_digits():
    """What onnxruntime's Sigmoid and exp(x) - 1 lose is 1e-7: little of a probability, much of a faint one's log."""

    def faint(images):
        return (-20 * images).sigmoid().log() + torch.log(-torch.expm1(-1e-6 * images))

    graph = Single(Decides(faint), (8, 8)).eval()
    images = 0.05 + 0.95 * torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    [found] = comparison.session_of(capture.to_onnx(graph).SerializeToString()).run(None, {"images": images.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), faint(images.double()).float(), atol=1e-5, rtol=0)


# --- the command line ------------------------------------------------------------------------------------------------


def test_what_is_wrong_is_said_before_anything_is_written(tool, run, tmp_path, capsys):
    output = ("--output", tmp_path / "model.onnx")
    config = ("--config-file", run / "config.yaml")
    for arguments, message in (
        (("--run", run, *output, "--opset", 9), "--opset 9: torch's exporter writes 18 to 23"),
        (("--run", run, *output, "--opset", 99), "--opset 99"),
        (("--run", run, *output, "--images", 0), "--images must be at least 1"),
        (("--run", run, *output, "--seed", -1), "--seed must not be negative"),
        (("--run", run, *output, "--tolerance", "nan"), "--tolerance must be a number"),
        (("--run", run, *output, "--size", 0, 8), "--size must be two numbers of pixels"),
        (("--run", run, "--output", tmp_path / "model.pt"), r"must end in \.onnx"),
        (("--run", run, "--output", run), "must end in|is a folder"),
        (
            ("--run", run, "--output", run / "config.yaml/a/model.onnx"),
            r"config\.yaml is a file, and should be a folder",
        ),
    ):
        with pytest.raises(ExportError, match=message):
            tool(*arguments)
    for arguments, message in (
        ((*config, *output), "--config-file needs --weights FILE, or --random-weights"),
        (("--run", run, *output, "--random-weights", "--weights", "x"), "not allowed with"),
        (("--run", run, *output, "MODEL.WEIGHTS", "x"), "MODEL.WEIGHTS is where a training starts"),
    ):
        with pytest.raises(SystemExit):
            tool(*arguments)
        assert message in capsys.readouterr().err
    (run / "model_final.pth").rename(run / "elsewhere.pth")
    with pytest.raises(CheckpointError, match=r"neither model_best\.pth nor model_final\.pth"):
        tool("--run", run, *output)
    torch.save({"model": {"weight": Unsafe()}}, run / "model_best.pth")
    with pytest.raises(CheckpointError, match="holds more than tensors"):
        tool("--run", run, *output)
    assert not Unsafe.woken
    assert left_in(tmp_path) == []


class Unsafe:
    """What runs code when it is unpickled."""

    woken = False

    def __reduce__(self):
        return wake, ()


def wake() -> None:
    Unsafe.woken = True


def test_random_weights_are_marked_as_such(tool, run, tmp_path, capsys):
    arguments = ("--config-file", run / "config.yaml", "--random-weights", "--output", tmp_path / "new.onnx")
    tool(*arguments, "--images", 1, *["MODEL.PART.EXTRACTOR.NAME", "none", "MODEL.PART.HEAD.NAME", "linear"])
    assert ", random weights that nobody has trained, images" in capsys.readouterr().out
    file = OnnxFile(tmp_path / "new.onnx")
    assert (file.facts["weights_name"], file.facts["weights_sha256"]) == ("random", "")
    assert file.json("comparison")["batch_sizes"] == [1, 2, 5], "one image fills a batch of five, too"
    assert file.facts["extractor"] == "none"


def test_an_error_is_one_sentence_and_exit_code_1(run, tmp_path, example_root):
    environment = {
        **os.environ,
        "DETECTRON2_DATASETS": str(example_root),
        "PYTHONPATH": os.pathsep.join([str(REPOSITORY / "projects"), str(REPOSITORY)]),
    }
    command = [sys.executable, TOOL, "--run", run, "--output", tmp_path / "model.onnx", "--opset", "9"]
    done = subprocess.run(list(map(str, command)), env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].startswith("ExportError: --opset 9")
    assert "Traceback" not in done.stderr
