"""The readers of PartImageNet and PartImageNet++: what they give for each entry, before anything is cut."""

import json
from collections import Counter

import numpy as np
import pytest
from partimagenet_files import (
    CATEGORY,
    GOLDFISH,
    HEIGHT,
    JEEP,
    KING_SNAKE,
    PARTS,
    SQUARE,
    STAR,
    TENCH,
    TIGER,
    VIZSLA,
    WIDTH,
    PartImageNetFiles,
    area,
    decode,
    disjoint_classes,
    dropped,
    photos,
    read_all,
    rle,
    shared_classes,
)

from partbox.data import PartDatasetError
from partbox.data.preparation.readers.imagenet_photos import LEFT_OUT, Counts
from partbox.data.preparation.readers.partimagenet import PUBLISHED, PartImageNetReader

BAKERY = "n02776631"


# ---------------------------------------------------------------- PartImageNet: parts and classes


def test_eleven_classes_own_the_forty_published_parts(tmp_path):
    reader = PartImageNetReader(shared_classes(3).write(tmp_path))
    expected = [(super_class, part) for super_class in sorted(PARTS) for part in PARTS[super_class]]
    assert len(expected) == 40
    assert reader.part_names == expected
    assert reader.class_names == sorted(PARTS)
    for one in read_all(reader):
        (target,) = one.photo.objects
        assert {reader.part_names[part.category] for part in target.parts} == {(target.class_name, "Body")}
        assert target.box is None


def test_each_imagenet_class_owns_all_parts_of_its_super_class(tmp_path):
    reader = PartImageNetReader(shared_classes(3).write(tmp_path), classes=158)
    expected = [(wnid, part) for wnid in (TENCH, GOLDFISH) for part in PARTS["Fish"]]
    expected += [(VIZSLA, part) for part in PARTS["Quadruped"]] + [(JEEP, part) for part in PARTS["Car"]]
    assert reader.part_names == expected
    assert reader.class_names == [TENCH, GOLDFISH, VIZSLA, JEEP]
    for one in read_all(reader):
        (target,) = one.photo.objects
        assert target.class_name == one.photo.name.split("/")[-1].split("_")[0]
        assert {reader.part_names[part.category] for part in target.parts} == {(target.class_name, "Body")}


def test_category_ids_and_names_may_be_those_of_another_release(tmp_path):
    files = shared_classes(3)
    for split in files.splits.values():
        for category in split.document["categories"]:
            category["id"] += 1
            category["name"] = category["name"].removeprefix(category["supercategory"] + " ")
        split.document["categories"].reverse()  # ids give the order
        for label in split.document["annotations"]:
            label["category_id"] += 1
    reader = PartImageNetReader(files.write(tmp_path))
    assert reader.part_names == [(s, part) for s in sorted(PARTS) for part in PARTS[s]]
    assert {reader.part_names[p.category][1] for one in read_all(reader) for p in one.photo.objects[0].parts} == {
        "Body"
    }


# ---------------------------------------------------------------- PartImageNet: layouts


@pytest.mark.parametrize("layout", ["annotations/{split}/{split}.json", "annotations/{split}.json", "{split}.json"])
@pytest.mark.parametrize(
    "images",
    ["images/{split}/{name}", "{split}/{wnid}/{name}", "JPEGImages/{wnid}/{name}", "train/{wnid}/{name}", "{name}"],
)
@pytest.mark.parametrize("form", ["{name}", "{wnid}/{name}", "{wnid}\\{name}"])
def test_files_and_photographs_are_found_where_a_download_has_them(tmp_path, layout, images, form):
    files = PartImageNetFiles()
    for split in files.splits:
        files.photo(split, TENCH, "Body")
        image = files.splits[split].document["images"][0]
        image["file_name"] = form.format(name=image["file_name"], wnid=TENCH)
    reader = PartImageNetReader(files.write(tmp_path, layout, images))
    labels = read_all(reader)
    assert [one.photo.split for one in labels] == ["train", "val", "test"]
    for number, one in enumerate(labels, start=1):
        assert (reader.image_root / one.photo.name).is_file()
        assert one.photo.name.split("/")[-1] == f"{TENCH}_{number}.JPEG"


