"""The reader of Cityscapes-Panoptic-Parts on miniatures in the layout of its archives."""

import pickle
import random

import numpy as np
import pytest
from cityscapes_files import ROAD, SIZE, SKY, Cityscapes, Scene
from PIL import Image
from pycocotools import mask as mask_util

from partbox.data import PartDatasetError
from partbox.data.preparation.object_crops import CropSettings, CropTask, SourceObject, cut_photo
from partbox.data.preparation.photo_reader import PhotoLabels
from partbox.data.preparation.readers.cityscapes_part import (
    GROUP,
    NO_UID,
    OCCLUDED,
    CityscapesPartReader,
    is_occluded,
    read_uids,
    split_uids,
)

PART_NAMES = (
    *(("human", part) for part in ("torso", "head", "arms", "legs")),
    *(("vehicle", part) for part in ("windows", "wheels", "lights", "plate", "chassis")),
)


def read(reader: CityscapesPartReader) -> list[PhotoLabels]:
    return [reader.read(entry) for entry in reader.entries()]


def read_scene(folder, scene: Scene, **options) -> PhotoLabels:
    Cityscapes(folder).add("aachen", 1, 19, scene)
    (labels,) = read(CityscapesPartReader(folder, **{"min_pixels": 100, **options}))
    return labels


def by_hand(scene: Scene, target: SourceObject) -> dict[str, np.ndarray]:
    """Part -> mask of one object, from the uids as the format's description writes them."""
    sid, iid = divmod(target.number, 1000)
    names = [part for owner, part in PART_NAMES if owner == target.class_name]
    masks = {name: scene.uids == int(f"{sid}{iid:03d}{pid:02d}") for pid, name in enumerate(names, start=1)}
    return {name: mask for name, mask in masks.items() if mask.any()}


def test_uids_of_all_three_forms():
    uids = np.array([[0, 7, 33, 99], [1234, 26000, 26002, 33999], [123456, 2401002, 2600005, 9999999]], dtype=np.int32)
    sids, iids, pids = split_uids(uids, "a.tif")
    assert sids.tolist() == [[0, 7, 33, 99], [1, 26, 26, 33], [1, 24, 26, 99]]
    assert iids.tolist() == [[-1, -1, -1, -1], [234, 0, 2, 999], [234, 10, 0, 999]]
    assert pids.tolist() == [[-1, -1, -1, -1], [-1, -1, -1, -1], [56, 2, 5, 99]]


@pytest.mark.parametrize("uid", [-1, 100, 999, 10_000_000])
def test_uids_of_no_form_are_refused_with_file_and_pixel(tmp_path, uid):
    with pytest.raises(
        PartDatasetError, match=rf"000019_gtFinePanopticParts\.tif: pixel \(3, 5\): the uid {uid} is none"
    ):
        read_scene(tmp_path, Scene().person(0, 20, 10).paint(uid, 3, 5, 4, 6))


def test_the_parts_are_complete_and_fixed_whatever_the_data_show(tmp_path):
    Cityscapes(tmp_path).add("aachen", 1, 19, Scene().person(0, 5, 10))
    reader = CityscapesPartReader(tmp_path)
    assert reader.part_names == PART_NAMES
    assert reader.class_names == ("human", "vehicle")


def test_every_part_of_every_semantic_class_goes_to_its_part(tmp_path):
    scene = Scene((300, 64))
    for place, sid in enumerate((24, 25)):
        scene.person(3, 5 + 20 * place, 10, sid)
    for place, sid in enumerate((26, 27, 28)):
        scene.car(place, 60 + 60 * place, 20, sid)
    labels = read_scene(tmp_path, scene)
    assert [target.number for target in labels.photo.objects] == [24003, 25003, 26000, 27001, 28002]
    assert [target.class_name for target in labels.photo.objects] == ["human"] * 2 + ["vehicle"] * 3
    for target in labels.photo.objects:
        wanted = by_hand(scene, target)
        assert [PART_NAMES[part.category] for part in target.parts] == [(target.class_name, name) for name in wanted]
        assert len(wanted) == {"human": 4, "vehicle": 5}[target.class_name]
        for part, mask in zip(target.parts, wanted.values(), strict=True):
            assert (mask_util.decode(part.segmentation).astype(bool) == mask).all()
            x0, y0, x1, y1 = part.box
            assert mask_util.toBbox(part.segmentation).tolist() == [x0, y0, x1 - x0, y1 - y0]
    assert not labels.dropped


