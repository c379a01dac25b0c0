"""What load_part_dataset gives for valid files, and that it refuses the others naming file, entry and reason."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from detectron2.data.detection_utils import annotations_to_instances, transform_instance_annotations
from detectron2.data.transforms import TransformList
from detectron2.structures import BoxMode
from part_dataset_files import Document, compressed, ellipse, string_id_document, valid_document, write_dataset
from pycocotools import mask as mask_util
from pycocotools.coco import COCO

from partbox.data import PartDatasetError, load_part_dataset
from partbox.data.part_json_checks import check_document

Change = Callable[[Document], object]


def put(*path: Any) -> Change:
    """A change that sets ``document[path[0]][path[1]]... = path[-1]``."""
    *way, key, value = path

    def change(document: Document) -> None:
        place: Any = document
        for step in way:
            place = place[step]
        place[key] = value

    return change


def drop(*path: Any) -> Change:
    """A change that deletes ``document[path[0]][path[1]]...``."""
    *way, key = path

    def change(document: Document) -> None:
        place: Any = document
        for step in way:
            place = place[step]
        del place[key]

    return change


def every(*changes: Change) -> Change:
    return lambda document: [change(document) for change in changes]


A0, A4 = ("annotations", 0), ("annotations", 4)  # with a polygon; a box without segmentation
ENTRY_A0, ENTRY_A1, ENTRY_A4 = "annotations[0] (id 101)", "annotations[1] (id 102)", "annotations[4] (id 105)"
ENTRY_I0 = 'images[0] (id 10, file_name "dogs/a.png")'
RLE = ("annotations", 1, "segmentation")
RUNS = ("annotations", 7, "segmentation")  # uncompressed, 12 x 30
ENTRY_RUNS = "annotations[7] (id 108)"
NAN = float("nan")

REFUSALS: list[tuple[str, Change, str, str]] = [
    # name of the test, the change, the entry named, words of the reason (separated by "|")
    ("no_classes", drop("classes"), "top level", '"classes" is missing|prepare_coco_parts'),
    ("misspelt_list", every(drop("classes"), put("clases", [])), "top level", 'did you mean "clases"'),
    ("no_images", drop("images"), "top level", '"images" is missing'),
    ("no_annotations", drop("annotations"), "top level", '"annotations" is missing'),
    ("no_categories", drop("categories"), "top level", '"categories" is missing'),
    ("images_is_object", put("images", {}), "images", "must be a list|an object"),
    ("images_is_null", put("images", None), "images", "must be a list|null"),
    ("images_empty", put("images", []), "images", "must not be empty"),
    ("classes_empty", put("classes", []), "classes", "must not be empty"),
    ("class_is_string", put("classes", 0, "dog"), "classes[0]", 'must be an object|"dog"'),
    ("class_id_missing", drop("classes", 0, "id"), "classes[0]", '"id" is missing'),
    ("class_id_bool", put("classes", 0, "id", True), "classes[0]", "id must be an integer|true"),
    ("class_id_float", put("classes", 0, "id", 7.0), "classes[0]", "id must be an integer|7.0"),
    ("class_id_huge", put("classes", 0, "id", 2**53), "classes[0] (id 9007199254740992)", "id must lie in"),
    ("class_name_blank", put("classes", 0, "name", " "), "classes[0] (id 7)", "name must not be blank"),
    ("class_name_number", put("classes", 0, "name", 3), "classes[0] (id 7)", "name must be a string|3"),
    ("class_name_surrogate", put("classes", 0, "name", "\ud800"), "classes[0] (id 7)", "surrogate"),
    ("class_id_twice", put("classes", 1, "id", 7), "classes[1] (id 7)", "id 7 is already used|classes[0]"),
    ("class_name_twice", put("classes", 1, "name", "dog"), "classes[1] (id 5)", 'name "dog" is already used'),
    ("category_id_null", put("categories", 0, "id", None), "categories[0]", "id must be an integer|null"),
    ("category_id_twice", put("categories", 1, "id", 1), "categories[1] (id 1)", "id 1 is already used"),
    (
        "category_name_twice",
        put("categories", 1, "name", "head"),
        "categories[1] (id 2)",
        '"head" of "dog" is already used',
    ),
    (
        "supercategory_unknown",
        put("categories", 0, "supercategory", "Dog"),
        "categories[0] (id 1)",
        '"Dog" is no class|did you mean "dog"',
    ),
    ("supercategory_missing", drop("categories", 0, "supercategory"), "categories[0] (id 1)", "supercategory"),
    ("image_is_null", put("images", 0, None), "images[0]", "must be an object|null"),
    ("image_id_missing", drop("images", 0, "id"), 'images[0] (file_name "dogs/a.png")', '"id" is missing'),
    ("image_id_list", put("images", 0, "id", [1]), 'images[0] (file_name "dogs/a.png")', "id must be|a list of 1"),
    ("image_id_twice", put("images", 1, "id", 10), 'images[1] (id 10, file_name "dogs/b.jpg")', "id 10 is already"),
    ("image_ids_mixed", put("images", 4, "id", "x"), 'images[4] (id "x", file_name "e.png")', "all integers or all"),
    ("file_name_missing", drop("images", 0, "file_name"), "images[0] (id 10)", '"file_name" is missing'),
    ("file_name_twice", put("images", 1, "file_name", "dogs//a.png"), "images[1]", "already used by images[0]"),
    ("file_name_empty", put("images", 0, "file_name", ""), "images[0]", "file_name must not be blank"),
    ("file_name_absolute", put("images", 0, "file_name", "/etc/passwd"), "images[0]", "absolute"),
    ("file_name_drive", put("images", 0, "file_name", "C:/a.png"), "images[0]", "absolute"),
    ("file_name_parent", put("images", 0, "file_name", "a/../../b.png"), "images[0]", "leaves the image root"),
    ("file_name_nul", put("images", 0, "file_name", "a\0.png"), "images[0]", "NUL"),
    ("file_name_backslash", put("images", 0, "file_name", "dogs\\a.png"), "images[0]", "backslash"),
    ("file_name_folder", put("images", 0, "file_name", "dogs/"), "images[0]", "folder"),
    ("width_bool", put("images", 0, "width", True), ENTRY_I0, "width must be an integer|true"),
    ("width_string", put("images", 0, "width", "24"), ENTRY_I0, 'width must be an integer|"24"'),
    ("height_zero", put("images", 0, "height", 0), ENTRY_I0, "height must lie in [1, 65535]"),
    ("class_id_unknown", put("images", 0, "class_id", 6), ENTRY_I0, "unknown class_id 6"),
    ("class_id_absent", drop("images", 0, "class_id"), ENTRY_I0, '"class_id" is missing'),
    ("source_image_null", put("images", 0, "source_image", None), ENTRY_I0, "source_image must be a string|null"),
    ("part_labels_unknown", put("images", 0, "part_labels", "masks"), ENTRY_I0, 'part_labels must be|"masks"'),
    ("part_labels_misspelt", put("images", 0, "part_label", "none"), ENTRY_I0, 'key "part_label" would be ignored'),
    ("source_image_misspelt", put("images", 0, "source_img", "x"), ENTRY_I0, 'write "source_image"'),
    ("label_source_unknown", put("images", 0, "label_source", "model"), ENTRY_I0, 'label_source must be|"model"'),
    ("label_source_null", put("images", 0, "label_source", None), ENTRY_I0, "label_source must be|null"),
    ("label_source_misspelt", put("images", 0, "label_sources", "x"), ENTRY_I0, 'write "label_source"'),
    ("label_source_misplaced", put(*A4, "label_source", "predicted"), ENTRY_A4, "belongs to images"),
    (
        "predicted_none",
        put("images", 3, "label_source", "predicted"),
        "images[3]",
        'part_labels must be "mask" or "box"',
    ),
    ("predicted_unsaid", put("images", 0, "label_source", "predicted"), ENTRY_I0, "part_labels must be"),
    ("score_missing", drop(*RUNS[:2], "score"), ENTRY_RUNS, "the annotation has no score"),
    ("score_above_one", put(*RUNS[:2], "score", 1.01), ENTRY_RUNS, "score must be a number in [0, 1], is 1.01"),
    ("score_negative", put(*RUNS[:2], "score", -1e-9), ENTRY_RUNS, "score must be a number in [0, 1]"),
    ("score_nan", put(*RUNS[:2], "score", NAN), ENTRY_RUNS, "score must be a number in [0, 1], is nan"),
    ("score_bool", put(*RUNS[:2], "score", True), ENTRY_RUNS, "score must be a number in [0, 1], is true"),
    ("score_text", put(*RUNS[:2], "score", "0.5"), ENTRY_RUNS, "score must be a number in [0, 1]"),
    ("score_misspelt", put(*RUNS[:2], "scores", 0.5), ENTRY_RUNS, 'write "score"'),
    ("annotation_is_list", put(*A0, []), "annotations[0]", "must be an object"),
    ("annotation_id_missing", drop(*A0, "id"), "annotations[0]", '"id" is missing'),
    ("annotation_id_zero", put(*A0, "id", 0), "annotations[0] (id 0)", "id must lie in [1,"),
    ("annotation_id_twice", put(*A4, "id", 101), "annotations[4] (id 101)", "already used by annotations[0]"),
    ("image_unknown", put(*A0, "image_id", 99), ENTRY_A0, "no image has the id 99"),
    ("image_id_as_string", put(*A0, "image_id", "10"), ENTRY_A0, 'no image has the id "10"|another type'),
    ("image_id_is_float", put(*A0, "image_id", 10.0), ENTRY_A0, "image_id must be an integer"),
    ("category_unknown", put(*A0, "category_id", 9), ENTRY_A0, "unknown category_id 9"),
    ("category_id_bool", put(*A0, "category_id", True), ENTRY_A0, "category_id must be an integer"),
    (
        "part_of_other_class",
        put(*A0, "category_id", 3),
        ENTRY_A0,
        'part belongs to class "car", its image to class "dog"',
    ),
    ("bbox_missing", drop(*A0, "bbox"), ENTRY_A0, '"bbox" is missing'),
    ("bbox_misspelt", every(drop(*A0, "bbox"), put(*A0, "box", [])), ENTRY_A0, '"bbox" is missing|did you mean "box"'),
    ("bbox_short", put(*A0, "bbox", [1, 2, 3]), ENTRY_A0, "[x, y, width, height]|a list of 3"),
    ("bbox_nested", put(*A0, "bbox", [[1, 2], [3, 4], 5, 6]), ENTRY_A0, "four finite numbers|a list of 2"),
    ("bbox_string", put(*A0, "bbox", [1, 2, "3", 4]), ENTRY_A0, 'four finite numbers|"3"'),
    ("bbox_bool", put(*A0, "bbox", [1, 2, True, 4]), ENTRY_A0, "four finite numbers|true"),
    ("bbox_nan", put(*A0, "bbox", [NAN, 2, 3, 4]), ENTRY_A0, "four finite numbers|nan"),
    ("bbox_infinite", put(*A0, "bbox", [1, 2, float("inf"), 4]), ENTRY_A0, "four finite numbers|inf"),
    ("bbox_huge_integer", put(*A0, "bbox", [1, 2, 10**400, 4]), ENTRY_A0, "four finite numbers|huge"),
    ("bbox_no_width", put(*A4, "bbox", [1, 2, 0, 4]), ENTRY_A4, "is empty"),
    ("bbox_negative", put(*A4, "bbox", [9, 9, -3, -4]), ENTRY_A4, "is empty"),
    ("bbox_right_of_image", put(*A4, "bbox", [10, 2, 11.01, 4]), ENTRY_A4, "outside its image of 20 x 20"),
    ("bbox_left_of_image", put(*A4, "bbox", [-1.01, 2, 8, 4]), ENTRY_A4, "outside its image"),
    ("bbox_in_the_margin", put(*A4, "bbox", [20, 2, 1, 4]), ENTRY_A4, "less than 0.1 pixels"),
    ("bbox_hairline", put(*A4, "bbox", [2, 2, 0.01, 4]), ENTRY_A4, "less than 0.1 pixels"),
    ("crowd", put(*A4, "iscrowd", 1), ENTRY_A4, "a crowd is not one part"),
    ("crowd_two", put(*A4, "iscrowd", 2), ENTRY_A4, "iscrowd must be 0 or 1"),
    ("area_nan", put(*A4, "area", NAN), ENTRY_A4, "area must be a finite number"),
    ("area_negative", put(*A4, "area", -1), ENTRY_A4, "area must be a finite number >= 0"),
    ("object_id_null", put(*A4, "object_id", None), ENTRY_A4, "object_id must be an integer|null"),
    ("object_id_misspelt", put(*A4, "objectid", 3), ENTRY_A4, 'write "object_id"'),
    ("source_image_misplaced", put(*A4, "source_image", "x"), ENTRY_A4, "belongs to images"),
    ("none_with_annotation", put("images", 2, "part_labels", "none"), ENTRY_A4, 'part_labels "none"'),
    ("mask_without_segmentation", put("images", 2, "part_labels", "mask"), ENTRY_A4, "has no segmentation"),
    ("segmentation_null", put(*A0, "segmentation", None), ENTRY_A0, "must be a list of polygons|null"),
    ("segmentation_empty", put(*A0, "segmentation", []), ENTRY_A0, "at least one polygon"),
    ("polygon_flat", put(*A0, "segmentation", [2, 3, 12, 3, 7, 11]), ENTRY_A0, "polygon 0 must be a list"),
    ("polygon_string", put(*A0, "segmentation", 0, [2, 3, 12, 3, 7, "11"]), ENTRY_A0, 'finite numbers|"11"'),
    ("polygon_nan", put(*A0, "segmentation", 0, [2, 3, 12, 3, 7, NAN]), ENTRY_A0, "finite numbers|nan"),
    ("polygon_odd", put(*A0, "segmentation", 0, [2, 3, 12, 3, 7, 11, 5]), ENTRY_A0, "odd number of coordinates (7)"),
    ("polygon_two_points", put(*A0, "segmentation", 0, [2, 3, 12, 11]), ENTRY_A0, "2 points, needs at least 3"),
    ("polygon_outside", put(*A0, "segmentation", 0, [2, 3, 26.1, 3, 7, 11]), ENTRY_A0, "leaves its image of 24 x 16"),
    ("polygon_line", put(*A0, "segmentation", 0, [2, 3, 7, 7, 12, 11]), ENTRY_A0, "degenerate"),
    ("polygon_point", put(*A0, "segmentation", 0, [2, 3, 2, 3, 2, 3]), ENTRY_A0, "degenerate"),
    ("polygon_in_the_margin", put(*A0, "segmentation", 0, [24, 3, 25, 3, 24.5, 9]), ENTRY_A0, "degenerate"),
    ("polygon_second", put("annotations", 8, "segmentation", 1, [1, 1]), "annotations[8] (id 109)", "polygon 1 has 1"),
    ("polygon_elsewhere", put(*A0, "bbox", [13, 10, 10, 6]), ENTRY_A0, "contradicts the segmentation"),
    ("bbox_as_corners", put(*A0, "bbox", [2, 3, 21, 13]), ENTRY_A0, "contradicts the segmentation"),
    ("rle_size_swapped", put(*RLE, "size", [24, 16]), ENTRY_A1, "size [height, width] is [24, 16]|[16, 24]"),
    ("rle_size_string", put(*RLE, "size", "16x24"), ENTRY_A1, "size must be [height, width]"),
    ("rle_size_missing", drop(*RLE, "size"), ENTRY_A1, "size must be [height, width]"),
    ("rle_counts_missing", drop(*RLE, "counts"), ENTRY_A1, "counts must be a list or a string"),
    ("rle_counts_empty", put(*RLE, "counts", ""), ENTRY_A1, "not a valid compressed string"),
    ("rle_counts_cut", put(*RLE, "counts", "Q"), ENTRY_A1, "not a valid compressed string"),
    ("rle_counts_alphabet", put(*RLE, "counts", "1!2"), ENTRY_A1, "not a valid compressed string"),
    ("rle_counts_not_ascii", put(*RLE, "counts", "1é2"), ENTRY_A1, "not a valid compressed string"),
    ("rle_counts_overlong", put(*RLE, "counts", "o" * 20 + "0"), ENTRY_A1, "not a valid compressed string"),
    ("rle_counts_negative", put(*RLE, "counts", "1O1"), ENTRY_A1, "negative count"),
    ("rle_counts_sum", put(*RLE, "counts", "111"), ENTRY_A1, "sum to 3, the image has 384 pixels"),
    ("rle_zero_count", put(*RUNS, "counts", [100, 0, 160, 100]), ENTRY_RUNS, "count of 0 after the first"),
    ("rle_empty", put(*RUNS, "counts", [360]), ENTRY_RUNS, "mask is empty"),
    ("rle_no_counts", put(*RUNS, "counts", []), ENTRY_RUNS, "sum to 0"),
    ("rle_counts_bool", put(*RUNS, "counts", [True, 358, 1]), ENTRY_RUNS, "counts must be integers"),
    ("rle_counts_below_zero", put(*RUNS, "counts", [-1, 360, 1]), ENTRY_RUNS, "negative count"),
    ("rle_counts_huge", put(*RUNS, "counts", [10**400, 5]), ENTRY_RUNS, "sum to a huge integer"),
    ("rle_elsewhere", put(*RUNS, "counts", [340, 20]), ENTRY_RUNS, "contradicts the segmentation"),
]


@pytest.mark.parametrize(
    ("change", "entry", "words"), [pytest.param(*refusal[1:], id=refusal[0]) for refusal in REFUSALS]
)
def test_refuses(tmp_path: Path, change: Change, entry: str, words: str) -> None:
    document = valid_document()
    json_file, root = write_dataset(tmp_path, document)
    change(document)
    json_file.write_text(json.dumps(document))
    with pytest.raises(PartDatasetError) as caught:
        load_part_dataset(json_file, root)
    error = caught.value
    assert error.file == str(json_file)
    assert error.entry == entry or error.entry.startswith(f"{entry} (")
    assert str(json_file) in str(error)
    assert error.entry in str(error)
    for word in words.split("|"):
        assert word in f"{error.reason}. {error.fix}"


def test_keys_are_counted_without_reading_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The slow search for repeated keys is not begun for a usual file, whatever its RLE strings look like."""
    document = valid_document()
    masks = [ellipse(24, 24, [x, y, 7.0, 6.0]) for x in range(17) for y in range(18)]
    document["images"].append({"id": 16, "file_name": "g.png", "width": 24, "height": 24, "class_id": 7})
    document["annotations"] += [
        {
            "id": 1000 + i,
            "image_id": 16,
            "category_id": 1,
            "bbox": [i // 18, i % 18, 7, 6],
            "segmentation": compressed(m),
        }
        for i, m in enumerate(masks)
    ]
    assert any(part["segmentation"]["counts"][0] == ":" for part in document["annotations"][9:])
    json_file, root = write_dataset(tmp_path, document)
    monkeypatch.setattr("builtins.open", None)
    for separators in ((",", ":"), (", ", ": ")):
        json_file.write_bytes(json.dumps(document, separators=separators).encode())
        load_part_dataset(json_file, root, verify_images="none")


def refusal_of_text(folder: Path, text: bytes) -> PartDatasetError:
    json_file, root = write_dataset(folder, valid_document())
    json_file.write_bytes(text)
    with pytest.raises(PartDatasetError) as caught:
        load_part_dataset(json_file, root)
    assert caught.value.file == str(json_file)
    return caught.value


@pytest.mark.parametrize(
    ("text", "entry", "words"),
    [
        (json.dumps(valid_document()).encode()[:-40], "line 1, column", "truncated"),
        (b"", "line 1, column 1", "not valid JSON"),
        (b"[]", "top level", "must be an object, is a list of 0"),
        (b"null", "top level", "must be an object, is null"),
        (b'{"images": [\xff]}', "file", "byte 12 is not UTF-8"),
        (b"\xef\xbb\xbf{}", "line 1, column 1", "BOM"),
        (b"[" * 100_000, "file", "nested too deeply"),
        (b'{"images": ' + b"1" * 5000 + b"}", "file", "not valid JSON: Exceeds the limit"),
        (json.dumps(valid_document()).encode()[:-1] + b', "annotations": []}', "annotations", "twice"),
        (
            json.dumps(valid_document()).replace('"bbox": [8, 9', '"bbox": [1, 1, 1, 1], "bbox": [8, 9').encode(),
            "the object with id 104",
            'has the key "bbox" twice',
        ),
    ],
    ids=["truncated", "empty", "list", "null", "not_utf8", "bom", "deep", "digits", "list_twice", "key_twice"],
)
def test_refuses_text(tmp_path: Path, text: bytes, entry: str, words: str) -> None:
    error = refusal_of_text(tmp_path, text)
    assert entry in error.entry
    assert words in str(error)


def test_refuses_missing_json(tmp_path: Path) -> None:
    with pytest.raises(PartDatasetError, match=r"train\.json: file: does not exist"):
        load_part_dataset(tmp_path / "train.json", tmp_path)


def test_refuses_folder_as_json(tmp_path: Path) -> None:
    with pytest.raises(PartDatasetError, match="cannot be read"):
        load_part_dataset(tmp_path, tmp_path)


def test_refuses_missing_image_root(tmp_path: Path) -> None:
    json_file, _ = write_dataset(tmp_path, valid_document())
    with pytest.raises(PartDatasetError, match=r"image root: .*elsewhere is not a folder"):
        load_part_dataset(json_file, tmp_path / "elsewhere")


def test_refuses_unknown_level(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="verify_images"):
        load_part_dataset(*write_dataset(tmp_path, valid_document()), verify_images="all")  # type: ignore[arg-type]


# ---------------------------------------------------------------- what is accepted


def test_records(tmp_path: Path) -> None:
    json_file, root = write_dataset(tmp_path, valid_document())
    dataset = load_part_dataset(str(json_file), str(root))
    assert (dataset.json_file, dataset.image_root) == (json_file, root)
    assert (dataset.class_names, dataset.class_ids) == (("dog", "car"), (7, 5))
    assert [(part.id, part.name) for part in dataset.categories] == [(1, "head"), (2, "leg"), (3, "wheel"), (4, "head")]
    assert dataset.part_to_class.tolist() == [0, 0, 1, 1]
    assert dataset.part_to_class.dtype == np.int64
    assert [record["image_id"] for record in dataset.records] == [10, 11, 12, 13, 14, 15]
    assert [record["label"] for record in dataset.records] == [0, 0, 1, 1, 0, 1]
    assert [record["part_labels"] for record in dataset.records] == ["mask", "box", "box", "none", "mask", "mask"]
    assert [record["source_image"] for record in dataset.records] == ["photo1", None, None, None, None, None]
    assert [record["label_source"] for record in dataset.records] == ["annotated"] * 5 + ["predicted"]
    assert [part.get("score") for part in dataset.records[5]["annotations"]] == [0.75, 1.0]
    first = dataset.records[0]
    assert (first["file_name"], first["width"], first["height"]) == (str(root / "dogs/a.png"), 24, 16)
    assert first["annotations"][0] == {
        "bbox": [2.0, 3.0, 10.0, 8.0],
        "bbox_mode": BoxMode.XYWH_ABS,
        "category_id": 0,
        "iscrowd": 0,
        "segmentation": [[2, 3, 12.0, 3, 7, 11]],
    }
    assert [len(record["annotations"]) for record in dataset.records] == [2, 2, 3, 0, 0, 2]
    assert [part.get("object_id") for part in dataset.records[2]["annotations"]] == [4, "car 1", None]
    numbers = [number for record in dataset.records for part in record["annotations"] for number in part["bbox"]]
    assert {type(number) for number in numbers} == {float}
    assert "bbox" not in repr(dataset)


def test_masks_are_what_detectron2_reads(tmp_path: Path) -> None:
    json_file, root = write_dataset(tmp_path, valid_document())
    record = load_part_dataset(json_file, root).records[5]
    runs = record["annotations"][0]["segmentation"]
    assert (mask_util.decode(runs) == ellipse(12, 30, [5.0, 1.0, 9.0, 9.0])).all()
    size = (record["height"], record["width"])
    parts = [
        transform_instance_annotations(part, TransformList([]), size) for part in copy.deepcopy(record["annotations"])
    ]
    instances = annotations_to_instances(parts, size, mask_format="bitmask")
    assert instances.gt_classes.tolist() == [3, 2]
    assert instances.gt_masks.tensor.shape == (2, 12, 30)


def test_string_ids(tmp_path: Path) -> None:
    dataset = load_part_dataset(*write_dataset(tmp_path, string_id_document()))
    assert dataset.records[0]["image_id"] == "img-10"
    assert {record["part_labels"] for record in dataset.records} == {"box"}


def test_any_order_of_annotations(tmp_path: Path) -> None:
    document = valid_document()
    document["annotations"].reverse()
    dataset = load_part_dataset(*write_dataset(tmp_path, document))
    assert [part["bbox"] for part in dataset.records[1]["annotations"]] == [[8, 9, 8, 15], [1, 1, 3, 4]]


def test_without_annotations_nothing_is_labelled(tmp_path: Path) -> None:
    document = valid_document()
    document["annotations"] = []
    dataset = load_part_dataset(*write_dataset(tmp_path, document))
    assert [record["part_labels"] for record in dataset.records] == ["none", "none", "box", "none", "none", "mask"]


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ([-1, 0, 8, 4], [0, 0, 7, 4]),
        ([12, 15.5, 9, 5.5], [12, 15.5, 8, 4.5]),
        ([0, 0, 20 + 1e-9, 20], [0, 0, 20, 20]),
        ([3.25, 4.5, 1, 0.1], [3.25, 4.5, 1, 0.1]),
    ],
)
def test_boxes_are_clipped(tmp_path: Path, given: list[float], kept: list[float]) -> None:
    document = valid_document()
    put(*A4, "bbox", given)(document)
    dataset = load_part_dataset(*write_dataset(tmp_path, document))
    assert dataset.records[2]["annotations"][0]["bbox"] == kept


