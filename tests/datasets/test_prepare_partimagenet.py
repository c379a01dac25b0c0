"""PartImageNet and PartImageNet++ from the miniature of a download to part datasets, by their scripts."""

import importlib.util
import json
import shutil
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from coco_files import tree
from partimagenet_files import (
    CATEGORY,
    GOLDFISH,
    HEIGHT,
    JEEP,
    PARTS,
    SQUARE,
    STAR,
    TENCH,
    TIGER,
    VIZSLA,
    WIDTH,
    area,
    decode,
    disjoint_classes,
    rle,
    shared_classes,
    three_classes,
)
from pycocotools.coco import COCO

from partbox.data import load_part_dataset

REPO = Path(__file__).resolve().parents[2]
SPLITS = ("train", "val", "test")


def run(monkeypatch, name: str, *arguments: object) -> int:
    """Run the main function of a script in ``datasets/`` as the command line would."""
    spec = importlib.util.spec_from_file_location(f"script_{name}", REPO / "datasets" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
    return module.main()


def partimagenet(monkeypatch, folder: Path, *arguments: object, output: str = "out") -> int:
    where = ("--input", folder / "in", "--output", folder / output)
    return run(monkeypatch, "prepare_partimagenet", *where, "--workers", 1, *arguments)


def plus_plus(monkeypatch, folder: Path, *arguments: object, output: str = "out") -> int:
    where = ("--input", folder / "in/pin", "--images", folder / "in/ILSVRC", "--output", folder / output)
    return run(monkeypatch, "prepare_partimagenet_pp", *where, "--workers", 1, *arguments)


def load(folder: Path, split: str):
    return load_part_dataset(folder / f"{split}.json", folder / "images", verify_images="decode")


def photo_of(file_name: str) -> str:
    """``.../n01440764_3_17.jpg`` -> ``n01440764_3``: the number of the object goes."""
    return Path(file_name).stem.rpartition("_")[0]


def split_of_photos(folder: Path) -> dict[str, str]:
    """Photograph -> split. A photograph may be there once."""
    found: dict[str, str] = {}
    for split in SPLITS:
        for record in load(folder, split).records:
            assert photo_of(record["file_name"]) not in found
            found[photo_of(record["file_name"])] = split
    return found


# ---------------------------------------------------------------- labels


def test_parts_keep_their_pixels_and_boxes_are_tight(tmp_path, monkeypatch):
    files = shared_classes(10)
    for number, segmentation in enumerate([rle(3, 2, 30, 20), rle(9, 5, 40, 30, compressed=False)]):
        files.photo("train", JEEP, "Tier", "Side Mirror", segmentation=segmentation)
        assert number < 2
    files.write(tmp_path / "in")
    assert partimagenet(monkeypatch, tmp_path) == 0
    sources = {}
    for split in files.splits.values():
        names = {image["id"]: Path(image["file_name"]).stem for image in split.document["images"]}
        for label in split.document["annotations"]:
            sources[names[label["image_id"]], label["category_id"]] = label["segmentation"]
    areas = 0
    for split in SPLITS:
        coco = COCO(str(tmp_path / "out" / f"{split}.json"))
        for label in coco.dataset["annotations"]:
            image, category = coco.imgs[label["image_id"]], coco.cats[label["category_id"]]
            assert (image["width"], image["height"]) == (WIDTH, HEIGHT)
            source = sources.pop(
                (photo_of(image["file_name"]), CATEGORY[f"{category['supercategory']} {category['name']}"])
            )
            mask = coco.annToMask(label)
            assert label["area"] == mask.sum() == area(source) > 0
            assert np.array_equal(mask, decode(source))
            rows, columns = np.nonzero(mask)
            tight = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            x, y, width, height = label["bbox"]
            assert np.abs(np.subtract([x, y, x + width, y + height], tight)).max() <= 1
            areas += label["area"]
    assert not sources
    assert areas > 0


def test_classes_and_parts_of_the_files_are_those_of_the_data_set(tmp_path, monkeypatch):
    shared_classes(10).write(tmp_path / "in")
    assert partimagenet(monkeypatch, tmp_path) == 0
    assert partimagenet(monkeypatch, tmp_path, "--classes", 158, output="158") == 0
    for split in SPLITS:  # also of classes that the miniature does not show
        dataset = load(tmp_path / "out", split)
        assert dataset.class_names == tuple(sorted(PARTS))
        found = Counter((dataset.class_names[part.class_index], part.name) for part in dataset.categories)
        assert found == Counter((name, part) for name, parts in PARTS.items() for part in parts)
        assert [dataset.part_to_class[i] for i in range(40)] == sorted(dataset.part_to_class)
        dataset = load(tmp_path / "158", split)
        assert dataset.class_names == (TENCH, GOLDFISH, VIZSLA, JEEP)
        assert Counter(dataset.part_to_class.tolist()) == {0: 4, 1: 4, 2: 4, 3: 3}
        for record in dataset.records:
            assert dataset.class_names[record["label"]] == photo_of(record["file_name"]).split("_")[0]


def test_photographs_are_scaled_only_where_they_are_longer(tmp_path, monkeypatch):
    shared_classes(10).write(tmp_path / "in")
    assert partimagenet(monkeypatch, tmp_path, "--max-side", 24) == 0
    record = load(tmp_path / "out", "train").records[0]
    assert (record["width"], record["height"]) == (24, 18)
    assert max(a["bbox"][0] + a["bbox"][2] for a in record["annotations"]) <= 24


@pytest.mark.parametrize("make", [partimagenet, plus_plus])
@pytest.mark.parametrize("empty", ["unlabelled", "absent"])
def test_photographs_without_annotation_are_what_the_caller_says(tmp_path, monkeypatch, make, empty):
    files, more = shared_classes(10), three_classes(10)
    for split in (files.splits["train"], more.files[TENCH]):
        split.photo(f"{TENCH}_99.JPEG")
    files.write(tmp_path / "in")
    more.write(tmp_path / "in")
    assert make(monkeypatch, tmp_path, "--split", "1,0,0", "--empty", empty) == 0
    (record,) = (r for r in load(tmp_path / "out", "train").records if f"{TENCH}_99_" in r["file_name"])
    assert record["part_labels"] == ("none" if empty == "unlabelled" else "mask")
    assert record["annotations"] == []


def test_photographs_are_kept_up_to_512_pixels_and_may_be_those_of_imagenet(tmp_path, monkeypatch):
    files = shared_classes(3)
    for split in files.splits.values():
        for image in split.document["images"]:
            image.update(width=600, height=450)
    files.write(tmp_path / "in", "{split}.json", "../ILSVRC/train/{wnid}/{name}")
    where = ("--images", tmp_path / "ILSVRC/train")
    assert partimagenet(monkeypatch, tmp_path, *where, "--split", "official") == 0
    assert {(r["width"], r["height"]) for r in load(tmp_path / "out", "test").records} == {(512, 384)}


@pytest.mark.parametrize("labels", ["box", "none"])
def test_labels_may_be_less_than_masks(tmp_path, monkeypatch, labels):
    shared_classes(3).write(tmp_path / "in")
    assert partimagenet(monkeypatch, tmp_path, "--labels", labels) == 0
    for split in SPLITS:
        for record in load(tmp_path / "out", split).records:
            assert record["part_labels"] == labels
            assert len(record["annotations"]) == (labels == "box")
            assert not any("segmentation" in part for part in record["annotations"])


# ---------------------------------------------------------------- splits


def test_splits_are_seeded_balanced_and_take_no_notice_of_the_owners(tmp_path, monkeypatch):
    disjoint_classes(10).write(tmp_path / "in", "{split}.json", "{split}/{wnid}/{name}")
    assert partimagenet(monkeypatch, tmp_path, "--classes", 158) == 0
    found = split_of_photos(tmp_path / "out")
    by_class = Counter((name.split("_")[0], split) for name, split in found.items())
    assert len(found) == 50
    for wnid in (TENCH, GOLDFISH, VIZSLA, TIGER, JEEP):
        assert 7 <= by_class[wnid, "train"] <= 9
        assert 0 <= by_class[wnid, "val"] <= 2
    assert Counter(found.values()) == {"train": 40, "val": 5, "test": 5}
    assert partimagenet(monkeypatch, tmp_path, "--classes", 158, "--seed", 1, output="other") == 0
    other = split_of_photos(tmp_path / "other")
    assert other != found
    assert Counter(other.values()) == Counter(found.values())


def test_the_official_splits_are_taken_as_they_are(tmp_path, monkeypatch):
    files = shared_classes(10)
    files.write(tmp_path / "in")
    assert partimagenet(monkeypatch, tmp_path, "--classes", 158, "--split", "official") == 0
    found = split_of_photos(tmp_path / "out")
    assert found == {
        Path(image["file_name"]).stem: split
        for split, file in files.splits.items()
        for image in file.document["images"]
    }


def test_official_splits_without_common_classes_are_refused_for_158_classes(tmp_path, monkeypatch, capsys):
    disjoint_classes(10).write(tmp_path / "in")
    assert partimagenet(monkeypatch, tmp_path, "--classes", 158, "--split", "official") == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(f"error: {tmp_path / 'in'}: --split official: 2 of the 5 classes")
    assert "--split 0.8,0.1,0.1" in error
    assert not (tmp_path / "out").exists()
    assert partimagenet(monkeypatch, tmp_path, "--split", "official") == 0
    assert Counter(split_of_photos(tmp_path / "out").values()) == {"train": 30, "val": 10, "test": 10}


@pytest.mark.parametrize("split", ["0.4,0.3,0.3", "official"])
def test_no_photograph_is_in_two_splits(tmp_path, monkeypatch, split):
    """One that stands in two files, and one that another name hides."""
    files = shared_classes(10)
    for number in (1, 4):
        again = files.splits["test"].photo(f"{TENCH}_{number}.JPEG")
        files.splits["test"].label(again, CATEGORY["Fish Head"])
    hidden = files.photo("val", TENCH, "Head")
    files.write(tmp_path / "in")
    images = tmp_path / "in/images"
    shutil.copy(images / f"train/{TENCH}_5.JPEG", images / f"val/{hidden}")
    assert partimagenet(monkeypatch, tmp_path, "--split", split) == 0
    found = split_of_photos(tmp_path / "out")
    assert found[f"{TENCH}_5"] == found.get(Path(hidden).stem, found[f"{TENCH}_5"])
    account = json.loads((tmp_path / "out/preparation.json").read_text())["report"]["dropped"]
    reasons = Counter({line["reason"]: line["count"] for line in account if line["what"] == "photograph"})
    assert reasons == {"is in the files twice": 2}
    assert (Path(hidden).stem in found) == (split != "official")


# ---------------------------------------------------------------- runs


def test_the_number_of_workers_does_not_matter(tmp_path, monkeypatch):
    shared_classes(10).write(tmp_path / "in")
    three_classes(10).write(tmp_path / "in")
    for make, name in ((partimagenet, "a"), (plus_plus, "b")):
        assert make(monkeypatch, tmp_path, output=f"{name}1") == 0
        assert make(monkeypatch, tmp_path, "--workers", 3, output=f"{name}3") == 0
        assert tree(tmp_path / f"{name}1") == tree(tmp_path / f"{name}3")


def test_what_is_left_out_stands_in_the_account(tmp_path, monkeypatch, capsys):
    files = shared_classes(10)
    train = files.splits["train"]
    image = train.photo(f"{TENCH}_90.JPEG")
    train.label(image, CATEGORY["Fish Head"], [])
    train.label(image, CATEGORY["Fish Head"], SQUARE, iscrowd=1)
    train.label(image, CATEGORY["Car Tier"], STAR)
    files.write(tmp_path / "in")
    assert partimagenet(monkeypatch, tmp_path, "--split", "1,0,0") == 0
    printed = capsys.readouterr().out
    assert "counts: 41 photographs, published are 24,095" in printed
    record = json.loads((tmp_path / "out/preparation.json").read_text())
    assert {(line["class"], line["what"], line["reason"], line["count"]) for line in record["report"]["dropped"]} == {
        ("Fish", "part", "no mask", 1),
        ("Fish", "part", "crowd (iscrowd = 1)", 1),
        ("Fish", "part", "part of another super-class than its ImageNet class", 1),
    }
    fish = next(line for line in record["report"]["kept"] if line["class"] == "Fish")
    assert (fish["photographs"], fish["unlabelled"], fish["parts"]) == (21, 1, 20)
    assert set(record["annotations_sha256"]) == {f"annotations/{s}/{s}.json" for s in SPLITS}


def test_labels_alone_need_no_photographs(tmp_path, monkeypatch):
    shared_classes(10).write(tmp_path / "in")
    three_classes(10).write(tmp_path / "in")
    shutil.rmtree(tmp_path / "in/images")
    shutil.rmtree(tmp_path / "in/ILSVRC")
    assert partimagenet(monkeypatch, tmp_path, "--labels-only") == 0
    assert plus_plus(monkeypatch, tmp_path, "--labels-only", output="pp") == 0
    assert len(COCO(str(tmp_path / "out/train.json")).anns) == 32
    assert len(COCO(str(tmp_path / "pp/train.json")).anns) > 0
    assert not list(tmp_path.rglob("*.jpg"))


def test_splits_and_shares_do_not_depend_on_where_photographs_lie(tmp_path, monkeypatch):
    """Labels made alone, or beside another folder of photographs, fit the crops: else one's test is another's train."""

    def chosen(output: str) -> dict[str, dict[str, str]]:
        documents = {split: json.loads((tmp_path / output / f"{split}.json").read_text()) for split in SPLITS}
        return {
            split: {image["file_name"]: image["part_labels"] for image in document["images"]}
            for split, document in documents.items()
        }

    shared_classes(10).write(tmp_path / "in")
    share = ("--label-share", 0.5)
    assert partimagenet(monkeypatch, tmp_path, *share) == 0
    assert partimagenet(monkeypatch, tmp_path, *share, "--labels-only", output="alone") == 0
    shutil.move(tmp_path / "in/images", tmp_path / "ILSVRC")
    assert partimagenet(monkeypatch, tmp_path, *share, "--images", tmp_path / "ILSVRC", output="elsewhere") == 0
    assert chosen("out") == chosen("alone") == chosen("elsewhere")
    assert {"mask", "none"} == set(chosen("out")["train"].values())


def test_missing_photographs_are_told_with_the_option_that_helps(tmp_path, monkeypatch, capsys):
    shared_classes(10).write(tmp_path / "in")
    (tmp_path / f"in/images/train/{TENCH}_1.JPEG").unlink()
    assert partimagenet(monkeypatch, tmp_path) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert f'images[0] (id 0, file_name "{TENCH}_1.JPEG"): no folder of' in error
    assert "--images" in error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["prepare_partimagenet", "prepare_partimagenet_pp"])
