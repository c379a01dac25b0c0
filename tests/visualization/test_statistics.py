"""Numbers of part datasets against counts by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from part_dataset_files import valid_document, write_dataset
from PIL import Image

from partbox.data import load_part_dataset
from partbox.data.part_map import decode_mask
from partbox.visualization.statistics import dataset_statistics, mask_pixels, shared_photographs
from partbox.visualization.statistics_plot import MOST, save_statistics_plot
from partbox.visualization.statistics_text import percent, statistics_text


@pytest.fixture
def dataset(tmp_path):
    return load_part_dataset(*write_dataset(tmp_path, valid_document()))


def part_of(statistics, class_name, part):
    return next(entry for entry in statistics["parts"] if (entry["class"], entry["part"]) == (class_name, part))


def test_counts_are_those_of_the_file(dataset):
    statistics = dataset_statistics(dataset)
    assert statistics["totals"] == {
        **{"images": 6, "mask": 3, "box": 2, "none": 1, "predicted": 1, "no_part_visible": 1, "annotations": 9},
        "masks_not_used": 2,  # one in an image of a mask and a box, one in an image that says "box"
    }
    dog, car = statistics["classes"]
    assert dog == {
        **{"class": "dog", "images": 3, "mask": 2, "box": 1, "none": 0, "predicted": 0},
        **{"no_part_visible": 1, "annotations": 4},
    }
    assert (car["images"], car["mask"], car["box"], car["none"], car["predicted"]) == (3, 1, 1, 1, 1)
    head = part_of(statistics, "dog", "head")
    assert (head["annotations"], head["images"], head["masks"]) == (3, 2, 1)
    wheel = part_of(statistics, "car", "wheel")
    assert (wheel["annotations"], wheel["images"], wheel["masks"]) == (3, 2, 1)


def test_sizes_are_shares_of_the_image(dataset):
    statistics = dataset_statistics(dataset)
    leg = part_of(statistics, "dog", "leg")
    assert leg["box_width"]["median"] == pytest.approx(10 / 24)
    assert leg["box_height"]["median"] == pytest.approx(8 / 16)
    assert leg["box_area"]["mean"] == pytest.approx(80 / (24 * 16))
    record = next(record for record in dataset.records if record["image_id"] == 10)
    pixels = decode_mask(record["annotations"][1]["segmentation"], 16, 24).sum()
    assert leg["mask_area"]["maximum"] == pytest.approx(pixels / (24 * 16))
    head = part_of(statistics, "dog", "head")
    assert head["box_area"]["minimum"] == pytest.approx(12 / (16 * 24))
    assert part_of(statistics, "car", "head")["box_area"] is not None
    assert statistics["image_width"]["maximum"] == 30


def test_pixels_of_a_mask_in_every_format(dataset):
    for record in dataset.records:
        for part in record["annotations"]:
            if "segmentation" in part:
                size = record["height"], record["width"]
                assert mask_pixels(part["segmentation"], *size) == decode_mask(part["segmentation"], *size).sum()


def test_parts_that_appear_together_are_counted_by_image(dataset):
    together = dataset_statistics(dataset)["together"]
    assert together == [
        {"parts": ["car:wheel", "car:head"], "images": 2},
        {"parts": ["dog:head", "dog:leg"], "images": 1},
    ]


def test_photographs_in_two_files_are_named(tmp_path, dataset):
    other = valid_document()
    other["images"] = other["images"][:1]
    other["annotations"] = other["annotations"][:2]
    copy = load_part_dataset(*write_dataset(tmp_path / "other", other))
    assert shared_photographs({"train": dataset, "test": copy}) == [
        {"files": ["train", "test"], "photographs": 1, "for_example": "photo1"}
    ]
    assert "(!) train and test share 1 photographs, such as photo1" in statistics_text(
        {"train": dataset_statistics(dataset)}, shared_photographs({"train": dataset, "test": copy})
    )
    assert shared_photographs({"train": dataset}) == []


def test_photographs_behind_a_link_are_the_same_ones(tmp_path):
    """As tools/pseudo_label.py lays its folder out."""
    document = valid_document()
    for image in document["images"]:
        image.pop("source_image", None)
    json_file, images = write_dataset(tmp_path / "one", document)
    (tmp_path / "other").mkdir()
    (tmp_path / "other/images").symlink_to(images)
    (tmp_path / "other/train.json").write_text(Path(json_file).read_text())
    one = load_part_dataset(json_file, images)
    other = load_part_dataset(tmp_path / "other/train.json", tmp_path / "other/images")
    (shared,) = shared_photographs({"one": one, "other": other})
    assert shared["photographs"] == len(one.records)


def test_a_pair_of_parts_is_one_whatever_their_order_in_a_file(dataset):
    one = dataset_statistics(dataset)
    other = {**one, "together": [{**pair, "parts": pair["parts"][::-1]} for pair in one["together"]]}
    text = statistics_text({"one": one, "other": other})
    (line,) = [line for line in text.splitlines() if "car:wheel" in line and "car:head" in line and " + " in line]
    assert line.split()[-2:] == ["2", "2"]
    assert "(2 pairs)" in text


def test_the_text_says_what_a_table_would_hide(tmp_path, dataset):
    few = valid_document()
    few["classes"].append({"id": 9, "name": "boat"})
    few["categories"].append({"id": 9, "name": "sail", "supercategory": "boat"})
    other = load_part_dataset(*write_dataset(tmp_path / "other", few))
    text = statistics_text({"one": dataset_statistics(dataset), "two": dataset_statistics(other)})
    assert "(!) two: 1 classes without an image: boat" in text
    assert "(!) two: 1 parts that no image shows: boat:sail" in text
    assert "do not have the same classes in the same order" in text
    lines = text.splitlines()
    sail = next(line for line in lines if line.startswith("boat") and "sail" in line)
    assert sail.split() == ["boat", "sail", "-", "0", "in", "0;", "-,", "-"]
    dog = next(line for line in lines if line.startswith("dog") and "(" in line)
    assert dog.split() == ["dog", "3", "(3)", "3", "(3)"]
    assert next(line for line in lines if line.startswith("car:wheel + car:head")).split()[-2:] == ["2", "2"]


def test_names_are_text(dataset):
    document = valid_document()
    assert "| 1e5 |" not in statistics_text({"1e5": dataset_statistics(dataset)})  # no number is made of a name
    assert "1e5" in statistics_text({"1e5": dataset_statistics(dataset)})
    assert document["classes"]


@pytest.mark.parametrize("parts", [2, MOST + 5])
def test_the_plot_draws_few_and_many_parts(tmp_path, parts):
    document = valid_document()
    for number in range(parts):
        document["categories"].append({"id": 100 + number, "name": f"$part_{number}$", "supercategory": "dog"})
    statistics = dataset_statistics(load_part_dataset(*write_dataset(tmp_path, document)))
    save_statistics_plot({"train": statistics, "test": statistics}, tmp_path / "plot.png")
    picture = np.asarray(Image.open(tmp_path / "plot.png").convert("RGB"))
    assert picture.shape[1] > 1500
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 100


@pytest.mark.parametrize(
    ("share", "words"),
    [
        (0.0, "0%"),
        (4e-6, "<0.001%"),
        (0.00042, "0.042%"),
        (0.0997, "10%"),
        (0.996, "100%"),
        (1, "100%"),
    ],
)
def test_shares_are_never_powers_of_ten(share, words):
    assert percent(share) == words


def test_a_part_as_large_as_its_image_is_a_hundred_percent(tmp_path):
    document = valid_document()
    document["annotations"] = [one for one in document["annotations"] if one["id"] == 106]
    statistics = dataset_statistics(load_part_dataset(*write_dataset(tmp_path, document)))
    line = next(
        line for line in statistics_text({"one": statistics}).splitlines() if line.split()[:2] == ["car", "wheel"]
    )
    assert line.split() == ["car", "wheel", "1", "in", "1;", "100%,", "-"]