def test_the_folder_tells_the_class_where_the_name_does_not(tmp_path):
    files = PartImageNetFiles()
    for number, split in enumerate(files.splits.values()):
        split.label(split.photo(f"{TENCH}/a_tench_{number}.JPEG"), CATEGORY["Fish Body"])
    labels = read_all(PartImageNetReader(files.write(tmp_path), classes=158, find_photos=False))
    assert [one.photo.objects[0].class_name for one in labels] == [TENCH] * 3


def test_photographs_may_lie_elsewhere_or_not_be_needed(tmp_path):
    folder = shared_classes(3).write(tmp_path / "in", images="../ILSVRC/train/{wnid}/{name}")
    with pytest.raises(PartDatasetError, match=r"images\[0\].*n01440764_1\.JPEG.*--images"):
        read_all(PartImageNetReader(folder))
    for root in (tmp_path / "ILSVRC", tmp_path / "ILSVRC/train"):
        assert len(read_all(PartImageNetReader(folder, root))) == 12
    with pytest.raises(PartDatasetError, match="nowhere: --images: is not a folder"):
        PartImageNetReader(folder, tmp_path / "nowhere")
    labels = read_all(PartImageNetReader(folder, tmp_path / "nowhere", find_photos=False))
    assert [one.photo.name for one in labels][:1] == ["n01440764_1.JPEG"]
    assert sum(len(one.photo.objects[0].parts) for one in labels) == 12


# ---------------------------------------------------------------- masks


GOOD = [
    SQUARE,
    STAR,
    rle(3, 2, 30, 20),
    rle(0, 0, 5, 5, compressed=False),
    rle(10, 5, 40, 30, compressed=False),
    [[40, 30, 60, 30, 60, 50, 40, 50]],  # leaves the photograph
    [[1, 2, 3, 4], *SQUARE, [5, 5, 6, 6, 7, 7]],  # two points, a line
]


@pytest.mark.parametrize("segmentation", GOOD)
def test_masks_keep_their_pixels_and_boxes_are_tight(tmp_path, segmentation):
    files = PartImageNetFiles()
    files.photo("train", TENCH, "Body", segmentation=segmentation)
    files.photo("val", TENCH, "Body")
    files.photo("test", TENCH, "Body")
    first, *_ = read_all(PartImageNetReader(files.write(tmp_path)))
    (part,) = first.photo.objects[0].parts
    source = SQUARE if segmentation is GOOD[-1] else segmentation  # pycocotools takes four numbers for a box
    assert area(part.segmentation) == area(source) > 0
    rows, columns = np.nonzero(decode(source))
    box = np.clip(part.box, 0, [WIDTH, HEIGHT, WIDTH, HEIGHT])
    tight = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    assert np.abs(box - tight).max() <= (0 if isinstance(source, dict) else 1.0)
    assert first.photo.objects[0].part_labels == "mask"
    assert not first.dropped


# ---------------------------------------------------------------- odd things, each counted with its reason


def odd_files() -> tuple[PartImageNetFiles, Counter]:
    """A file with everything odd that is known of, and what must be counted."""
    files = PartImageNetFiles()
    files.photo("val", TENCH, "Body")
    files.photo("test", VIZSLA, "Body")
    train = files.splits["train"]
    head, body = CATEGORY["Fish Head"], CATEGORY["Fish Body"]
    image = train.photo("n01440764_90.JPEG")
    train.label(image, head)
    train.label(image, body, [])
    train.label(image, body, [[]])
    train.label(image, body, None)
    train.label(image, body, [[1, 2, 3, 4]])
    train.label(image, body, [[1, 1, 2, 2, 3, 3]])
    train.label(image, body, [[60, 60, 70, 60, 70, 70]])
    train.label(image, body, {"size": [HEIGHT, WIDTH], "counts": [WIDTH * HEIGHT]})
    train.label(image, body, rle(1, 1, 9, 9), iscrowd=1)
    train.label(image, CATEGORY["Car Tier"])
    train.photo("n01440764_91.JPEG")  # without annotation
    foreign = train.photo("n01440764_92.JPEG")
    train.label(foreign, CATEGORY["Bird Wing"])  # only of another super-class
    twice = files.splits["test"].photo("n01440764_90.JPEG")
    files.splits["test"].label(twice, body)
    train.photo("n01728920_1.JPEG")  # a class of which nothing tells what it is
    part = "part"
    reasons = {
        ("Fish", part, "no mask"): 3,
        ("Fish", part, "mask without a pixel in its photograph"): 4,
        ("Fish", part, "crowd (iscrowd = 1)"): 1,
        ("Fish", part, "part of another super-class than its ImageNet class"): 2,
        ("Fish", "photograph", "is in the files twice"): 1,
        ("Fish", part, LEFT_OUT): 1,
        ("", "photograph", "no photograph of its ImageNet class has a part label"): 1,
    }
    return files, Counter(reasons)


