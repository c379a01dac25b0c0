"""A table of contents of every page that the ones before it leave out, so that no new page is forgotten."""

from __future__ import annotations

from typing import Any

from docutils import nodes
from docutils.statemachine import StringList
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.directives.other import TocTree


class RemainingPages(TocTree):
    """``{remaining-pages}``: a toctree of the folder's pages that no toctree above it names, in alphabetical order.

    Nothing where none is left.
    """

    def run(self) -> list[nodes.Node]:
        """The toctree."""
        own = self.env.current_document.docname
        folder = own.rpartition("/")[0]
        named = {name for tree in self.state.document.findall(addnodes.toctree) for name in tree["includefiles"]}
        left = sorted(one for one in self.env.found_docs - named - {own} if one.rpartition("/")[0] == folder)
        self.content = StringList([f"/{one}" for one in left], source=own)
        return super().run() if left else []


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directive."""
    app.add_directive("remaining-pages", RemainingPages)
    return {"parallel_read_safe": True}
