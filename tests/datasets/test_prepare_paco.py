"""datasets/prepare_paco_{lvis,ego4d}.py from end to end on miniature releases."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from coco_files import tree
from paco_files import HEIGHT, PART_ID, VOCABULARY, WIDTH, PacoFiles, rectangle, small_release
from PIL import Image
from pycocotools.coco import COCO

from partbox.data import load_part_dataset
from partbox.data.catalog import BUILTIN_DATASETS

REPOSITORY = Path(__file__).resolve().parents[2]
SPLITS = ("train", "val", "test")


@pytest.fixture
def prepare(tmp_path, monkeypatch, capsys):
    """Write a release, run its script, and give (exit status, stdout, stderr)."""

    def run(paco: PacoFiles, *options: str, output: str = "out"):
        annotations, images = paco.write(tmp_path)
        path = REPOSITORY / f"datasets/prepare_paco_{paco.name}.py"
        spec = importlib.util.spec_from_file_location(path.stem, path)
        script = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(script)
        folders = ["--annotations", str(annotations), "--images", str(images), "--output", str(tmp_path / output)]
        workers = [] if "--workers" in options else ["--workers", "1"]
        monkeypatch.setattr(sys, "argv", [str(path), *folders, *workers, *options])
        status = script.main()
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return run


def load(folder: Path, split: str = "train"):
    return load_part_dataset(folder / f"{split}.json", folder / "images", verify_images="decode")


def document(folder: Path, split: str) -> dict:
    return json.loads((folder / f"{split}.json").read_bytes())


def test_all_classes_and_parts_are_in_every_split(tmp_path, prepare):
    status, out, _ = prepare(small_release(), "--split", "official")
    assert status == 0
    assert out.endswith(f"wrote {tmp_path / 'out'}\n")
    for split in SPLITS:
        dataset = load(tmp_path / "out", split)
        assert dataset.class_names == tuple(sorted(VOCABULARY))
        assert len(dataset.class_names) == 75
        assert len(dataset.categories) == len(dataset.part_to_class) == 456
        found = {name: set() for name in dataset.class_names}
        for part, class_index in zip(dataset.categories, dataset.part_to_class, strict=True):
            found[dataset.class_names[class_index]].add(part.name)
            assert part.class_index == class_index
        assert found == {name: set(parts) for name, parts in VOCABULARY.items()}


def test_masks_boxes_and_areas_survive(tmp_path, prepare):
    """Unscaled crops show the same pixels of each part, moved by the crop's corner."""
    paco = small_release()
    ring = rectangle((12, 8, 12, 20))
    ring[12:20, 15:20] = 0
    encoded = {"size": [HEIGHT, WIDTH], "counts": _counts(ring)}
    for released in paco.documents.values():
        for annotation in released["annotations"]:
            if annotation["category_id"] == PART_ID["mug:body"]:
                annotation.update(segmentation=encoded, area=float(ring.sum()))
    assert prepare(paco, "--split", "1,0,0", "--format", "png")[0] == 0
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(tmp_path / "out/train.json"))
    corners = {"mug": (4, 3), "dog": (31, 0)}  # of the crops: a quarter of the sides before (8, 8) and (36, 8)
    masks = {
        "mug:handle": rectangle((8, 12, 4, 9)),
        "mug:body": ring,
        "dog:head": rectangle((36, 8, 9, 10)),
        "dog:leg": rectangle((40, 28, 6, 10)),
    }
    assert len(coco.anns) == 20
    for annotation in coco.anns.values():
        category = coco.cats[annotation["category_id"]]
        image = coco.imgs[annotation["image_id"]]
        x, y = corners[category["supercategory"]]
        expected = masks[f"{category['supercategory']}:{category['name']}"]
        found = coco.annToMask(annotation)
        assert found.shape == (image["height"], image["width"])
        np.testing.assert_array_equal(found, expected[y : y + image["height"], x : x + image["width"]])
        assert found.sum() == expected.sum() == annotation["area"]
        rows, columns = np.nonzero(found)
        left, top = columns.min(), rows.min()
        assert annotation["bbox"] == [left, top, columns.max() + 1 - left, rows.max() + 1 - top]
    photo = np.asarray(Image.open(tmp_path / "photographs/train2017/000000000001.jpg"))
    crop = np.asarray(Image.open(tmp_path / "out/images/train/000000000001_1.png"))
    np.testing.assert_array_equal(crop, photo[3:33, 4:28])


