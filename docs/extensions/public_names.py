"""The public names of a package with their documentation, from its ``__all__``."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import textwrap
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.ext.napoleon import GoogleDocstring
from sphinx.pycode import ModuleAnalyzer
from sphinx.util.docutils import SphinxDirective

LONGEST_VALUE = 120


def restructured_text(module: ModuleType, others: list[ModuleType]) -> str:
    """The documentation of a module's public names as reStructuredText.

    A module without ``__all__`` is documented through its submodules, all of their public functions and classes.

    Args:
        module: with ``__all__``, or a package.
        others: modules that have a page of their own: what is public there as well is named here and described there.
    """
    parts = [f".. automodule:: {module.__name__}\n   :no-members:"]
    if not hasattr(module, "__all__"):
        for one in pkgutil.iter_modules(module.__path__, f"{module.__name__}."):
            parts += [f".. rubric:: {one.name}", f".. automodule:: {one.name}"]
        return "\n\n".join(parts)
    documented = [name for name in module.__all__ if callable(getattr(module, name))]
    homes = {name: home_of(name, module, others) for name in documented}
    names = (f"{homes[name].__name__}.{name}".removeprefix(f"{module.__name__}.") for name in documented)
    summary = "\n".join(f"   ~{name}" for name in names)
    parts.append(f".. autosummary::\n   :nosignatures:\n\n{summary}")
    parts += [described(name, module) for name in documented if homes[name] is module]
    parts += [data(name, module) for name in module.__all__ if name not in documented]
    return "\n\n".join(parts)


def home_of(name: str, module: ModuleType, others: list[ModuleType]) -> ModuleType:
    """The module on whose page a public name is described: the deepest one in which it is public."""
    homes = [
        one for one in others if name in getattr(one, "__all__", ()) and getattr(one, name) is getattr(module, name)
    ]
    return max([module, *homes], key=lambda one: one.__name__.count("."))


def described(name: str, module: ModuleType) -> str:
    """A class, an exception or a function."""
    found = getattr(module, name)
    kind = "function" if not inspect.isclass(found) else "class"
    if inspect.isclass(found) and issubclass(found, BaseException):
        kind = "exception"
    return f".. auto{kind}:: {module.__name__}.{name}"


def data(name: str, module: ModuleType) -> str:
    """A constant with its value, where that is short, and the text or comment beside it."""
    value = repr(getattr(module, name))
    shown = f"\n   :value: {value}" if len(value) <= LONGEST_VALUE else ""
    text = textwrap.indent(note_of(name, module), "   ")
    return f".. py:data:: {name}\n   :module: {module.__name__}{shown}\n\n{text}"


def note_of(name: str, module: ModuleType) -> str:
    """The text that documents a constant in the module that defines it.

    Raises:
        ValueError: it has none.
    """
    for home in [module.__name__, *_imported_from(name, module)]:
        documented = ModuleAnalyzer.for_module(home)
        documented.analyze()
        if text := "\n".join(documented.attr_docs.get(("", name), ())).strip():
            return text
    raise ValueError(f"{module.__name__}.{name} is public and has no text: write one below it, or beside it after '#:'")


def _imported_from(name: str, module: ModuleType) -> Iterator[str]:
    for node in ast.walk(ast.parse(inspect.getsource(module))):
        if isinstance(node, ast.ImportFrom) and any(alias.name == name for alias in node.names):
            yield importlib.util.resolve_name("." * node.level + (node.module or ""), module.__package__)


class PublicNames(SphinxDirective):
    """``{public-names} partbox.attacks``."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """The documentation; an error for a public name without one."""
        others = [importlib.import_module(name) for name in self.config.public_modules]
        try:
            text = restructured_text(importlib.import_module(self.arguments[0]), others)
        except ValueError as error:
            raise self.error(str(error)) from error
        return self.parse_text_to_nodes(f"````{{eval-rst}}\n{text}\n````")


class PropertyTexts:
    """Keeps napoleon from reading what stands before the first colon of a property's text as its type."""

    def __init__(self) -> None:
        self.kept: dict[str, list[str]] = {}

    def put_aside(self, app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
        """Before napoleon: convert the text as that of a method."""
        if what in ("attribute", "data", "property"):
            self.kept[name] = GoogleDocstring(lines, app.config, app, "method", name, obj, options).lines()
            lines[:] = ["put aside"]

    def put_back(self, app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
        """After napoleon."""
        if name in self.kept:
            lines[:] = self.kept.pop(name)


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directive and the setting that lists the modules with a page."""
    app.add_config_value("public_modules", [], "env", types=(list,))
    app.add_directive("public-names", PublicNames)
    texts = PropertyTexts()
    app.connect("autodoc-process-docstring", texts.put_aside, priority=400)  # napoleon has 500
    app.connect("autodoc-process-docstring", texts.put_back, priority=600)
    return {"parallel_read_safe": True}
