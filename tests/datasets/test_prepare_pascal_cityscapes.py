"""PASCAL-Part and Cityscapes-Panoptic-Parts from miniatures of their archives to part datasets, by their scripts."""

import importlib.util
import json
import sys
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
from cityscapes_files import Cityscapes, Scene
from coco_files import tree
from pascal_part_files import SIZE, PascalPart, car, dog, labelled, region
from PIL import Image
from pycocotools.coco import COCO

from partbox.data import load_part_dataset

REPO = Path(__file__).resolve().parents[2]
SPLITS = ("train", "val", "test")
PASCAL_PARTS = {
    "aeroplane": ["body", "tail", "wing"],
    "bird": ["body", "head", "legs"],
    "car": ["body", "wheel", "window"],
    "cat": ["body", "head", "legs"],
    "dog": ["body", "head", "legs"],
}
CITYSCAPES_PARTS = {
    "human": ["arms", "head", "legs", "torso"],
    "vehicle": ["chassis", "lights", "plate", "wheels", "windows"],
}


def run(monkeypatch, name: str, *arguments: object) -> int:
    """Run the main function of a script in ``datasets/`` as the command line would."""
    spec = importlib.util.spec_from_file_location(f"script_{name}", REPO / "datasets" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
    return module.main()


def pascal(monkeypatch, folder: Path, *arguments: object, output: str = "out", workers: int = 1) -> int:
    where = ("--input", folder / "in", "--output", folder / output, "--workers", workers)
    return run(monkeypatch, "prepare_pascal_part", *where, *arguments)


def cityscapes(monkeypatch, folder: Path, *arguments: object, output: str = "out", workers: int = 1) -> int:
    where = ("--input", folder / "in", "--output", folder / output, "--workers", workers)
    return run(monkeypatch, "prepare_cityscapes_part", *where, "--min-pixels", 100, *arguments)


def load(folder: Path, split: str):
    return load_part_dataset(folder / f"{split}.json", folder / "images", verify_images="decode")


def part_names(dataset) -> dict[str, list[str]]:
    names = defaultdict(list)
    for category in dataset.categories:
        names[dataset.class_names[category.class_index]].append(category.name)
    return dict(names)


def records(folder: Path) -> dict[str, dict]:
    """Name of the photograph -> its one image in a file of the output."""
    found = {}
    for split in SPLITS:
        if (folder / f"{split}.json").is_file():
            for record in load(folder, split).records:
                assert record["source_image"] not in found
                found[record["source_image"]] = {**record, "split": split}
    return found


def account(folder: Path) -> dict[tuple[str, str, str], int]:
    report = json.loads((folder / "preparation.json").read_text())["report"]
    counts: Counter = Counter()
    for entry in report["dropped"]:
        counts[entry["class"], entry["what"], entry["reason"]] += entry["count"]
    return dict(counts)


@pytest.fixture
def voc(tmp_path) -> PascalPart:
    """30 photographs of dogs and cars, of each class 10 in train and 5 in val, and three that are left out."""
    folder = tmp_path / "in"
    folder.mkdir()
    tree = PascalPart(folder)
    for i in range(30):
        target = dog(10 + i % 7, 5, 40 + i % 7, 35) if i % 2 else car(4 + i % 5, 8, 44 + i % 5, 28)
        tree.add(f"2008_{i:06d}", target, split="val" if i >= 20 else "train")
    tree.add("2009_000001", labelled("person", region(0, 0, *SIZE)), dog())
    tree.add("2009_000002", labelled("bird", region(0, 0, 40, 40)), car(42, 10, 60, 30))
    tree.add("2009_000003")
    return tree


@pytest.fixture
def streets(tmp_path) -> Cityscapes:
    """Ten sequences of two photographs with a person and a car, and three photographs of val."""
    tree = Cityscapes(tmp_path / "in")
    for i in range(10):
        for frame in (19, 319):
            tree.add("aachen", i, frame, Scene().person(0, 5 + i, 10 + i % 3).car(0, 40 + i, 20))
    for i in range(3):
        tree.add("ulm", 0, 19 + i, Scene().person(4, 5 + i, 12).car(2, 50, 20 + i), split="val")
    return tree


# ---------------------------------------------------------------- PASCAL-Part


def test_pascal_part_becomes_the_papers_data_set(voc, tmp_path, monkeypatch, capsys):
    assert pascal(monkeypatch, tmp_path) == 0
    printed = capsys.readouterr().out
    assert "train: 23 annotation files, published are 4,998" in printed
    for split, share in zip(SPLITS, (0.8, 0.1, 0.1), strict=True):
        dataset = load(tmp_path / "out", split)
        assert part_names(dataset) == PASCAL_PARTS
        assert abs(len(dataset.records) - 31 * share) <= 1
    found = records(tmp_path / "out")
    assert set(found) == {f"2008_{i:06d}.jpg" for i in range(30)} | {"2009_000002.jpg"}
    assert {(r["width"], r["height"]) for r in found.values()} == {SIZE}
    names = load(tmp_path / "out", "train").class_names
    assert [names[found[f"2008_{i:06d}.jpg"]["label"]] for i in range(4)] == ["car", "dog", "car", "dog"]
    assert (found["2009_000002.jpg"]["part_labels"], found["2009_000002.jpg"]["annotations"]) == ("none", [])
    assert account(tmp_path / "out") == {
        ("", "photograph", "no object is labelled"): 1,
        ("person", "photograph", "its largest object is of a class that is not chosen"): 1,
        ("car", "object", "of another class than the largest object"): 1,
    }


def test_areas_of_whole_photographs_survive_the_way_through_pycocotools(voc, tmp_path, monkeypatch):
    assert pascal(monkeypatch, tmp_path, "--format", "png") == 0
    for split in SPLITS:
        coco = COCO(tmp_path / "out" / f"{split}.json")
        for image in coco.dataset["images"]:
            if image["part_labels"] == "none":
                continue
            i = int(Path(image["source_image"]).stem.split("_")[1])
            anns = coco.loadAnns(coco.getAnnIds(image["id"]))
            masks = {coco.cats[a["category_id"]]["name"]: coco.annToMask(a) for a in anns}
            if i % 2:
                head, leg = 10 * 8 + 4 * 3, 4 * (30 - 18) + 6 * 4
                wanted = {"head": head, "legs": leg, "body": 30 * 14 - 10 * 2 - 4 * 2 - 4 * 2}
            else:
                windows, wheels = 2 * 10 * 6, 2 * 6 * 8
                wanted = {"window": windows, "wheel": wheels, "body": 40 * 18 - windows - 2 * 6 * 6}
            assert {name: int(mask.sum()) for name, mask in masks.items()} == wanted
            for annotation, mask in zip(anns, masks.values(), strict=True):
                rows, columns = np.nonzero(mask)
                x, y, w, h = annotation["bbox"]
                assert (x, y) == (columns.min(), rows.min())
                assert (x + w, y + h) == (columns.max() + 1, rows.max() + 1)
            photo = Image.open(voc.voc / "JPEGImages" / image["source_image"])
            saved = Image.open(tmp_path / "out" / "images" / image["file_name"])
            assert (np.asarray(photo) == np.asarray(saved)).all()


def test_the_owners_splits_of_voc(voc, tmp_path, monkeypatch):
    assert pascal(monkeypatch, tmp_path, "--split", "official") == 0
    assert not (tmp_path / "out" / "test.json").exists()
    split_of = {name: record["split"] for name, record in records(tmp_path / "out").items()}
    assert split_of["2009_000002.jpg"] == "train"
    assert all(split_of[f"2008_{i:06d}.jpg"] == ("val" if i >= 20 else "train") for i in range(30))


def test_without_the_owners_lists_official_splits_are_refused(voc, tmp_path, monkeypatch, capsys):
    for name in ("train", "val"):
        (voc.voc / "ImageSets" / "Main" / f"{name}.txt").unlink()
    assert pascal(monkeypatch, tmp_path, "--split", "official") == 1
    assert "no splits of their owner" in capsys.readouterr().err


@pytest.mark.parametrize("labels", ["mask", "box", "none"])
def test_labels_of_pascal_part(voc, tmp_path, monkeypatch, labels):
    assert pascal(monkeypatch, tmp_path, "--labels", labels) == 0
    kinds = Counter(record["part_labels"] for record in records(tmp_path / "out").values())
    assert kinds == ({"none": 31} if labels == "none" else {labels: 30, "none": 1})
    for split in SPLITS:
        dataset = load(tmp_path / "out", split)
        assert part_names(dataset) == PASCAL_PARTS
        for record in dataset.records:
            assert all(("segmentation" in part) == (labels == "mask") for part in record["annotations"])


def test_absent_parts_of_pascal_part(voc, tmp_path, monkeypatch):
    assert pascal(monkeypatch, tmp_path, "--empty", "absent") == 0
    assert {record["part_labels"] for record in records(tmp_path / "out").values()} == {"mask"}


def test_object_crops_of_all_classes(voc, tmp_path, monkeypatch):
    arguments = ("--classes", "all", "--crop", "objects", "--margin", 1.2, "--split", "0.6,0.2,0.2")
    assert pascal(monkeypatch, tmp_path, *arguments) == 0
    datasets = [load(tmp_path / "out", split) for split in SPLITS]
    assert {len(dataset.class_names) for dataset in datasets} == {20}
    assert {len(dataset.categories) for dataset in datasets} == {193}
    classes = Counter(dataset.class_names[record["label"]] for dataset in datasets for record in dataset.records)
    assert classes == {"car": 16, "dog": 16, "person": 1, "bird": 1}
    split_of_photo = defaultdict(set)
    for split, dataset in zip(SPLITS, datasets, strict=True):
        for record in dataset.records:
            split_of_photo[record["source_image"]].add(split)
    assert len(split_of_photo) == 32
    assert all(len(splits) == 1 for splits in split_of_photo.values())


@pytest.mark.parametrize("option", [("--margin", 2), ("--min-side", 3), ("--min-area-share", 0.1)])
def test_options_about_crops_are_refused_for_whole_photographs(voc, tmp_path, monkeypatch, capsys, option):
    with pytest.raises(SystemExit):
        pascal(monkeypatch, tmp_path, *option)
    assert f"{option[0]} is about crops: add --crop objects" in capsys.readouterr().err
    assert pascal(monkeypatch, tmp_path, *option, "--crop", "objects") == 0


def test_the_number_of_workers_does_not_matter(voc, tmp_path, monkeypatch):
    assert pascal(monkeypatch, tmp_path) == 0
    assert pascal(monkeypatch, tmp_path, output="three", workers=3) == 0
    assert tree(tmp_path / "out") == tree(tmp_path / "three")


def test_a_damaged_annotation_is_named_from_a_worker_too(voc, tmp_path, monkeypatch, capsys):
    file = tmp_path / "in" / "Annotations_Part" / "2008_000007.mat"
    file.write_bytes(file.read_bytes()[:-30])
    assert pascal(monkeypatch, tmp_path, workers=2) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "2008_000007.mat: the file: cannot be read as a MATLAB file" in error
    assert not (tmp_path / "out").exists()


def test_a_photograph_of_another_size_than_its_masks_is_refused(voc, tmp_path, monkeypatch, capsys):
    Image.new("RGB", (40, 60)).save(voc.voc / "JPEGImages" / "2008_000007.jpg")
    assert pascal(monkeypatch, tmp_path) == 1
    assert "image 2008_000007.jpg: image is 40 x 60 pixels, the file says 60 x 40" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["JPEGImages", "leftImg8bit"])
