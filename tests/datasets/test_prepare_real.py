"""The two data sets that lie beside a checkout: what their files mean, and crops of a few of their photographs."""

import importlib.util
import json
import sys
from collections import Counter
from pathlib import Path

import pytest
from coco_files import tree

from partbox.data import load_part_dataset
from partbox.data.preparation import RelationOptions
from partbox.data.preparation.coco_document import read_coco
from partbox.data.preparation.coco_objects import SourceObjects, collect_objects
from partbox.data.preparation.coco_relations import find_relations

REPO = Path(__file__).resolve().parents[2]


def run_script(monkeypatch, name: str, *arguments: object) -> int:
    """Run the main function of a script in ``datasets/`` as the command line would."""
    spec = importlib.util.spec_from_file_location(f"script_{name}", REPO / "datasets" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
    return module.main()


def excerpt(source: Path, images: Path, target: Path, photos: int, image_folder: str) -> None:
    """A file of the first photographs of another one, beside a link to their folder."""
    document = json.loads(source.read_text())
    document["images"] = document["images"][:photos]
    ids = {image["id"] for image in document["images"]}
    document["annotations"] = [a for a in document["annotations"] if a["image_id"] in ids]
    target.mkdir()
    (target / source.name).write_text(json.dumps(document))
    (target / image_folder).symlink_to(images)


def collected(file: Path, **meaning) -> SourceObjects:
    document = read_coco(file)
    relations = find_relations(document, RelationOptions(**meaning))
    return collect_objects(document, relations, labels="auto", whole_images=False, empty_means_absent=False)


@pytest.fixture
def animals(shared: Path) -> Path:
    folder = shared / "data" / "pascal_part_animals"
    if not folder.is_dir():
        pytest.skip(f"needs {folder}")
    return folder


@pytest.fixture
def cars(shared: Path) -> Path:
    folder = shared / "data" / "car_parts"
    if not folder.is_dir():
        pytest.skip(f"needs {folder}")
    return folder


def test_every_animal_and_part_is_accounted_for(animals):
    found = collected(animals / "trainval.json")
    objects = [target for some in found.by_image.values() for target in some]
    assert Counter(o.class_name for o in objects) == {"dog": 1134, "cat": 888, "sheep": 569, "horse": 495, "cow": 364}
    assert sum(len(o.parts) for o in objects) == 29_661
    assert Counter(o.part_labels for o in objects) == {"box": 3358, "none": 92}
    assert len(found.part_names) == 43
    assert not found.dropped


def test_both_scripts_make_the_same_of_the_animals(animals, tmp_path, monkeypatch):
    excerpt(animals / "trainval.json", animals / "images", tmp_path / "in", 40, "images")
    common = ("--split", "0.6,0.2,0.2", "--workers", 2)
    first = ("--input", tmp_path / "in", "--output", tmp_path / "one", *common)
    second = ("--annotations", tmp_path / "in" / "trainval.json", "--images", tmp_path / "in" / "images")
    assert run_script(monkeypatch, "prepare_pascal_part_animals", *first) == 0
    assert run_script(monkeypatch, "prepare_coco_parts", *second, "--output", tmp_path / "two", *common) == 0
    assert tree(tmp_path / "one") == tree(tmp_path / "two")
    for split in ("train", "val", "test"):
        dataset = load_part_dataset(tmp_path / "one" / f"{split}.json", tmp_path / "one" / "images")
        assert all(max(r["width"], r["height"]) <= 256 for r in dataset.records)


def test_every_car_part_is_accounted_for(cars):
    found = collected(cars / "annotations.json", class_name="car")
    objects = [target for some in found.by_image.values() for target in some]
    assert len(objects) == 400
    assert sum(len(o.parts) for o in objects) == 3073
    assert {o.part_labels for o in objects} == {"mask"}
    assert len(found.part_names) == 18


def test_cars_from_the_command_line(cars, tmp_path, monkeypatch, capsys):
    excerpt(cars / "annotations.json", cars / "JPEGImages", tmp_path / "in", 20, "JPEGImages")
    where = ("--annotations", tmp_path / "in" / "annotations.json", "--images", tmp_path / "in")
    run = (*where, "--output", tmp_path / "out", "--workers", 1)
    assert run_script(monkeypatch, "prepare_coco_parts", *run) == 1
    assert "--class-name CLASS" in capsys.readouterr().err
    assert run_script(monkeypatch, "prepare_coco_parts", *run, "--class-name", "car", "--max-side", 128) == 0
    printed = capsys.readouterr().out
    assert "images: 20 files found by their path" in printed
    assert "labels: mask" in printed
    dataset = load_part_dataset(tmp_path / "out" / "train.json", tmp_path / "out" / "images")
    assert dataset.class_names == ("car",)
    assert all("segmentation" in a for r in dataset.records for a in r["annotations"])