@pytest.mark.parametrize("empty", ["unlabelled", "absent"])
def test_everything_odd_is_counted_with_its_reason(tmp_path, empty):
    files, expected = odd_files()
    labels = read_all(PartImageNetReader(files.write(tmp_path), empty=empty))
    assert +dropped(labels) == expected
    given = photos(labels)
    assert len(given["n01440764_90.JPEG"].objects[0].parts) == 1
    assert given["n01440764_90.JPEG"].split == "train"  # the first one counts
    without = given["n01440764_91.JPEG"].objects[0]
    assert without.part_labels == ("none" if empty == "unlabelled" else "mask")
    assert given["n01440764_92.JPEG"].objects[0].part_labels == "none"  # its parts are there, but not labelled
    assert "n01728920_1.JPEG" not in given
    assert len(labels) == 7
    total = sum(len(one.photo.objects[0].parts) for one in labels if one.photo.objects)
    kept_and_dropped = total + sum(count for (_, what, _), count in dropped(labels).items() if what == "part")
    assert kept_and_dropped == sum(len(s.document["annotations"]) for s in files.splits.values())


def test_odd_things_belong_to_the_imagenet_class_where_there_are_158(tmp_path):
    files, expected = odd_files()
    labels = read_all(PartImageNetReader(files.write(tmp_path), classes=158))
    assert {name for name, _, _ in +dropped(labels)} == {TENCH, ""}
    assert sum((+dropped(labels)).values()) == sum(expected.values())


def test_the_super_class_is_that_of_most_labels_not_of_the_first(tmp_path):
    files = PartImageNetFiles()
    image = files.splits["train"].photo("n01440764_9.JPEG")
    files.splits["train"].label(image, CATEGORY["Aeroplane Wing"])
    for split in files.splits:
        files.photo(split, TENCH, "Body", "Fin")
    reader = PartImageNetReader(files.write(tmp_path))
    assert reader.super_class_of == {TENCH: "Fish"}
    assert {one.photo.objects[0].class_name for one in read_all(reader)} == {"Fish"}


# ---------------------------------------------------------------- the owners' splits


def test_own_splits_are_refused_where_classes_have_nothing_to_learn_from(tmp_path):
    disjoint = disjoint_classes(3).write(tmp_path / "ood")
    PartImageNetReader(disjoint, own_splits=True)  # both super-classes of val and test are in train
    with pytest.raises(
        PartDatasetError, match=rf"2 of the 5 classes \({GOLDFISH}, {TIGER}\) have no photograph in train"
    ):
        PartImageNetReader(disjoint, classes=158, own_splits=True)
    PartImageNetReader(shared_classes(3).write(tmp_path / "seg"), classes=158, own_splits=True)
    files = disjoint_classes(3)
    files.photo("test", KING_SNAKE, "Head")
    with pytest.raises(PartDatasetError, match=r"1 of the 4 classes \(Snake\)"):
        PartImageNetReader(files.write(tmp_path / "snake"), own_splits=True)


# ---------------------------------------------------------------- counts and descriptions


def test_counts_that_differ_from_the_published_ones_are_told(tmp_path):
    said: list[str] = []
    files = disjoint_classes(2)
    for wnid in (TENCH, VIZSLA, JEEP):
        files.photo("train", wnid, "Body", "Body")
    reader = PartImageNetReader(files.write(tmp_path), say=said.append)
    assert reader.count() == len(list(reader.entries())) == 13
    assert [note.split(" (")[0] for note in said] == [
        "counts: 5 ImageNet classes, published are 158",
        "counts: 13 photographs, published are 24,095",
        "counts: 16 annotations, published are 111,960",
    ]
    assert all("issue 8" in note for note in said)
    assert Counts(158, 40, 24_095, 111_960).compare(PUBLISHED, "S") == [
        "counts: classes, part categories, photographs and annotations are as published (S)"
    ]


