"""Which images are shown: by seed, spread over classes, never a silent nothing."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from part_dataset_files import valid_document, write_dataset

from partbox.data import load_part_dataset
from partbox.visualization.choice import SelectionError, choose_images, named_images


@pytest.fixture
def small(tmp_path):
    return load_part_dataset(*write_dataset(tmp_path, valid_document()))


def ids(records):
    return [record["image_id"] for record in records]


def test_the_choice_is_spread_over_the_classes(example_dataset):
    chosen = choose_images(example_dataset, 2 * len(example_dataset.class_names), seed=3)
    assert set(Counter(record["label"] for record in chosen).values()) == {2}
    assert [record["label"] for record in chosen] == sorted(record["label"] for record in chosen)


def test_the_choice_depends_on_the_seed_and_not_on_the_order_of_the_file(example_dataset):
    first = ids(choose_images(example_dataset, 12, seed=0))
    backwards = replace(example_dataset, records=example_dataset.records[::-1])
    assert ids(choose_images(backwards, 12, seed=0)) == first
    assert ids(choose_images(example_dataset, 12, seed=1)) != first
    assert set(ids(choose_images(example_dataset, 5, seed=0))) < set(first)


def test_all_images_are_shown_where_there_are_fewer(small):
    assert sorted(ids(choose_images(small, 100, seed=0))) == [10, 11, 12, 13, 14, 15]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"classes": ["dog"]}, [10, 11, 14]),
        ({"parts": ["head"]}, [10, 11, 12, 15]),
        ({"parts": ["car:head"]}, [12, 15]),
        ({"parts": ["leg", "wheel"]}, [10, 12, 15]),
        ({"labels": ["none"]}, [13]),
        ({"labels": ["mask"], "classes": ["car"]}, [15]),
    ],
)
def test_only_what_is_asked_for(small, options, expected):
    assert sorted(ids(choose_images(small, 100, seed=0, **options))) == expected


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"classes": ["dogs"]}, "no class 'dogs'.*did you mean \"dog\""),
        ({"parts": ["haed"]}, "no part 'haed'.*did you mean \"head\""),
        ({"parts": ["dog:wheel"]}, "no part 'dog:wheel'"),
        ({"labels": ["masks"]}, "must be among mask, box, none"),
        ({"classes": ["dog"], "parts": ["wheel"]}, "none of its 6 images fits --classes dog, --parts wheel"),
        ({"labels": ["none"], "classes": ["dog"]}, "none of its 6 images fits --classes dog, --labels none"),
    ],
)
def test_unknown_names_and_empty_choices_are_refused(small, options, words):
    with pytest.raises(SelectionError, match=words):
        choose_images(small, 10, seed=0, **options)


def test_no_image_asked_for_is_refused(small):
    with pytest.raises(SelectionError, match="at least 1, not 0"):
        choose_images(small, 0, seed=0)


def test_images_are_named_by_id_or_file(small):
    assert ids(named_images(small, ["15", "dogs/a.png", "12", "15"])) == [15, 10, 12]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("99", "has no image '99'; it has the ids 10, 11, 12"),
        ("dogs/a.jpg", "has no image 'dogs/a.jpg'; did you mean .*\"dogs/a.png\""),
        ("a.png", "has no image 'a.png'"),  # a base name may stand in several folders
    ],
)
def test_an_image_that_is_not_there_is_refused(small, name, words):
    with pytest.raises(SelectionError, match=words):
        named_images(small, ["10", name])


def test_a_name_of_two_images_is_refused(small):
    twice = replace(small, records=[*small.records, {**small.records[1], "image_id": "10"}])
    with pytest.raises(SelectionError, match="'10' stands for the images 10, '10'"):
        named_images(twice, ["10"])
