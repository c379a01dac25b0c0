"""docs/tour.ipynb: committed without outputs, and runs from its first cell to its last."""

from __future__ import annotations

import os
import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

REPOSITORY = Path(__file__).resolve().parents[2]
TOUR = REPOSITORY / "docs/tour.ipynb"


@pytest.fixture
def notebook() -> nbformat.NotebookNode:
    return nbformat.read(TOUR, as_version=4)


def test_it_is_committed_without_outputs(notebook):
    """Stale numbers cannot stand in it: whoever opens it makes them."""
    nbformat.validate(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert cell.outputs == []
            assert cell.execution_count is None
        else:
            assert not re.search(r"\d ?%|\d\.\d", cell.source), "a figure in the text that no cell prints"
        assert cell.metadata == {}
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    assert "/tmp" not in TOUR.read_text(encoding="utf-8")


def test_it_runs_from_a_coco_file_to_a_report(notebook, tmp_path, monkeypatch):
    monkeypatch.delenv("MPLBACKEND", raising=False)  # else it shows no picture
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "runtime"))
    paths = [str(REPOSITORY / "projects"), str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    printed = "\n".join(
        output.get("text", "") for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs
    )
    assert "training images of Aeroplane, Bottle, Car, Snake" in printed
    assert "| part_box" in printed
    assert "robust % linf 8/255 (pgd-10)" in printed
    pictures = [o for cell in notebook.cells for o in cell.get("outputs", ()) if "image/png" in o.get("data", {})]
    assert len(pictures) == 5
    (work,) = tmp_path.glob("partbox-tour-*")
    page = (work / "report.html").read_text(encoding="utf-8")
    assert "part_box" in page
    assert "pgd-10" in page