def test_the_description_changes_with_every_file_and_meaning(tmp_path):
    folder = shared_classes(3).write(tmp_path)
    given = [
        PartImageNetReader(folder).describe(),
        PartImageNetReader(folder, classes=158).describe(),
        PartImageNetReader(folder, empty="absent").describe(),
    ]
    for split in ("train", "val", "test"):
        file = folder / f"annotations/{split}/{split}.json"
        file.write_text(file.read_text() + "\n")
        given.append(PartImageNetReader(folder).describe())
    assert len({repr(one) for one in given}) == len(given)
    assert str(tmp_path) not in repr(given)


# ---------------------------------------------------------------- malformed input


def change_first_label(**fields):
    return lambda files: files.splits["train"].document["annotations"][0].update(fields)


def change_first_image(**fields):
    return lambda files: files.splits["train"].document["images"][0].update(fields)


def change_category(index, **fields):
    def change(files):
        for split in files.splits.values():
            split.document["categories"][index].update(fields)

    return change


def remove_category(files):
    for split in files.splits.values():
        del split.document["categories"][3]


REFUSALS = [
    (change_first_label(category_id=77), r"annotations\[0\] \(id 0\): unknown category_id 77"),
    (change_first_label(category_id="0"), r"annotations\[0\].*category_id must be an integer"),
    (change_first_label(image_id=99), r"annotations\[0\].*no image has the id 99"),
    (change_first_label(segmentation=[1, 2, 3, 4, 5, 6]), r"annotations\[0\].*even number of finite numbers"),
    (change_first_label(segmentation=[[1, 2, 3, 4, 5]]), r"annotations\[0\].*even number of finite numbers"),
    (change_first_label(segmentation=[[1, 2, 3, 4, 5, None]]), r"annotations\[0\].*even number of finite numbers"),
    (change_first_label(segmentation="x"), r"annotations\[0\].*must be a list of polygons or an RLE"),
    (change_first_label(segmentation={"size": [9, 9], "counts": [81]}), r"annotations\[0\].*RLE size"),
    (change_first_label(segmentation={"size": [HEIGHT, WIDTH], "counts": [5, 5]}), r"annotations\[0\].*counts sum to"),
    (change_first_label(iscrowd="yes"), r"annotations\[0\].*iscrowd must be 0 or 1"),
    (change_first_image(width=0), r"images\[0\].*width must lie in"),
    (change_first_image(height=None), r"images\[0\].*height must be an integer"),
    (change_first_image(file_name="cat.JPEG"), r"images\[0\].*does not name its ImageNet class"),
    (change_first_image(file_name="../n01440764_1.JPEG"), r"images\[0\].*no path below a folder"),
    (change_first_image(file_name="/n01440764_1.JPEG"), r"images\[0\].*no path below a folder"),
    (change_first_image(id=1), r"images\[1\].*id 1 is already used"),
    (change_category(5, supercategory="Tree"), r'categories\[5\].*supercategory "Tree" is none of PartImageNet'),
    (change_category(5, name="Biped Head"), r"categories\[5\].*is there twice"),
    (change_category(5, id=4), r"categories\[5\].*is there twice"),
    (remove_category, r"train\.json: categories: Quadruped has 3 parts, PartImageNet has 4"),
    (lambda f: f.splits["val"].document["categories"][0].update(id=99), r"val\.json: categories: differ from those of"),
    (lambda f: f.splits["test"].document.pop("images"), r'test\.json.*"images" is missing'),
]


@pytest.mark.parametrize(("change", "reason"), REFUSALS)
def test_malformed_input_is_refused_by_entry(tmp_path, change, reason):
    files = shared_classes(3)
    files.write(tmp_path)  # the photographs, before the change
    change(files)
    for split, file in files.splits.items():
        (tmp_path / f"annotations/{split}/{split}.json").write_text(json.dumps(file.document))
    with pytest.raises(PartDatasetError, match=reason) as error:
        read_all(PartImageNetReader(tmp_path))
    assert "\n" not in str(error.value)


def test_a_folder_that_is_no_download_and_a_truncated_file_are_refused(tmp_path):
    with pytest.raises(PartDatasetError, match=r"looked for annotations/train/train\.json"):
        PartImageNetReader(tmp_path)
    folder = shared_classes(3).write(tmp_path)
    file = folder / "annotations/val/val.json"
    file.write_text(file.read_text()[:-30])
    with pytest.raises(PartDatasetError, match=r"val\.json.*is not JSON, or ends too early"):
        PartImageNetReader(folder)
