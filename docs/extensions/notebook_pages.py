"""Jupyter notebooks as pages: text, code, and the outputs that are stored in them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from docutils import nodes
from myst_parser.parsers.sphinx_ import MystParser
from sphinx.application import Sphinx

PICTURES = ("image/png", "image/jpeg")


def as_markdown(notebook: dict[str, Any]) -> str:
    """A notebook (nbformat 4) as Markdown.

    A picture's alternative text is the heading of the section that it stands in.

    Raises:
        ValueError: an output of a kind that a page cannot show.
    """
    blocks: list[str] = []
    heading = ""
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            blocks.append(source)
            heading = ([heading] + re.findall(r"(?m)^#+ (.+)$", source))[-1]
            continue
        blocks.append(fenced(source, "python"))
        for output in cell["outputs"]:
            blocks += _shown(output, alternative=f"Output of: {heading}")
    return "\n\n".join(blocks) + "\n"


def fenced(text: str, language: str) -> str:
    """A block of code, its fence longer than any in the text."""
    longest = max(map(len, re.findall(r"`{3,}", text)), default=2)
    fence = "`" * (longest + 1)
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"


def _shown(output: dict[str, Any], *, alternative: str) -> Iterator[str]:
    data = output.get("data", {})
    pictures = [kind for kind in PICTURES if kind in data]
    if output["output_type"] == "stream":
        yield fenced("".join(output["text"]), "text")
    elif pictures:
        content = "".join(data[pictures[0]]).replace("\n", "")
        yield f"![{re.sub(r'[][]', '', alternative)}](data:{pictures[0]};base64,{content})"
    elif "text/plain" in data:
        yield fenced("".join(data["text/plain"]), "text")
    else:
        raise ValueError(f"a notebook's output of kind {output['output_type']} {sorted(data)} is not shown on pages")


class NotebookParser(MystParser):
    """Reads ``.ipynb`` files."""

    supported: tuple[str, ...] = ("notebook",)

    def parse(self, inputstring: str, document: nodes.document) -> None:
        """Parse the text of a notebook's file."""
        super().parse(as_markdown(json.loads(inputstring)), document)


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the parser."""
    app.add_source_suffix(".ipynb", "notebook")
    app.add_source_parser(NotebookParser)
    return {"parallel_read_safe": True}
