"""docs/tour.ipynb runs from its first cell to its last, and shows what it shows when it runs."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import nbformat
import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
TOUR = REPOSITORY / "docs/tour.ipynb"
STALE = "python tools/run_notebook.py docs/tour.ipynb stores what it shows now"
PICTURES = 5


@pytest.fixture
def notebook() -> nbformat.NotebookNode:
    return nbformat.read(TOUR, as_version=4)


def outputs_of(notebook: nbformat.NotebookNode) -> list[list[tuple[str, str]]]:
    """Kind and text of the outputs of each code cell; numbers, which depend on the machine, are left out of a text."""

    def shown(output: nbformat.NotebookNode) -> tuple[str, str]:
        if "text" in output:
            return output.name, without_numbers(output.text)
        kinds = " ".join(sorted(output.data))
        return kinds, "" if "image/png" in output.data else without_numbers(output.data["text/plain"])

    return [[shown(output) for output in cell.outputs] for cell in notebook.cells if cell.cell_type == "code"]


def without_numbers(text: str) -> str:
    """Of a table neither the width of its columns."""
    return re.sub(r"\s+", " ", re.sub(r"[-:]{3,}", "-", re.sub(r"\d+(\.\d+)?", "0", text)))


def test_it_is_committed_with_the_outputs_of_one_run(notebook):
    """Pictures are there when it is opened, and nothing of the machine that made them."""
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert sum(kinds.count("image/png") for shown in outputs_of(notebook) for kinds, _ in shown) == PICTURES
    for cell in notebook.cells:
        assert cell.metadata == {}
        if cell.cell_type == "markdown":
            assert not re.search(r"\d ?%|\d\.\d", cell.source), "a figure in the text that no cell prints"
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    assert set(notebook.metadata.language_info) == {"name"}
    text = TOUR.read_text(encoding="utf-8")
    assert not re.search(r"/(tmp|home|root|work|usr)\b", re.sub(r'"image/png": "[^"]*"', "", text))
    assert len(text) < 1_000_000


def test_it_runs_from_a_coco_file_to_a_report(notebook, tmp_path, monkeypatch):
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "runtime"))
    monkeypatch.delenv("DETECTRON2_DATASETS", raising=False)  # the run's README.txt would tell it
    stored = outputs_of(notebook)
    executed = runpy.run_path(str(REPOSITORY / "tools/run_notebook.py"))["executed"]
    done = executed(notebook, tmp_path, timeout=300)
    printed = "\n".join(
        output.get("text", "") for cell in done.cells if cell.cell_type == "code" for output in cell.outputs
    )
    assert "training images of Aeroplane, Bottle, Car, Snake" in printed
    assert "| part_box" in printed
    assert "robust % linf 8/255 (pgd-10)" in printed
    (work,) = tmp_path.glob("partbox-tour-*")
    page = (work / "report.html").read_text(encoding="utf-8")
    assert "part_box" in page
    assert "pgd-10" in page
    assert outputs_of(done) == stored, STALE
