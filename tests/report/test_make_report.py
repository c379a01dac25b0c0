"""The command line, and that a report needs nothing of the machinery that made its results."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from report_runs import write_run

REPO = Path(__file__).resolve().parents[2]
FOOLED = {"clean": [False, False, True, False], "pgd-20 linf 8/255": [False, True, True, False]}


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, REPO / "tools/make_report.py", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_one_command_makes_a_page_or_says_why_not(tmp_path: Path) -> None:
    folder, page = write_run(tmp_path / "a", FOOLED), tmp_path / "pages" / "a.html"
    done = run(folder, "--output", page, "--resamples", 100, "--seed", 5)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{page} (0.")
    assert "100 bootstrap resamples of the images (seed 5)" in page.read_text()
    page.unlink()
    for arguments, words in (
        ([folder, tmp_path / "missing"], "ReportError: "),
        ([folder, "--resamples", 9], "ValueError: at least 100 resamples"),
    ):
        done = run(*arguments, "--output", page)
        assert done.returncode == 1
        assert words in done.stderr
        assert "Traceback" not in done.stderr
        assert not page.exists()


def test_damaged_example_images_are_named(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a", FOOLED)
    (folder / "examples").mkdir()
    (folder / "examples" / "index.json").write_text("{")
    done = run(folder, "--output", tmp_path / "a.html", "--resamples", 100)
    assert done.returncode == 1
    assert done.stderr.startswith("ExamplesError: ")
    assert "index.json is damaged" in done.stderr
    assert not (tmp_path / "a.html").exists()


def test_help_teaches_with_an_example() -> None:
    text = run("--help").stdout
    assert "python tools/make_report.py output/example/normal output/example/part_box" in text
    assert "--resamples" in text


def test_importing_is_light() -> None:
    """Tables need no plots, and the whole report neither torch nor detectron2."""
    code = (
        "import sys, partbox.report\n"
        "print(sorted({'matplotlib', 'jinja2', 'PIL'} & set(sys.modules)))\n"
        "import partbox.report.html\n"
        "print(sorted({'torch', 'detectron2', 'matplotlib.pyplot'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "[]\n[]\n", done.stdout + done.stderr
