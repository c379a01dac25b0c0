"""From records to samples and batches: contents, and independence of workers, order and history."""

from __future__ import annotations

import itertools
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import detection_utils
from detectron2.data import transforms as T
from small_models import MODELS, small_config

from partbox.data import PartDatasetError
from partbox.data.augmentations import RandomResizedCrop, training_augmentations
from partbox.data.image_files import read_rgb
from partbox.data.loader import TrainingStream, build_test_loader, build_training_loader, subset
from partbox.data.mapper import PartDatasetMapper


@pytest.fixture
def training_mapper(example_dataset):
    return PartDatasetMapper.from_config(small_config(example_dataset), is_train=True)


def fingerprint(sample: dict) -> tuple:
    return (sample["image_id"], int(sample["image"].long().sum()), int(sample["part_map"].sum()))


def test_test_samples_are_the_whole_image(example_dataset):
    cfg = small_config(example_dataset, "INPUT.SIZE", "(48, 64)")
    sample = PartDatasetMapper.from_config(cfg, is_train=False)(example_dataset.records[0])
    assert sample["image"].shape == (3, 48, 64)
    assert sample["image"].dtype == torch.uint8
    assert sample["part_map"].shape == (48, 64)
    found = {int(c) - 1 for c in sample["part_map"].unique() if c > 0}
    assert found <= {part["category_id"] for part in example_dataset.records[0]["annotations"]}
    assert found


def test_channels_are_rgb(example_dataset, tmp_path):
    from PIL import Image

    record = dict(example_dataset.records[0], file_name=str(tmp_path / "red.png"), height=32, width=32)
    Image.new("RGB", (32, 32), (255, 0, 0)).save(record["file_name"])
    sample = PartDatasetMapper.from_config(small_config(example_dataset), is_train=False)(record)
    assert sample["image"][:, 5, 5].tolist() == [255, 0, 0]


