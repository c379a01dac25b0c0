"""PACO's files, read: what is a class, what is a part of which object, what is left out and why, what is refused."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from paco_files import (
    CLASS_ID,
    DOG,
    HEIGHT,
    MUG,
    PART_ID,
    VOCABULARY,
    WIDTH,
    WITHOUT_PARTS,
    PacoFiles,
    listed,
    rectangle,
    small_release,
)
from part_dataset_files import compressed
from pycocotools import mask as mask_util

from partbox.data import PartDatasetError
from partbox.data.preparation.readers.paco import PacoReader
from partbox.data.preparation.readers.paco_release import PACO_EGO4D, PACO_LVIS, Release


def open_paco(paco: PacoFiles, folder, **options) -> PacoReader:
    annotations, images = paco.write(folder)
    return PacoReader({"lvis": PACO_LVIS, "ego4d": PACO_EGO4D}[paco.name], annotations, images, **options)


def read(paco: PacoFiles, folder, **options) -> list:
    """The labels of every photograph, read by a reader that was sent to another process."""
    reader = open_paco(paco, folder, **options)
    there = pickle.loads(pickle.dumps(reader))
    return [there.read(pickle.loads(pickle.dumps(entry))) for entry in reader.entries()]


def parts_of(reader_or_names, target) -> list[str]:
    return [":".join(reader_or_names[part.category]) for part in target.parts]


# ---------------------------------------------------------------- classes and parts


def test_classes_and_parts_are_complete_whatever_the_data_show(tmp_path):
    reader = open_paco(small_release(), tmp_path)
    assert list(reader.class_names) == list(VOCABULARY)
    assert len(reader.class_names) == 75
    assert set(WITHOUT_PARTS) < set(reader.class_names)
    assert len(reader.part_names) == len(set(reader.part_names)) == 456
    by_class = {name: {part for owner, part in reader.part_names if owner == name} for name in VOCABULARY}
    assert by_class == {name: set(parts) for name, parts in VOCABULARY.items()}


def test_each_annotation_is_the_part_that_its_category_names(tmp_path):
    paco = PacoFiles()
    expected = []
    for name, parts in VOCABULARY.items():
        owner = paco.object(paco.image(), name, (8, 8, 30, 30))
        for place, part in enumerate(parts):
            paco.part(owner, f"{name}:{part}", (8 + place, 8, 5, 6))
            expected.append((name, f"{name}:{part}", (8 + place, 8, 13 + place, 14)))
    for split in ("val", "test"):
        paco.mug_and_dog(split)
    reader = open_paco(paco, tmp_path)
    photos = [reader.read(entry).photo for entry in reader.entries()]
    targets = [target for photo in photos if photo.split == "train" for target in photo.objects]
    found = [
        (target.class_name, ":".join(reader.part_names[part.category]), part.box)
        for target in targets
        for part in target.parts
    ]
    assert found == expected
    assert [target.class_name for target in targets] == list(VOCABULARY)


def test_an_object_keeps_its_own_parts_in_every_split(tmp_path):
    paco = small_release()
    names = open_paco(paco, tmp_path).part_names
    labels = read(paco, tmp_path)
    assert [label.photo.split for label in labels] == ["train", "train", "train", "val", "test"]
    assert [label.photo.name for label in labels] == [f"train2017/{n:012d}.jpg" for n in range(1, 6)]
    assert {label.photo.source for label in labels} == {""}
    for label in labels:
        mug, dog = label.photo.objects
        assert (label.photo.width, label.photo.height) == (WIDTH, HEIGHT)
        assert (mug.class_name, mug.box, mug.part_labels) == ("mug", (8, 8, 24, 28), "mask")
        assert (dog.class_name, dog.box, dog.part_labels) == ("dog", (36, 8, 56, 38), "mask")
        assert parts_of(names, mug) == ["mug:handle", "mug:body"]
        assert parts_of(names, dog) == ["dog:head", "dog:leg"]
        assert not label.dropped
    assert [len({target.number for target in label.photo.objects}) for label in labels] == [2] * 5


def test_the_frames_of_a_video_have_one_source(tmp_path):
    labels = read(small_release("ego4d", (4, 2, 1)), tmp_path)
    assert [label.photo.source for label in labels] == [f"0f1e-{number % 3}" for number in range(1, 8)]


def test_a_frame_that_does_not_tell_its_video_is_refused(tmp_path):
    paco = small_release("ego4d")
    paco.documents["train"]["images"][1]["file_name"] = "frame.jpeg"
    with pytest.raises(PartDatasetError, match=r"paco_ego4d_v1_train\.json: images\[1\].*not <video>_<number>"):
        read(paco, tmp_path)


# ---------------------------------------------------------------- masks and boxes


def ring() -> np.ndarray:
    """Two pieces, one of them with a hole."""
    mask = rectangle((10, 9, 12, 14))
    mask[12:16, 13:18] = 0
    mask[25, 11] = 1
    return mask


@pytest.mark.parametrize("encode", [compressed, listed])
def test_masks_come_through_exactly_and_their_boxes_are_tight(tmp_path, encode):
    paco = small_release()
    paco.documents["train"]["annotations"][3].update(segmentation=encode(ring()), bbox=[0, 0, 64, 48])
    (handle, _) = read(paco, tmp_path)[0].photo.objects[0].parts
    rle = handle.segmentation
    if encode is listed:
        rle = mask_util.frPyObjects(rle, *rle["size"])
    np.testing.assert_array_equal(mask_util.decode(rle), ring())
    assert handle.box == (10, 9, 22, 26)


def test_polygons_are_kept_and_those_without_area_left_out(tmp_path):
    paco = small_release()
    triangle, line = [10.0, 9.0, 20.0, 9.0, 15.0, 20.5], [1, 1, 30, 40]
    annotations = paco.documents["train"]["annotations"]
    annotations[3]["segmentation"] = [line, triangle, [5, 5, 9, 5, 12, 5]]
    annotations[4]["segmentation"] = [line]
    label = read(paco, tmp_path)[0]
    (handle,) = label.photo.objects[0].parts
    assert handle.segmentation == [triangle]
    assert handle.box == (10, 9, 20, 20.5)
    assert label.dropped == {("mug", "part", "mask without a pixel in its photograph"): 1}


def test_boxes_of_the_published_size_without_masks(tmp_path):
    paco = small_release()
    annotations = paco.documents["train"]["annotations"]
    annotations[3]["segmentation"] = []
    annotations[4].update(segmentation={}, bbox=[12, 8, 0, 20])
    as_masks = read(paco, tmp_path)[0]
    assert as_masks.photo.objects[0].parts == ()
    assert as_masks.photo.objects[0].part_labels == "none"
    assert as_masks.dropped == {("mug", "part", "no mask"): 2}
    as_boxes = read(paco, tmp_path, labels="box")[0]
    (handle,) = as_boxes.photo.objects[0].parts
    assert (handle.box, handle.segmentation) == ((8, 12, 12, 21), None)
    assert as_boxes.dropped == {("mug", "part", "empty box"): 1}
    assert {target.part_labels for target in as_boxes.photo.objects} == {"box"}


# ---------------------------------------------------------------- what is not there


def test_an_object_without_parts_was_rejected_by_the_annotators(tmp_path):
    paco = small_release()
    image = paco.image()
    paco.object(image, "mug", (8, 8, 16, 20))
    paco.object(image, "ball", (36, 8, 20, 30))
    photo = next(label.photo for label in read(paco, tmp_path) if label.photo.name.endswith(f"{image}.jpg"))
    assert [(target.class_name, target.part_labels) for target in photo.objects] == [("mug", "none"), ("ball", "none")]
    for labels in ("mask", "box"):
        absent = read(paco, tmp_path, empty="absent", labels=labels)
        photo = next(label.photo for label in absent if label.photo.name == photo.name)
        assert [target.part_labels for target in photo.objects] == [labels, labels]


def test_no_labels_at_all(tmp_path):
    targets = [target for label in read(small_release(), tmp_path, labels="none") for target in label.photo.objects]
    assert {target.part_labels for target in targets} == {"none"}
    assert len(targets) == 10


def test_everything_left_out_is_counted_with_its_reason(tmp_path):
    paco = small_release()
    image = paco.image()
    for box, fields in (
        ((0, 0, 60, 40), {"iscrowd": 1}),
        ((0, 0, 60, 40), {"ignore": 1}),
        ((5, 5, 0, 20), {}),
    ):
        owner = paco.object(image, "mug", box, segmentation=[], **fields)
        paco.part(owner, "mug:rim", (5, 5, 5, 5))
    dog = paco.object(image, "dog", (5, 5, 7, 5))
    paco.part(dog, "dog:tail", (5, 5, 5, 5), iscrowd=1)
    paco.part(dog, "dog:tail", (5, 5, 5, 5), ignore=1)
    paco.part(dog, "dog:head", (5, 5, 5, 5), segmentation=[])
    paco.part(dog, "dog:leg", (5, 5, 5, 5), segmentation=compressed(rectangle((0, 0, 0, 0))))
    paco.part(dog, "dog:leg", (5, 5, 5, 5))
    paco.image()
    labels = {label.photo.name: label for label in read(paco, tmp_path)}
    found = labels[f"train2017/{image:012d}.jpg"]
    assert [(target.class_name, len(target.parts)) for target in found.photo.objects] == [("dog", 1)]
    assert found.dropped == {
        ("mug", "object", "crowd (iscrowd = 1)"): 1,
        ("mug", "object", "to be ignored (ignore = 1)"): 1,
        ("mug", "object", "empty box"): 1,
        ("mug", "part", "its object is left out"): 3,
        ("dog", "part", "crowd (iscrowd = 1)"): 1,
        ("dog", "part", "to be ignored (ignore = 1)"): 1,
        ("dog", "part", "no mask"): 1,
        ("dog", "part", "mask without a pixel in its photograph"): 1,
    }
    empty = labels[f"train2017/{image + 1:012d}.jpg"]
    assert empty.photo.objects == ()
    assert empty.dropped == {("", "photograph", "no labels"): 1}


# ---------------------------------------------------------------- counts


def told(paco: PacoFiles, folder, **release) -> list[str]:
    """What a reader says when it has given all entries."""
    notes: list[str] = []
    reader = open_paco(paco, folder, say=notes.append)
    reader.release = Release(**{**vars(reader.release), **release})
    assert reader.count() == sum(1 for _ in reader.entries())
    return notes


def test_other_numbers_than_published_are_told(tmp_path):
    notes = told(small_release(), tmp_path)
    assert notes[:2] == [
        "the train split of PACO-LVIS has 3 images, its owners count 45,790",
        "the train split of PACO-LVIS has 6 objects, its owners count 217,117",
    ]
    assert "the test split of PACO-LVIS has 4 part masks, its owners count 86,041" in notes
    assert len(notes) == 9


def test_other_categories_than_published_are_told(tmp_path):
    paco = small_release()
    for document in paco.documents.values():
        document["categories"] = [c for c in document["categories"] if not c["name"].startswith("thing_9")]
    notes = told(paco, tmp_path)
    assert notes[0] == "PACO-LVIS has 74 classes, its owners count 75"
    assert notes[1] == f"PACO-LVIS has {456 - len(VOCABULARY['thing_9'])} kinds of parts, its owners count 456"


def test_the_published_numbers_are_told_in_one_sentence(tmp_path):
    numbers = zip(PACO_EGO4D.published.items(), [(3, 6, 12), (1, 2, 4), (1, 2, 4)], strict=True)
    published = {split: type(counts)(*own) for (split, counts), own in numbers}
    paco = small_release("ego4d")
    for number, document in enumerate(paco.documents.values()):
        for image in document["images"]:
            image["file_name"] = f"{number}_{image['id']:06d}.jpeg"
    assert told(paco, tmp_path, published=published) == [
        "PACO-EGO4D: all numbers of images, objects and part masks are those of its owners"
    ]


def test_videos_in_several_of_the_owners_splits_are_told(tmp_path):
    notes = told(small_release("ego4d", (4, 2, 1)), tmp_path)  # of the videos 1 2 0 1, 2 0, 1
    assert notes[-1].startswith("videos with frames in several of the owners' splits: 3;")
    notes = told(small_release("ego4d", (2, 1, 1)), tmp_path)  # 1 2, 0, 1
    assert notes[-1].startswith("videos with frames in several of the owners' splits: 1;")
    assert "video" not in " ".join(told(small_release(), tmp_path))


def test_totals_are_those_of_the_paper():
    """Table 1 of the paper: 57.6K images, 274K objects and 502K part masks; 641.4K part masks with Ego4D."""
    lvis, ego4d = ([vars(counts) for counts in release.published.values()] for release in (PACO_LVIS, PACO_EGO4D))
    assert sum(counts["images"] for counts in lvis) == 57_643
    assert round(sum(counts["objects"] for counts in lvis), -3) == 274_000
    assert round(sum(counts["parts"] for counts in lvis), -3) == 502_000
    assert round(sum(counts["parts"] for counts in lvis + ego4d), -2) == 641_400


def test_a_changed_file_is_another_input(tmp_path):
    paco = small_release()
    first = open_paco(paco, tmp_path).describe()
    assert open_paco(paco, tmp_path).describe() == first
    assert open_paco(paco, tmp_path, labels="box").describe() != first
    assert open_paco(paco, tmp_path, empty="absent").describe() != first
    paco.documents["val"]["annotations"][2]["attribute_ids"] = []
    assert open_paco(paco, tmp_path).describe() != first
    assert "mug:handle" in first["meaning"]["parts"]
    assert first["meaning"]["classes"] == list(VOCABULARY)


# ---------------------------------------------------------------- refusals


def annotation(index, **fields):
    return lambda documents: documents["train"]["annotations"][index].update(fields)


def without(index, key):
    return lambda documents: documents["train"]["annotations"][index].pop(key)


def category(index, **fields):
    return lambda documents: [d["categories"][index].update(fields) for d in documents.values()]


MUG_ID, DOG_ID, HANDLE = CLASS_ID["mug"], CLASS_ID["dog"], PART_ID["mug:handle"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (annotation(3, obj_ann_id=7), r"annotations\[3\] \(id 4\): obj_ann_id 7 is no object of its image"),
        (annotation(3, obj_ann_id=99), r"annotations\[3\] \(id 4\): obj_ann_id 99 is no object of its image"),
        (annotation(3, obj_ann_id=3), r"annotations\[3\].*obj_ann_id 3 is no object of its image"),
        (annotation(3, obj_ann_id=2), r"annotations\[3\].*belongs to class 'mug', its object 2 to 'dog'"),
        (annotation(3, obj_ann_id=4), rf"annotations\[3\].*it is an object, category_id {HANDLE} is none"),
        (annotation(0, obj_ann_id=2), rf"annotations\[0\].*it is a part of object 2, category_id {MUG_ID} is none"),
        (without(3, "obj_ann_id"), r'annotations\[3\].*required key "obj_ann_id" is missing'),
        (without(0, "obj_ann_id"), r'annotations\[0\].*required key "obj_ann_id" is missing'),
        (annotation(3, obj_ann_id=None), r"annotations\[3\].*obj_ann_id must be an integer, is null"),
        (annotation(3, category_id=1), r"annotations\[3\].*unknown category_id 1\."),
        (annotation(3, category_id=[1]), r"annotations\[3\].*category_id must be .*integer"),
        (annotation(3, category_id={}), r"annotations\[3\].*category_id must be .*integer"),
        (annotation(3, id=1), r"annotations\[3\].*id 1 is used twice in its image"),
        (annotation(3, image_id=999), r"annotations\[3\].*no image has the id 999"),
        (annotation(0, bbox=[1, 2, 3]), r"annotations\[0\].*bbox must be four finite numbers"),
        (annotation(0, bbox=[40, 20, -3, 9]), r"annotations\[0\].*negative width"),
        (without(0, "bbox"), r'annotations\[0\].*required key "bbox" is missing'),
        (annotation(3, segmentation="abc"), r"annotations\[3\].*segmentation must be a list of polygons or an RLE"),
        (
            annotation(3, segmentation={**compressed(rectangle((8, 12, 4, 9))), "size": [WIDTH, HEIGHT]}),
            r"annotations\[3\].*RLE size .*\[64, 48\], the image's is \[48, 64\]",
        ),
        (annotation(3, segmentation={"size": [HEIGHT, WIDTH], "counts": [9, 9]}), r"annotations\[3\].*sum to 18"),
        (annotation(3, segmentation=[[1, 1, 9, 1, 9, float("1e5")]]), r"annotations\[3\].*polygon leaves its image"),
        (
            annotation(3, segmentation=[[1, 1, 9, 1, 9, 9], [1, 1, 9, 1, 9]]),
            r"annotations\[3\].*polygon 1 must be an even number",
        ),
        (lambda d: d["train"]["images"][0].pop("width"), r'images\[0\].*required key "width" is missing'),
        (lambda d: d["train"]["images"][0].update(height=0), r"images\[0\].*height must lie in"),
        (lambda d: d["train"]["images"][0].update(file_name="../a.jpg"), r"images\[0\].*no path below the folder"),
        (lambda d: d["train"]["images"][1].update(id=1), r"images\[1\].*id 1 is already used"),
        (lambda d: d["train"].pop("images"), r'"images" is missing or empty'),
        (category(0, supercategory="THING"), r'categories\[0\].*must be OBJECT or PART, is "THING"'),
        (category(1, id=23), r"categories\[1\].*23 is already used by categories\[0\]"),
        (category(1, name="mug"), r'categories\[2\].*"mug" is already used by categories\[1\]'),
        (category(0, name="mug:lid"), r'categories\[0\].*"mug:lid" does not fit supercategory OBJECT'),
        (category(-1, name="tail"), r'categories\[530\].*"tail" does not fit supercategory PART'),
        (category(-1, name="cat:tail"), r"categories\[530\].*no object is named 'cat'"),
        (category(-1, name="dog:"), r"categories\[530\].*the name of the part is missing"),
        (
            lambda d: d["val"]["categories"].pop(),
            r"paco_lvis_v1_val\.json: categories: are not those of the other splits",
        ),
        (
            lambda documents: [d.update(categories=d["categories"][:75]) for d in documents.values()],
            r"paco_lvis_v1_train\.json: categories: none is a part",
        ),
    ],
)
def test_malformed_files_are_refused_by_entry(tmp_path, change, message):
    paco = small_release()
    change(paco.documents)
    with pytest.raises(PartDatasetError, match=message):
        read(paco, tmp_path)


def test_a_missing_file_is_named(tmp_path):
    annotations, images = small_release().write(tmp_path)
    (annotations / "paco_lvis_v1_val.json").unlink()
    with pytest.raises(PartDatasetError, match=r"paco_lvis_v1_val\.json: file: does not exist"):
        PacoReader(PACO_LVIS, annotations, images)


def test_the_miniature_has_the_published_vocabulary():
    assert (len(CLASS_ID), len(PART_ID)) == (75, 456)
    assert set(MUG) | set(DOG) < {name.split(":")[1] for name in PART_ID}
    assert DOG_ID != MUG_ID
