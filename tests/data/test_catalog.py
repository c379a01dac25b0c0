"""Part datasets in detectron2's catalogs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from part_dataset_files import valid_document, write_dataset

from partbox.data import PartDatasetError, get_part_dataset, register_builtin_datasets, register_part_dataset
from partbox.data.catalog import BUILTIN_DATASETS, SHIFTED_NAMES, SPLITS, look_again, unregister_part_dataset
from partbox.engine.detectors import records_of

NAME = "test_catalog_train"
BUILTIN = [f"{dataset}_{split}" for dataset in BUILTIN_DATASETS for split in SPLITS]


@pytest.fixture(autouse=True)
def _clean_catalogs() -> Iterator[None]:
    """Leave the process-wide catalogs as they were found."""
    before = dict(DatasetCatalog.data), dict(MetadataCatalog.data)
    for name in (NAME, *BUILTIN, *SHIFTED_NAMES):
        unregister_part_dataset(name)
    yield
    for catalog, entries in zip((DatasetCatalog, MetadataCatalog), before, strict=True):
        catalog.data.clear()
        catalog.data.update(entries)


def test_register_reads_nothing(tmp_path: Path) -> None:
    register_part_dataset(NAME, tmp_path / "train.json", tmp_path)
    metadata = MetadataCatalog.get(NAME)
    assert (metadata.json_file, metadata.image_root) == (str(tmp_path / "train.json"), str(tmp_path))
    assert metadata.evaluator_type == "part"


def test_load_sets_metadata_and_is_kept(tmp_path: Path) -> None:
    json_file, root = write_dataset(tmp_path, valid_document())
    register_part_dataset(NAME, json_file, root)
    records = DatasetCatalog.get(NAME)
    assert len(records) == 6
    metadata = MetadataCatalog.get(NAME)
    assert metadata.thing_classes == ["dog:head", "dog:leg", "car:wheel", "car:head"]
    assert metadata.class_names == ["dog", "car"]
    assert metadata.part_to_class == [0, 0, 1, 1]
    assert metadata.thing_dataset_id_to_contiguous_id == {1: 0, 2: 1, 3: 2, 4: 3}
    assert DatasetCatalog.get(NAME) is records
    assert get_part_dataset(NAME).records is records
    assert get_part_dataset(NAME, "none").records is records


def test_more_thorough_look_reads_again(tmp_path: Path) -> None:
    json_file, root = write_dataset(tmp_path, valid_document())
    register_part_dataset(NAME, json_file, root)
    (root / "c.png").write_bytes(b"no image")
    assert len(get_part_dataset(NAME, "none").records) == 6
    with pytest.raises(PartDatasetError, match=r"c\.png"):
        get_part_dataset(NAME)


def test_same_registration_again_is_fine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    json_file, root = write_dataset(tmp_path, valid_document())
    register_part_dataset(NAME, json_file, root)
    dataset = get_part_dataset(NAME)
    monkeypatch.chdir(tmp_path)
    register_part_dataset(NAME, "train.json", "images")
    assert get_part_dataset(NAME) is dataset


def test_the_path_of_a_file_is_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    json_file, _ = write_dataset(tmp_path / "mine", valid_document())
    dataset = get_part_dataset(str(json_file))
    assert [Path(record["file_name"]).parent.name for record in dataset.records[:2]] == ["dogs", "dogs"]
    assert MetadataCatalog.get(str(json_file)).class_names == ["dog", "car"]
    monkeypatch.chdir(tmp_path)
    assert [record["image_id"] for record in records_of(("mine/train.json",), "DATASETS.TRAIN")][:2] == [10, 11]
    with pytest.raises(PartDatasetError, match=r"absent\.json: file: does not exist"):
        get_part_dataset("absent.json")
    with pytest.raises(PartDatasetError, match="no part dataset has this name"):
        get_part_dataset("absent")


def test_other_files_under_a_used_name_are_refused(tmp_path: Path) -> None:
    register_part_dataset(NAME, tmp_path / "train.json", tmp_path)
    with pytest.raises(PartDatasetError, match=r"already registered for .*train\.json"):
        register_part_dataset(NAME, tmp_path / "val.json", tmp_path)
    DatasetCatalog.register("test_catalog_of_others", list)
    with pytest.raises(PartDatasetError, match="already registered"):
        register_part_dataset("test_catalog_of_others", tmp_path / "val.json", tmp_path)


def test_unregister(tmp_path: Path) -> None:
    register_part_dataset(NAME, tmp_path / "train.json", tmp_path)
    unregister_part_dataset(NAME)
    unregister_part_dataset(NAME)
    register_part_dataset(NAME, tmp_path / "val.json", tmp_path)
    assert MetadataCatalog.get(NAME).json_file == str(tmp_path / "val.json")


def test_unknown_name_lists_near_ones(tmp_path: Path) -> None:
    register_builtin_datasets(tmp_path)
    with pytest.raises(PartDatasetError, match='did you mean "partimagenet_train"'):
        get_part_dataset("partimagenet_trian")
    with pytest.raises(PartDatasetError, match=r"registered are: .*paco_lvis_val"):
        get_part_dataset("zzz")


def test_changed_classes_are_refused(tmp_path: Path) -> None:
    document = valid_document()
    json_file, root = write_dataset(tmp_path, document)
    register_part_dataset(NAME, json_file, root)
    get_part_dataset(NAME, "none")
    document["classes"].append({"id": 9, "name": "boat"})
    json_file.write_text(json.dumps(document))
    with pytest.raises(PartDatasetError, match="have changed since"):
        get_part_dataset(NAME, "header")


def test_a_file_that_changed_is_read_again(tmp_path: Path) -> None:
    document = valid_document()
    json_file, root = write_dataset(tmp_path, document)
    register_part_dataset(NAME, json_file, root)
    assert len(get_part_dataset(NAME).records) == 6
    left = document["images"].pop()["id"]
    document["annotations"] = [one for one in document["annotations"] if one["image_id"] != left]
    json_file.write_text(json.dumps(document))
    assert len(get_part_dataset(NAME).records) == 5
    json_file.unlink()
    with pytest.raises(PartDatasetError, match="does not exist"):
        get_part_dataset(NAME)


def test_a_relative_path_is_that_of_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("one", "other"):
        write_dataset(tmp_path / name, valid_document())
    monkeypatch.chdir(tmp_path / "one")
    first = get_part_dataset("train.json")
    assert get_part_dataset("train.json") is first
    monkeypatch.chdir(tmp_path / "other")
    assert get_part_dataset("train.json").json_file == tmp_path / "other/train.json"
    unregister_part_dataset("train.json")
    register_part_dataset("train.json", tmp_path / "one/train.json", tmp_path / "one/images")  # a name like another
    assert get_part_dataset("train.json").json_file == tmp_path / "one/train.json"


def test_a_builtin_dataset_is_looked_for_again_where_it_was_missing(tmp_path: Path) -> None:
    write_dataset(tmp_path / "right/car_parts", valid_document())
    register_builtin_datasets(tmp_path / "wrong")
    look_again("car_parts_train", tmp_path / "right")
    assert len(get_part_dataset("car_parts_train").records) == 6
    look_again("car_parts_train", tmp_path / "wrong")  # it is there: nothing to look for
    assert len(get_part_dataset("car_parts_train").records) == 6
    assert MetadataCatalog.get("paco_lvis_val").json_file == str(tmp_path / "wrong/paco_lvis/val.json")
    register_part_dataset(NAME, tmp_path / "mine.json", tmp_path)
    for name in (NAME, "nobody_knows_it"):
        look_again(name, tmp_path / "right")
    assert MetadataCatalog.get(NAME).json_file == str(tmp_path / "mine.json")
    assert "nobody_knows_it" not in DatasetCatalog


def test_builtin_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    register_builtin_datasets()
    register_builtin_datasets()
    register_builtin_datasets(tmp_path)
    assert set(BUILTIN) <= set(DatasetCatalog.list())
    assert {"partimagenet_train", "paco_lvis_val", "pascal_part_test", "cityscapes_part_train"} <= set(BUILTIN)
    assert MetadataCatalog.get("paco_lvis_val").json_file == str(tmp_path / "paco_lvis" / "val.json")
    assert MetadataCatalog.get("paco_lvis_val").image_root == str(tmp_path / "paco_lvis" / "images")
    with pytest.raises(PartDatasetError, match="already registered"):
        register_builtin_datasets(tmp_path / "other")


def test_missing_file_says_what_makes_it(tmp_path: Path) -> None:
    register_builtin_datasets(tmp_path)
    with pytest.raises(PartDatasetError, match=r"does not exist.*datasets/prepare_partimagenet\.py") as caught:
        DatasetCatalog.get("partimagenet_train")
    assert caught.value.file == str(tmp_path / "partimagenet" / "train.json")


def test_builtin_is_loaded(tmp_path: Path) -> None:
    write_dataset(tmp_path / "car_parts", valid_document())
    register_builtin_datasets(tmp_path)
    assert get_part_dataset("car_parts_train", "decode").class_names == ("dog", "car")


def test_shifted_copies_have_names_of_their_own(tmp_path: Path) -> None:
    register_builtin_datasets(tmp_path)
    assert set(SHIFTED_NAMES) <= set(DatasetCatalog.list())
    name = "car_parts_test_mixed_same"
    folder = tmp_path / "car_parts" / "shifted" / "test" / "mixed_same"
    assert MetadataCatalog.get(name).json_file == str(folder / "part_dataset.json")
    assert MetadataCatalog.get(name).image_root == str(folder / "images")
    with pytest.raises(PartDatasetError, match=r"make_shifted\.py --dataset car_parts_test --shift mixed_same"):
        DatasetCatalog.get(name)
    with pytest.raises(PartDatasetError, match=r"car_parts_val, .*NAME_SHIFT with a shift of original, ") as caught:
        get_part_dataset("zzz")
    assert "car_parts_val_only_fg" not in str(caught.value)