def test_the_first_instance_counts_and_pixels_of_no_part_belong_to_the_object(tmp_path):
    """Instances are counted from 0; feet of a person are SSIII or part 0."""
    scene = Scene().person(0, 5, 10).paint(2400000, 5, 48, 10, 50)
    (person,) = read_scene(tmp_path, scene).photo.objects
    assert person.number == 24000
    assert person.box == (5, 10, 17, 50)
    assert {PART_NAMES[part.category][1] for part in person.parts} == {"torso", "head", "arms", "legs"}


def test_instances_of_one_number_in_two_semantic_classes_are_two_objects(tmp_path):
    labels = read_scene(tmp_path, Scene().person(1, 5, 10, sid=24).person(1, 40, 10, sid=25))
    assert [target.box for target in labels.photo.objects] == [(5, 10, 17, 50), (40, 10, 52, 50)]


@pytest.mark.parametrize(("limit", "kept"), [(480, True), (481, False)])
def test_small_instances_are_left_out(tmp_path, limit, kept):
    labels = read_scene(tmp_path, Scene().person(0, 5, 10), min_pixels=limit)
    assert bool(labels.photo.objects) is kept
    assert labels.dropped == ({} if kept else {("human", "object", "fewer than 481 pixels"): 1})


def test_the_limit_is_the_papers_unless_told_otherwise(tmp_path):
    Cityscapes(tmp_path).add("aachen", 1, 19, Scene((200, 200)).paint(24000, 0, 0, 20, 50).paint(24001, 50, 0, 70, 50))
    Cityscapes(tmp_path).add("aachen", 1, 20, Scene((200, 200)).paint(24000, 0, 0, 20, 50).paint(ROAD, 0, 0, 1, 1))
    assert [len(labels.photo.objects) for labels in read(CityscapesPartReader(tmp_path))] == [2, 0]


def test_an_object_behind_the_other_class_is_left_out(tmp_path):
    clear = Scene().paint(24000, 10, 10, 22, 50).paint(26000, 10, 30, 18, 50)
    labels = read_scene(tmp_path / "a", clear)  # 160 of the car, 320 of the person: not more than half
    assert [target.class_name for target in labels.photo.objects] == ["human", "vehicle"]
    hidden = Scene().paint(24000, 10, 10, 22, 50).paint(26000, 10, 30, 18, 51).paint(26000, 18, 30, 19, 31)
    labels = read_scene(tmp_path / "b", hidden)
    assert [target.class_name for target in labels.photo.objects] == ["vehicle"]
    assert labels.dropped == {("human", "object", OCCLUDED): 1}


def test_occlusion_counts_each_semantic_class_of_the_other_class_for_itself():
    box = np.array([24] * 10 + [25] * 20 + [26] * 5 + [27] * 5 + [ROAD] * 90).reshape(10, 13)
    assert not is_occluded(box, 24)  # 5 and 5 are not more than half of 10; riders are the same class
    assert is_occluded(box, 26)  # 10 > 5 / 2
    box[box == 27] = 26
    assert is_occluded(box, 24)


def test_everything_left_out_is_counted_with_its_reason(tmp_path):
    scene = Scene().person(0, 5, 10).car(0, 40, 20)
    scene.paint(24, 0, 0, 3, 3).paint(26, 90, 0, 93, 3).paint(27, 90, 5, 93, 8)  # groups
    scene.paint(2400005, 5, 30, 7, 32)  # the artefact that the data set's own README tells of
    labels = read_scene(tmp_path / "a", scene)
    assert labels.dropped == {
        ("human", "object", GROUP): 1,
        ("vehicle", "object", GROUP): 2,
        ("human", "part", "part id 5 of a person is not defined"): 1,
    }
    assert [len(target.parts) for target in labels.photo.objects] == [4, 5]
    nothing = read_scene(tmp_path / "b", Scene().paint(33001, 0, 0, 50, 50))
    assert nothing.dropped == {("", "photograph", NO_UID): 1}
    assert nothing.photo.objects == ()


