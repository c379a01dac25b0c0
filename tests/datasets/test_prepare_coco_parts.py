"""Part datasets from anybody's COCO file: what it means, what becomes of its labels, how it is split."""

import os

import pytest
from coco_files import SIDE, CocoFile, animals, load, prepare, rle, write_photo
from pycocotools import mask as mask_util

from partbox.data import load_part_dataset
from partbox.data.preparation import CocoOptions, CropSettings, PrepareOptions, prepare_parts


def part_names(dataset) -> set[str]:
    return {f"{dataset.class_names[part.class_index]}:{part.name}" for part in dataset.categories}


def boxes(dataset, label: str) -> dict[str, list[float]]:
    """Name of the part -> box, of the first crop of a class."""
    record = next(r for r in dataset.records if dataset.class_names[r["label"]] == label)
    return {dataset.categories[a["category_id"]].name: a["bbox"] for a in record["annotations"]}


# ---------------------------------------------------------------- what a file means


def test_class_colon_part_with_links(tmp_path):
    notes: list[str] = []
    report = prepare(animals(), tmp_path, say=notes.append)
    dataset = load(tmp_path)
    assert dataset.class_names == ("cat", "dog")
    assert [(p.name, p.class_index) for p in dataset.categories] == [("head", 0), ("head", 1), ("leg", 1)]
    # the dog (2, 4, 28, 40) with a quarter on every side begins at (0, 0)
    assert boxes(dataset, "dog") == {"head": [4, 6, 10, 10], "leg": [6, 30, 4, 12]}
    # the cat begins at 34 - 7 = 27
    assert boxes(dataset, "cat") == {"head": [13, 6, 10, 10]}
    assert {r["part_labels"] for r in dataset.records} == {"box"}
    assert sum(counts["parts"] for counts in report.kept.values()) == 36
    assert 'category names "class:part"' in notes[0]
    assert "dog, cat; parts linked by obj_ann_id" in notes[1]


def test_parts_are_linked_by_overlap_where_no_field_does(tmp_path):
    coco = animals(link=None)
    coco.label(1, "dog:head", (40, 50, 8, 8))  # below both animals
    coco.label(1, "dog", (0, 0, 60, 60))  # a second dog around everything
    notes: list[str] = []
    report = prepare(coco, tmp_path, say=notes.append, fractions=(1, 0, 0))
    assert boxes(load(tmp_path), "dog") == {"head": [4, 6, 10, 10], "leg": [6, 30, 4, 12]}
    assert "by overlap" in notes[1]
    assert any(note.startswith("2 parts lie in several objects") for note in notes)
    assert sum(counts["unlabelled"] for counts in report.kept.values()) == 0  # the stray head is the second dog's
    coco = animals(link=None)
    coco.label(1, "cat:head", (0, 50, 8, 8))
    report = prepare(coco, tmp_path / "two", fractions=(1, 0, 0))
    assert report.dropped == {("train", "cat", "part", "no object of its class around it"): 1}


def test_supercategories_with_annotated_objects(tmp_path):
    coco = CocoFile("dog", "cat", ("head", "dog"), ("paw", "cat"))
    for _ in range(6):
        image = coco.image()
        coco.label(image, "dog", (0, 0, 30, 60))
        coco.label(image, "cat", (32, 0, 30, 60))
        coco.label(image, "head", (2, 2, 9, 9))
        coco.label(image, "paw", (40, 40, 5, 5))
    prepare(coco, tmp_path, fractions=(1, 0, 0))
    dataset = load(tmp_path)
    assert part_names(dataset) == {"dog:head", "cat:paw"}
    assert len(dataset.records) == 12


def test_supercategories_without_objects(tmp_path):
    coco = CocoFile(("head", "dog"), ("leg", "dog"), ("wing", "bird"))
    for _ in range(4):
        image = coco.image()
        coco.label(image, "head", (10, 10, 20, 20))
        coco.label(image, "leg", (20, 30, 10, 20))
        coco.label(image, "wing", (40, 40, 20, 20))
    prepare(coco, tmp_path, fractions=(1, 0, 0))
    dataset = load(tmp_path)
    assert part_names(dataset) == {"dog:head", "dog:leg", "bird:wing"}
    # the union (10, 10) to (30, 50) begins at (5, 0)
    assert boxes(dataset, "dog") == {"head": [5, 10, 20, 20], "leg": [15, 30, 10, 20]}