@pytest.mark.parametrize(
    "change",
    [
        put("annotations", 0, "score", 0.5),
        put("annotations", 0, "score", {"not": "read in images whose labels are annotated"}),
        put("images", 5, "label_source", "annotated"),
        put("annotations", 0, "attributes", {"deep": [{"deeper": {}}]}),
        put("annotations", 0, "segmentation_mask", "x"),
        put("annotations", 3, "iscrowd", False),
        put("images", 0, "license", 1),
        put("images", 0, "date_captured", 'a "quoted": thing'),
        put("extra", {"a": [1, {"b": None}]}),
        put("annotations", 0, "segmentation", 0, [2, 3, 12.0, 3, 7, 11, 2, 3]),
        every(put(*A0, "segmentation", 0, [-2, 3, 26, 3, 7, 11]), put(*A0, "bbox", [0, 3, 24, 8])),
        put("annotations", 1, "segmentation", compressed(ellipse(16, 24, [1.0, 2.0, 13.0, 10.0]))),
        put("images", 0, "file_name", "./dogs//a.png"),
    ],
)
def test_is_accepted(tmp_path: Path, change: Change) -> None:
    document = valid_document()
    change(document)
    dataset = load_part_dataset(*write_dataset(tmp_path, document))
    assert sum(len(record["annotations"]) for record in dataset.records) == 9


