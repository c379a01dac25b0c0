"""A COCO file is read image by image, whatever the order of its lists, and refused by entry where it is wrong."""

from __future__ import annotations

import json
import logging
import random
import re
import tracemalloc

import pytest

from partbox import progress
from partbox.data import PartDatasetError
from partbox.data.preparation import coco_stream
from partbox.data.preparation.coco_stream import CocoStream

CATEGORIES = [{"id": 1, "name": "dog:head"}]


def write(folder, document):
    file = folder / "coco.json"
    file.write_text(document if isinstance(document, str) else json.dumps(document))
    return CocoStream(file)


def document(images=3, parts=2, names=None):
    ids = names or list(range(1, images + 1))
    return {
        "annotations": [
            {"id": 10 * place + part, "image_id": image_id, "category_id": 1, "bbox": [part, 0.5, 2, 2], "note": None}
            for part in range(parts)
            for place, image_id in enumerate(ids)
        ],
        "images": [{"id": image_id, "file_name": f"{image_id}.jpg"} for image_id in ids],
        "categories": CATEGORIES,
    }


@pytest.mark.parametrize("names", [None, ["b", "a", "1"]])
def test_images_come_with_their_annotations_in_the_order_of_the_file(tmp_path, names):
    given = document(names=names)
    random.Random(0).shuffle(given["annotations"])
    found = list(write(tmp_path, given).photographs())
    assert [image.value for image, _ in found] == given["images"]
    for image, own in found:
        expected = [(i, a) for i, a in enumerate(given["annotations"]) if a["image_id"] == image.value["id"]]
        assert [(entry.index, entry.value) for entry in own] == expected
        assert len(own) == 2


def test_numbers_and_strings_are_other_ids(tmp_path):
    given = document(images=1)
    given["images"].append({"id": "1", "file_name": "b.jpg"})
    assert [len(annotations) for _, annotations in write(tmp_path, given).photographs()] == [2, 0]


def test_numbers_stay_what_they_are(tmp_path):
    ((_, (first, _)),) = write(tmp_path, document(images=1)).photographs()
    assert [type(value) for value in first.value["bbox"]] == [int, float, int, int]
    assert first.value["note"] is None


def test_tables_and_counts(tmp_path):
    stream = write(tmp_path, document())
    assert stream.table("categories") == CATEGORIES
    assert stream.count() == 3


def test_the_digest_is_that_of_the_bytes(tmp_path):
    import hashlib

    stream = write(tmp_path, document())
    assert stream.sha256 == hashlib.sha256(stream.file.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d["images"].append(dict(d["images"][0])), r"images\[3\].*id 1 is already used by images\[0\]"),
        (lambda d: d["annotations"][4].update(image_id=77), r"annotations\[4\].*no image has the id 77"),
        (lambda d: d["annotations"][4].pop("image_id"), r"annotations\[4\].*image_id.* is missing"),
        (lambda d: d["annotations"].insert(1, 5), r"annotations\[1\] must be an object|annotations\[1\].*object"),
        (lambda d: d.pop("images"), r'"images" is missing or empty'),
        (lambda d: d.update(annotations=[]), r'"annotations" is missing or empty'),
        (lambda d: d.update(images={"id": 1}), r'"images" is missing or empty'),
    ],
)
def test_what_is_wrong_is_named(tmp_path, change, message):
    given = document()
    change(given)
    with pytest.raises(PartDatasetError, match=message):
        list(write(tmp_path, given).photographs())


@pytest.mark.parametrize("text", ["", "[]", "{", json.dumps(document())[:-40], '{"images": [{"id": NaN}]}', "\x00"])
def test_broken_files_are_refused(tmp_path, text):
    with pytest.raises(PartDatasetError, match=r"not JSON|missing or empty"):
        list(write(tmp_path, text).photographs())


def test_an_absent_file_is_refused(tmp_path):
    with pytest.raises(PartDatasetError, match="cannot be read"):
        CocoStream(tmp_path / "none.json").table("categories")


def test_memory_does_not_grow_with_the_file(tmp_path):
    peaks = []
    for images in (200, 2000):
        stream = write(tmp_path, document(images=images, parts=10))
        tracemalloc.start()
        assert sum(len(annotations) for _, annotations in stream.photographs()) == 10 * images
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.3 * peaks[0]


def test_a_large_file_says_how_far_it_is_read(tmp_path, monkeypatch, capsys):
    """Before its first photograph comes it is read through several times, and nobody else could say anything."""
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    monkeypatch.setattr(logging.getLogger("partbox"), "handlers", [])
    stream = write(tmp_path, document(images=2_000))
    for name, value in (("_MEGABYTE", 1_000), ("_LOOK", 1)):
        monkeypatch.setattr(coco_stream, name, value)
    photographs = stream.photographs()
    next(photographs)
    photographs.close()
    assert capsys.readouterr().err == "", "it is small"
    monkeypatch.setattr(coco_stream, "_TOLD_FROM", 0)
    assert len(list(stream.photographs())) == 2_000
    said = capsys.readouterr().err
    size = stream.file.stat().st_size // 1_000
    places = [int(one.replace(",", "")) for one in re.findall(r"reading annotations of coco\.json: ([\d,]+) of", said)]
    assert places == sorted(places)
    assert 0 < places[0] < places[len(places) // 2] < places[-1] <= size
    assert re.search(rf"of {size:,} megabytes, about \d.* left", said)
    assert said.count("reading images of coco.json") <= 2_001, "only the pass that nobody counts"
    assert not progress._open
