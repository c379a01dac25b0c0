"""The reader of PASCAL-Part on miniatures in the layout of its archives."""

import pickle
import random
import struct
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from pascal_part_files import SIZE, PascalPart, car, dog, labelled, region, structs, write_mat
from pycocotools import mask as mask_util
from scipy.io import savemat

from partbox.data import PartDatasetError
from partbox.data.preparation.object_crops import CropSettings, CropTask, cut_photo
from partbox.data.preparation.photo_reader import PhotoLabels
from partbox.data.preparation.readers.pascal_part import (
    HIDDEN,
    LARGEST_UNLABELLED,
    NO_OBJECT,
    NO_PIXEL,
    NOT_LARGEST,
    OTHER_CLASS,
    OTHER_LARGEST,
    PascalPartReader,
)
from partbox.data.preparation.readers.pascal_part_mat import read_objects

PAPER = {
    "aeroplane": {"tail": "tail stern", "wing": "lwing rwing engine_1 engine_6", "body": "body wheel_1 wheel_8"},
    "bird": {
        "head": "head beak leye reye neck",
        "legs": "lleg rleg lfoot rfoot",
        "body": "torso lwing rwing tail",
    },
    "car": {
        "wheel": "wheel_1 wheel_5",
        "window": "window_1 window_20",
        "body": "frontside leftside rightside backside roofside leftmirror rightmirror fliplate bliplate door_2 "
        "headlight_1",
    },
    "cat": {
        "head": "head leye reye lear rear nose neck",
        "legs": "lfleg rfleg lbleg rbleg lfpa rfpa lbpa rbpa",
        "body": "torso tail",
    },
    "dog": {
        "head": "head leye reye lear rear nose neck muzzle",
        "legs": "lfleg rfleg lbleg rbleg lfpa rfpa lbpa rbpa",
        "body": "torso tail",
    },
}
"""The paper's parts, in the order in which they are painted, with one or two of each numbered name."""


def read(reader: PascalPartReader) -> dict[str, PhotoLabels]:
    return {entry[0]: reader.read(entry) for entry in reader.entries()}


def only(reader: PascalPartReader) -> PhotoLabels:
    (labels,) = read(reader).values()
    return labels


def decoded(reader: PascalPartReader, labels: PhotoLabels, number: int = 0) -> dict[str, np.ndarray]:
    """Part -> (H, W) bool of one object of a photograph, of all parts of this name."""
    masks: dict[str, np.ndarray] = {}
    for part in labels.photo.objects[number].parts:
        name = reader.part_names[part.category][1]
        masks[name] = masks.get(name, False) | mask_util.decode(part.segmentation).astype(bool)
    return masks


def test_the_parts_are_complete_and_in_the_order_of_the_table_whatever_the_data_show(tmp_path):
    PascalPart(tmp_path).add("2008_000001", dog())
    reader = PascalPartReader(tmp_path)
    assert reader.part_names == tuple((name, part) for name, parts in PAPER.items() for part in parts)
    assert reader.class_names == tuple(PAPER)
    everything = PascalPartReader(tmp_path, classes="all").part_names
    assert len(everything) == len(set(everything)) == 193
    silhouettes = {"boat", "chair", "diningtable", "sofa"}
    classes = PascalPartReader(tmp_path, classes="all").class_names
    assert len(classes) == 20
    assert {name for name, _ in everything} == set(classes) - silhouettes


def test_every_published_part_of_the_papers_classes_goes_to_its_coarse_part(tmp_path):
    tree = PascalPart(tmp_path)
    for class_name, parts in PAPER.items():
        names = [name for some in parts.values() for name in some.split()]
        masks = [(name, region(i, 0, i + 1, 9)) for i, name in enumerate(names)]
        tree.add(class_name, labelled(class_name, region(0, 0, len(names), 10), *masks))
    reader = PascalPartReader(tmp_path)
    for class_name, labels in read(reader).items():
        assert not labels.dropped
        start = 0
        wanted = {}
        for part, names in PAPER[class_name].items():
            wanted[part] = region(start, 0, start + len(names.split()), 9)
            start += len(names.split())
        got = decoded(reader, labels)
        assert list(got) == list(PAPER[class_name])
        assert all((got[part] == wanted[part]).all() for part in wanted)