def _counts(mask: np.ndarray) -> list[int]:
    """Run lengths of a mask, column by column, beginning with those outside."""
    counts, last = [0], 0
    for pixel in mask.ravel(order="F").tolist():
        if pixel != last:
            counts.append(0)
            last = pixel
        counts[-1] += 1
    return counts


def test_the_owners_splits(tmp_path, prepare):
    assert prepare(small_release(images=(4, 2, 3)), "--split", "official")[0] == 0
    sources = [{image["source_image"] for image in document(tmp_path / "out", split)["images"]} for split in SPLITS]
    names = [f"train2017/{number:012d}.jpg" for number in range(1, 10)]
    assert sources == [set(names[:4]), set(names[4:6]), set(names[6:])]


def test_photographs_are_split_in_80_10_10_by_a_seed(tmp_path, prepare):
    paco = small_release(images=(14, 3, 3))
    assert prepare(paco)[0] == 0
    first = {split: {i["source_image"] for i in document(tmp_path / "out", split)["images"]} for split in SPLITS}
    assert [len(first[split]) for split in SPLITS] == [16, 2, 2]
    assert len(set().union(*first.values())) == 20
    assert prepare(paco, "--seed", "1", output="other")[0] == 0
    assert {i["source_image"] for i in document(tmp_path / "other", "train")["images"]} != first["train"]


def test_frames_of_a_video_never_cross_splits(tmp_path, prepare):
    paco = PacoFiles("ego4d")
    for number in range(40):
        paco.mug_and_dog(SPLITS[number % 3], file_name=f"video-{number // 4}_{number:06d}.jpeg")
    status, out, _ = prepare(paco)
    assert status == 0
    assert "videos with frames in several of the owners' splits: 10; with --split A,B,C each stays in one" in out
    videos = [
        {image["source_image"].split("_")[0] for image in document(tmp_path / "out", split)["images"]}
        for split in SPLITS
    ]
    assert [len(some) for some in videos] == [8, 1, 1]
    assert len(set.union(*videos)) == 10


@pytest.mark.parametrize("name", ["lvis", "ego4d"])
def test_the_number_of_workers_does_not_matter(tmp_path, prepare, name):
    paco = small_release(name, (8, 3, 3))
    for workers in ("1", "3"):
        status, *_ = prepare(paco, "--workers", workers, "--split", "0.4,0.3,0.3", output=workers)
        assert status == 0
    assert tree(tmp_path / "1") == tree(tmp_path / "3")


def test_objects_are_left_out_by_the_share_of_their_photograph_and_counted(tmp_path, prepare):
    paco = small_release()
    small = paco.object(1, "dog", (5, 5, 6, 5))  # 30 of 3072 pixels
    paco.part(small, "dog:head", (5, 5, 3, 3))
    thin = paco.object(1, "dog", (5, 5, 31, 1))  # 31
    paco.part(thin, "dog:head", (5, 5, 31, 1))
    assert prepare(paco, "--split", "1,0,0")[0] == 0
    dropped = json.loads((tmp_path / "out/preparation.json").read_bytes())["report"]["dropped"]
    assert {(d["class"], d["what"], d["reason"]): d["count"] for d in dropped} == {
        ("dog", "object", "below 1 % of its photograph"): 1,
        ("dog", "part", "its object is left out"): 1,
    }
    assert len(document(tmp_path / "out", "train")["images"]) == 11
    assert prepare(paco, "--split", "1,0,0", "--min-area-share", "0", output="all")[0] == 0
    assert len(document(tmp_path / "all", "train")["images"]) == 12