def test_labels_alone_need_no_photograph(tmp_path, monkeypatch, name):
    (tmp_path / "in").mkdir()
    if name == "JPEGImages":
        PascalPart(tmp_path / "in").add("2008_000001", dog())
        photos, prepare = tmp_path / "in/VOCdevkit", pascal
    else:
        Cityscapes(tmp_path / "in").add("aachen", 1, 19, Scene().car(0, 40, 20))
        photos, prepare = tmp_path / "in/leftImg8bit", cityscapes
    photos.rename(tmp_path / "elsewhere")
    assert prepare(monkeypatch, tmp_path, "--split", "1,0,0") == 1
    assert prepare(monkeypatch, tmp_path, "--split", "1,0,0", "--labels-only") == 0
    assert len(COCO(tmp_path / "out" / "train.json").anns) == {"JPEGImages": 3, "leftImg8bit": 5}[name]


# ---------------------------------------------------------------- Cityscapes


def test_cityscapes_becomes_the_papers_data_set(streets, tmp_path, monkeypatch, capsys):
    assert cityscapes(monkeypatch, tmp_path) == 0
    printed = capsys.readouterr().out
    assert "train: 20 label files, published are 2,975" in printed
    assert "val: 3 label files, published are 500" in printed
    split_of_sequence = defaultdict(set)
    count = 0
    for split in SPLITS:
        dataset = load(tmp_path / "out", split)
        assert part_names(dataset) == CITYSCAPES_PARTS
        for record in dataset.records:
            count += 1
            assert record["width"] == record["height"]
            assert record["part_labels"] == "mask"
            assert len(record["annotations"]) == (4 if dataset.class_names[record["label"]] == "human" else 5)
            split_of_sequence[Path(record["source_image"]).name.rsplit("_", 2)[0]].add(split)
    assert count == 2 * 23
    assert len(split_of_sequence) == 11
    assert all(len(splits) == 1 for splits in split_of_sequence.values())
    assert len(set().union(*split_of_sequence.values())) == 3


