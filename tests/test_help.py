"""``--help`` teaches: examples that the tools understand, every option with its meaning, unit and default."""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from pathlib import Path

from partbox.arguments import ArgumentParser, default_of, names_default

import pytest
from tool_examples import REPOSITORY, SCRIPTS, TOOLS, Example, commands_of, examples_in, parsed, parser_of

from partbox.engine.setup import load_config
from partbox.engine.slurm.plan import parse_perturbation
from partbox.evaluation.perturbations import build_perturbations
from partbox.experiments import experiment_config

PARSERS = [(tool, command) for tool in TOOLS for command in commands_of(tool)]
DOCUMENTS = [
    *["README.md", "CONTRIBUTING.md", "datasets/README.md", "maskdino_ext/README.md"],
    *sorted(str(path.relative_to(REPOSITORY)) for path in (REPOSITORY / "docs").glob("*.md")),
    *sorted(str(path.relative_to(REPOSITORY)) for path in (REPOSITORY / "scripts/slurm").glob("*.sbatch")),
]
UNITS = {
    r"(image-)?sizes?|side": r"pixel|images|network",
    r"height|width|min-side|max-side|dry-run-size": r"pixel|side",
    r"eps": r"\[0, 1\]",
    r".*seconds.*": r"second|labelling one part|before the time limit",
    r".*gigabytes.*|mem": r"GB|64G",
    r".*shares?|min-area-share|iou|strength": r"share|of the images|\[0, 1\]|1 \(default\)|covers less|overlap",
}


def check(example: Example) -> None:
    """What an example names exists: options, keys, values, perturbations, configuration files of the repository."""
    assert (REPOSITORY / example.tool).is_file(), f"{example.tool} does not exist"
    if not example.complete:  # such as "tools/train_net.py --eval-only --part 0/2 ..."
        known = {option for one in parser_of(example.tool, example.command)._actions for option in one.option_strings}
        strange = {word.split("=")[0] for word in example.words if word.startswith("--")} - known
        assert not strange, f"{example}: {strange}"
        return
    arguments = parsed(example)
    files = [getattr(arguments, "config_file", None), *(getattr(arguments, "configs", None) or [])]
    ours = [str(file) for file in files if file and Path(file).parts[0] == "configs"]
    for file in ours:
        assert (REPOSITORY / file).is_file(), f"{example}: {file} does not exist"
    options = list(getattr(arguments, "options", None) or [])
    cfg = load_config(REPOSITORY / ours[0] if ours else None, options)
    build_perturbations(cfg.ROBUST_EVAL.PERTURBATIONS)
    for text in getattr(arguments, "perturbation", None) or []:
        build_perturbations([parse_perturbation(text)])
    if getattr(arguments, "experiment", None):
        experiment_config(arguments.experiment)


@pytest.mark.parametrize(("tool", "command"), PARSERS)
def test_the_help_of_every_tool_teaches(tool, command, capsys):
    parser = parser_of(tool, command)
    assert isinstance(parser, ArgumentParser), f"{tool}: use partbox.arguments.ArgumentParser, which suggests"
    with pytest.raises(SystemExit) as end:
        parser.parse_args(["--help"])
    assert end.value.code == 0
    shown = capsys.readouterr().out
    assert not command or f"All commands: python {tool} --help" in shown
    assert shown.count("Examples:\n") <= 1
    own = [one for one in examples_in(shown) if one.tool == tool and one.command == command]
    assert any(one.complete for one in own), f"{tool} {command}: no example that can be run as it is"
    for one in examples_in(shown):
        check(one)


@pytest.mark.parametrize(("tool", "command"), PARSERS)
def test_every_option_is_documented(tool, command):
    parser = parser_of(tool, command)
    formatter = parser._get_formatter()
    for action in parser._actions:
        if action.help == argparse.SUPPRESS or isinstance(action, argparse._HelpAction | argparse._SubParsersAction):
            continue
        name = (action.option_strings or [action.dest])[-1]
        text = formatter._expand_help(action) if action.help else ""
        assert re.search(r"[a-z]{2}", re.sub(r"\([^)]*\)$", "", text)), f"{tool} {name}: says nothing"
        default = default_of(action)
        assert not default or names_default(text, default), f"{tool} {name}: {text!r} hides the default {default}"
        for options, words in UNITS.items():
            if action.nargs != 0 and re.fullmatch(options, name.lstrip("-")):
                assert re.search(words, text), f"{tool} {name}: {text!r} names no unit"