@pytest.mark.parametrize("orientation", range(10))
@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "1", "CMYK"])
def test_photographs_are_read_as_detectron2_reads_them(tmp_path, orientation, mode):
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 256, (7, 12, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = str(tmp_path / ("a.jpg" if mode == "CMYK" else "a.png"))
    Image.fromarray(pixels).convert(mode).save(file, exif=exif)
    assert (np.asarray(read_rgb(file)) == detection_utils.read_image(file, "RGB")).all()


@pytest.mark.parametrize("supervision", ["box", "mask"])
def test_cutting_the_photograph_first_changes_no_pixel(example_dataset, supervision):
    """The same sample as by the generic way, in which the whole photograph becomes an array."""
    steps = training_augmentations((40, 56), (0.1, 1.0), (0.5, 2.0), "horizontal", 0.3)
    mapper = PartDatasetMapper((40, 56), supervision=supervision, augmentations=steps)
    generic = PartDatasetMapper((40, 56), supervision=supervision, augmentations=[T.NoOpTransform(), *steps])
    for number, record in enumerate(example_dataset.records[:20]):
        samples = []
        for one in (mapper, generic):
            np.random.seed(number)
            samples.append(one(record))
        assert torch.equal(samples[0]["image"], samples[1]["image"])
        assert torch.equal(samples[0]["part_map"], samples[1]["part_map"])


def test_a_plain_classifier_builds_no_part_maps(example_dataset):
    cfg = small_config(example_dataset, *MODELS["normal"])
    assert "part_map" not in PartDatasetMapper.from_config(cfg, is_train=True)(example_dataset.records[0])


def test_an_unreadable_image_names_itself(example_dataset, training_mapper, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(Path(example_dataset.records[0]["file_name"]).read_bytes()[:100])
    with pytest.raises(PartDatasetError, match=r"broken\.png"):
        training_mapper(dict(example_dataset.records[0], file_name=str(broken)))


def test_the_stream_is_a_permutation_an_epoch_and_drops_nothing():
    batches = list(itertools.islice(TrainingStream(10, 4, seed=0), 5))
    keys = [key for batch in batches for key in batch]
    assert [position for _, position in keys] == list(range(20))
    assert sorted(index for index, _ in keys[:10]) == list(range(10))
    assert sorted(index for index, _ in keys[10:]) == list(range(10))
    assert [index for index, _ in keys[:10]] != [index for index, _ in keys[10:]]
    other = list(itertools.islice(TrainingStream(10, 4, seed=1), 5))
    assert other != batches


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_batches_do_not_depend_on_workers_or_on_where_the_stream_began(example_dataset, training_mapper, workers):
    def batches(start: int, count: int, workers: int) -> list:
        loader = build_training_loader(
            example_dataset.records, training_mapper, batch_size=5, seed=3, start=start, workers=workers
        )
        return [[fingerprint(sample) for sample in batch] for batch in itertools.islice(loader, count)]

    whole = batches(0, 6, 0)
    assert batches(0, 6, workers) == whole
    assert batches(4, 2, workers) == whole[4:]


def test_loading_leaves_the_global_generators_alone(example_dataset, training_mapper):
    np.random.seed(0)
    expected = np.random.rand()
    np.random.seed(0)
    next(iter(build_training_loader(example_dataset.records, training_mapper, batch_size=4, seed=0)))
    assert np.random.rand() == expected


def test_the_test_loader_gives_each_record_once_in_order(example_dataset):
    mapper = PartDatasetMapper.from_config(small_config(example_dataset), is_train=False)
    for size in (1, 7, 100):
        found = [
            s["image_id"]
            for batch in build_test_loader(example_dataset.records, mapper, batch_size=size)
            for s in batch
        ]
        assert found == [record["image_id"] for record in example_dataset.records]


def test_subsets_are_drawn_not_cut_and_keep_the_order():
    records = [{"image_id": i} for i in range(100)]
    chosen = [record["image_id"] for record in subset(records, 20, seed=0)]
    assert len(set(chosen)) == 20
    assert chosen == sorted(chosen)
    assert max(chosen) > 50
    assert chosen == [record["image_id"] for record in subset(records, 20, seed=0)]
    assert chosen != [record["image_id"] for record in subset(records, 20, seed=1)]
    assert subset(records, 0, seed=0) == records


def test_random_resized_crop_stays_inside_and_varies():
    crop = RandomResizedCrop((16, 24), (0.3, 1.0), (0.5, 2.0))
    np.random.seed(0)
    areas = []
    for _ in range(200):
        x, y, w, h = crop._draw(40, 60)
        assert 0 <= x <= x + w <= 60
        assert 0 <= y <= y + h <= 40
        areas.append(w * h / 2400)
    assert min(areas) < 0.4
    assert max(areas) > 0.8
    image = crop.get_transform(np.zeros((40, 60, 3), dtype=np.uint8)).apply_image(np.zeros((40, 60, 3), dtype=np.uint8))
    assert image.shape == (16, 24, 3)


@pytest.mark.parametrize(
    "bad",
    [
        {"area": (0, 1)},
        {"area": (0.5, 1.2)},
        {"aspect": (2, 1)},
        {"flip": "sideways"},
        {"color_jitter": 1.0},
    ],
)
def test_settings_out_of_range_are_refused(bad):
    good = {"size": (8, 8), "area": (0.5, 1.0), "aspect": (0.75, 1.3), "flip": "horizontal", "color_jitter": 0.2}
    training_augmentations(**good)
    with pytest.raises(ValueError, match="INPUT"):
        training_augmentations(**{**good, **bad})


def test_batches_are_repeated_and_continued_within_the_repeats():
    def batches(start: int, count: int, repeats: int) -> list:
        return list(islice(TrainingStream(10, 4, seed=1, start=start, repeats=repeats), count))

    plain = batches(0, 6, 1)
    assert batches(0, 12, 2) == [batch for batch in plain for _ in range(2)]
    for start in (1, 2, 5):
        assert batches(start, 6, 3) == batches(0, 12, 3)[start : start + 6]