def test_names_are_told_apart_as_in_the_paper_where_a_name_that_contains_another_counted(tmp_path):
    """The original matched "wheel" in "wheel_1"; no name of a class may so match two of its parts."""
    PascalPart(tmp_path).add("2008_000001", dog())
    published = PascalPartReader(tmp_path, classes="all").part_names
    for class_name, parts in PAPER.items():
        known = {part: [name.split("_")[0] for name in names.split()] for part, names in parts.items()}
        for owner, name in published:
            if owner == class_name:
                matches = [part for part, names in known.items() if any(other in name for other in names)]
                assert matches == [part for part, names in known.items() if name in names], (class_name, name)
                assert len(matches) == 1


def slow_paint(objects: list[dict], class_name: str) -> np.ndarray:
    """One pixel after the other: the number of its part in the paper's table, 0 for none."""
    painted = np.zeros((SIZE[1], SIZE[0]), dtype=int)
    for target in objects:
        for number, names in enumerate(PAPER[class_name].values(), start=1):
            known = {name.split("_")[0] for name in names.split()}
            for row in range(SIZE[1]):
                for column in range(SIZE[0]):
                    covered = any(
                        part["mask"][row, column]
                        for part in target["parts"].ravel()
                        if str(part["part_name"]).split("_")[0] in known
                    )
                    if covered and not painted[row, column]:
                        painted[row, column] = number
    return painted