def test_a_tool_prints_no_warning_of_what_it_imports():
    done = subprocess.run(
        [sys.executable, REPOSITORY / "tools/train_net.py", "--help"], capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("option", ["--help", "-h"])
@pytest.mark.parametrize("script", [*SCRIPTS, "scripts/drop_damaged.py"])
def test_the_help_of_every_script_teaches(script, option, tmp_path):
    program = [sys.executable] if script.endswith(".py") else ["bash"]
    done = subprocess.run(
        [*program, REPOSITORY / script, option],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path)},
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert re.search(rf"^ {{2,}}.*\b{re.escape(script)}", done.stdout, re.MULTILINE), f"{script}: no example"
    assert not list(tmp_path.iterdir())
    for one in examples_in(done.stdout):
        check(one)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_commands_in_the_documentation_work(document):
    text = re.sub(r"(?m)^# ?", "", (REPOSITORY / document).read_text()) if document.endswith(".sbatch") else None
    for one in examples_in(text or (REPOSITORY / document).read_text()):
        check(one)


def test_the_parts_of_cars_are_given_their_class():
    """Their file names none, and without it the preparation refuses."""
    texts = [(REPOSITORY / document).read_text() for document in ("README.md", "datasets/README.md")]
    found = [one for text in texts for one in examples_in(text) if "car_parts" in " ".join(one.words)]
    cars = [parsed(one) for one in found if one.tool == "datasets/prepare_coco_parts.py"]
    assert [one.class_name for one in cars] == ["car", "car"]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_no_command_starts_a_file_that_cannot_be_executed(document):
    """Files of tools have no mode that would let a shell start them: a command names python, or what brings it."""
    assert not os.access(REPOSITORY / "tools/train_net.py", os.X_OK)
    started = re.findall(r"(?m)^(?:\$ )?(?:tools|datasets)/\S+\.py .*", (REPOSITORY / document).read_text())
    assert not started


def test_a_rotten_example_is_found():
    text = "    python tools/train_net.py --config-file configs/example/part_box.yaml {}\n"
    (fine,) = examples_in(text.format("OUTPUT_DIR output/x  # a comment"))
    check(fine)
    assert fine.words == ("--config-file", "configs/example/part_box.yaml", "OUTPUT_DIR", "output/x")
    wrong = ["--outptu x", "OUTPUT_DRI x", "--experiment part-wbox", "TEST.EVAL_PERIOD", "--part 2/2"]
    wrong += ["ROBUST_EVAL.PERTURBATIONS \"[{'name': 'pgd', 'epsilon': '8/255'}]\"", "ADVERSARY.OBJECTIVE pdg"]
    for one in wrong:
        (example,) = examples_in(text.format(one))
        with pytest.raises((AssertionError, ValueError)):
            check(example)
    for other in ("tools/train_nte.py", "tools/train_net.py --config-file configs/example/partbox.yaml"):
        (example,) = examples_in(f"python {other}\n")
        with pytest.raises(AssertionError, match="does not exist"):
            check(example)
    both = (
        "torchrun --nproc-per-node 2 tools/train_net.py --eval-only --part 0/2 ... & python tools/compare_runs.py a b"
    )
    assert [(one.tool, one.complete) for one in examples_in(both)] == [
        ("tools/train_net.py", False),
        ("tools/compare_runs.py", True),
    ]


def test_a_hidden_default_is_found():
    parser = ArgumentParser()
    shown = [
        parser.add_argument("--size", type=int, default=64, help="side, in pixels"),
        parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2], help="of the trainings"),
        parser.add_argument("--share", default="50%", help="of all"),
        parser.add_argument("--named", default=3, help="3 is enough"),
        parser.add_argument("--flag", action="store_true", help="do it"),
    ]
    texts = [parser._get_formatter()._expand_help(one) for one in shown]
    assert texts == ["side, in pixels (64)", "of the trainings (1 2)", "of all (50%)", "3 is enough", "do it"]
    assert not names_default("side, 640 pixels", "64")
