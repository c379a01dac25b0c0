"""Runs of the preparation: workers, second runs, broken photographs, kills, the command line."""

import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import pytest
from coco_files import CocoFile, animals, load, prepare, tree
from paco_files import small_release

from partbox.data import PartDatasetError, part_json_write
from partbox.data.preparation import CocoOptions, PrepareOptions, output_folder, prepare_parts
from partbox.data.preparation import prepare as prepare_module

REPO = Path(__file__).resolve().parents[2]


def test_the_number_of_workers_does_not_matter(tmp_path):
    coco = animals(12)
    prepare(coco, tmp_path, workers=1)
    prepare(coco, tmp_path, workers=2, output="two")
    prepare(coco, tmp_path, workers=5, output="five")
    assert tree(tmp_path / "out") == tree(tmp_path / "two") == tree(tmp_path / "five")


def test_a_second_run_keeps_everything_and_other_options_are_refused(tmp_path):
    coco = animals(12)
    prepare(coco, tmp_path)
    before = tree(tmp_path / "out")
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "out/images").rglob("*.jpg")}
    notes: list[str] = []
    prepare(coco, tmp_path, say=notes.append)
    assert "24 of 24 crops were there from an earlier run" in notes
    assert tree(tmp_path / "out") == before
    assert times == {path: path.stat().st_mtime_ns for path in times}
    with pytest.raises(PartDatasetError, match=r"other options.*--overwrite"):
        prepare(coco, tmp_path, seed=5)
    assert tree(tmp_path / "out") == before
    prepare(coco, tmp_path, seed=5, overwrite=True)
    prepare(coco, tmp_path, seed=5, output="fresh")
    assert tree(tmp_path / "out") == tree(tmp_path / "fresh")


def test_a_broken_photograph_stops_the_run_which_goes_on_once_it_is_mended(tmp_path):
    coco = animals(12)
    file, images = coco.write(tmp_path)
    whole = (images / "9.jpg").read_bytes()
    (images / "9.jpg").write_bytes(whole[: len(whole) * 2 // 3])
    with pytest.raises(PartDatasetError, match=r"image 9\.jpg: image cannot be decoded.*take it out of the file"):
        prepare_parts(file, images, tmp_path / "out", CocoOptions(), PrepareOptions())
    assert not list(tmp_path.glob("out/t*.json"))
    (images / "9.jpg").write_bytes(whole)
    notes: list[str] = []
    prepare_parts(file, images, tmp_path / "out", CocoOptions(), PrepareOptions(), say=notes.append)
    assert any(note.startswith("16 of 24 crops were there") for note in notes)
    prepare_parts(file, images, tmp_path / "fresh", CocoOptions(), PrepareOptions())
    assert tree(tmp_path / "out") == tree(tmp_path / "fresh")


def test_a_killed_run_goes_on_and_ends_in_the_same_bytes(tmp_path):
    coco = animals(150)
    file, images = coco.write(tmp_path)
    arguments = (file, images, tmp_path / "out", CocoOptions(), PrepareOptions())
    process = multiprocessing.get_context("fork").Process(
        target=prepare_parts, args=arguments, kwargs={"workers": 2}, daemon=False
    )
    process.start()
    deadline = time.monotonic() + 60
    while len(list(tmp_path.glob("out/images/*/*.jpg"))) < 20 and time.monotonic() < deadline:
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert not list(tmp_path.glob("out/t*.json"))
    time.sleep(2)  # its workers notice
    (tmp_path / "out/images/train/.half.jpg.1.tmp").write_bytes(b"\xff\xd8")
    done = len(list(tmp_path.glob("out/images/*/*.jpg")))
    assert 20 <= done < 300
    notes: list[str] = []
    prepare_parts(*arguments, workers=1, say=notes.append)
    assert f"{done} of 300 crops were there from an earlier run" in notes
    prepare_parts(file, images, tmp_path / "fresh", CocoOptions(), PrepareOptions())
    assert tree(tmp_path / "out") == tree(tmp_path / "fresh")


@pytest.mark.parametrize("name", ["preparation.json", "train.json"])
def test_what_a_kill_leaves_of_a_json_file_is_taken_away(tmp_path, monkeypatch, name):
    """A kill at the first file left a folder that no later run accepted; at a later one, its half for ever."""

    class Kill(BaseException):
        pass

    def killed(path, write):
        if Path(path).name != name:
            return whole(path, write)
        handle, _ = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        os.write(handle, b'{"half')
        os.close(handle)
        raise Kill

    (tmp_path / "out").mkdir()
    whole = part_json_write.write_atomically
    for module in (output_folder, part_json_write):
        monkeypatch.setattr(module, "write_atomically", killed)
    with pytest.raises(Kill):
        prepare(animals(12), tmp_path)
    assert len(list((tmp_path / "out").glob(".*.tmp"))) == 1
    monkeypatch.undo()
    prepare(animals(12), tmp_path)
    prepare(animals(12), tmp_path, output="fresh")
    assert not list((tmp_path / "out").glob(".*"))
    assert tree(tmp_path / "out") == tree(tmp_path / "fresh")


@pytest.mark.parametrize("where", ["file/out", "file", "locked/deep/out", "locked"])
def test_an_output_that_cannot_be_written_is_refused_before_anything_is_read(tmp_path, monkeypatch, where):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "locked").mkdir()
    access = os.access  # root may write anywhere
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "locked" and access(path, mode))
    monkeypatch.setattr(prepare_module, "collect_photos", lambda *args, **options: pytest.fail("labels were read"))
    with pytest.raises(PartDatasetError, match=r"--output: .*(file is no folder|is not a folder|can be written into)"):
        prepare(animals(4), tmp_path, output=where)