def test_parts_with_one_name_in_two_classes_given_by_their_objects(tmp_path):
    coco = CocoFile("dog", "cat", "head", "tail")
    for _ in range(3):
        image = coco.image()
        dog, cat = coco.label(image, "dog", (0, 0, 30, 60)), coco.label(image, "cat", (32, 0, 30, 60))
        coco.label(image, "head", (2, 2, 9, 9), object_id=dog)
        coco.label(image, "head", (40, 2, 9, 9), object_id=cat)
        coco.label(image, "tail", (50, 40, 9, 9), object_id=cat)
    prepare(coco, tmp_path, fractions=(1, 0, 0), object_categories=("dog", "cat"))
    assert part_names(load(tmp_path)) == {"dog:head", "cat:head", "cat:tail"}


def test_one_class_for_everything(tmp_path):
    coco = CocoFile("_background_", "wheel", "door")
    for number in range(5):
        image = coco.image(path=f"JPEGImages/{number + 1}.jpg")
        coco.label(image, "wheel", segmentation=[[10, 30, 20, 30, 15, 44]], bbox=[10, 30, 10, 14])
        coco.label(image, "door", segmentation=[[10, 10, 50, 10, 50, 30, 10, 30]], bbox=[10, 10, 40, 25])
    notes: list[str] = []
    prepare(coco, tmp_path, fractions=(1, 0, 0), class_name="car", say=notes.append)
    dataset = load(tmp_path)
    assert part_names(dataset) == {"car:wheel", "car:door"}
    assert {r["part_labels"] for r in dataset.records} == {"mask"}
    assert boxes(dataset, "car") == {"wheel": [10, 29, 10, 14], "door": [10, 9, 40, 20]}  # of the polygon, not of bbox
    assert "images: 5 files found by their path" in notes
    assert "categories without a label, left out: _background_" in notes
    assert any(note.startswith("5 boxes differ") for note in notes)


def test_one_class_with_objects_grouped_by_a_field(tmp_path):
    coco = CocoFile("wheel", "door")
    for _ in range(3):
        image = coco.image()
        for left, owner in ((0, "a"), (34, "b")):
            coco.label(image, "wheel", (left + 2, 40, 8, 8), object_id=owner)
            coco.label(image, "door", (left + 2, 10, 24, 28), object_id=owner)
    prepare(coco, tmp_path, fractions=(1, 0, 0), class_name="car")
    assert len(load(tmp_path).records) == 6
    prepare(coco, tmp_path, fractions=(1, 0, 0), class_name="car", object_field="none", overwrite=True)
    assert len(load(tmp_path).records) == 3


@pytest.mark.parametrize("field", ["label", "class_id", "species"])
def test_the_class_of_the_image(tmp_path, field):
    coco = CocoFile("head", "leg")
    for number in range(6):
        value = number % 2 + 1 if field == "class_id" else ("cat", "dog")[number % 2]
        image = coco.image(**{field: value})
        coco.label(image, "head", (10, 10, 20, 20))
        if number % 2:
            coco.label(image, "leg", (10, 40, 20, 20))
    if field == "class_id":
        coco.document["classes"] = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    given = {"class_field": "species"} if field == "species" else {}
    prepare(coco, tmp_path, fractions=(1, 0, 0), **given)
    assert part_names(load(tmp_path)) == {"cat:head", "dog:head", "dog:leg"}


def test_a_part_dataset_file_can_be_prepared_again(tmp_path):
    prepare(animals(), tmp_path, fractions=(1, 0, 0))
    again = tmp_path / "again"
    notes: list[str] = []
    prepare_parts(
        tmp_path / "out" / "train.json",
        tmp_path / "out" / "images",
        again,
        CocoOptions(crop="none"),
        PrepareOptions(fractions=(1, 0, 0), crops=CropSettings(image_format="png")),
        say=notes.append,
    )
    first, second = load(tmp_path), load_part_dataset(again / "train.json", again / "images")
    assert second.class_names == first.class_names
    assert second.categories == first.categories
    assert "the supercategory of each part" in notes[0]
    assert [[a["bbox"] for a in r["annotations"]] for r in first.records] == [
        [a["bbox"] for a in r["annotations"]] for r in second.records
    ]


