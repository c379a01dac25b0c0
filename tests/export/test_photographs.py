"""Real photographs, real size: onnxruntime says what torch says, within 1e-4."""

from __future__ import annotations

from pathlib import Path

import pytest
from detectron2.config import CfgNode
from onnx_files import unsettle
from small_detectors import SEGMENTER, TRANSFORMERS

import partbox
from partbox.engine.build import build_classifier
from partbox.engine.checkpoint import save_weights
from partbox.engine.detectors import build_detector
from partbox.engine.setup import fill_names, load_config
from partbox.export.build import build_graph
from partbox.export.capture import to_onnx
from partbox.export.comparison import Comparison, compare
from partbox.export.pictures import Pictures, read_image

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
CLASSIFIERS = [path.stem for path in sorted((CONFIGS / "pascal_part_animals").glob("*.yaml")) if path.stem != "base"]
COUNT = 12


@pytest.fixture
def photographs(shared: Path):
    """Files of one of the folders of photographs."""

    def of(dataset: str) -> list[Path]:
        files = sorted((shared / "data" / dataset).rglob("*.jpg"))[:COUNT]
        if not files:
            pytest.skip(f"there are no photographs in {shared / 'data' / dataset}")
        return files

    partbox.register_all()
    return of


def compared(cfg: CfgNode, weights: Path, files: list[Path], size: tuple[int, int] | None = None) -> Comparison:
    graph = build_graph(cfg, str(weights), size=size)
    images = tuple(read_image(str(file), graph.size) for file in files)
    pictures = Pictures(images, tuple(file.name for file in files), "photographs")
    found = compare(to_onnx(graph).SerializeToString(), graph, pictures, 1e-4)
    assert found.images == COUNT
    assert found.batch_sizes == (1, 2, 5)
    assert max(found.largest.values()) > 0, "equal to the last bit: has onnxruntime been asked at all?"
    assert all(found.spread[name] > 10 * found.largest[name] for name in found.largest), "photographs tell little"
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", CLASSIFIERS)
def test_part_classifiers(example_dataset, photographs, tmp_path, name):
    """Names of any dataset: the network's size is what matters."""
    files = photographs("pascal_part_animals")
    cfg = load_config(CONFIGS / f"pascal_part_animals/{name}.yaml")
    fill_names(cfg, example_dataset)
    save_weights(tmp_path / "model.pth", unsettle(build_classifier(cfg, "")))
    assert compared(cfg, tmp_path / "model.pth", files).same_label == COUNT


@pytest.mark.slow
@pytest.mark.parametrize("name", [SEGMENTER, *TRANSFORMERS])
def test_segmenters_and_detectors(photographs, tmp_path, name):
    files = photographs("car_parts")
    cfg = load_config(CONFIGS / f"car_parts/{name}.yaml", ["MODEL.DEVICE", "cpu"])
    parts = [f"part {number}" for number in range(18)]
    save_weights(tmp_path / "model.pth", unsettle(build_detector(cfg)), class_names=parts)
    found = compared(cfg, tmp_path / "model.pth", files, None if name == SEGMENTER else (160, 224))
    assert found.same_label is None
