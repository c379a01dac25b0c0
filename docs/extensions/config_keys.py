"""The configuration keys with their meanings, which stand as comments beside the defaults in ``config.py``."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

TYPES = {bool: "True or False", int: "whole number", float: "number", str: "text", list: "list", tuple: "list"}


@dataclass(frozen=True)
class Key:
    """A key that a ``config.py`` sets.

    Attributes:
        name: dotted.
        meaning: the comment lines above it and the comment beside it, one text; empty where there is none.
        shares: name of the key above it whose comment speaks of this one, too; empty where it has its own.
    """

    name: str
    meaning: str
    shares: str = ""


@dataclass(frozen=True)
class _Group:
    """The comment lines above a statement, and what follows without a gap."""

    text: str = ""
    leader: str = ""  # the key, or the node of keys, below the comment
    is_node: bool = False


def keys_of(source: str) -> list[Key]:
    """Every key that the first function of a ``config.py`` sets, itself or through functions of the file.

    A key without a comment of its own shares that of the key directly above it in the same node.
    """
    reader = _Reader(source)
    return list(reader.keys(reader.first, {reader.first.args.args[0].arg: ""}))


class _Reader:
    def __init__(self, source: str) -> None:
        functions = [one for one in ast.parse(source).body if isinstance(one, ast.FunctionDef)]
        self.first = functions[0]
        self.functions = {one.name: one for one in functions}
        self.above: dict[int, str] = {}  # comments that have a line for themselves
        self.beside: dict[int, str] = {}
        for token in tokenize.generate_tokens(io.StringIO(source).readline):
            if token.type == tokenize.COMMENT:
                alone = token.line.strip().startswith("#")
                (self.above if alone else self.beside)[token.start[0]] = token.string.lstrip("# ")

    def keys(self, function: ast.FunctionDef, names: dict[str, str]) -> Iterator[Key]:
        """Keys set in a function whose variables stand for the dotted nodes ``names`` ("" is the configuration)."""
        group, end = _Group(), 0
        for statement in function.body:
            if (called := self._called(statement, names)) is not None:
                yield from self.keys(*called)
            if not isinstance(statement, ast.Assign):
                continue
            places = [_dotted(target, names) for target in statement.targets if isinstance(target, ast.Attribute)]
            for target in statement.targets:  # part = cfg.MODEL.PART = CfgNode(), node = cfg.MODEL.SEM_SEG_HEAD
                if isinstance(target, ast.Name):
                    names[target.id] = places[0] if places else _dotted(statement.value, names)
            comment = self._comment_above(statement.lineno)
            if comment or statement.lineno != end + 1:
                group = _Group(comment, *places, is_node=_is_node(statement.value)) if places else _Group(comment)
            end = statement.end_lineno or statement.lineno
            if places and not _is_node(statement.value):
                yield self._key(places[0], statement, group)

    def _key(self, name: str, statement: ast.Assign, group: _Group) -> Key:
        lines = range(statement.lineno, (statement.end_lineno or statement.lineno) + 1)
        note = " ".join(self.beside[line] for line in lines if line in self.beside)
        parent = name.rpartition(".")[0]
        if name == group.leader or (group.is_node and parent == group.leader and not note):
            return Key(name, f"{group.text} {note}".strip())
        shared = not note and group.text and not group.is_node and parent == group.leader.rpartition(".")[0]
        return Key(name, note, group.leader if shared else "")

    def _comment_above(self, line: int) -> str:
        lines: list[str] = []
        while (line := line - 1) in self.above:
            lines.insert(0, self.above[line])
        return " ".join(lines)

    def _called(self, statement: ast.stmt, names: dict[str, str]) -> tuple[ast.FunctionDef, dict[str, str]] | None:
        """The function of the file that a statement calls, and what its parameter stands for."""
        call = statement.value if isinstance(statement, ast.Expr) else None
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name) or call.func.id not in self.functions:
            return None
        function = self.functions[call.func.id]
        return function, {function.args.args[0].arg: _dotted(call.args[0], names)}


def _dotted(node: ast.expr, names: dict[str, str]) -> str:
    if isinstance(node, ast.Name):
        return names[node.id]
    assert isinstance(node, ast.Attribute), ast.unparse(node)
    return f"{_dotted(node.value, names)}.{node.attr}".lstrip(".")


def _is_node(value: ast.expr) -> bool:
    return isinstance(value, ast.Call) and ast.unparse(value.func) == "CfgNode"


def chosen(keys: list[Key], prefixes: list[str], but: list[str]) -> list[Key]:
    """The keys at or below one of the nodes ``prefixes`` and at or below none of ``but``."""

    def below(name: str, nodes_: list[str]) -> bool:
        return any(name == node or name.startswith(f"{node}.") for node in nodes_)

    return [key for key in keys if below(key.name, prefixes) and not below(key.name, but)]


def as_markdown(key: Key, default: object) -> str:
    """A description that the search and the index of the site know."""
    meaning = f"See {{confval}}`{key.shares}`." if key.shares else escaped(key.meaning)
    body = meaning or "A key of detectron2 with another default."
    kind = TYPES[type(default)]
    return f"```{{confval}} {key.name}\n:type: {kind}\n:default: `{default!r}`\n\n{body}\n```"


def escaped(text: str) -> str:
    """Plain text as Markdown that shows just it."""
    return re.sub(r"([!-/:-@\[-`{-~])", r"\\\1", text)


class ConfigKeys(SphinxDirective):
    """``{config-keys} partbox.config MODEL.PART``: the keys that a module adds below some nodes, in its order."""

    required_arguments = 2
    final_argument_whitespace = True
    option_spec: ClassVar = {"but": str}  # nodes to leave out

    def run(self) -> list[nodes.Node]:
        """Descriptions of the keys; an error where there are none."""
        module, nodes_ = self.arguments[0], self.arguments[1].split()
        file = Path(find_spec(module).origin)
        self.env.note_dependency(str(file))
        keys = chosen(keys_of(file.read_text(encoding="utf-8")), nodes_, self.options.get("but", "").split())
        if not keys:
            raise self.error(f"{module} adds no key below {' or '.join(nodes_)}")
        cfg = complete_defaults()
        return self.parse_text_to_nodes("\n\n".join(as_markdown(key, default_of(cfg, key.name)) for key in keys))


def complete_defaults() -> Any:
    """The defaults of detectron2, partbox, Mask DINO and DINO."""
    from partbox.engine.setup import load_config

    return load_config()


def default_of(cfg: Any, name: str) -> object:
    """The value of a dotted key."""
    for part in name.split("."):
        cfg = cfg[part]
    return cfg


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directive."""
    app.add_directive("config-keys", ConfigKeys)
    return {"parallel_read_safe": True}