def test_whole_images(tmp_path):
    coco = animals()
    only_dog, empty = coco.image(), coco.image()
    dog = coco.label(only_dog, "dog", (2, 4, 28, 40))
    coco.label(only_dog, "dog:head", (4, 6, 10, 10), obj_ann_id=dog)
    second = coco.label(only_dog, "dog", (34, 4, 28, 40))
    coco.label(only_dog, "dog:head", (40, 6, 10, 10), obj_ann_id=second)
    report = prepare(coco, tmp_path, crop="none", fractions=(1, 0, 0))
    (record,) = load(tmp_path).records
    assert [a["object_id"] for a in record["annotations"]] == [dog, second]
    assert (record["width"], record["height"]) == (SIDE, SIDE)
    assert report.dropped == {
        ("-", "", "photograph", "objects of several classes"): 12,
        ("-", "", "photograph", "no labels"): 1,
    }
    assert empty == 14


def test_whole_images_without_a_part_are_kept_where_their_class_is_known(tmp_path):
    coco = CocoFile("head")
    for _ in range(2):
        coco.label(coco.image(label="dog"), "head", (10, 10, 20, 20))
    coco.image(label="dog")
    prepare(coco, tmp_path, crop="none", fractions=(1, 0, 0))
    assert [r["part_labels"] for r in load(tmp_path).records] == ["box", "box", "none"]
    prepare(coco, tmp_path, crop="none", fractions=(1, 0, 0), empty="absent", overwrite=True)
    assert [r["part_labels"] for r in load(tmp_path).records] == ["box", "box", "box"]


# ---------------------------------------------------------------- labels


def test_masks_move_with_their_crop(tmp_path):
    coco = CocoFile("dog", "dog:head", "dog:leg")
    image = coco.image()
    dog = coco.label(image, "dog", (20, 20, 24, 24))  # its crop begins at (14, 14)
    coco.label(image, "dog:head", segmentation=rle(22, 24, 30, 29), bbox=[22, 24, 8, 5], obj_ann_id=dog)
    coco.label(image, "dog:leg", segmentation=[[30, 30, 40, 30, 40, 36, 30, 36]], obj_ann_id=dog)  # no bbox
    prepare(coco, tmp_path, fractions=(1, 0, 0))
    (record,) = load(tmp_path).records
    head, leg = record["annotations"]
    assert record["part_labels"] == "mask"
    assert head["bbox"] == [8, 10, 8, 5]
    mask = mask_util.decode(head["segmentation"])
    assert mask.shape == (36, 36)
    assert mask[10:15, 8:16].all()
    assert mask.sum() == 40
    assert leg["segmentation"] == [[16, 16, 26, 16, 26, 22, 16, 22]]
    prepare(coco, tmp_path, fractions=(1, 0, 0), labels="box", overwrite=True)
    assert "segmentation" not in load(tmp_path).records[0]["annotations"][0]
    prepare(coco, tmp_path, fractions=(1, 0, 0), labels="none", overwrite=True)
    dataset = load(tmp_path)
    assert dataset.records[0]["annotations"] == []
    assert dataset.records[0]["part_labels"] == "none"
    assert part_names(dataset) == {"dog:head", "dog:leg"}


def test_large_objects_are_scaled_down_with_their_parts(tmp_path):
    prepare(animals(), tmp_path, fractions=(1, 0, 0), crops=CropSettings(max_side=27))
    record = next(r for r in load(tmp_path).records if len(r["annotations"]) == 2)
    assert (record["width"], record["height"]) == (19, 27)  # of 37 x 54
    assert record["annotations"][0]["bbox"] == pytest.approx([4 * 19 / 37, 3, 10 * 19 / 37, 5], abs=1e-3)


