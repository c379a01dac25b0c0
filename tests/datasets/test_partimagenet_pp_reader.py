"""The reader of PartImageNet++: what it gives for each entry, before anything is cut."""

import pickle

import pytest
from partimagenet_files import (
    TENCH,
    TIGER,
    dropped,
    photos,
    read_all,
    rle,
    shared_classes,
    three_classes,
)

from partbox.data import PartDatasetError
from partbox.data.preparation.readers.imagenet_photos import LEFT_OUT
from partbox.data.preparation.readers.partimagenet import PartImageNetReader
from partbox.data.preparation.readers.partimagenet_pp import PartImageNetPPReader

BAKERY = "n02776631"


def test_parts_are_those_of_each_file_and_category_ids_its_own(tmp_path):
    reader = PartImageNetPPReader(*three_classes(3).write(tmp_path))
    tench = [(TENCH, f"tench {part}") for part in ("head", "body", "fin", "tail")]
    assert reader.part_names == [*tench, (TIGER, "tiger head"), (TIGER, "tiger body"), (BAKERY, "bakery")]
    assert reader.class_names == [TENCH, TIGER, BAKERY]
    found = {}
    for one in read_all(reader):
        (target,) = one.photo.objects
        assert one.photo.split is None
        assert (reader.image_root / one.photo.name).is_file()
        found[target.class_name] = [reader.part_names[part.category][1] for part in target.parts]
    assert found == {
        TENCH: ["tench head", "tench fin"],
        TIGER: ["tiger body", "tiger head", "tiger body"],
        BAKERY: ["bakery"],
    }


def test_categories_of_one_name_are_one_part(tmp_path):
    files = three_classes(3)
    files.add_class(TIGER, "tiger head", "tiger body", " tiger  head ")
    files.photo(TIGER, 1, 2, 3)
    said: list[str] = []
    reader = PartImageNetPPReader(*files.write(tmp_path), say=said.append)
    assert "1 categories have the name of another one" in said[0]
    assert [name for wnid, name in reader.part_names if wnid == TIGER] == ["tiger head", "tiger body"]
    (one,) = (one for one in read_all(reader) if one.photo.objects[0].class_name == TIGER)
    names = [reader.part_names[part.category][1] for part in one.photo.objects[0].parts]
    assert names == ["tiger head", "tiger body", "tiger head"]


def test_the_files_may_lie_in_the_folder_itself_and_photographs_below_the_folder_of_imagenet(tmp_path):
    labels, images = three_classes(3).write(tmp_path)
    for folder, root in ((labels / "json", images), (labels, images.parent)):
        reader = PartImageNetPPReader(folder, root)
        assert reader.count() == len(read_all(reader)) == 9
    (images / TENCH / f"{TENCH}_1.JPEG").unlink()
    with pytest.raises(PartDatasetError, match=rf"{TENCH}\.json: images\[1\].*no folder of .* holds {TENCH}_1\.JPEG"):
        read_all(PartImageNetPPReader(labels, images))
    assert len(read_all(PartImageNetPPReader(labels, tmp_path / "no", find_photos=False))) == 9


