"""Links to files of the repository that are no pages: on GitHub they open the file, on the site they lead here.

| target | on the site |
|---|---|
| projects/partbox/config.py, maskdino_ext/config.py | the page of configuration keys |
| a Python file of the packages whose objects are documented | its source page |
| another file | a copy of the file |
| a folder | plain text |

A target that does not exist stays as it is, and the build fails with Sphinx's own warning.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.transforms import SphinxTransform

KEYS_PAGE = "docs/configuration"
KEYS_FILES = ("projects/partbox/config.py", "maskdino_ext/config.py")
PACKAGES = {"projects/partbox": "partbox", "maskdino_ext": "maskdino_ext"}
SOURCE = "repository-source"  # kind of a reference to a source page


def module_of(path: str) -> str | None:
    """Dotted name of the module that a file of the packages holds; None for any other file."""
    for folder, package in PACKAGES.items():
        if path.startswith(f"{folder}/") and path.endswith(".py"):
            inner = path.removeprefix(f"{folder}/").removesuffix(".py").removesuffix("/__init__")
            return package if inner == "__init__" else f"{package}.{inner.replace('/', '.')}"
    return None


def path_in_repository(root: Path, page: str, target: str) -> str | None:
    """Path below ``root`` of what a page, named by its document name, links to; None outside."""
    found = (root / page).parent.joinpath(target).resolve()
    return found.relative_to(root).as_posix() if found.is_relative_to(root) else None


class RepositoryLinks(SphinxTransform):
    """Turns links to files and folders that are no pages into what the site has for them."""

    default_priority = 500  # before files are collected for copying

    def apply(self, **kwargs: Any) -> None:
        """Change the document in place."""
        root, page = Path(self.env.srcdir).resolve(), self.env.current_document.docname
        for link in list(self.document.findall(addnodes.download_reference)):
            path = path_in_repository(root, page, link["reftarget"])
            if path in KEYS_FILES:
                link.replace_self(_reference(link, page, reftype="doc", refdomain="std", reftarget=f"/{KEYS_PAGE}"))
            elif path is not None and (module := module_of(path)) is not None:
                link.replace_self(_reference(link, page, reftype=SOURCE, refdomain="", reftarget=module))
        for link in list(self.document.findall(addnodes.pending_xref)):
            if link.get("reftype") != "myst" or link.get("refdomain") is not None:
                continue
            path = path_in_repository(root, page, link["reftarget"])
            if path is not None and (root / path).is_dir():
                link.replace_self(link.children)


def _reference(link: nodes.Element, page: str, **where: str) -> addnodes.pending_xref:
    return addnodes.pending_xref("", *link.children, refdoc=page, refexplicit=True, refwarn=True, **where)


def resolve_source(app: Sphinx, env: BuildEnvironment, node: addnodes.pending_xref, inner: nodes.Element) -> Any:
    """The reference to a source page, or plain text where nothing of the module is documented."""
    if node.get("reftype") != SOURCE:
        return None
    module = node["reftarget"]
    if not getattr(env, "_viewcode_modules", {}).get(module):
        return inner
    uri = app.builder.get_relative_uri(node["refdoc"], f"_modules/{module.replace('.', '/')}")
    return nodes.reference("", "", inner, internal=True, refuri=uri)


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the transform and the resolver."""
    app.add_transform(RepositoryLinks)
    app.connect("missing-reference", resolve_source)
    return {"parallel_read_safe": True}