def test_everything_left_out_is_counted_with_its_reason(tmp_path):
    coco = animals(6)
    image = coco.image()
    small = coco.label(image, "dog", (5, 5, 10, 40))
    coco.label(image, "dog:head", (5, 5, 8, 8), obj_ann_id=small)
    dog = coco.label(image, "dog", (30, 30, 20, 20))
    coco.label(image, "dog:head", (0, 0, 8, 8), obj_ann_id=dog)  # far from its dog
    coco.label(image, "dog:head", (20, 40, 12, 8), obj_ann_id=dog)  # across the border of its crop
    coco.label(image, "dog:leg", (30, 30, 0, 8), obj_ann_id=dog)
    coco.label(image, "dog:leg", segmentation=[[30, 30, 35, 35]], obj_ann_id=dog)
    coco.label(image, "dog:leg", (30, 30, 9, 8), obj_ann_id=dog, iscrowd=1)
    crowd = coco.label(image, "cat", (0, 0, 60, 60), iscrowd=1)
    coco.label(image, "cat:head", (0, 0, 60, 60), obj_ann_id=crowd)
    coco.image()
    report = prepare(coco, tmp_path, fractions=(1, 0, 0))
    assert report.dropped == {
        ("train", "dog", "object", "shorter side below 16 pixels"): 1,
        ("train", "dog", "part", "its object is left out"): 1,
        ("train", "dog", "part", "outside the crop"): 1,
        ("train", "dog", "part", "empty box"): 1,
        ("train", "dog", "part", "polygons without area"): 1,
        ("train", "dog", "part", "crowd (iscrowd = 1)"): 1,
        ("train", "cat", "object", "crowd (iscrowd = 1)"): 1,
        ("train", "cat", "part", "its object is left out"): 1,
        ("-", "", "photograph", "no labels"): 1,
    }
    assert report.kept["train", "dog"]["clipped"] == 1
    labels = sum(1 for a in coco.document["annotations"] if a["category_id"] > 2)
    kept = sum(counts["parts"] for counts in report.kept.values())
    assert kept + sum(n for (_, _, what, _), n in report.dropped.items() if what == "part") == labels


def test_ignored_categories_are_left_out(tmp_path):
    report = prepare(animals(), tmp_path, fractions=(1, 0, 0), ignore_categories=("cat", "cat:head"))
    assert load(tmp_path).class_names == ("dog",)
    assert report.dropped["train", "", "part", "ignored category"] == 24


def test_objects_without_part_labels_are_not_labelled(tmp_path):
    coco = animals(6)
    coco.label(1, "dog", (2, 4, 28, 40))
    report = prepare(coco, tmp_path, fractions=(1, 0, 0))
    assert sorted(r["part_labels"] for r in load(tmp_path).records).count("none") == 1
    assert report.kept["train", "dog"]["unlabelled"] == 1
    prepare(coco, tmp_path, fractions=(1, 0, 0), empty="absent", overwrite=True)
    assert {r["part_labels"] for r in load(tmp_path).records} == {"box"}


# ---------------------------------------------------------------- splits


def test_no_photograph_is_in_two_splits(tmp_path):
    coco = animals(40)
    prepare(coco, tmp_path, workers=2)
    sources = [{r["source_image"] for r in load(tmp_path, split).records} for split in ("train", "val", "test")]
    assert [len(some) for some in sources] == [28, 6, 6]
    assert len(set.union(*sources)) == 40
    stems = [{p.name.split("_")[0] for p in (tmp_path / "out/images" / s).iterdir()} for s in ("train", "val", "test")]
    assert len(set.union(*stems)) == sum(map(len, stems))


def test_copies_of_a_photograph_stay_together(tmp_path):
    coco = animals(8)
    for seed in range(8):
        write_photo(tmp_path / "images" / f"{seed + 1}.jpg", seed // 2)  # each twice
    notes: list[str] = []
    prepare(coco, tmp_path, fractions=(0.5, 0.25, 0.25), say=notes.append)
    assert any(note.startswith("4 photographs are copies") for note in notes)
    for split in ("train", "val", "test"):
        names = {path.name.split("_")[0] for path in (tmp_path / "out/images" / split).iterdir()}
        assert all({str((int(n) - 1) // 2 * 2 + 1), str((int(n) - 1) // 2 * 2 + 2)} <= names for n in names)


def test_another_seed_is_another_split(tmp_path):
    coco = animals(12)
    prepare(coco, tmp_path, seed=0)
    prepare(coco, tmp_path, seed=1, output="other")
    assert set(os.listdir(tmp_path / "out/images/train")) != set(os.listdir(tmp_path / "other/images/train"))
