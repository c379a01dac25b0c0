"""Shifted data sets: what is in them, that runs repeat themselves, what is refused."""

from __future__ import annotations

import copy
import importlib.util
import json
import random
import shutil
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import orjson
import pytest
from part_dataset_files import forget_builtin_datasets
from shift_files import HEIGHT, OBJECT_RED, WIDTH, document, load, masks, pixels, read, write

from partbox.data import PartDatasetError, get_part_dataset, load_part_dataset, register_builtin_datasets
from partbox.data.catalog import register_dataset_file, unregister_part_dataset
from partbox.data.shifts import SHIFTS
from partbox.data.shifts.donors import MIN_TEXTURE_SIDE, Donors, photograph
from partbox.data.shifts.foreground import Rectangle
from partbox.data.shifts.make import make_shifted
from partbox.data.shifts.plan import (
    NO_BACKGROUND,
    NO_DONOR,
    NO_OTHER_DONOR,
    NO_PART,
    NOT_LABELLED,
    PREDICTED,
    plan_shifts,
)
from partbox.data.shifts.render import Settings

SCRIPT = Path(__file__).resolve().parents[2] / "datasets" / "make_shifted.py"
MASK = np.logical_or(*(mask.astype(bool) for mask in masks()))
MIXED = ("mixed_same", "mixed_rand", "mixed_next")


def make(source: Path, output: Path, *shifts: str, seed: int = 0, **options):
    settings = Settings(seed=seed, **{k: options.pop(k) for k in ("foreground", "strength") if k in options})
    return make_shifted(
        source / "test.json", source / "images", output, shifts or tuple(SHIFTS), settings, workers=1, **options
    )


