"""References to Python objects that have no entry on the site.

What exists (a private function, a class of torch) becomes plain text; what does not exist, a misspelling for example,
stays unresolved, and the build fails.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

OURS = {"partbox", "maskdino_ext"}
OTHERS = {"PIL", "detectron2", "fvcore", "matplotlib", "numpy", "torch", "torchvision", "yacs"}


def exists(name: str) -> bool:
    """Whether a dotted name is a module, or an object in one, of our packages, of those they stand on, or of Python."""
    parts = name.split(".")
    if parts[0] not in OURS | OTHERS | sys.stdlib_module_names:
        return False
    for end in range(len(parts), 0, -1):
        try:
            found: object = importlib.import_module(".".join(parts[:end]))
        except ModuleNotFoundError:
            continue
        for part in parts[end:]:
            if not hasattr(found, part):
                return part in getattr(found, "__annotations__", {}) and part == parts[-1]
            found = getattr(found, part)
        return True
    return False


def candidates(node: addnodes.pending_xref) -> Iterator[str]:
    """What a reference may mean: its target as it is, or in the module and the class where it stands.

    A name without dots may be one of any module of ours, or of torch.nn: annotations and docstrings are written so.
    """
    target, module, owner = node["reftarget"], node.get("py:module"), node.get("py:class")
    yield target
    if module:
        yield f"{module}.{target}"
        if owner:
            yield f"{module}.{owner}.{target}"
    if "." not in target:
        ours = [name for name in sys.modules if name.split(".")[0] in OURS]
        yield from (f"{name}.{target}" for name in (*ours, "torch.nn"))


def resolve(app: Sphinx, env: BuildEnvironment, node: addnodes.pending_xref, inner: nodes.Element) -> Any:
    """Plain text for what exists; None, and so a warning, for what does not."""
    if node.get("refdomain") == "py" and any(map(exists, candidates(node))):
        return inner
    return None


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the resolver, after those that know a better answer."""
    app.connect("missing-reference", resolve, priority=900)
    return {"parallel_read_safe": True}
