"""The preparation of labelled photographs, whatever they come from: splits, label shares, labels alone, memory."""

from __future__ import annotations

import json
import time
import tracemalloc
from collections import Counter
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from coco_files import tree, write_photo

from partbox.data import PartDatasetError, load_part_dataset
from partbox.data.preparation import CropSettings, PrepareOptions, prepare_photos
from partbox.data.preparation.object_crops import Photo, SourceObject, SourcePart
from partbox.data.preparation.photo_reader import PhotoLabels
from partbox.data.preparation.photo_store import PhotoStore
from partbox.data.splits import split_by_source

PARTS = (("cat", "head"), ("dog", "head"), ("dog", "tail"))
SQUARE = [[10.0, 10.0, 20.0, 10.0, 20.0, 20.0, 10.0, 20.0]]


class Photographs:
    """A reader of ``count`` photographs of 64 x 64 pixels with one object each, dogs and cats in turn."""

    numbered = False
    part_names = PARTS
    class_names = ("bird", "cat", "dog")

    def __init__(self, folder: Path, count: int, *, split=lambda i: None, source=lambda i: "", parts: int = 2) -> None:
        self.image_root, self.total, self.parts = folder, count, parts
        self.photos = [(i, split(i), source(i)) for i in range(count)] if count < 10_000 else None

    def describe(self):
        return {"annotations": "made", "total": self.total}

    def count(self):
        return self.total

    def entries(self):
        for i in range(self.total):
            yield self.photos[i] if self.photos else (i, None, "")

    def read(self, entry):
        i, split, source = entry
        dog = i % 2 == 0
        part = SourcePart(1 if dog else 0, (10, 10, 20, 20), SQUARE)
        target = SourceObject(1, "dog" if dog else "cat", (8, 8, 40, 8 + 20 + i % 5), (part,) * self.parts, "mask")
        dropped = Counter({("dog", "part", "of no use"): 2}) if i == 0 else Counter()
        return PhotoLabels(Photo(f"{i}.jpg", 64, 64, (target,), split, source), dropped)


def written(folder: Path, count: int) -> Path:
    for i in range(count):
        write_photo(folder / "photos" / f"{i}.jpg", i)
    return folder / "photos"


def labels(folder: Path, split: str) -> dict[str, str]:
    """Photograph -> its part labels."""
    document = json.loads((folder / f"{split}.json").read_text())
    return {image["source_image"]: image["part_labels"] for image in document["images"]}


def run(folder, reader, output="out", **options):
    workers = options.pop("workers", 1)
    return prepare_photos(reader, folder / output, PrepareOptions(**options), workers=workers)


def test_classes_and_parts_are_complete_whatever_the_data_show(tmp_path):
    run(tmp_path, Photographs(written(tmp_path, 12), 12))
    dataset = load_part_dataset(tmp_path / "out/val.json", tmp_path / "out/images")
    assert dataset.class_names == ("bird", "cat", "dog")
    assert [(dataset.class_names[c.class_index], c.name) for c in dataset.categories] == list(PARTS)
    assert dataset.part_to_class.tolist() == [1, 2, 2]


def test_objects_without_numbers_of_their_own_are_numbered(tmp_path):
    run(tmp_path, Photographs(written(tmp_path, 6), 6), fractions=(1, 0, 0))
    document = json.loads((tmp_path / "out/train.json").read_text())
    assert [image["id"] for image in document["images"]] == [1, 2, 3, 4, 5, 6]


def test_a_number_used_twice_is_refused(tmp_path):
    reader = Photographs(written(tmp_path, 3), 3)
    reader.numbered = True
    with pytest.raises(PartDatasetError, match=r"1\.jpg.*same number"):
        run(tmp_path, reader)


def test_the_owners_splits(tmp_path):
    reader = Photographs(written(tmp_path, 12), 12, split=lambda i: "val" if i % 4 == 3 else "train")
    report = run(tmp_path, reader, fractions=None)
    assert set(labels(tmp_path / "out", "val")) == {"3.jpg", "7.jpg", "11.jpg"}
    assert not (tmp_path / "out/test.json").exists()
    assert report.photographs == {"train": 9, "val": 3}


def test_owners_splits_that_are_not_there_are_refused(tmp_path):
    with pytest.raises(PartDatasetError, match="no splits of their owner"):
        run(tmp_path, Photographs(written(tmp_path, 4), 4), fractions=None)


def test_a_copy_in_another_of_the_owners_splits_is_left_out(tmp_path):
    photos = written(tmp_path, 8)
    (photos / "3.jpg").write_bytes((photos / "0.jpg").read_bytes())  # of val, the other one of train
    (photos / "5.jpg").write_bytes((photos / "1.jpg").read_bytes())  # both of train
    reader = Photographs(photos, 8, split=lambda i: "val" if i % 4 == 3 else "train")
    report = run(tmp_path, reader, fractions=None)
    assert set(labels(tmp_path / "out", "val")) == {"7.jpg"}
    assert report.photographs == {"train": 6, "val": 1}
    reason = "its photograph is in another split, too"
    assert {key[1:]: n for key, n in report.dropped.items() if key[3] == reason} == {("cat", "object", reason): 1}