@pytest.mark.parametrize("seed", range(3))
def test_parts_are_painted_in_the_papers_order_the_largest_object_first(tmp_path, seed):
    draw = np.random.default_rng(seed)
    names = [name for some in PAPER["dog"].values() for name in some.split()]

    def some_dog(grain: int) -> dict:
        def blobs(share: float) -> np.ndarray:
            coarse = draw.random((SIZE[1] // grain, SIZE[0] // grain)) < share
            return np.kron(coarse, np.ones((grain, grain))).astype(np.uint8)

        chosen = draw.choice(names, 5, replace=False).tolist()
        return labelled("dog", blobs(0.3 if grain == 5 else 0.9), *((name, blobs(0.4)) for name in chosen))

    small, large = some_dog(5), some_dog(10)
    PascalPart(tmp_path).add("2008_000001", small, large)
    reader = PascalPartReader(tmp_path)
    labels = only(reader)
    painted = slow_paint([large, small], "dog")
    got = decoded(reader, labels)
    for number, part in enumerate(PAPER["dog"], start=1):
        assert (got.get(part, np.zeros_like(painted, dtype=bool)) == (painted == number)).all()
    areas = sum(int(mask_util.area(part.segmentation)) for part in labels.photo.objects[0].parts)
    assert areas == (painted > 0).sum()  # no pixel twice
    assert labels.photo.objects[0].parts[0].object_id == 2


def test_pixels_of_an_object_that_are_in_no_part_stay_unlabelled(tmp_path):
    PascalPart(tmp_path).add("2008_000001", dog())
    reader = PascalPartReader(tmp_path)
    covered = sum(decoded(reader, only(reader)).values())
    assert not covered[34, 30]  # of the dog, between its legs
    assert covered.sum() < dog()["mask"].sum()


@pytest.mark.parametrize("classes", ["paper", "all"])
@pytest.mark.parametrize("crop", ["none", "objects"])
def test_boxes_are_tight_and_areas_survive_an_unscaled_crop(tmp_path, classes, crop):
    tree = PascalPart(tmp_path)
    tree.add("2008_000001", dog())
    tree.add("2008_000002", car(), dog(2, 2, 20, 38))
    reader = PascalPartReader(tmp_path, classes=classes, crop=crop)
    objects = 0
    for labels in read(reader).values():
        photo = labels.photo
        task = CropTask(photo, tuple(f"{photo.name}_{target.number}.png" for target in photo.objects))
        crops = cut_photo(task, reader.image_root, tmp_path / "out", CropSettings(2.5, 500, "png"))
        for target, one in zip(photo.objects, crops, strict=True):
            objects += 1
            assert one.clipped == 0
            assert not one.dropped
            assert len(one.parts) == len(target.parts) > 0
            for source, placed in zip(target.parts, one.parts, strict=True):
                assert placed["category"] == source.category
                assert mask_util.area(placed["segmentation"]) == mask_util.area(source.segmentation)
                assert mask_util.toBbox(placed["segmentation"]).tolist() == placed["bbox"]
                x0, y0, x1, y1 = source.box
                assert mask_util.toBbox(source.segmentation).tolist() == [x0, y0, x1 - x0, y1 - y0]
    assert objects == {"none": 2, "objects": 3}[crop]


def test_all_classes_keep_each_part_whole_under_its_own_name(tmp_path):
    PascalPart(tmp_path).add("2008_000001", car())
    reader = PascalPartReader(tmp_path, classes="all", crop="objects")
    got = decoded(reader, only(reader))
    assert set(got) == {"leftside", "window", "wheel"}
    assert got["leftside"].sum() == 40 * 18  # also where a window is
    assert got["window"].sum() == 2 * 10 * 6  # both of them
    assert got["wheel"].sum() == 2 * 6 * 8


def test_cut_out_objects_have_their_own_class_box_and_parts(tmp_path):
    PascalPart(tmp_path).add("2008_000001", dog(), labelled("person", region(0, 0, 60, 40)), car(45, 20, 60, 40))
    reader = PascalPartReader(tmp_path, crop="objects")
    labels = only(reader)
    first, second = labels.photo.objects
    assert (first.number, first.class_name, first.box) == (1, "dog", (10, 5, 40, 35))
    assert (second.number, second.class_name, second.box) == (3, "car", (45, 20, 60, 40))
    assert {reader.part_names[part.category][0] for part in second.parts} == {"car"}
    assert labels.dropped == {("person", "object", OTHER_CLASS): 1}


def test_a_photograph_has_the_class_of_its_largest_object_the_first_of_equals(tmp_path):
    tree = PascalPart(tmp_path)
    tree.add("2008_000001", dog(0, 0, 20, 30), car(20, 0, 40, 30))
    tree.add("2008_000002", dog(0, 0, 20, 30), car(20, 0, 41, 30))
    tree.add("2008_000003", dog(), labelled("person", region(0, 0, 60, 40)))
    labels = read(PascalPartReader(tmp_path))
    assert [[target.class_name for target in one.photo.objects] for one in labels.values()] == [["dog"], ["car"], []]
    assert labels["2008_000001"].dropped == {("car", "object", NOT_LARGEST): 1}
    assert labels["2008_000002"].dropped == {("dog", "object", NOT_LARGEST): 1}
    assert labels["2008_000003"].dropped == {("person", "photograph", OTHER_LARGEST): 1}


def test_a_whole_photograph_has_the_parts_of_all_objects_of_its_class(tmp_path):
    PascalPart(tmp_path).add("2008_000001", dog(0, 5, 20, 30), dog(25, 5, 60, 40))
    reader = PascalPartReader(tmp_path)
    labels = only(reader)
    (whole,) = labels.photo.objects
    assert whole.box is None
    assert Counter(part.object_id for part in whole.parts) == {1: 3, 2: 3}
    assert not labels.dropped


def test_objects_without_parts_are_unlabelled_unless_told_that_none_is_visible(tmp_path):
    bare = labelled("cat", region(0, 0, 50, 40))
    eyeless = labelled("cat", region(0, 0, 50, 40), ("leye", region(0, 0, 0, 0)))
    tree = PascalPart(tmp_path)
    tree.add("2008_000001", bare)
    tree.add("2008_000002", eyeless)
    labels = read(PascalPartReader(tmp_path))
    assert [one.photo.objects[0].part_labels for one in labels.values()] == ["none", "none"]
    assert labels["2008_000002"].dropped == {("cat", "part", NO_PIXEL): 1}
    absent = read(PascalPartReader(tmp_path, empty="absent"))
    assert [one.photo.objects[0].part_labels for one in absent.values()] == ["mask", "mask"]


def test_a_photograph_whose_largest_object_is_unlabelled_is_unlabelled(tmp_path):
    """Else the largest object would be taken for background."""
    PascalPart(tmp_path).add("2008_000001", dog(40, 5, 60, 30), labelled("dog", region(0, 0, 40, 40)))
    labels = only(PascalPartReader(tmp_path))
    assert labels.photo.objects[0].part_labels == "none"
    assert labels.photo.objects[0].parts == ()
    assert labels.dropped == {("dog", "part", LARGEST_UNLABELLED): 3}


def test_everything_left_out_is_counted_with_its_reason(tmp_path):
    head, torso = region(0, 0, 20, 20), region(0, 0, 30, 30)
    tree = PascalPart(tmp_path)
    tree.add("2008_000001")
    tree.add("2008_000002", labelled("dog", region(0, 0, 0, 0)))
    unknown = labelled("dog", torso, ("head", head), ("collar", head), ("tail", head), ("nose", region(0, 0, 0, 0)))
    tree.add("2008_000003", unknown)
    labels = read(PascalPartReader(tmp_path))
    assert labels["2008_000001"].dropped == {("", "photograph", NO_OBJECT): 1}
    assert labels["2008_000002"].dropped == {("dog", "object", NO_PIXEL): 1, ("", "photograph", NO_OBJECT): 1}
    assert labels["2008_000003"].dropped == {
        ("dog", "part", 'its name "collar" is not known'): 1,
        ("dog", "part", NO_PIXEL): 1,
        ("dog", "part", HIDDEN): 1,
    }


@pytest.mark.parametrize("voc", ["VOCdevkit/VOC2010", "VOC2010", "."])
def test_names_sizes_splits_and_counts(tmp_path, voc):
    tree = PascalPart(tmp_path, voc)
    tree.add("2008_000002", dog(), split="val")
    tree.add("2008_000001", dog())
    write_mat(tmp_path / "Annotations_Part" / "2008_000003.mat", dog())
    reader = PascalPartReader(tmp_path)
    assert list(reader.entries()) == [("2008_000001", "train"), ("2008_000002", "val"), ("2008_000003", None)]
    assert reader.count() == 3
    labels = read(reader)["2008_000002"]
    assert (labels.photo.name, labels.photo.width, labels.photo.height, labels.photo.split) == (
        *("2008_000002.jpg", *SIZE),
        "val",
    )
    assert (reader.image_root / labels.photo.name).is_file()
    assert reader.notes() == [
        "train: 1 annotation files, published are 4,998",
        "val: 1 annotation files, published are 5,105",
        "in no official split: 1 annotation files, published are 0",
    ]


def test_the_published_numbers_give_no_note(tmp_path, monkeypatch):
    PascalPart(tmp_path).add("2008_000001", dog())
    entries = [(str(i), "train") for i in range(4998)] + [(str(i), "val") for i in range(5105)]
    monkeypatch.setattr(PascalPartReader, "entries", lambda self: iter(entries))
    assert PascalPartReader(tmp_path).notes() == []


def test_the_description_tells_other_files_and_options_apart(tmp_path):
    tree = PascalPart(tmp_path)
    tree.add("2008_000001", dog())
    options = [{}, {"classes": "all"}, {"crop": "objects"}, {"empty": "absent"}]
    before = [PascalPartReader(tmp_path, **some).describe() for some in options]
    assert before[0] == PascalPartReader(tmp_path).describe()
    tree.add("2008_000001", dog(), car())
    described = [*before, PascalPartReader(tmp_path).describe()]
    assert len({str(some) for some in described}) == len(described)


def test_a_reader_survives_the_way_to_a_worker(tmp_path):
    PascalPart(tmp_path).add("2008_000001", dog())
    reader = PascalPartReader(tmp_path, crop="objects")
    sent = pickle.loads(pickle.dumps(reader))
    assert read(sent) == read(reader)


# ---------------------------------------------------------------- files as MATLAB writes them, and wrong ones


@pytest.mark.parametrize("compressed", [True, False])
def test_one_element_and_empty_matrices(tmp_path, compressed):
    file = tmp_path / "a.mat"
    one_pixel = labelled("dog", region(3, 4, 4, 5), ("head", region(3, 4, 4, 5)))
    empty_struct = {**labelled("cat", region(0, 0, 9, 9)), "parts": np.zeros((0, 0), dtype=[("part_name", object)])}
    logical = labelled("dog", region(0, 0, 9, 9).astype(bool), ("head", region(0, 0, 5, 5) * 255.0))
    write_mat(file, one_pixel, empty_struct, logical, compressed=compressed)
    first, second, third = read_objects(file)
    assert first.mask.shape == (SIZE[1], SIZE[0])
    assert first.mask.sum() == first.parts[0][1].sum() == 1
    assert second.parts == ()
    assert third.parts[0][1].dtype == bool
    assert third.parts[0][1].sum() == 25
    write_mat(file, one_pixel, compressed=compressed)
    assert len(read_objects(file)) == 1
    write_mat(file, compressed=compressed)
    assert read_objects(file) == []


def test_a_photograph_of_one_row_keeps_its_shape(tmp_path):
    write_mat(tmp_path / "a.mat", labelled("dog", np.ones((1, 7), np.uint8), ("head", np.ones((1, 7), np.uint8))))
    (target,) = read_objects(tmp_path / "a.mat")
    assert target.mask.shape == target.parts[0][1].shape == (1, 7)


def test_columns_of_structs_are_read_like_rows(tmp_path):
    target = dog()
    target["parts"] = target["parts"].T
    write_mat(tmp_path / "a.mat", target)
    (read_back,) = read_objects(tmp_path / "a.mat")
    assert [name for name, _ in read_back.parts] == ["head", "leye", "muzzle", "torso", "lfleg", "rbpa"]


def without(record: dict, name: str) -> np.ndarray:
    rest = {key: value for key, value in record.items() if key != name}
    return structs(rest, fields=tuple(rest))


def anno(objects: object) -> dict:
    return {"anno": structs({"imname": "a", "objects": objects}, fields=("imname", "objects"))}


def one(**changes: object) -> dict:
    target = {**dog(), **changes}
    return anno(structs(target, fields=tuple(target)))


def part(**changes: object) -> dict:
    record = {"part_name": "head", "mask": region(0, 0, 5, 5), **changes}
    return one(parts=structs(record, fields=tuple(record)))


WRONG = [
    ({"image": np.zeros(3)}, 'the file: has no variable "anno"'),
    ({"anno": np.zeros((2, 2))}, "anno: must be a struct, is a matrix of numbers, 2 x 2"),
    ({"anno": np.zeros((0, 0))}, "anno: must be one struct, is 0"),
    ({"anno": structs({"imname": "a"}, {"imname": "b"}, fields=("imname",))}, "anno: must be one struct, is 2"),
    ({"anno": structs({"imname": "a"}, fields=("imname",))}, 'anno: has no field "objects"'),
    (anno("dog"), r"anno\.objects: must be a struct, is a matrix of text, 1"),
    (anno(without(dog(), "class")), r'anno\.objects\(1\): has no field "class"'),
    (anno(without(dog(), "mask")), r'anno\.objects\(1\): has no field "mask"'),
    (anno(without(dog(), "parts")), r'anno\.objects\(1\): has no field "parts"'),
    (one(**{"class": 12}), r"anno\.objects\(1\)\.class: must be a name, is a matrix of numbers"),
    (one(**{"class": ""}), r"anno\.objects\(1\)\.class: must be a name"),
    (one(mask=np.zeros((0, 0))), r"anno\.objects\(1\)\.mask: must be a matrix of numbers"),
    (one(mask="mask"), r"anno\.objects\(1\)\.mask: must be a matrix of numbers, is a matrix of text"),
    (one(mask=np.zeros((2, 3, 4))), r"anno\.objects\(1\)\.mask: must be a matrix of numbers"),
    (one(mask=region(0, 0, 9, 9) + region(0, 0, 4, 4)), r"anno\.objects\(1\)\.mask: must hold 0 and one other value"),
    (one(mask=region(0, 0, 9, 9) * np.nan), r"anno\.objects\(1\)\.mask: must hold 0 and one other value"),
    (part(part_name=np.zeros((0, 0))), r"anno\.objects\(1\)\.parts\(1\)\.part_name: must be a name"),
    (part(mask=region(0, 0, 5, 5, (61, 40))), r"parts\(1\)\.mask: 61 x 40 pixels, the first object's is 60 x 40"),
]


@pytest.mark.parametrize(("content", "reason"), WRONG)
def test_wrong_files_are_refused_with_file_entry_and_reason(tmp_path, content, reason):
    PascalPart(tmp_path).add("2008_000001", dog())
    file = tmp_path / "Annotations_Part" / "2008_000001.mat"
    savemat(file, content)
    with pytest.raises(PartDatasetError, match=reason) as error:
        read(PascalPartReader(tmp_path))
    assert error.value.file == str(file)
    assert "unpack the annotations again" in str(error.value)


def test_objects_of_different_sizes_are_refused(tmp_path):
    write_mat(tmp_path / "a.mat", dog(), labelled("cat", region(0, 0, 5, 5, (40, 60))))
    with pytest.raises(PartDatasetError, match=r"objects\(2\)\.mask: 40 x 60 pixels, the first object's is 60 x 40"):
        read_objects(tmp_path / "a.mat")


def test_damaged_files_are_read_or_refused_in_one_sentence(tmp_path):
    """Such files end the process where scipy reads them unchecked."""
    file = tmp_path / "a.mat"
    write_mat(file, dog(), car())
    whole = file.read_bytes()
    draw = random.Random(0)
    refused = []
    for _ in range(300):
        damaged = bytearray(whole)
        for _ in range(draw.choice([1, 1, 4])):
            damaged[draw.randrange(len(damaged))] = draw.randrange(256)
        if draw.random() < 0.3:
            del damaged[draw.randrange(len(damaged)) :]
        file.write_bytes(damaged)
        try:
            found = read_objects(file)
        except PartDatasetError as error:
            refused.append(str(error))
        else:
            assert [target.class_name for target in found] == ["dog", "car"]
    assert len(refused) > 100
    assert not any("\n" in sentence for sentence in refused)


def test_contents_that_do_not_have_their_checksum_are_refused_before_scipy_reads_them(tmp_path):
    """scipy looks at the checksum of a large file after it has read it, and some of these end the process."""
    file, size = tmp_path / "a.mat", (500, 2200)
    noise = np.random.default_rng(0).integers(0, 2, size[::-1]).astype(np.uint8)
    write_mat(file, labelled("dog", noise, ("head", region(0, 0, 5, 5, size))))
    whole = file.read_bytes()
    content = zlib.decompress(whole[136:])
    for place in range(100, 600, 120):
        damaged = bytearray(content)
        damaged[place] ^= 164
        compressed = zlib.compress(damaged, 1)[:-4] + whole[-4:]
        file.write_bytes(whole[:132] + struct.pack("<I", len(compressed)) + compressed)
        with pytest.raises(PartDatasetError, match=r"cannot be read as a MATLAB file: .*incorrect data check"):
            read_objects(file)


@pytest.mark.parametrize("compressed", [True, False])
def test_cut_off_files_and_files_of_another_kind_are_refused(tmp_path, compressed):
    file = tmp_path / "a.mat"
    write_mat(file, dog(), compressed=compressed)
    whole = file.read_bytes()
    contents = [b"", b"not MATLAB", b"\x89HDF\r\n\x1a\n" + bytes(500), *(whole[:end] for end in (100, 130, 400, -1))]
    for content in contents:
        file.write_bytes(content)
        with pytest.raises(PartDatasetError, match=r"a\.mat: the file: cannot be read as a MATLAB file"):
            read_objects(file)
    file.unlink()
    with pytest.raises(PartDatasetError, match="No such file"):
        read_objects(file)


@pytest.mark.parametrize(
    ("missing", "reason"),
    [("Annotations_Part", "unpack trainval.tar.gz"), ("VOCdevkit", "unpack VOCtrainval_03-May-2010.tar")],
)
def test_a_folder_without_one_of_the_archives_is_refused(tmp_path: Path, missing, reason):
    PascalPart(tmp_path).add("2008_000001", dog())
    (tmp_path / missing).rename(tmp_path / "elsewhere")
    with pytest.raises(PartDatasetError, match=reason):
        PascalPartReader(tmp_path)


def test_a_folder_without_annotations_is_refused(tmp_path):
    PascalPart(tmp_path).add("2008_000001", dog()).unlink()
    with pytest.raises(PartDatasetError, match=r"holds no \.mat file"):
        list(PascalPartReader(tmp_path).entries())