def test_photographs_can_be_split_one_by_one(streets, tmp_path, monkeypatch):
    assert cityscapes(monkeypatch, tmp_path, "--group", "photograph", "--split", "0.4,0.3,0.3") == 0
    split_of_photo, split_of_sequence = defaultdict(set), defaultdict(set)
    for split in SPLITS:
        for record in load(tmp_path / "out", split).records:
            split_of_photo[record["source_image"]].add(split)
            split_of_sequence[Path(record["source_image"]).name.rsplit("_", 2)[0]].add(split)
    assert all(len(splits) == 1 for splits in split_of_photo.values())
    assert any(len(splits) > 1 for splits in split_of_sequence.values())
    assert Counter(split for (split,) in split_of_photo.values()) == {"train": 9, "val": 7, "test": 7}


def test_the_owners_splits_of_cityscapes(streets, tmp_path, monkeypatch, capsys):
    assert cityscapes(monkeypatch, tmp_path, "--split", "official") == 0
    assert not (tmp_path / "out" / "test.json").exists()
    for split, city in (("train", "aachen"), ("val", "ulm")):
        for record in load(tmp_path / "out", split).records:
            assert record["source_image"].startswith(f"{split}/{city}/")
    with pytest.raises(SystemExit):
        cityscapes(monkeypatch, tmp_path, "--split", "official", "--group", "photograph")
    assert "--group is about splits that are drawn" in capsys.readouterr().err


