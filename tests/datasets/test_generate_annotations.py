"""The annotation files that benchmarks convert: in the layout of their owners, of the numbers asked for, and true."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections import Counter
from pathlib import Path

import pytest
from pycocotools import mask as mask_util

from partbox.data.part_json_masks import mask_area, mask_problem
from partbox.data.preparation.readers.paco import PacoReader
from partbox.data.preparation.readers.paco_release import PACO_LVIS

SCALE = 0.01


@pytest.fixture(scope="module")
def script():
    path = Path(__file__).resolve().parents[2] / "tools/benchmarks/generate_annotations.py"
    spec = importlib.util.spec_from_file_location("generate_annotations", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.fixture(scope="module")
def paco(script, tmp_path_factory):
    folder = tmp_path_factory.mktemp("paco")
    assert script.write_paco_lvis(folder, SCALE, seed=0) == 6414
    return folder


def test_paco_has_the_numbers_asked_for_and_is_read(paco):
    reader = PacoReader(PACO_LVIS, paco, paco)
    assert (len(reader.class_names), len(reader.part_names)) == (75, 456)
    owners = {name for name, _ in reader.part_names}
    assert [place for place, name in enumerate(reader.class_names) if name not in owners] == [2, 55]
    labels = [reader.read(entry) for entry in reader.entries()]
    assert len({label.photo.name for label in labels}) == len(labels) == 458 + 24 + 94
    objects = [target for label in labels for target in label.photo.objects]
    assert len(objects) == 2171 + 108 + 459
    assert sum(len(target.parts) for target in objects) == 6414
    assert not any(label.dropped for label in labels)
    assert all(label.photo.objects for label in labels)
    for target in objects:
        categories = [part.category for part in target.parts]
        assert len(set(categories)) == len(categories)
    assert 0.7 < sum(target.part_labels == "mask" for target in objects) / len(objects) < 0.77


def test_paco_has_true_masks_boxes_and_areas(paco):
    document = json.loads((paco / "paco_lvis_v1_val.json").read_bytes())
    runs = Counter()
    for annotation in document["annotations"]:
        rle = annotation["segmentation"]
        problem, (x0, y0, x1, y1) = mask_problem(rle, 640, 480, 0.0)
        assert problem == ""
        assert annotation["bbox"] == [x0, y0, x1 - x0, y1 - y0]
        assert annotation["area"] == mask_area(rle, 480, 640) == mask_util.decode(rle).sum()
        runs["runs"] += int(x1 - x0)
    assert 20 < runs["runs"] / len(document["annotations"]) < 100


def test_the_parts_of_an_image_stand_far_from_its_objects(paco):
    annotations = json.loads((paco / "paco_lvis_v1_val.json").read_bytes())["annotations"]
    are_objects = [annotation["id"] == annotation["obj_ann_id"] for annotation in annotations]
    assert are_objects == sorted(are_objects, reverse=True)
    assert [annotation["id"] for annotation in annotations] == list(range(1, len(annotations) + 1))


@pytest.mark.parametrize("write", ["write_paco_lvis", "write_partimagenet_pp"])
def test_the_same_seed_gives_the_same_bytes(script, tmp_path, write):
    for folder, seed in (("a", 0), ("b", 0), ("c", 1)):
        getattr(script, write)(tmp_path / folder, 0.002, seed)
    first, again, other = (
        {path.name: path.read_bytes() for path in sorted((tmp_path / folder).rglob("*.json"))} for folder in "abc"
    )
    assert first == again
    assert first.keys() == other.keys()
    assert all(first[name] != other[name] for name in first)


def test_partimagenet_pp_has_one_file_a_class(script, tmp_path):
    assert script.write_partimagenet_pp(tmp_path, SCALE, seed=0) == 4064
    files = sorted((tmp_path / "json").iterdir())
    documents = [json.loads(file.read_bytes()) for file in files]
    assert [len(document["images"]) for document in documents] == [100] * 10
    assert sum(len(document["annotations"]) for document in documents) == 4064
    assert sum(len(document["categories"]) for document in documents) == 33
    for document in documents:
        categories = {category["id"] for category in document["categories"]}
        images = {image["id"] for image in document["images"]}
        for annotation in document["annotations"]:
            problem, (x0, y0, x1, y1) = mask_problem(annotation["segmentation"], 500, 375, 0.0)
            assert problem == ""
            assert annotation["bbox"] == [x0, y0, x1 - x0, y1 - y0]
            assert annotation["area"] == pytest.approx(mask_area(annotation["segmentation"], 375, 500), rel=0.2, abs=9)
            assert annotation["category_id"] in categories
            assert annotation["image_id"] in images


def test_all_of_both_adds_up_to_the_published_numbers(script):
    assert [sum(column) for column in zip(*script.paco_sizes(1).values(), strict=True)] == [57_643, 273_772, 641_405]
    assert script.parts_of_classes().sum() == 456
    assert [numbers.sum() for numbers in script.pin_sizes(1)] == [3_308, 406_364]
    assert [len(numbers) for numbers in script.pin_sizes(1)] == [1_000, 1_000]
    assert script.paco_sizes(1e-6)["val"] == (1, 1, 0)


def test_command_line(script, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["x", "paco_lvis", "--output", str(tmp_path), "--scale", "0.001"])
    assert script.main() == 0
    assert capsys.readouterr().out.startswith("642 masks in ")
    monkeypatch.setattr(sys, "argv", ["x", "paco_lvis", "--output", str(tmp_path), "--scale", "0"])
    with pytest.raises(SystemExit):
        script.main()