@pytest.mark.parametrize("score", [None, 1.01, -1e-9, True, "0.5", NAN, 10**400, [0.5]])
def test_scores_are_seen_on_the_fast_path_too(monkeypatch: pytest.MonkeyPatch, score: Any) -> None:
    """Boxes alone, without ids of objects of two types: nothing here is looked at one by one."""
    document = valid_document()
    for annotation in document["annotations"]:
        annotation.pop("object_id", None)
        annotation.pop("segmentation", None)
    put("images", 5, "part_labels", "box")(document)
    with monkeypatch.context() as patched:
        patched.delattr("partbox.data.part_json_annotations._check_precisely")
        assert check_document(document, "file").images.label_sources[5] == "predicted"
    put(*RUNS[:2], "score", score)(document)
    for fast in (True, False):
        with pytest.raises(PartDatasetError, match=r"annotations\[7\] .* score must be a number in \[0, 1\]"):
            check_document(document, "file", fast=fast)
    drop(*RUNS[:2], "score")(document)
    for fast in (True, False):
        with pytest.raises(PartDatasetError, match="the annotation has no score"):
            check_document(document, "file", fast=fast)


def test_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    json_file, root = write_dataset(tmp_path, valid_document())
    whole = load_part_dataset(json_file, root).records
    monkeypatch.setattr("partbox.data.part_json_annotations.CHUNK", 2)
    assert load_part_dataset(json_file, root).records == whole
    document = valid_document()
    document["annotations"][7]["id"] = 102
    json_file.write_text(json.dumps(document))
    with pytest.raises(PartDatasetError, match=r"annotations\[7\] .* already used by annotations\[1\]"):
        load_part_dataset(json_file, root)
    document["annotations"][5]["bbox"] = [0, 0, 0, 0]
    json_file.write_text(json.dumps(document))
    with pytest.raises(PartDatasetError, match=r"annotations\[5\] .* is empty"):
        load_part_dataset(json_file, root)


@pytest.mark.parametrize("spacing", [(",", ":"), (" , ", " : ")])
def test_any_spacing(tmp_path: Path, spacing: tuple[str, str]) -> None:
    json_file, root = write_dataset(tmp_path, valid_document())
    json_file.write_text(json.dumps(valid_document(), separators=spacing, indent=3))
    assert len(load_part_dataset(json_file, root).records) == 6


def test_coco_tools_open_the_file(tmp_path: Path) -> None:
    json_file, _ = write_dataset(tmp_path, valid_document())
    coco = COCO(json_file)
    assert len(coco.getAnnIds(imgIds=[12])) == 3
    assert coco.annToMask(coco.loadAnns([102])[0]).sum() > 0


def test_error_survives_pickling() -> None:
    error = PartDatasetError(Path("a.json"), "images[0]", "is wrong", "mend it")
    again = pickle.loads(pickle.dumps(error))
    assert str(again) == str(error) == "a.json: images[0]: is wrong. mend it."
    assert (again.file, again.entry, again.reason, again.fix) == ("a.json", "images[0]", "is wrong", "mend it")
