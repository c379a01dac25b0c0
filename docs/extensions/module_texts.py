"""The modules of a package, each with the text at its head: where to look for what."""

from __future__ import annotations

import ast
import textwrap
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective


def modules_of(package: str, *, direct: bool = False) -> Iterator[tuple[str, Path]]:
    """Dotted name and file of a package and of every module below it, by name; without those that begin with ``_``.

    Args:
        package: dotted name.
        direct: only the package itself and the modules that lie in its own folder.
    """
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise ValueError(f"there is no package {package}")
    folder = Path(spec.origin).parent
    found = []
    for file in folder.glob("*.py") if direct else folder.rglob("*.py"):
        parts = [*package.split("."), *file.relative_to(folder).with_suffix("").parts]
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        if not any(part.startswith("_") for part in name.split(".")):
            found.append((name, file))
    yield from sorted(found)


def entry(name: str, source: str) -> str:
    """A module in reStructuredText; references in its text are looked up in it.

    Raises:
        ValueError: it has no text.
    """
    text = ast.get_docstring(ast.parse(source))
    if not text:
        raise ValueError(f"{name} has no text at its head")
    return f".. py:currentmodule:: {name}\n\n``{name}``\n{textwrap.indent(text, '   ')}\n"


class ModuleTexts(SphinxDirective):
    """``{module-texts} partbox.attacks``: the package and its modules, with their texts."""

    required_arguments = 1
    option_spec: ClassVar = {"direct": directives.flag}

    def run(self) -> list[nodes.Node]:
        """A list of definitions; an error for a module without a text."""
        parts = []
        try:
            for name, file in modules_of(self.arguments[0], direct="direct" in self.options):
                self.env.note_dependency(str(file))
                parts.append(entry(name, file.read_text(encoding="utf-8")))
        except ValueError as error:
            raise self.error(str(error)) from error
        parts.append(".. py:currentmodule:: None\n")
        text = "\n".join(parts)
        return self.parse_text_to_nodes(f"````{{eval-rst}}\n{text}\n````")


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directive."""
    app.add_directive("module-texts", ModuleTexts)
    return {"parallel_read_safe": True}
