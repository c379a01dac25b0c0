"""scripts/prepare_data.sh: what is there is made, what is missing is named."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from coco_files import animals

REPO = Path(__file__).resolve().parents[2]


def script(*arguments: object, **environment: str) -> subprocess.CompletedProcess:
    command = ["bash", str(REPO / "scripts/prepare_data.sh"), *map(str, arguments)]
    variables = {**os.environ, "PARTBOX_VENV": sys.prefix, **environment}
    return subprocess.run(command, capture_output=True, text=True, env=variables, check=False, timeout=300)


def test_what_is_missing_is_named_file_by_file(tmp_path):
    (tmp_path / "coco" / "train2017").mkdir(parents=True)
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "paco_lvis_v1_train.json").touch()

    def lacking(*options: str) -> list[str]:
        done = script(tmp_path, "paco_lvis", *options)
        assert done.returncode == 1
        assert "datasets/README.md" in done.stdout
        line = next(line for line in done.stdout.splitlines() if line.startswith("missing"))
        return line.split(" lacks ")[1].split()

    files = ["annotations/paco_lvis_v1_val.json", "annotations/paco_lvis_v1_test.json"]
    assert lacking() == [*files, "coco/val2017"]
    assert lacking("--", "--labels-only") == files


def test_an_empty_folder_lacks_every_data_set(tmp_path):
    done = script(tmp_path)
    assert done.returncode == 1
    assert sum(line.startswith("missing") for line in done.stdout.splitlines()) == 7


def test_the_folders_are_those_of_the_readme():
    readme = (REPO / "datasets" / "README.md").read_text()
    for given in (
        "--input PartImageNet ",
        "--input PartImageNetPP --images ILSVRC2012/train",
        "--input pascal_part_source ",
        "--input cityscapes ",
        "--annotations annotations --images coco ",
        "--annotations annotations --images ego4d/v1/paco_frames ",
    ):
        assert given in readme
        for folder in given.split()[1::2]:
            assert folder in script("--help").stdout


def test_unknown_names_and_folders_are_refused(tmp_path):
    assert "unknown data set paco" in script(tmp_path, "paco").stderr
    assert "is not a folder" in script(tmp_path / "nowhere").stderr
    assert "DOWNLOADS" in script("--help").stdout


def test_every_data_set_that_is_built_in_has_its_script():
    from partbox.data.catalog import BUILTIN_DATASETS

    for name, made_by in BUILTIN_DATASETS.items():
        assert (REPO / made_by).is_file(), name


@pytest.mark.skipif(
    not Path(sys.prefix).is_relative_to(REPO), reason="another folder's environment: the script would change it"
)
def test_what_is_there_is_made(tmp_path):
    coco = animals(20)
    file, images = coco.write(tmp_path / "photos")
    folder = tmp_path / "downloads" / "pascal_part_animals"
    folder.mkdir(parents=True)
    shutil.copy(file, folder / "trainval.json")
    shutil.copytree(images, folder / "images")
    out = tmp_path / "out"
    done = script(tmp_path / "downloads", "--", "--split", "0.5,0.25,0.25", DETECTRON2_DATASETS=str(out))
    assert done.returncode == 0, done.stderr
    assert f"ready    pascal_part_animals: {out}/pascal_part_animals" in done.stdout
    document = json.loads((out / "pascal_part_animals/train.json").read_text())
    assert len({image["source_image"] for image in document["images"]}) == 10  # the options arrived
    broken = script(tmp_path / "downloads", "--", "--split", "1,1,1", DETECTRON2_DATASETS=str(tmp_path / "other"))
    assert broken.returncode == 1
    assert "FAILED: pascal_part_animals" in broken.stderr