def test_options_about_objects_are_refused_where_photographs_stay_whole(tmp_path, monkeypatch, capsys, name):
    for option in ("--margin", "--min-side", "--min-area-share"):
        with pytest.raises(SystemExit) as stop:
            run(monkeypatch, name, "--input", tmp_path, "--images", tmp_path, "--output", tmp_path, option, 1)
        assert stop.value.code == 2
        assert f"error: unknown option {option}" in capsys.readouterr().err


# ---------------------------------------------------------------- PartImageNet++


def test_plus_plus_from_its_script(tmp_path, monkeypatch, capsys):
    files = three_classes(10)
    files.discarded = [{"file_name": f"{TENCH}_0.JPEG"}]
    files.write(tmp_path / "in")
    assert plus_plus(monkeypatch, tmp_path) == 0
    printed = capsys.readouterr().out
    assert "counts: 60 annotations, published are 406,364" in printed
    assert "discarded by its owners" in printed
    found = split_of_photos(tmp_path / "out")
    assert Counter(name.split("_")[0] for name in found) == {TENCH: 9, TIGER: 10, "n02776631": 10}
    assert Counter(found.values()) == {"train": 23, "val": 3, "test": 3}
    parts = Counter()
    for split in SPLITS:
        dataset = load(tmp_path / "out", split)
        assert dataset.class_names == (TENCH, TIGER, "n02776631")
        assert dataset.part_to_class.tolist() == [0, 0, 0, 0, 1, 1, 2]
        for record in dataset.records:
            names = [dataset.categories[part["category_id"]].name for part in record["annotations"]]
            parts.update(names)
            wnid = photo_of(record["file_name"]).split("_")[0]
            assert dataset.class_names[record["label"]] == wnid
            expected = [SQUARE, STAR][int(photo_of(record["file_name"]).split("_")[1]) % 2] if wnid == TENCH else SQUARE
            for part in record["annotations"]:
                assert area(part["segmentation"]) == area(expected)
    assert parts == {"tench head": 9, "tench fin": 9, "tiger body": 20, "tiger head": 10, "bakery": 10}


def test_plus_plus_needs_the_photographs_of_imagenet_and_has_no_official_split(tmp_path, monkeypatch, capsys):
    three_classes(10).write(tmp_path / "in")
    where = ("--input", tmp_path / "in/pin", "--output", tmp_path / "out")
    for more, reason in (((), "--images is needed"), (("--split", "official"), "must be three shares")):
        with pytest.raises(SystemExit) as stop:
            run(monkeypatch, "prepare_partimagenet_pp", *where, *more)
        assert stop.value.code == 2
        assert reason in capsys.readouterr().err
