"""The folder of every data set explains itself, and the commands that its README.txt tells work."""

from __future__ import annotations

import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from coco_files import animals, prepare, tree
from folder_guides import check_explained, commands_in
from shift_files import document, write
from tool_examples import Example, parsed

from partbox.data.example import ExampleStyle, generate_example_dataset
from partbox.data.preparation import prepare as prepare_module
from partbox.data.preparation.guide import preparation_guide
from partbox.data.shifts.make import make_shifted
from partbox.data.shifts.render import Settings
from partbox.engine.setup import load_config
from partbox.folder_readme import datasets_option, shell_line

REPOSITORY = Path(__file__).resolve().parents[2]


def words_in_a_shell(line: str) -> list[str]:
    """The words that bash makes of a line."""
    shown = subprocess.run(["bash", "-c", f"printf '%s\\0' {line}"], capture_output=True, text=True, check=True)
    return shown.stdout.removesuffix("\0").split("\0")


def run_script(command: str) -> str:
    """A command of a README.txt as a shell runs it, in the repository; what it prints."""
    assert command.startswith("python datasets/")
    line = command.replace("python", shlex.quote(sys.executable), 1)
    done = subprocess.run(["bash", "-c", line], cwd=REPOSITORY, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("name", [pytest.param("plain", marks=pytest.mark.slow), "a user's $data"])
def test_a_prepared_data_set(tmp_path, name):
    file, images = animals(12).write(tmp_path)
    output = tmp_path / name
    options = ["--annotations", str(file), "--images", str(images), "--output", str(output), "--workers", "1"]
    run_script(shell_line(["datasets/prepare_coco_parts.py", *options]))
    check_explained(output)
    look, train, detector, again = commands_in((output / "README.txt").read_text())
    before = tree(output)
    assert "24 of 24 crops were there from an earlier run" in run_script(again)
    assert tree(output) == before
    python, tool, *words = words_in_a_shell(look.replace("FOLDER", "look"))
    assert parsed(Example(tool, tuple(words))).dataset == str(output / "train.json")
    python, tool, *words = words_in_a_shell(train)
    arguments = parsed(Example(tool, tuple(words)))
    assert (python, tool, arguments.config_file) == ("python", "tools/train_net.py", "CONFIG")
    cfg = load_config(None, arguments.options)
    given = [cfg.DATASETS.TRAIN, cfg.DATASETS.VALIDATION, cfg.DATASETS.TEST]
    assert given == [(str(output / f"{split}.json"),) for split in ("train", "val", "test")]
    python, tool, *words = words_in_a_shell(detector)
    cfg = load_config(None, parsed(Example(tool, tuple(words))).options)
    assert (tool, cfg.DATASETS.TRAIN, cfg.DATASETS.TEST) == ("tools/train_detector.py", given[0], given[2])


def test_an_interrupted_preparation_explains_itself_too(tmp_path, monkeypatch):
    coco = animals(12)
    monkeypatch.setattr(prepare_module, "_cut", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        prepare(coco, tmp_path)
    assert "Files of a finished run:" in (tmp_path / "out/README.txt").read_text()
    monkeypatch.undo()
    (tmp_path / "out/.README.txt.x.tmp").touch()  # of one that was killed a moment later
    prepare(coco, tmp_path)
    check_explained(tmp_path / "out")
    assert not (tmp_path / "out/.README.txt.x.tmp").exists()


def test_what_is_not_made_is_not_told(tmp_path):
    prepare(animals(12), tmp_path, fractions=(1.0, 0.0, 0.0))
    check_explained(tmp_path / "out")
    (look,) = commands_in((tmp_path / "out/README.txt").read_text())  # there is nothing to test on, and no command
    assert "visualize_parts.py labels" in look
    prepare(animals(12), tmp_path, labels_only=True, output="labels")
    check_explained(tmp_path / "labels")
    assert commands_in((tmp_path / "labels/README.txt").read_text()) == []
    text = preparation_guide(tmp_path, ["train", "test"], with_images=True)
    (train,) = (one for one in commands_in(text) if "train_net" in one)
    assert load_config(None, words_in_a_shell(train)[4:]).DATASETS.VALIDATION == ()


def test_shifted_copies(tmp_path, monkeypatch, capsys):
    write(tmp_path, document())
    output = tmp_path / "it's shifted"
    command = ["datasets/make_shifted.py", "--json", str(tmp_path / "test.json"), "--images", str(tmp_path / "images")]
    command += ["--shift", "mixed_same", "no_fg", "--output", str(output), "--workers", "1"]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(REPOSITORY / command[0]), run_name="__main__")
    assert end.value.code == 0
    for shift, meaning in (("mixed_same", "another image of its class"), ("no_fg", "the foreground black")):
        check_explained(output / shift)
        text = (output / shift / "README.txt").read_text()
        assert meaning in text.splitlines()[0]
        look, evaluate, again = commands_in(text)
        assert words_in_a_shell(again) == ["python", str(REPOSITORY / command[0]), *command[1:]]
        assert words_in_a_shell(look)[4] == str(output / shift / "part_dataset.json")
        options = parsed(Example("tools/train_net.py", tuple(words_in_a_shell(evaluate)[2:]))).options
        assert (str(output / shift / "part_dataset.json"),) == load_config(None, options).DATASETS.TEST
    make_shifted(tmp_path / "test.json", tmp_path / "images", tmp_path / "api", ["no_fg"], Settings())
    assert len(commands_in((tmp_path / "api/no_fg/README.txt").read_text())) == 2


def test_example_data(tmp_path):
    counts = {"train": 12, "test": 11}
    generate_example_dataset(tmp_path / "a", num_images=counts, size=(32, 40), seed=3)
    check_explained(tmp_path / "a")
    again, _ = commands_in((tmp_path / "a/README.txt").read_text())
    _, tool, *words = shlex.split(again.replace("FOLDER", shlex.quote(str(tmp_path / "b"))))
    given = parsed(Example(tool, tuple(words)))
    assert (given.train, given.val, given.test, given.size, given.seed) == (12, 0, 11, [32, 40], 3)
    generate_example_dataset(tmp_path / "b", num_images=counts, size=(32, 40), seed=3)
    assert (tmp_path / "b/README.txt").read_bytes() == (tmp_path / "a/README.txt").read_bytes()
    generate_example_dataset(tmp_path / "hard", num_images={"train": 3}, style=ExampleStyle(noise=0.0))
    assert not any("make_example_data" in one for one in commands_in((tmp_path / "hard/README.txt").read_text()))


@pytest.mark.parametrize(
    "path", ["a/b.json", "it's/b.json", 'a "b"/c.json', "$HOME/`x`/b.json", "a\\b.json", "a b!.json"]
)
def test_a_file_of_any_name_reaches_the_configuration(path):
    value = words_in_a_shell(datasets_option(Path(path)))
    assert len(value) == 1
    assert (path,) == load_config(None, ["DATASETS.TRAIN", *value]).DATASETS.TRAIN