def tree(folder: Path) -> dict[str, bytes]:
    """What is there, but for the explanations, which name their folder."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != "README.txt"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def entries(folder: Path) -> dict[int, dict]:
    return {image["id"]: image for image in json.loads((folder / "part_dataset.json").read_text())["images"]}


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("source")
    write(folder, document())
    return folder


@pytest.fixture(scope="module")
def made(source, tmp_path_factory) -> Path:
    """All shifts of ``source``."""
    output = tmp_path_factory.mktemp("made")
    make(source, output)
    return output


# --- what is in them


@pytest.mark.parametrize("shift", SHIFTS)
def test_classes_parts_and_ids_are_those_of_the_source(source, made, shift) -> None:
    before = load_part_dataset(source / "test.json", source / "images")
    after = load(made / shift)
    assert (after.class_names, after.class_ids, after.categories) == (
        before.class_names,
        before.class_ids,
        before.categories,
    )
    for old, new in zip(before.records, after.records, strict=True):
        for key in ("image_id", "label", "width", "height", "source_image"):
            assert new[key] == old[key]
        kept = SHIFTS[shift].keeps_parts
        assert new["annotations"] == (old["annotations"] if kept else [])
        assert new["part_labels"] == ("mask" if kept else "none")
        assert Path(new["file_name"]).suffix == ".png"


def test_every_shift_does_what_its_name_says(source, made) -> None:
    outside = ~MASK
    for image in document()["images"]:
        old = pixels(image)
        new = {shift: read(made / shift / "images" / image["file_name"]) for shift in SHIFTS}
        np.testing.assert_array_equal(new["original"], old)
        for shift in ("only_fg", *MIXED):
            np.testing.assert_array_equal(new[shift][MASK], old[MASK])
        for shift in (*MIXED, "no_fg_inpainted", "only_bg_t"):  # no trace of the object, the image's or the donor's
            elsewhere = outside if shift in MIXED else np.ones_like(MASK)
            assert new[shift][elsewhere][:, 0].max() < 120
        assert not new["only_fg"][outside].any()
        np.testing.assert_array_equal(new["no_fg"][outside], old[outside])
        assert not new["no_fg"][MASK].any()
        assert not new["only_bg_b"][10:28, 14:34].any()
        np.testing.assert_array_equal(new["only_bg_b"][:5], old[:5])
        np.testing.assert_array_equal(new["only_bg_t"][..., 1:], np.broadcast_to(old[0, 0, 1:], (HEIGHT, WIDTH, 2)))
        different = {
            one.tobytes() for shift, one in new.items() if shift != "mixed_next"
        }  # may have mixed_rand's donor
        assert len(different) == len(SHIFTS) - 1


def test_the_donor_is_the_one_that_is_named_and_of_the_right_class(made) -> None:
    for shift, right in {
        "mixed_same": lambda own, other: own == other,
        "mixed_rand": lambda own, other: own != other,
        "mixed_next": lambda own, other: other == own % 30 + 10,
        "stylized": lambda own, other: own != other,
    }.items():
        drawn = Counter()
        for number, image in entries(made / shift).items():
            donor = image["donor"]
            assert donor["image_id"] != number
            assert donor["class_id"] == donor["image_id"] // 100 * 10 + 10
            assert right(image["class_id"], donor["class_id"])
            drawn[donor["image_id"]] += 1
            if shift != "stylized":
                found = read(made / shift / "images" / image["file_name"])[0, 0, 1:]
                np.testing.assert_array_equal(found, pixels({**image, "id": donor["image_id"]})[0, 0, 1:])
        assert len(drawn) > 4
    assert all("donor" not in image for image in entries(made / "only_fg").values())


def test_boxes_take_their_background_along(tmp_path) -> None:
    write(tmp_path, document(labels="box"))
    notes: list[str] = []
    make(tmp_path, tmp_path / "out", "only_fg", say=notes.append)
    image = document()["images"][0]
    found = read(tmp_path / "out/only_fg/images" / image["file_name"])
    kept = (found == pixels(image)).all(axis=2)
    assert kept[10:22, 14:34].all()  # the box of the upper part
    assert kept[10, 14]
    assert not MASK[10, 14]
    assert kept[22:28, 22:26].all()
    assert not found[25, 15].any()
    assert load(tmp_path / "out/only_fg").records[0]["part_labels"] == "box"
    assert any("12 have boxes and no masks" in note for note in notes)
    notes.clear()
    make(tmp_path, tmp_path / "grabcut", "only_fg", foreground="grabcut", say=notes.append)
    assert not any("no masks" in note for note in notes)


def test_the_foreground_option_is_used(source, tmp_path) -> None:
    seen = []
    for how in ("parts", "hull", "box"):
        make(source, tmp_path / how, "only_fg", foreground=how)
        seen.append((read(tmp_path / how / "only_fg/images/c0/0.png") > 0).any(axis=2).sum())
    assert seen[0] == MASK.sum() < seen[1] < seen[2] == 20 * 18


def test_the_strength_option_is_used(source, tmp_path, made) -> None:
    make(source, tmp_path, "stylized", strength=0.3)
    old, weak = (read(folder) for folder in (source / "images/c0/0.png", tmp_path / "stylized/images/c0/0.png"))
    strong = read(made / "stylized/images/c0/0.png")
    assert 0 < np.abs(weak.astype(int) - old).mean() < 0.6 * np.abs(strong.astype(int) - old).mean()


# --- which images


def changed(entries_: dict, image_id: int, **fields) -> None:
    next(image for image in entries_["images"] if image["id"] == image_id).update(fields)


def test_what_cannot_be_shifted_is_left_out_of_every_shift_and_counted(tmp_path) -> None:
    given = document()
    changed(given, 0, part_labels="none")
    given["annotations"] = [a for a in given["annotations"] if a["image_id"] not in (0, 101, 200, 201, 202, 203)]
    for image_id in (200, 201, 202):
        changed(given, image_id, part_labels="none")
    part = {"id": 9001, "image_id": 2, "category_id": 0, "bbox": [0, 0, WIDTH, HEIGHT - 1]}
    given["annotations"] = [a for a in given["annotations"] if a["image_id"] != 2] + [part]
    changed(given, 2, part_labels="box")
    part = {"id": 9002, "image_id": 203, "category_id": 4, "bbox": [10, 10, 20, 20]}
    given["annotations"].append(part)
    changed(given, 203, part_labels="box")
    changed(given, 103, label_source="predicted")
    for annotation in given["annotations"]:
        annotation["score"] = 0.5
    write(tmp_path, given)
    notes: list[str] = []
    make(tmp_path, tmp_path / "out", "original", "only_bg_t", "mixed_rand", say=notes.append)
    reasons = {NOT_LABELLED: 4, PREDICTED: 1, NO_PART: 1, NO_BACKGROUND: 1, NO_DONOR: 1}
    record = json.loads((tmp_path / "out/mixed_rand/shift.json").read_text())
    assert record["complete"]
    assert record["report"]["left_out"] == reasons
    assert {f"{count} left out: {reason}" for reason, count in reasons.items()} <= set(notes)
    assert "4 of 12 images are shifted, the same for every shift" in notes
    for shift in ("original", "only_bg_t", "mixed_rand"):
        assert list(entries(tmp_path / "out" / shift)) == [1, 3, 100, 102]


def test_an_image_whose_photograph_alone_shows_another_class_is_left_out(tmp_path) -> None:
    given = document(classes=2)
    for image in given["images"]:
        image["source_image"] = "shared" if image["id"] in (0, 100, 101, 102, 103) else str(image["id"])
    write(tmp_path, given)
    make(tmp_path, tmp_path / "out", "mixed_rand")
    report = json.loads((tmp_path / "out/mixed_rand/shift.json").read_text())["report"]
    assert report["left_out"] == {NO_DONOR: 4, NO_OTHER_DONOR: 1}
    assert list(entries(tmp_path / "out/mixed_rand")) == [1, 2, 3]


@pytest.mark.parametrize("labels", ["mask", "box"])
def test_labels_that_the_file_leaves_open_stay_as_they_were_understood(tmp_path, labels) -> None:
    given = document(labels=labels)
    for image in given["images"]:
        del image["part_labels"]
    write(tmp_path, given)
    make(tmp_path, tmp_path / "out", "only_fg", "no_fg")
    assert {image["part_labels"] for image in entries(tmp_path / "out/only_fg").values()} == {labels}
    assert {record["part_labels"] for record in load(tmp_path / "out/no_fg").records} == {"none"}


def test_a_donor_is_never_of_the_same_photograph_and_shows_one_object(tmp_path) -> None:
    given = document(per_class=6)
    for image in given["images"]:  # two images of one photograph each, but the last three of each class are alone
        number = image["id"] % 100
        image["source_image"] = f"p{number // 2 if number < 3 else number}"
    for image in given["images"]:
        if image["id"] % 100 >= 3:
            image["source_image"] += f" of {image['class_id']}"
    write(tmp_path, given)
    plan = plan_shifts(load_part_dataset(tmp_path / "test.json", tmp_path / "images"))
    assert plan.with_neighbours == 9
    for record in plan.records:
        for seed in range(20):
            for shift in (*MIXED, "stylized"):
                donor = plan.donors.draw(SHIFTS[shift], record, seed)
                assert photograph(donor) != photograph(record)
                if shift != "stylized":
                    assert donor["image_id"] % 100 >= 3


def test_textures_come_from_large_objects_where_a_class_has_two() -> None:
    records = [{"image_id": n, "label": n // 6, "source_image": None} for n in range(18)]
    large = {0, 2, 7, 9, 13}  # of the last class one only
    boxes = [Rectangle(0, 90, 0, MIN_TEXTURE_SIDE if n in large else MIN_TEXTURE_SIDE - 1) for n in range(18)]
    donors = Donors(records, boxes, records)
    drawn = {donors.draw(SHIFTS["stylized"], r, seed)["image_id"] for r in records for seed in range(30)}
    assert drawn == {0, 2, 7, 9, *range(12, 18)}
    assert len({donors.draw(SHIFTS["mixed_rand"], r, seed)["image_id"] for r in records for seed in range(30)}) == 18


def test_donors_do_not_depend_on_the_order_of_the_file(source, made, tmp_path) -> None:
    given = document()
    random.Random(5).shuffle(given["images"])
    write(tmp_path, given)
    make(tmp_path, tmp_path / "out", "mixed_rand", "stylized")
    for shift in ("mixed_rand", "stylized"):
        assert entries(tmp_path / "out" / shift) == entries(made / shift)
        for image in given["images"]:
            name = Path(shift) / "images" / image["file_name"]
            assert (tmp_path / "out" / name).read_bytes() == (made / name).read_bytes()


def test_the_seed_draws_the_donors(source, made, tmp_path) -> None:
    make(source, tmp_path, "mixed_rand", seed=1)
    first, second = (entries(folder / "mixed_rand") for folder in (made, tmp_path))
    assert sum(first[number]["donor"] != second[number]["donor"] for number in first) > 4


def test_images_whose_names_differ_in_their_ending_only(tmp_path) -> None:
    given = document()
    changed(given, 1, file_name="c0/0.jpg")
    write(tmp_path, given)
    make(tmp_path, tmp_path / "out", "original", image_format="jpg")
    names = [image["file_name"] for image in entries(tmp_path / "out/original").values()]
    assert names[:3] == ["c0/0.png.jpg", "c0/0.jpg.jpg", "c0/2.jpg"]
    assert len(load(tmp_path / "out/original").records) == len(set(names)) == 12


def test_a_name_that_is_the_stem_of_another_gets_an_image_of_its_own(tmp_path) -> None:
    """Of two images under one name the second would be taken for made already, and show the first."""
    given = document()
    changed(given, 1, file_name="c0/0.jpg")
    changed(given, 2, file_name="c0/0.jpg.jpg")
    write(tmp_path, given)
    make(tmp_path, tmp_path / "out", "original")
    names = [image["file_name"] for image in entries(tmp_path / "out/original").values()]
    assert names[:4] == ["c0/0.png.png", "c0/0.jpg.png", "c0/0.jpg.jpg.png", "c0/3.png"]
    assert len(load(tmp_path / "out/original").records) == len(set(names)) == 12


# --- runs


def test_any_number_of_workers_gives_the_same_bytes(source, made, tmp_path) -> None:
    settings = Settings(foreground="grabcut")
    for workers in (1, 3):
        shifts = ("mixed_rand", "stylized", "only_fg")
        where = (source / "test.json", source / "images", tmp_path / str(workers))
        make_shifted(*where, shifts, settings, workers=workers)
    assert tree(tmp_path / "1") == tree(tmp_path / "3")
    assert tree(tmp_path / "1/stylized") == tree(made / "stylized")


def test_an_interrupted_run_goes_on_and_ends_in_the_same_bytes(source, made, tmp_path) -> None:
    output = tmp_path / "out"
    for shift in ("mixed_rand", "no_fg"):
        shutil.copytree(made / shift, output / shift)
    folder = output / "mixed_rand"
    (folder / "part_dataset.json").unlink()
    (folder / "images/c0/1.png").unlink()
    whole = (folder / "images/c0/2.png").read_bytes()
    (folder / "images/c0/2.png").write_bytes(whole[: len(whole) // 2])
    (folder / "images/c0/.3.png.77.tmp").write_bytes(b"half")
    notes: list[str] = []
    make(source, output, "mixed_rand", "no_fg", say=notes.append)
    assert "mixed_rand: 10 of 12 images were there from an earlier run" in notes
    assert "no_fg: 12 of 12 images were there from an earlier run" in notes
    for shift in ("mixed_rand", "no_fg"):
        assert tree(output / shift) == tree(made / shift)


def test_an_image_that_is_newer_than_its_shift_is_shifted_again(source, tmp_path) -> None:
    shutil.copytree(source, tmp_path / "source")
    make(tmp_path / "source", tmp_path / "out", "mixed_rand")
    donor = entries(tmp_path / "out/mixed_rand")[0]["donor"]["image_id"]
    users = [n for n, image in entries(tmp_path / "out/mixed_rand").items() if image["donor"]["image_id"] == donor]
    (tmp_path / f"source/images/c{donor // 100}/{donor % 100}.png").touch()
    notes: list[str] = []
    make(tmp_path / "source", tmp_path / "out", "mixed_rand", say=notes.append)
    assert f"mixed_rand: {12 - len({*users, donor})} of 12 images were there from an earlier run" in notes


def test_an_image_that_cannot_be_decoded_stops_the_run_before_the_file_is_written(source, tmp_path) -> None:
    shutil.copytree(source, tmp_path / "source")
    path = tmp_path / "source/images/c2/1.png"
    whole = path.read_bytes()
    path.write_bytes(whole[:60] + bytes(400) + whole[460:])
    with pytest.raises(PartDatasetError, match=r"test\.json: images: .*c2/1\.png: image cannot be .*fix the image"):
        make(tmp_path / "source", tmp_path / "out", "only_fg")
    assert not (tmp_path / "out/only_fg/part_dataset.json").exists()
    assert not json.loads((tmp_path / "out/only_fg/shift.json").read_text())["complete"]
    path.write_bytes(whole)
    make(tmp_path / "source", tmp_path / "out", "only_fg")
    assert len(load(tmp_path / "out/only_fg").records) == 12


def test_other_options_are_refused_before_anything_is_touched(source, made, tmp_path) -> None:
    shutil.copytree(made / "only_fg", tmp_path / "only_fg")
    before = tree(tmp_path)
    with pytest.raises(PartDatasetError, match=r"only_fg: --output: was made .* other foreground\. .*--overwrite"):
        make(source, tmp_path, "no_fg", "only_fg", foreground="hull")
    assert tree(tmp_path) == before
    make(source, tmp_path, "only_fg", strength=0.5)  # means nothing to this shift
    assert tree(tmp_path) == before
    make(source, tmp_path, "only_fg", foreground="hull", overwrite=True)
    make(source, tmp_path / "fresh", "only_fg", foreground="hull")
    assert tree(tmp_path / "only_fg") == tree(tmp_path / "fresh/only_fg")


def test_another_source_or_somebody_elses_folder_is_refused(source, made, tmp_path) -> None:
    shutil.copytree(made / "only_fg", tmp_path / "only_fg")
    given = document()
    given["categories"][0]["name"] = "trunk"
    write(tmp_path / "source", given)
    with pytest.raises(PartDatasetError, match="other dataset_sha256"):
        make(tmp_path / "source", tmp_path, "only_fg")
    (tmp_path / "no_fg").mkdir()
    (tmp_path / "no_fg" / "thesis.tex").write_text("years of work")
    with pytest.raises(PartDatasetError, match="neither empty nor the output of an earlier run"):
        make(source, tmp_path, "no_fg", overwrite=True)
    assert (tmp_path / "no_fg" / "thesis.tex").is_file()


def test_the_made_file_says_what_it_was_made_from(source, made) -> None:
    info = json.loads((made / "stylized/part_dataset.json").read_text())["info"]
    made_from = info["made_from"]
    assert (made_from["shift"], made_from["seed"], made_from["strength"]) == ("stylized", 0, 1.0)
    assert len(made_from["dataset_sha256"]) == 64
    assert "foreground" not in made_from
    assert orjson.loads((made / "only_fg/shift.json").read_bytes())["foreground"] == "parts"


def test_one_class_has_no_other_classes_to_take_from(tmp_path) -> None:
    write(tmp_path, document(classes=1))
    with pytest.raises(PartDatasetError, match=r"one class only.*mixed_rand, stylized take .*--shift original "):
        make(tmp_path, tmp_path / "out", "mixed_same", "mixed_rand", "stylized")
    assert not (tmp_path / "out").exists()
    make(tmp_path, tmp_path / "out", "mixed_same")
    assert len(load(tmp_path / "out/mixed_same").records) == 4


def test_a_file_without_labelled_parts_is_refused(tmp_path) -> None:
    given = copy.deepcopy(document())
    given["annotations"] = []
    for image in given["images"]:
        image["part_labels"] = "none"
    write(tmp_path, given)
    with pytest.raises(
        PartDatasetError, match="of the 12 images can be shifted: 12 because its parts are not labelled"
    ):
        make(tmp_path, tmp_path / "out", "original")


# --- the command line


@pytest.fixture
def script(monkeypatch, tmp_path):
    """Run the script in this process; its exit status."""
    spec = importlib.util.spec_from_file_location("make_shifted_script", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def call(*arguments: object) -> int:
        forget_builtin_datasets()
        monkeypatch.setattr(sys, "argv", ["make_shifted.py", *map(str, arguments)])
        try:
            return module.main()
        except SystemExit as error:
            return int(error.code)

    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    yield call
    forget_builtin_datasets()


def test_a_builtin_data_set_gets_shifts_with_names_of_their_own(script, tmp_path, capsys) -> None:
    write(tmp_path / "car_parts", document())
    assert script("--dataset", "car_parts_test", "--shift", "mixed_rand", "no_fg", "--workers", 1) == 0
    assert "car_parts_test_mixed_rand: 12 images, " in capsys.readouterr().out
    forget_builtin_datasets()
    register_builtin_datasets(tmp_path)
    assert len(get_part_dataset("car_parts_test_mixed_rand").records) == 12
    path = str(tmp_path / "car_parts/shifted/test/mixed_rand/part_dataset.json")
    register_dataset_file(path)
    assert get_part_dataset(path).records == get_part_dataset("car_parts_test_mixed_rand").records
    unregister_part_dataset(path)
    assert {record["part_labels"] for record in get_part_dataset("car_parts_test_no_fg").records} == {"none"}


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--dataset", "car_parts_tset", "--shift", "no_fg"], 'did you mean "car_parts_test"'),
        (["--dataset", "paco_lvis_test", "--shift", "no_fg"], "make it with datasets/prepare_paco_lvis.py"),
        (["--shift", "no_fg"], "either --dataset NAME, or --json FILE and --images FOLDER"),
        (["--json", "a.json", "--shift", "no_fg"], "either --dataset NAME"),
        (["--dataset", "x", "--json", "a.json", "--images", "b", "--shift", "no_fg"], "either --dataset NAME"),
        (["--dataset", "x", "--shift", "no_bg"], "invalid choice: 'no_bg'"),
        (["--dataset", "x", "--shift", "no_fg", "--strength", "0.5"], "--strength has no effect without"),
        (["--dataset", "x", "--shift", "all", "--strength", "0"], "--strength must lie in (0, 1]"),
        (["--dataset", "x", "--shift", "only_bg_t", "--foreground", "hull"], "--foreground has no effect on only_bg_t"),
        (["--dataset", "x", "--shift", "no_fg", "--workers", "0"], "--workers must be at least 1"),
    ],
)
def test_the_command_line_refuses(script, capsys, arguments, reason) -> None:
    assert script(*arguments) in (1, 2)
    assert reason in capsys.readouterr().err.splitlines()[-1]


def test_any_file_and_all_shifts(script, source, tmp_path, capsys) -> None:
    where = ("--json", source / "test.json", "--images", source / "images", "--output", tmp_path / "out")
    assert script(*where, "--shift", "all", "--format", "jpg", "--strength", "0.5", "--foreground", "hull") == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == set(SHIFTS)
    assert json.loads((tmp_path / "out/stylized/shift.json").read_text())["strength"] == 0.5
    assert json.loads((tmp_path / "out/no_fg/shift.json").read_text())["foreground"] == "hull"
    assert read(tmp_path / "out/original/images/c0/0.jpg").shape == (HEIGHT, WIDTH, 3)
    assert read(tmp_path / "out/only_fg/images/c0/0.jpg")[15, 24, 0] > OBJECT_RED - 60
    out = capsys.readouterr().out
    assert f"12 images, {tmp_path / 'out/stylized/part_dataset.json'}" in out
