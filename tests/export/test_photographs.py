"""Real photographs, real size, pretrained weights: onnxruntime says what torch says, within 1e-4."""

from __future__ import annotations

from pathlib import Path

import pytest
from onnx_files import unsettle

import partbox
from partbox.engine.build import build_classifier
from partbox.engine.checkpoint import save_weights
from partbox.engine.setup import fill_names, load_config
from partbox.export.build import build_graph
from partbox.export.capture import to_onnx
from partbox.export.comparison import compare
from partbox.export.pictures import Pictures, read_image

CONFIGS = Path(__file__).resolve().parents[2] / "configs/pascal_part_animals"
COUNT = 12


@pytest.fixture
def photographs(shared: Path) -> list[Path]:
    files = sorted((shared / "data" / "pascal_part_animals").rglob("*.jpg"))[:COUNT]
    if not files:
        pytest.skip(f"there are no photographs in {shared / 'data' / 'pascal_part_animals'}")
    return files


@pytest.mark.slow
@pytest.mark.parametrize("name", [path.stem for path in sorted(CONFIGS.glob("*.yaml")) if path.stem != "base"])
def test_the_configurations_of_real_size(example_dataset, photographs, tmp_path, name):
    partbox.register_all()
    cfg = load_config(CONFIGS / f"{name}.yaml")
    fill_names(cfg, example_dataset)  # any names: the network's size is what matters
    save_weights(tmp_path / "model.pth", unsettle(build_classifier(cfg, "")))
    graph = build_graph(cfg, str(tmp_path / "model.pth"))
    images = tuple(read_image(str(file), graph.size) for file in photographs)
    pictures = Pictures(images, tuple(file.name for file in photographs), "photographs")
    found = compare(to_onnx(graph).SerializeToString(), graph, pictures, 1e-4)
    assert found.same_label == found.images == COUNT
    assert found.batch_sizes == (1, 2, 5)
    assert max(found.largest.values()) > 0, "equal to the last bit: has onnxruntime been asked at all?"
