"""What the preparation of part datasets refuses: one sentence, nothing written."""

import copy
import random

import pytest
from coco_files import CocoFile, animals, load, prepare, rewrite, rle

from partbox.data import PartDatasetError
from partbox.data.preparation import CocoOptions, PrepareOptions, prepare_parts

REFUSALS = [
    (lambda d: d.pop("categories"), {}, 'required list "categories" is missing'),
    (lambda d: d["annotations"][2].update(category_id=99), {}, r"annotations\[2\] \(id 3\): unknown category_id 99"),
    (lambda d: d["annotations"][2].update(image_id=99), {}, r"annotations\[2\] \(id 3\): no image has the id 99"),
    (lambda d: d["annotations"][2].update(id=1), {}, r"annotations\[2\].*id 1 is used twice"),
    (lambda d: d["annotations"][2].update(bbox=[1, 2, 3]), {}, "four finite numbers"),
    (lambda d: d["annotations"][2].update(bbox=[1, 2, -3, 4]), {}, "not two corners"),
    (lambda d: d["annotations"][2].update(bbox=[1, 2, None, 4]), {}, "four finite numbers"),
    (lambda d: d["annotations"][2].update(segmentation=[[1, 2, 3]]), {}, "even number"),
    (lambda d: d["annotations"][2].update(segmentation=[1, 2, 3, 4, 5, 6]), {}, "flat list"),
    (lambda d: d["annotations"][2].update(segmentation={"size": [9, 9], "counts": "x"}), {}, r"RLE size"),
    (lambda d: d["annotations"][2].update(obj_ann_id=2), {}, "belongs to class 'dog', its object 2 to 'cat'"),
    (lambda d: d["annotations"][2].update(obj_ann_id=3), {}, "obj_ann_id 3 is no object"),
    (lambda d: d["annotations"][2].update(obj_ann_id=6), {}, "is an object of image 2"),
    (lambda d: d["annotations"][2].pop("obj_ann_id"), {}, "--object-field none"),
    (lambda d: d["images"][1].update(file_name="none.jpg"), {}, "EXISTS"),
    (lambda d: d["images"][1].update(width=63), {}, "EXISTS"),
    (lambda d: d["images"][1].update(id=1), {}, r"images\[1\].*id 1 is used twice"),
    (lambda d: d["images"][1].update(width=0), {}, r"images\[1\].*width must lie"),
    (lambda d: d["categories"][2].update(name="dog:"), {}, 'is not "class:part"'),
    (lambda d: [c.update(name=c["name"].replace(":", "_")) for c in d["categories"]], {}, "--class-name CLASS"),
    (lambda d: None, {"ignore_categories": ("dogs",)}, 'no category is named "dogs". did you mean "dog"'),
    (lambda d: None, {"class_name": "car", "class_field": "label"}, "both single and image"),
    (lambda d: None, {"classes_from": "single"}, "add --class-name"),
    (lambda d: None, {"classes_from": "object"}, "--object-categories"),
    (lambda d: None, {"class_field": "label"}, r'images\[0\].*"label" is missing'),
    (lambda d: None, {"min_side": 100}, "lower --min-side"),
    (lambda d: None, {"labels": "mask"}, "12 parts have no segmentation"),
    (lambda d: None, {"fractions": (0.98, 0.01, 0.01)}, "--split"),
    (lambda d: d.update(annotations=d["annotations"][:2]), {}, "no part is labelled"),
]


@pytest.mark.parametrize(("change", "options", "reason"), REFUSALS)
def test_wrong_input_is_refused_in_one_sentence(tmp_path, change, options, reason):
    coco = animals(4)
    coco.write(tmp_path)  # the photographs, before the change
    change(coco.document)
    if reason == "EXISTS":
        name = coco.document["images"][1]["file_name"]
        reason = "there is no such file" if name == "none.jpg" else "64 x 64 pixels, the file says 63 x 64"
        coco.write = lambda folder: rewrite(coco, folder)
    with pytest.raises(PartDatasetError, match=reason):
        prepare(coco, tmp_path, **options)
    assert not list(tmp_path.glob("out/*.json"))