def test_no_room_for_the_temporary_database_is_one_sentence(tmp_path):
    paco = small_release(images=(30, 3, 3))
    for annotation in paco.documents["train"]["annotations"]:
        annotation["note"] = "x" * 100_000  # in all more than is kept in memory
    annotations, images = paco.write(tmp_path)
    where = ("--annotations", annotations, "--images", images, "--output", tmp_path / "out", "--workers", 1)
    done = script(*where, name="prepare_paco_lvis", largest_file=1_000_000)
    assert done.returncode == 1, done.stdout
    assert done.stderr.splitlines()[-1].startswith("error: the temporary database of labels:")
    assert "TMPDIR" in done.stderr
    assert "Traceback" not in done.stderr


def script(
    *arguments: object, name: str = "prepare_coco_parts", largest_file: int | None = None
) -> subprocess.CompletedProcess:
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(REPO / "projects"), os.environ.get("PYTHONPATH", "")]),
    }
    command = [sys.executable, str(REPO / "datasets" / f"{name}.py"), *map(str, arguments)]
    limit = (largest_file, largest_file)
    before = None if largest_file is None else partial(resource.setrlimit, resource.RLIMIT_FSIZE, limit)
    return subprocess.run(
        command, capture_output=True, text=True, env=environment, check=False, timeout=120, preexec_fn=before
    )


def test_the_script_from_the_command_line(tmp_path):
    coco = CocoFile("wheel", "door")
    for _ in range(8):
        coco.label(coco.image(), "wheel", (10, 10, 30, 20))
    file, images = coco.write(tmp_path)
    where = ("--annotations", file, "--images", images, "--output", tmp_path / "out", "--workers", 1)
    failed = script(*where)
    assert failed.returncode == 1
    assert failed.stderr.splitlines()[-1].startswith(f"error: {file}: categories: nothing tells which class")
    assert "Traceback" not in failed.stderr
    done = script(*where, "--class-name", "car", "--split", "0.5,0.25,0.25", "--ignore-categories", "door")
    assert done.returncode == 0, done.stderr
    assert "train  car" in done.stdout
    assert "nothing was left out" in done.stdout
    assert {len(load(tmp_path, split).records) for split in ("train", "val", "test")} == {4, 2}
