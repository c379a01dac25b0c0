"""tools/run_notebook.py: outputs go into the notebook, whole or not at all."""

from __future__ import annotations

import sys

import nbformat
import pytest


@pytest.fixture
def run(run_tool, tmp_path, monkeypatch):
    """Run the tool on a notebook of these code cells; gives its file."""
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "runtime"))
    file = tmp_path / "some.ipynb"

    def call(*cells: str, options=()) -> nbformat.NotebookNode:
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
        notebook.metadata = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
        nbformat.write(notebook, file)
        run_tool("run_notebook", file, *options)
        return nbformat.read(file, as_version=4)

    call.file = file
    return call


def test_outputs_are_stored_and_nothing_of_the_machine(run, tmp_path, capsys):
    code = [
        "import sys, tempfile, os, partbox; print(3, file=sys.stderr)",
        "print(1); print(2)",
        "print(tempfile.gettempdir() == os.getcwd())",
    ]
    done = run(*code, "(sys.executable, partbox.__file__)")
    assert [[output.get("text") for output in cell.outputs] for cell in done.cells[:3]] == [[], ["1\n2\n"], ["True\n"]]
    assert [cell.execution_count for cell in done.cells] == [1, 2, 3, 4]
    assert sys.executable in done.cells[3].outputs[0].data["text/plain"]
    assert all(cell.metadata == {} for cell in done.cells)
    assert dict(done.metadata.language_info) == {"name": "python"}
    assert not [path for path in tmp_path.parent.iterdir() if path.name.startswith("notebook-")]
    assert "some.ipynb: 3 outputs" in capsys.readouterr().out


def test_a_cell_that_fails_leaves_the_file_as_it_was(run, tmp_path):
    with pytest.raises(
        SystemExit, match=r"some\.ipynb: a cell failed, and the file stays as it was\n[\s\S]*ZeroDivision"
    ):
        run("print(1)", "1 / 0")
    assert nbformat.read(run.file, as_version=4).cells[0].outputs == []


def test_another_file_may_take_it(run, run_tool, tmp_path):
    assert run("print(1)", options=["--output", tmp_path / "new/other.ipynb"]).cells[0].outputs == []
    assert nbformat.read(tmp_path / "new/other.ipynb", as_version=4).cells[0].outputs[0].text == "1\n"
    with pytest.raises(SystemExit, match=r"nowhere\.ipynb does not exist"):
        run_tool("run_notebook", tmp_path / "nowhere.ipynb")