def test_a_photograph_listed_in_two_of_the_owners_splits_stays_in_the_first(tmp_path):
    class Twice(Photographs):
        def read(self, entry):
            labels = super().read(entry)
            name = "0.jpg" if entry[0] == 3 else labels.photo.name
            return replace(labels, photo=replace(labels.photo, name=name))

    reader = Twice(written(tmp_path, 8), 8, split=lambda i: "val" if i % 4 == 3 else "train")
    for only in (False, True):
        report = run(tmp_path, reader, f"out{only}", fractions=None, labels_only=only)
        assert set(labels(tmp_path / f"out{only}", "val")) == {"7.jpg"}
        assert report.photographs == {"train": 6, "val": 1}


def test_frames_of_one_video_never_cross_splits(tmp_path):
    reader = Photographs(written(tmp_path, 40), 40, source=lambda i: f"video {i // 4}")
    run(tmp_path, reader, fractions=(0.5, 0.25, 0.25))
    found = {
        split: {int(name[:-4]) // 4 for name in labels(tmp_path / "out", split)} for split in ("train", "val", "test")
    }
    assert sum(map(len, found.values())) == 10
    assert min(map(len, found.values())) >= 2


def test_videos_that_share_a_frame_stay_together(tmp_path):
    """A copy of a frame joins two videos: all frames of both go to one split."""
    for seed in range(8):  # some of them would part the videos
        photos = written(tmp_path / str(seed), 24)
        for copy, first in ((4, 0), (9, 5), (23, 20)):  # videos 1 and 0; 2 and 1, thus 0; 5 and itself
            (photos / f"{copy}.jpg").write_bytes((photos / f"{first}.jpg").read_bytes())
        reader = Photographs(photos, 24, source=lambda i: f"video {i // 4}")
        run(tmp_path / str(seed), reader, fractions=(0.5, 0.25, 0.25), seed=seed)
        out = tmp_path / str(seed) / "out"
        documents = [json.loads((out / f"{split}.json").read_text()) for split in ("train", "val", "test")]
        photographs = [[int(Path(image["file_name"]).stem.split("_")[0]) for image in d["images"]] for d in documents]
        assert sorted(number for numbers in photographs for number in numbers) == list(range(24))
        split_of = {number: place for place, numbers in enumerate(photographs) for number in numbers}
        assert len({split_of[number] for number in range(12)}) == 1
        assert all(len({split_of[number] for number in range(4 * v, 4 * v + 4)}) == 1 for v in range(3, 6))


def test_the_owners_splits_of_many_photographs_are_taken_at_once():
    """Time grew with the square of their number: many minutes for those of PACO."""

    def seconds(count: int) -> float:
        with closing(PhotoStore(numbered=False, labels="made")) as store:
            target = SourceObject(1, "dog", (8, 8, 40, 40), (), "none")
            for i in range(count):
                split = "val" if i % 10 == 9 else "train"
                store.add(PhotoLabels(Photo(f"{i % (count // 2)}.jpg", 64, 64, (target,), split)), 1)
            start = time.process_time()
            store.take_own_splits()
            return time.process_time() - start

    assert seconds(8000) < 12 * seconds(2000)  # 4 times as long or a little more, not 16


def test_label_shares_are_exact_seeded_and_nested(tmp_path):
    photos, kept = written(tmp_path, 40), {}
    for share, seed in ((0.2, 0), (0.5, 0), (0.2, 1)):
        reader = Photographs(photos, 40)
        run(tmp_path, reader, f"{share}-{seed}", fractions=(0.5, 0.5, 0), label_share=share, label_seed=seed)
        found = labels(tmp_path / f"{share}-{seed}", "train")
        kept[share, seed] = {name for name, kind in found.items() if kind == "mask"}
        assert Counter(int(name[:-4]) % 2 for name in kept[share, seed]) == {0: share * 10, 1: share * 10}
        assert set(labels(tmp_path / f"{share}-{seed}", "val").values()) == {"mask"}
    assert kept[0.2, 0] < kept[0.5, 0]
    assert kept[0.2, 0] != kept[0.2, 1]


@pytest.mark.parametrize("kind", ["mask", "box", "none"])
def test_labels_are_reduced_and_never_invented(tmp_path, kind):
    run(tmp_path, Photographs(written(tmp_path, 4), 4), labels=kind, fractions=(1, 0, 0))
    document = json.loads((tmp_path / "out/train.json").read_text())
    assert {image["part_labels"] for image in document["images"]} == {kind}
    assert {"segmentation" in annotation for annotation in document["annotations"]} == (
        set() if kind == "none" else {kind == "mask"}
    )


def test_small_objects_are_left_out_by_their_share_of_the_photograph(tmp_path):
    smallest = 32 * 20 / 64**2
    report = run(tmp_path, Photographs(written(tmp_path, 10), 10), min_area_share=1.001 * smallest, fractions=(1, 0, 0))
    assert report.photographs["train"] == 8
    assert sum(n for key, n in report.dropped.items() if key[2] == "object") == 2
    assert sum(n for key, n in report.dropped.items() if key[3] == "its object is left out") == 4
    assert sum(n for key, n in report.dropped.items() if key[3] == "of no use") == 2


def test_where_nothing_is_left_the_reasons_are_said(tmp_path):
    photos = Photographs(written(tmp_path, 3), 3)
    with pytest.raises(PartDatasetError, match=r"none is left.*\(below 90 % of its photograph\)\.$"):
        run(tmp_path, photos, min_area_share=0.9)
    with pytest.raises(PartDatasetError, match=r"\(shorter side below 50 pixels\)\. lower --min-side"):
        run(tmp_path, photos, min_side=50)


def test_labels_alone_need_no_photograph(tmp_path):
    run(tmp_path, Photographs(written(tmp_path, 12), 12), "both")
    run(tmp_path, Photographs(tmp_path / "nowhere", 12), "labels", labels_only=True)
    assert not (tmp_path / "labels/images").exists()
    for split in ("train", "val", "test"):
        with_images, alone = ((tmp_path / kind / f"{split}.json").read_bytes() for kind in ("both", "labels"))
        assert with_images.split(b"\n")[1:] == alone.split(b"\n")[1:]


@pytest.mark.parametrize("options", [{}, {"label_share": 0.5}, {"fractions": (0.8, 0.1, 0.1), "seed": 3}])
def test_the_number_of_workers_does_not_matter(tmp_path, options):
    photos = written(tmp_path, 20)
    for workers in (1, 3):
        run(tmp_path, Photographs(photos, 20), f"{workers}", workers=workers, **options)
    assert tree(tmp_path / "1") == tree(tmp_path / "3")


def test_options_that_change_the_output_are_recorded(tmp_path):
    photos = written(tmp_path, 12)
    run(tmp_path, Photographs(photos, 12))
    for options in (
        {"labels": "box"},
        {"min_side": 12},
        {"min_area_share": 0.01},
        {"crops": CropSettings(margin=1.2)},
        {"fractions": (0.6, 0.2, 0.2)},
        {"seed": 1},
        {"label_share": 0.5},
        {"labels_only": True},
    ):
        with pytest.raises(PartDatasetError, match="other options"):
            run(tmp_path, Photographs(photos, 12), **options)
    with pytest.raises(PartDatasetError, match="other total"):
        run(tmp_path, Photographs(photos, 11))
    run(tmp_path, Photographs(photos, 12), "shared", label_share=0.5)
    with pytest.raises(PartDatasetError, match="other options"):
        run(tmp_path, Photographs(photos, 12), "shared", label_share=0.5, label_seed=1)


@pytest.mark.parametrize(
    ("options", "name"), [({"fractions": None, "seed": 1}, "--seed"), ({"label_seed": 1}, "--label")]
)
def test_a_seed_of_nothing_is_refused(tmp_path, options, name):
    with pytest.raises(PartDatasetError, match=f"{name}.*leave it out"):
        run(tmp_path, Photographs(tmp_path / "nowhere", 4, split=lambda i: "train"), **options)


@pytest.mark.parametrize("seed", [0, 5])
def test_the_store_splits_as_split_by_source_does(seed):
    """Objects of several classes in a photograph, photographs of one source."""
    store = PhotoStore(numbered=False, labels="here")
    owners = []
    for i in range(97):
        classes = ["dog"] * (1 + i % 3) + ["cat"] * (i % 4) + ["bird"] * (i % 11 == 0)
        source = f"video {i // 3}" if i % 2 else f"{i}.jpg"
        targets = tuple(SourceObject(0, name, None, (), "none") for name in classes)
        store.add(PhotoLabels(Photo(f"{i}.jpg", 9, 9, targets, None, "" if i % 2 == 0 else source)), 5)
        owners += [(source, name, f"{i}.jpg") for name in classes]
    fractions = {"train": 0.6, "val": 0.3, "test": 0.1}
    store.split_by_source(fractions, seed)
    expected = split_by_source([s for s, _, _ in owners], fractions, seed, [c for _, c, _ in owners])
    found = {task.photo.name: task.files[0].split("/")[0] for task in store.tasks("jpg")}
    assert found == {owners[index][2]: name for name, indices in expected.items() for index in indices}


def test_memory_does_not_grow_with_the_number_of_photographs(tmp_path):
    peaks = []
    for count in (300, 1200):
        tracemalloc.start()
        run(tmp_path, Photographs(tmp_path, count), f"{count}", labels_only=True)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0] + 200 * 900  # the reader of this test keeps a small tuple a photograph