def test_masks_of_cityscapes_survive_the_way_through_pycocotools(streets, tmp_path, monkeypatch):
    assert cityscapes(monkeypatch, tmp_path, "--max-side", 500, "--split", "official") == 0
    coco = COCO(tmp_path / "out" / "val.json")
    area = {coco.cats[a["category_id"]]["name"]: int(coco.annToMask(a).sum()) for a in coco.anns.values()}
    assert area == {
        **{"head": 6 * 8, "arms": 2 * 12, "torso": 12 * 14 - 2 * 12, "legs": 8 * 16},
        **{"windows": 22 * 6, "wheels": 2 * 6 * 6, "lights": 3 * 3, "plate": 3 * 2},
        "chassis": 40 * 20 - 22 * 6 - 2 * 6 * 6 - 3 * 3 - 3 * 2,
    }
    for annotation in coco.anns.values():
        rows, columns = np.nonzero(coco.annToMask(annotation))
        assert annotation["bbox"] == [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]


@pytest.mark.parametrize("labels", ["mask", "box", "none"])
def test_labels_of_cityscapes(streets, tmp_path, monkeypatch, labels):
    assert cityscapes(monkeypatch, tmp_path, "--labels", labels, "--split", "official") == 0
    for split in ("train", "val"):
        dataset = load(tmp_path / "out", split)
        assert part_names(dataset) == CITYSCAPES_PARTS
        for record in dataset.records:
            assert record["part_labels"] == labels
            assert all(("segmentation" in part) == (labels == "mask") for part in record["annotations"])


def test_what_cityscapes_leaves_out_is_counted(tmp_path, monkeypatch, capsys):
    tree = Cityscapes(tmp_path / "in")
    scene = Scene().person(0, 5, 10).car(0, 40, 20).paint(25003, 90, 0, 95, 5).paint(28, 60, 0, 65, 5)
    tree.add("aachen", 1, 19, scene)
    tree.add("aachen", 2, 19, Scene().paint(24000, 10, 10, 22, 50).paint(26000, 10, 30, 19, 50))
    tree.add("aachen", 3, 19, Scene())
    assert cityscapes(monkeypatch, tmp_path, "--split", "1,0,0", "--empty", "absent") == 0
    assert account(tmp_path / "out") == {
        ("human", "object", "fewer than 100 pixels"): 1,
        ("human", "object", "the other class covers more than half its area"): 1,
        ("vehicle", "object", "a group that is not divided into instances"): 1,
        ("", "photograph", "no pixel of a person, rider, car, truck or bus"): 1,
    }
    assert [record["part_labels"] for record in load(tmp_path / "out", "train").records] == ["mask"] * 3
    with pytest.raises(SystemExit):
        cityscapes(monkeypatch, tmp_path, "--min-pixels", 0)
    assert "--min-pixels must be at least 1" in capsys.readouterr().err
