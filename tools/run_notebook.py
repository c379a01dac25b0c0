#!/usr/bin/env python
r"""Run a notebook from its first cell to its last and store what comes out in it, as a reader sees it.

docs/tour.ipynb is committed with its outputs, so that its pictures are there when it is opened, and on the
documentation site. Whoever changes a cell, or what the cells show, runs it again; tests/api/test_tour.py runs it too
and finds outputs that are no longer what the cells print.

It runs in a new folder, which is deleted, with the partbox of this checkout. The file is replaced when the last cell is
done, and stays as it was when one fails. Needs requirements/dev.txt.

Examples:
    # run it and store the outputs in it
    python tools/run_notebook.py docs/tour.ipynb

    # leave it as it is, and write what came out to another file
    python tools/run_notebook.py docs/tour.ipynb --output /tmp/tour.ipynb
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

from partbox.arguments import ArgumentParser

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from partbox.files import write_text

REPOSITORY = Path(__file__).resolve().parents[1]


def parse_arguments() -> argparse.Namespace:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("notebook", type=Path, metavar="NOTEBOOK", help="its file, .ipynb")
    parser.add_argument("--output", type=Path, metavar="FILE", help="where to write it with its outputs (in its place)")
    parser.add_argument(
        "--timeout", type=int, default=600, metavar="SECONDS", help="seconds that a cell may take (%(default)s)"
    )
    return parser.parse_args()


def executed(notebook: nbformat.NotebookNode, folder: Path, *, timeout: int = 600) -> nbformat.NotebookNode:
    """The notebook with the outputs of a run in ``folder``, where its temporary files go, too; without stderr.

    Raises:
        CellExecutionError: a cell that fails; its text is the traceback.
    """
    paths = [str(REPOSITORY / "projects"), str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {
        name: value for name, value in os.environ.items() if name != "MPLBACKEND"
    }  # else it shows no picture
    environment |= {"PYTHONPATH": os.pathsep.join(paths), "TMPDIR": str(folder), "IPYTHONDIR": str(folder / "ipython")}
    client = NotebookClient(
        notebook,
        timeout=timeout,
        record_timing=False,
        coalesce_streams=True,
        resources={"metadata": {"path": str(folder)}},
    )
    done: nbformat.NotebookNode = client.execute(env=environment)
    for cell in done.cells:
        cell.metadata = nbformat.NotebookNode()
        if cell.cell_type == "code":
            cell.outputs = [one for one in cell.outputs if one.get("name") != "stderr"]  # of this machine's libraries
        for output in cell.get("outputs", ()):
            if "metadata" in output:
                output.metadata = nbformat.NotebookNode()
    language = nbformat.from_dict({"name": "python"})  # not the version of this machine's
    done.metadata = nbformat.NotebookNode(kernelspec=done.metadata.kernelspec, language_info=language)
    return done


def main() -> None:
    """Run it and say where it is."""
    arguments = parse_arguments()
    if not arguments.notebook.is_file():
        sys.exit(f"{arguments.notebook} does not exist")
    notebook = nbformat.read(arguments.notebook, as_version=4)
    with tempfile.TemporaryDirectory(prefix="notebook-") as folder:
        try:
            done = executed(notebook, Path(folder), timeout=arguments.timeout)
        except CellExecutionError as error:
            sys.exit(f"{arguments.notebook}: a cell failed, and the file stays as it was\n{error}")
    output = arguments.output or arguments.notebook
    write_text(output, nbformat.writes(done) + "\n")
    print(f"{output}: {sum(len(cell.get('outputs', ())) for cell in done.cells)} outputs")


if __name__ == "__main__":
    main()