def test_objects_without_parts_are_unlabelled_unless_told_that_none_is_visible(tmp_path):
    scene = Scene().paint(25001, 5, 10, 25, 50)
    (target,) = read_scene(tmp_path, scene).photo.objects
    assert (target.part_labels, target.parts) == ("none", ())
    (target,) = read_scene(tmp_path, scene, empty="absent").photo.objects
    assert (target.part_labels, target.parts) == ("mask", ())


def test_areas_survive_a_square_crop_that_is_not_scaled(tmp_path):
    scene = Scene().person(2, 5, 10).car(0, 40, 20)
    Cityscapes(tmp_path).add("aachen", 1, 19, scene)
    reader = CityscapesPartReader(tmp_path, min_pixels=100)
    (labels,) = read(reader)
    task = CropTask(labels.photo, ("a.png", "b.png"))
    crop_to = CropSettings(1.4, 500, "png", square=True)
    crops = cut_photo(task, reader.image_root, tmp_path / "out", crop_to)
    for target, crop in zip(labels.photo.objects, crops, strict=True):
        assert crop.width == crop.height
        wanted = by_hand(scene, target)
        assert [part["category"] for part in crop.parts] == [part.category for part in target.parts]
        for placed, mask in zip(crop.parts, wanted.values(), strict=True):
            assert mask_util.area(placed["segmentation"]) == mask.sum()
            assert mask_util.toBbox(placed["segmentation"]).tolist() == placed["bbox"]


def test_names_splits_sequences_and_counts(tmp_path):
    tree = Cityscapes(tmp_path, "gtFinePanopticParts_trainval/gtFinePanopticParts")
    tree.add("bad-honnef", 0, 19, Scene(), split="val")
    tree.add("aachen", 2, 19, Scene().person(0, 5, 10))
    tree.add("aachen", 2, 319, Scene())
    reader = CityscapesPartReader(tmp_path)
    assert [entry[2] for entry in reader.entries()] == [
        "aachen_000002_000019",
        "aachen_000002_000319",
        "bad-honnef_000000_000019",
    ]
    assert reader.count() == 3
    photos = [labels.photo for labels in read(reader)]
    assert [photo.split for photo in photos] == ["train", "train", "val"]
    assert [photo.source for photo in photos] == ["aachen_000002", "aachen_000002", "bad-honnef_000000"]
    alone = read(CityscapesPartReader(tmp_path, group="photograph"))
    assert [labels.photo.source for labels in alone] == ["", "", ""]
    for photo in photos:
        with Image.open(reader.image_root / photo.name) as image:
            assert image.size == (photo.width, photo.height) == SIZE
    assert reader.notes() == [
        "train: 2 label files, published are 2,975",
        "val: 1 label files, published are 500",
    ]


def test_the_published_numbers_give_no_note(tmp_path, monkeypatch):
    Cityscapes(tmp_path).add("aachen", 1, 19, Scene())
    entries = [("train", "aachen", str(i)) for i in range(2975)] + [("val", "ulm", str(i)) for i in range(500)]
    monkeypatch.setattr(CityscapesPartReader, "entries", lambda self: iter(entries))
    assert CityscapesPartReader(tmp_path).notes() == []


def test_the_description_tells_other_files_and_options_apart(tmp_path):
    tree = Cityscapes(tmp_path)
    tree.add("aachen", 1, 19, Scene())
    options = [{}, {"min_pixels": 7}, {"group": "photograph"}, {"empty": "absent"}]
    before = [CityscapesPartReader(tmp_path, **some).describe() for some in options]
    assert before[0] == CityscapesPartReader(tmp_path).describe()
    tree.add("aachen", 1, 20, Scene())
    described = [*before, CityscapesPartReader(tmp_path).describe()]
    assert len({str(some) for some in described}) == len(described)