@pytest.mark.parametrize(("labels", "parts"), [("mask", 20), ("box", 21), ("none", 0)])
def test_labels(tmp_path, prepare, labels, parts):
    paco = small_release()
    paco.object(1, "ball", (8, 8, 30, 30))
    paco.part(1, "mug:rim", (8, 8, 10, 3), segmentation=[])
    assert prepare(paco, "--split", "1,0,0", "--labels", labels)[0] == 0
    made = document(tmp_path / "out", "train")
    kinds = [image["part_labels"] for image in made["images"]]
    assert sorted(kinds) == sorted([labels] * 10 + ["none"])  # the ball's class owns no part
    assert len(made["annotations"]) == parts
    assert {"segmentation" in annotation for annotation in made["annotations"]} <= {labels == "mask"}
    assert len(made["categories"]) == 456
    assert prepare(paco, "--split", "1,0,0", "--labels", labels, "--empty", "absent", output="absent")[0] == 0
    assert {image["part_labels"] for image in document(tmp_path / "absent", "train")["images"]} == {labels}


def test_labels_alone_need_no_photograph(tmp_path, prepare):
    paco = small_release()
    paco.write(tmp_path)
    for photo in (tmp_path / "photographs/train2017").iterdir():
        photo.unlink()
    paco.write = lambda folder: (folder / "annotations", folder / "nowhere")
    assert prepare(paco, "--split", "official", "--labels-only")[0] == 0
    assert len(document(tmp_path / "out", "train")["annotations"]) == 12
    assert not (tmp_path / "out/images").exists()


def test_differences_to_the_published_numbers_are_printed(prepare):
    _, out, _ = prepare(small_release(), "--split", "official")
    assert "the train split of PACO-LVIS has 12 part masks, its owners count 395,071" in out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d["train"]["annotations"][3].update(obj_ann_id=99), "annotations[3] (id 4): obj_ann_id 99"),
        (lambda d: d["val"]["annotations"][2].pop("obj_ann_id"), "paco_lvis_v1_val.json: annotations[2] (id 3)"),
        (lambda d: d["test"]["images"][0].update(width=65), "is 64 x 48 pixels, the file says 65 x 48"),
        (lambda d: d["test"]["images"][0].update(file_name="train2017/no.jpg"), "image file does not exist"),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_sentence(tmp_path, prepare, change, message):
    paco = small_release()
    paco.write(tmp_path)
    change(paco.documents)
    for annotation in paco.documents["test"]["annotations"]:
        annotation["segmentation"] = []  # a mask of another size is refused before the photograph is opened
    written = [{**d, "images": d["images"]} for d in paco.documents.values()]
    paco.write = lambda folder: _write_annotations(folder, dict(zip(SPLITS, written, strict=True)))
    for workers in ("1", "2"):
        status, _, error = prepare(paco, "--labels", "box", "--workers", workers)
        assert status == 1
        assert message in error
        assert error.count("\n") == 1
        assert not list(tmp_path.glob("out/*.json"))


def _write_annotations(folder: Path, documents: dict) -> tuple[Path, Path]:
    for split, content in documents.items():
        (folder / f"annotations/paco_lvis_v1_{split}.json").write_text(json.dumps(content))
    return folder / "annotations", folder / "photographs"


@pytest.mark.parametrize("name", ["lvis", "ego4d"])
def test_help_teaches_and_the_catalog_names_the_script(name, capsys, monkeypatch):
    path = REPOSITORY / f"datasets/prepare_paco_{name}.py"
    assert BUILTIN_DATASETS[f"paco_{name}"] == f"datasets/{path.name}"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    monkeypatch.setattr(sys, "argv", [str(path), "--help"])
    with pytest.raises(SystemExit) as caught:
        script.main()
    assert caught.value.code == 0
    text = capsys.readouterr().out
    for word in (f"paco_{name}_v1_{{train,val,test}}.json", "$DETECTRON2_DATASETS", "official", "0.8,0.1,0.1", "0.01"):
        assert word in text
