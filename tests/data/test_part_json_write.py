"""write_part_dataset: valid, complete, the same bytes for the same entries, or nothing."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from part_dataset_files import Document, ellipse, valid_document, write_images
from pycocotools import mask as mask_util
from pycocotools.coco import COCO

from partbox.data import PartDatasetError, load_part_dataset, write_part_dataset
from partbox.data.part_json_write import write_part_dataset_in_pieces


def entries(document: Document) -> dict[str, Any]:
    return {key: document[key] for key in ("classes", "categories", "images", "annotations")}


def test_what_is_written_is_read(tmp_path: Path) -> None:
    document = valid_document()
    write_part_dataset(tmp_path / "new" / "train.json", **entries(document), info={"made by": "a test"})
    write_images(tmp_path / "images", document)
    dataset = load_part_dataset(tmp_path / "new" / "train.json", tmp_path / "images")
    assert dataset.class_ids == (7, 5)
    assert [len(record["annotations"]) for record in dataset.records] == [2, 2, 3, 0, 0, 2]
    written = json.loads((tmp_path / "new" / "train.json").read_text())
    assert written["info"] == {"made by": "a test", "partbox_part_dataset": 1}
    assert written["categories"] == document["categories"]
    assert written["images"] == document["images"]
    for now, before in zip(written["annotations"], document["annotations"], strict=True):
        assert {**before, "area": now["area"], "iscrowd": 0} == now


def test_areas_are_cocos(tmp_path: Path) -> None:
    write_part_dataset(tmp_path / "a.json", **entries(valid_document()))
    coco = COCO(tmp_path / "a.json")
    for annotation in coco.loadAnns(coco.getAnnIds()):
        w, h = annotation["bbox"][2:]
        area = coco.annToMask(annotation).sum() if "segmentation" in annotation else w * h
        assert annotation["area"] == (40 if annotation["id"] == 101 else area)  # one that the entry gave is kept


def test_same_entries_same_bytes(tmp_path: Path) -> None:
    document = valid_document()
    write_part_dataset(tmp_path / "a.json", **entries(document))
    turned = {key: [dict(reversed(entry.items())) for entry in value] for key, value in entries(document).items()}
    write_part_dataset(tmp_path / "b.json", **turned)
    text = (tmp_path / "a.json").read_bytes()
    assert text == (tmp_path / "b.json").read_bytes()
    assert sum(line.startswith(b'{"id":') for line in text.splitlines()) == 2 + 4 + 6 + 9


def test_numpy_and_bytes(tmp_path: Path) -> None:
    document = valid_document()
    document["annotations"][0] |= {"id": np.int64(101), "bbox": np.array([2.0, 3.0, 10.0, 8.0])}
    document["annotations"][1] |= {"segmentation": mask_util.encode(ellipse(16, 24, [2.0, 3.0, 10.0, 8.0]))}
    write_part_dataset(tmp_path / "a.json", **entries(document))
    assert COCO(tmp_path / "a.json").loadAnns([101])[0]["bbox"] == [2, 3, 10, 8]


@pytest.mark.parametrize(
    ("place", "key", "value", "entry", "words"),
    [
        (("annotations", 4), "bbox", [1, 2, float("nan"), 3], "annotations[4] (id 105)", "NaN"),
        (("annotations", 4), "bbox", [1, 2, 30, 3], "annotations[4] (id 105)", "outside"),
        (("annotations", 4), "note", object(), "annotations", "cannot be written as JSON"),
        (("annotations", 4), "id", 2**70, "annotations", "cannot be written as JSON"),
        (("images", 0), "class_id", 1, 'images[0] (id 10, file_name "dogs/a.png")', "unknown class_id 1"),
    ],
)
def test_nothing_wrong_is_written(
    tmp_path: Path, place: tuple[str, int], key: str, value: Any, entry: str, words: str
) -> None:
    (tmp_path / "a.json").write_text("old")
    document = valid_document()
    document[place[0]][place[1]][key] = value
    with pytest.raises(PartDatasetError) as caught:
        write_part_dataset(tmp_path / "a.json", **entries(document))
    assert (caught.value.file, caught.value.entry) == (str(tmp_path / "a.json"), entry)
    assert words in caught.value.reason
    assert (tmp_path / "a.json").read_text() == "old"
    assert os.listdir(tmp_path) == ["a.json"]


def test_entries_are_not_changed(tmp_path: Path) -> None:
    document = valid_document()
    write_part_dataset(tmp_path / "a.json", **entries(document))
    assert document == valid_document()


def in_pieces(document: Document, size: int) -> list[tuple[list[Any], list[Any]]]:
    """Some images after the others, with their annotations."""
    starts = range(0, len(document["images"]), size)
    parts = [document["images"][start : start + size] for start in starts]
    owned = [{image["id"] for image in images} for images in parts]
    return [
        (images, [one for one in document["annotations"] if one["image_id"] in ids])
        for images, ids in zip(parts, owned, strict=True)
    ]


def by_image(document: Document) -> Document:
    """With annotations in the order of their images, numbered in that order."""
    order = [image["id"] for image in document["images"]]
    found = sorted(document["annotations"], key=lambda one: order.index(one["image_id"]))
    return {**document, "annotations": [{**one, "id": number} for number, one in enumerate(found, start=1)]}


@pytest.mark.parametrize("size", [1, 2, 4, 100])
def test_pieces_of_any_size_make_the_same_file(tmp_path: Path, size: int) -> None:
    document = by_image(valid_document())
    tables = {key: document[key] for key in ("classes", "categories")}
    write_part_dataset(tmp_path / "a.json", **entries(document), info={"x": 1})
    write_part_dataset_in_pieces(tmp_path / "b.json", **tables, pieces=in_pieces(document, size), info={"x": 1})
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


def test_a_wrong_last_piece_leaves_what_was_there(tmp_path: Path) -> None:
    document = by_image(valid_document())
    tables = {key: document[key] for key in ("classes", "categories")}
    (tmp_path / "a.json").write_text("before")

    def refused(pieces: list[tuple[list[Any], list[Any]]], message: str) -> None:
        with pytest.raises(PartDatasetError, match=message):
            write_part_dataset_in_pieces(tmp_path / "a.json", **tables, pieces=pieces)
        assert (tmp_path / "a.json").read_text() == "before"
        assert [path.name for path in tmp_path.iterdir()] == ["a.json"]

    refused([], "images: must not be empty")
    *first, (images, annotations) = in_pieces(document, 2)
    assert annotations
    refused([*first, (images, [{**annotations[0], "category_id": 999}])], "category_id 999")
    refused([*first, (images, [{**annotations[0], "id": 1}])], "id 1 of a later piece is not above")