@pytest.mark.parametrize("beside", [True, False])
def test_odd_photographs_of_plus_plus_are_counted(tmp_path, beside):
    files = three_classes(3)
    files.discarded = [{"file_name": f"{TENCH}_0.JPEG", "id": 5}, {"file_name": f"{TIGER}/{TIGER}_1.JPEG"}]
    tench = files.files[TENCH]
    tench.label(tench.photo(f"{TENCH}/{TENCH}_1.JPEG"), 1)  # twice
    tench.label(tench.photo(f"{TIGER}/{TIGER}_50.JPEG"), 1)  # in the file of another class
    tench.photo(f"{TENCH}/{TENCH}_60.JPEG")  # without annotation
    bad = tench.photo(f"{TENCH}/{TENCH}_61.JPEG")
    tench.label(bad, 1, [])
    tench.label(bad, 1, rle(2, 2, 9, 9), iscrowd=1)
    labels, images = files.write(tmp_path)
    if not beside:
        (labels / "discarded_data.json").rename(labels / "json/discarded_data.json")
    said: list[str] = []
    reader = PartImageNetPPReader(labels, images, say=said.append)
    found = read_all(reader)
    assert +dropped(found) == {
        (TENCH, "photograph", "discarded by its owners (discarded_data.json)"): 1,
        (TIGER, "photograph", "discarded by its owners (discarded_data.json)"): 1,
        (TENCH, "photograph", "is in the file twice"): 1,
        (TENCH, "photograph", "its name is of another ImageNet class than its file"): 1,
        (TENCH, "part", LEFT_OUT): 4,
        (TIGER, "part", LEFT_OUT): 3,
        (TENCH, "part", "no mask"): 1,
        (TENCH, "part", "crowd (iscrowd = 1)"): 1,
    }
    kept = photos(found)
    assert {kept[f"{TENCH}_{number}.JPEG"].objects[0].part_labels for number in (60, 61)} == {"none"}
    assert len(kept) == 13 - 4
    assert "counts: 13 photographs, published are 100,000 (Li et al., arXiv 2601.01454)" in said
    assert "counts: 7 part categories, published are 3,308 (Li et al., arXiv 2601.01454)" in said


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda f: f.files[TENCH].document["annotations"][0].update(category_id=9), r"annotations\[0\].*category_id 9"),
        (lambda f: f.files[TENCH].document["categories"][1].update(id=1), r"categories\[1\].*id 1 is used twice"),
        (lambda f: f.files[TENCH].document["categories"][1].update(name=" "), r"categories\[1\].*must not be blank"),
        (lambda f: f.files[TENCH].document.update(annotations=[]), r'"annotations" is missing or empty'),
        (lambda f: f.discarded.append({"name": "x"}), r'discarded_data\.json: images\[0\].*"file_name" is missing'),
        (lambda f: f.discarded.append(3), r"discarded_data\.json: images\[0\].*must be an object"),
    ],
)
def test_malformed_files_of_plus_plus_are_refused_by_entry(tmp_path, change, reason):
    files = three_classes(3)
    change(files)
    with pytest.raises(PartDatasetError, match=reason):
        read_all(PartImageNetPPReader(*files.write(tmp_path)))


def test_a_folder_without_classes_and_a_list_that_is_none_are_refused(tmp_path):
    with pytest.raises(PartDatasetError, match=r"json/n01440764\.json"):
        PartImageNetPPReader(tmp_path, tmp_path)
    labels, images = three_classes(3).write(tmp_path)
    with pytest.raises(PartDatasetError, match="nowhere: --images: is not a folder"):
        PartImageNetPPReader(labels, tmp_path / "nowhere")
    for text, reason in (("{}", "must be a list of images"), ("[", "is not JSON")):
        (labels / "discarded_data.json").write_text(text)
        with pytest.raises(PartDatasetError, match=reason):
            PartImageNetPPReader(labels, images)


def test_the_description_of_plus_plus_changes_with_every_file(tmp_path):
    files = three_classes(3)
    files.discarded = [{"file_name": f"{TENCH}_0.JPEG"}]
    labels, images = files.write(tmp_path)
    given = [PartImageNetPPReader(labels, images).describe()]
    for file in sorted(labels.rglob("*.json")):
        file.write_text(file.read_text() + "\n")
        given.append(PartImageNetPPReader(labels, images).describe())
    assert len({repr(one) for one in given}) == len(given) == 5
    assert str(tmp_path) not in repr(given)


# ---------------------------------------------------------------- both


@pytest.mark.parametrize("kind", ["partimagenet", "plus plus"])
def test_a_reader_in_a_worker_holds_no_tables(tmp_path, kind):
    if kind == "partimagenet":
        reader = PartImageNetReader(shared_classes(3).write(tmp_path))
    else:
        reader = PartImageNetPPReader(*three_classes(3).write(tmp_path), say=lambda text: None)
    assert len(pickle.dumps(reader)) < 1500  # it goes to a worker with every photograph
    assert pickle.loads(pickle.dumps(reader)).image_root == reader.image_root