VALUES = (
    None,
    True,
    -1,
    0,
    1,
    2.5,
    10**30,
    "",
    "x",
    "..",
    "dog:head",
    [],
    {},
    [[]],
    [1, 2],
    [5, 5, 20, 20],
    float("inf"),
)


def mutate(document: dict, draw: random.Random) -> None:
    """Change, remove or double one thing somewhere in a document."""
    place, path = document, draw.choice([1, 2, 3, 3, 3, 4])
    for depth in range(path):
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        if not keys:
            return
        key = draw.choice(keys)
        if depth == path - 1 or not isinstance(place[key], (dict, list)):
            break
        place = place[key]
    action = draw.random()
    if action < 0.15:
        del place[key]
    elif action < 0.25 and isinstance(place, list):
        place.append(copy.deepcopy(place[key]))
    else:
        place[key] = copy.deepcopy(draw.choice(VALUES))


def with_masks() -> CocoFile:
    coco = CocoFile("dog", "dog:head", "dog:leg")
    for _ in range(2):
        image = coco.image()
        dog = coco.label(image, "dog", (20, 20, 24, 24))
        coco.label(image, "dog:head", segmentation=rle(22, 24, 30, 29), bbox=[22, 24, 8, 5], obj_ann_id=dog)
        coco.label(image, "dog:leg", segmentation=[[30, 30, 40, 30, 40, 36, 30, 36]], obj_ann_id=dog)
    return coco


@pytest.mark.parametrize("seed", range(4))
def test_any_file_gives_a_data_set_or_one_sentence(tmp_path, seed):
    draw = random.Random(seed)
    good, refusals = 0, []
    for make in (lambda: animals(3), with_masks):
        make().write(tmp_path)
        for _ in range(30):
            coco = make()
            for _ in range(draw.choice([1, 1, 2, 3])):
                mutate(coco.document, draw)
            file, images = rewrite(coco, tmp_path)
            try:
                prepare_parts(
                    file, images, tmp_path / "out", CocoOptions(), PrepareOptions(fractions=(1, 0, 0)), overwrite=True
                )
            except PartDatasetError as error:
                refusals.append(str(error))
            else:
                load(tmp_path)
                good += 1
    assert good > 0
    assert refusals
    assert not any("\n" in sentence for sentence in refusals)


def test_a_file_that_tells_classes_in_two_ways_that_disagree_is_refused(tmp_path):
    coco = CocoFile(("head", "animal"), ("leg", "animal"))
    for number in range(4):
        coco.label(coco.image(label=("dog", "cat")[number % 2]), "head", (10, 10, 20, 20))
    with pytest.raises(PartDatasetError, match=r"--classes-from supercategory.*--classes-from image"):
        prepare(coco, tmp_path)
    prepare(coco, tmp_path, fractions=(1, 0, 0), classes_from="image")
    assert load(tmp_path).class_names == ("cat", "dog")


def test_truncated_json_and_folders_that_are_not_there(tmp_path):
    file, images = animals(4).write(tmp_path)
    with pytest.raises(PartDatasetError, match="nowhere is not a folder"):
        prepare_parts(file, tmp_path / "nowhere", tmp_path / "out", CocoOptions(), PrepareOptions())
    file.write_text(file.read_text()[:-40])
    with pytest.raises(PartDatasetError, match="is not JSON"):
        prepare_parts(file, images, tmp_path / "out", CocoOptions(), PrepareOptions())
    with pytest.raises(PartDatasetError, match="cannot be read"):
        prepare_parts(tmp_path / "none.json", images, tmp_path / "out", CocoOptions(), PrepareOptions())


def test_an_output_folder_of_somebody_else_is_refused(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("years of work")
    with pytest.raises(PartDatasetError, match="neither empty nor the output of an earlier run"):
        prepare(animals(4), tmp_path, overwrite=True)
    assert (tmp_path / "out" / "thesis.tex").read_text() == "years of work"