def test_a_reader_survives_the_way_to_a_worker(tmp_path):
    Cityscapes(tmp_path).add("aachen", 1, 19, Scene().car(0, 40, 20))
    reader = CityscapesPartReader(tmp_path, min_pixels=100)
    assert read(pickle.loads(pickle.dumps(reader))) == read(reader)


# ---------------------------------------------------------------- wrong files


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "raw"])
def test_label_files_are_read_however_they_are_compressed(tmp_path, compression):
    scene = Scene().person(0, 5, 10).car(0, 40, 20)
    Image.fromarray(scene.uids).save(tmp_path / "a.tif", compression=compression)
    assert (read_uids(tmp_path / "a.tif") == scene.uids).all()


@pytest.mark.parametrize(
    "pixels", [np.zeros((4, 5), np.uint8), np.zeros((4, 5, 3), np.uint8), np.zeros((4, 5), np.float32)]
)
def test_label_files_of_other_pixels_are_refused(tmp_path, pixels):
    file = Cityscapes(tmp_path).add("aachen", 1, 19, Scene())
    Image.fromarray(pixels).save(file)
    with pytest.raises(PartDatasetError, match=r"000019_gtFinePanopticParts\.tif: the file: must hold int32 pixels"):
        read(CityscapesPartReader(tmp_path))


@pytest.mark.parametrize("compression", ["tiff_lzw", "raw"])
def test_damaged_files_are_read_or_refused_in_one_sentence(tmp_path, compression):
    file = tmp_path / "a.tif"
    Image.fromarray(Scene().person(0, 5, 10).uids).save(file, compression=compression)
    whole = file.read_bytes()
    draw = random.Random(0)
    refused = []
    for _ in range(200):
        damaged = bytearray(whole)
        for _ in range(draw.choice([1, 1, 4])):
            place = draw.choice([draw.randrange(len(damaged)), draw.randrange(16), -1 - draw.randrange(200)])
            damaged[place] = draw.randrange(256)
        if draw.random() < 0.3:
            del damaged[draw.randrange(len(damaged)) :]
        file.write_bytes(damaged)
        try:
            split_uids(read_uids(file), file)
        except PartDatasetError as error:
            refused.append(str(error))
    assert len(refused) > 30
    assert not any("\n" in sentence for sentence in refused)
    for content in (b"", b"not an image", whole[: len(whole) // 2]):
        file.write_bytes(content)
        with pytest.raises(PartDatasetError, match=r"a\.tif: the file: cannot be read as an image"):
            read_uids(file)


@pytest.mark.parametrize(
    ("missing", "reason"),
    [
        ("gtFinePanopticParts", "unpack gtFinePanopticParts_trainval"),
        ("leftImg8bit", "unpack leftImg8bit_trainvaltest"),
    ],
)
def test_a_folder_without_one_of_the_archives_is_refused(tmp_path, missing, reason):
    Cityscapes(tmp_path).add("aachen", 1, 19, Scene())
    (tmp_path / missing).rename(tmp_path / "elsewhere")
    with pytest.raises(PartDatasetError, match=reason):
        CityscapesPartReader(tmp_path)


@pytest.mark.parametrize("name", ["aachen_000001_000019_gtFine.tif", "ulm_000001_000019_gtFinePanopticParts.tif"])
def test_files_of_other_names_are_refused(tmp_path, name):
    file = Cityscapes(tmp_path).add("aachen", 1, 19, Scene())
    file.rename(file.with_name(name))
    with pytest.raises(PartDatasetError, match=r"is not named aachen_<sequence>_<frame>_gtFinePanopticParts\.tif"):
        list(CityscapesPartReader(tmp_path).entries())


def test_a_folder_without_labels_is_refused(tmp_path):
    Cityscapes(tmp_path).add("aachen", 1, 19, Scene()).unlink()
    with pytest.raises(PartDatasetError, match=r"hold no \.tif file"):
        list(CityscapesPartReader(tmp_path).entries())


def test_sky_and_road_are_no_objects(tmp_path):
    assert {ROAD, SKY} == set(np.unique(Scene().uids).tolist())
    assert read_scene(tmp_path, Scene()).photo.objects == ()
