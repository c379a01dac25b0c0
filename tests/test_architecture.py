"""The arrows between the rooms, and the habits that every file keeps. Source is parsed, never imported."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[1]
SOURCES = {"partbox": REPO / "projects/partbox", "maskdino_ext": REPO / "maskdino_ext", "tools": REPO / "tools"}
SOURCES["datasets"] = REPO / "datasets"

# What each room may import, besides itself and the floor below all of partbox (`colours`: of parts, `eps`: read and
# written, `files`: atomic writing, `folder_readme`: what a folder holds, `locks`: on files, `processes`: what those of
# a run say to each other, `progress`: how far long work is, `suggestions`: which name was meant). A name is a room: a
# module or folder of partbox, "partbox" (the public names in its __init__), or a top-level package. The report reads
# result files, so it stands alone.
MAY_IMPORT: dict[str, set[str]] = {
    "colours": set(),
    "eps": set(),
    "files": set(),
    "folder_readme": set(),
    "locks": set(),
    "processes": set(),
    "progress": set(),
    "suggestions": set(),
    "arguments": {"suggestions"},
    "config": set(),
    "experiments": {"config"},
    "corruptions": set(),
    "data": {"config", "arguments"},
    "attacks": set(),
    "maskdino_ext": set(),
    "modeling": {"config", "data", "maskdino_ext"},
    "evaluation": {"config", "data", "attacks", "corruptions"},
    "visualization": {"config", "data"},
    "engine": {
        *("config", "experiments", "data", "attacks", "corruptions", "modeling", "evaluation", "maskdino_ext"),
        "visualization",
    },
    "export": {"partbox", "config", "data", "modeling", "engine", "maskdino_ext"},
    "report": set(),
    "api": {"config", "data", "attacks", "modeling", "evaluation", "engine", "report", "partbox"},
    "datasets": {"partbox", "data", "attacks", "corruptions", "arguments"},
}
MAY_IMPORT["partbox"] = set(MAY_IMPORT) - {"datasets", "report"}
MAY_IMPORT["tools"] = set(MAY_IMPORT) - {"datasets"}
EVERYWHERE = {"colours", "eps", "files", "folder_readme", "locks", "processes", "progress", "suggestions"}
MAX_FILE_LINES = 500
MAX_FUNCTION_LINES = 60
LIBRARIES = {"partbox", "maskdino_ext"}  # stricter habits than scripts: no device names


@dataclass(frozen=True)
class Source:
    """One file: its dotted module name as the import system sees it, and its text."""

    module: str
    text: str
    is_package: bool = False

    @property
    def tree(self) -> ast.Module:
        return parse(self.text)

    @property
    def top(self) -> str:
        return self.module.split(".")[0]

    @property
    def room(self) -> str:
        return room_of(self.module)


@cache
def parse(text: str) -> ast.Module:
    return ast.parse(text)


def room_of(module: str) -> str:
    """The room of a dotted module name: ``partbox.data.catalog`` is in ``data``, ``partbox`` itself in ``partbox``."""
    parts = module.split(".")
    return parts[1] if parts[0] == "partbox" and len(parts) > 1 else parts[0]


def read_sources() -> list[Source]:
    sources = []
    for top, folder in SOURCES.items():
        for path in sorted(folder.rglob("*.py")):
            parts = [top, *path.relative_to(folder).with_suffix("").parts]
            is_package = parts[-1] == "__init__"
            module = ".".join(parts[:-1] if is_package else parts)
            sources.append(Source(module, path.read_text(encoding="utf-8"), is_package))
    return sources


def imports(source: Source) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of everything imported, relative and dynamic imports resolved.

    ``from package import name`` gives ``package.name``: whether the name is a module or not, its room is the same,
    except directly under partbox, where a name that is no room belongs to partbox's public names.
    """
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = source.module.split(".")
                drop = node.level - source.is_package
                base = ".".join([*parts[: len(parts) - drop], *filter(None, [node.module])])
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)
        elif is_call(node, "import_module") and node.args and isinstance(node.args[0], ast.Constant):
            yield node.lineno, str(node.args[0].value)


def is_call(node: ast.AST, name: str) -> bool:
    """Whether ``node`` calls something named ``name``, as a function or as a method."""
    if not isinstance(node, ast.Call):
        return False
    function = node.func
    return (isinstance(function, ast.Name) and function.id == name) or (
        isinstance(function, ast.Attribute) and function.attr == name
    )


# --- the rules: each gives (line, sentence) for every violation -----------------------------------------------------


def check_arrows(source: Source) -> Iterator[tuple[int, str]]:
    if source.room not in MAY_IMPORT:
        yield 1, f"room {source.room!r} is not on the plan: put the file into a room, or add the room to MAY_IMPORT"
        return
    allowed = MAY_IMPORT[source.room] | {source.room}
    if source.top != "maskdino_ext":
        allowed |= EVERYWHERE
    for line, name in imports(source):
        top = name.split(".")[0]
        target = room_of(name) if room_of(name) in MAY_IMPORT else top
        if top in LIBRARIES and target not in allowed:
            yield line, f"{source.room} may not import {target} ({name})"


def check_no_tools_package(source: Source) -> Iterator[tuple[int, str]]:
    for line, name in imports(source):
        if name.split(".")[0] == "tools":
            yield line, "never import tools: detectron2 drops a package of that name into site-packages"


def check_no_device_names(source: Source) -> Iterator[tuple[int, str]]:
    if source.top not in LIBRARIES:
        return
    for node in ast.walk(source.tree):
        if is_call(node, "cuda"):
            yield node.lineno, "no .cuda(): use .to(x) of a tensor that is there"
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.split(":")[0] == "cuda":
            yield node.lineno, 'no "cuda" literal: the device comes from the tensors or the config'


def check_no_bare_except(source: Source) -> Iterator[tuple[int, str]]:
    for node in ast.walk(source.tree):
        if isinstance(node, ast.ExceptHandler) and node.type is None:
            yield node.lineno, "no bare except: name what is expected"


def check_safe_load(source: Source) -> Iterator[tuple[int, str]]:
    for node in ast.walk(source.tree):
        if not (is_call(node, "load") and ast.unparse(node.func).split(".")[0] == "torch"):
            continue
        values = [keyword.value for keyword in node.keywords if keyword.arg == "weights_only"]
        if not values or (isinstance(values[0], ast.Constant) and values[0].value is not True):
            yield node.lineno, "torch.load needs weights_only=True: a checkpoint must not run code"


def check_sizes(source: Source) -> Iterator[tuple[int, str]]:
    lines = len(source.text.splitlines())
    if lines > MAX_FILE_LINES:
        yield lines, f"{lines} lines, more than {MAX_FILE_LINES}: a room is missing"
    for node in ast.walk(source.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > MAX_FUNCTION_LINES:
                yield node.lineno, f"{node.name} has {length} lines, more than {MAX_FUNCTION_LINES}: split it"


RULES = {
    rule.__name__.removeprefix("check_"): rule
    for rule in (
        check_arrows,
        check_no_tools_package,
        check_no_device_names,
        check_no_bare_except,
        check_safe_load,
        check_sizes,
    )
}


@pytest.mark.parametrize("rule", RULES)
def test_the_repository_keeps_the_rule(rule: str) -> None:
    found = [f"{s.module}:{line}: {sentence}" for s in read_sources() for line, sentence in RULES[rule](s)]
    assert not found, "\n" + "\n".join(found)


def test_all_rooms_are_looked_at() -> None:
    tops = {source.top for source in read_sources()}
    assert {"partbox", "maskdino_ext"} <= tops
    assert {"attacks", "data", "modeling", "engine", "evaluation"} <= {source.room for source in read_sources()}


# --- the rules themselves are tested on sources that break them -----------------------------------------------------

BROKEN = [
    ("arrows", "partbox.attacks.pgd", "from partbox.modeling import heads"),
    ("arrows", "partbox.attacks.pgd", "from ..modeling.heads import build_head"),
    ("arrows", "partbox.attacks.pgd", "from .. import data"),
    ("arrows", "partbox.attacks.pgd", "def f():\n    import partbox.engine.trainer"),
    ("arrows", "partbox.modeling.losses", "from partbox.attacks import PGD"),
    ("arrows", "partbox.modeling.losses", "from partbox import PGD"),
    ("arrows", "partbox.modeling.losses", "import partbox"),
    ("arrows", "partbox.data.mapper", "from partbox.modeling import evidence"),
    ("arrows", "partbox.data.mapper", "import importlib\nimportlib.import_module('partbox.attacks')"),
    ("arrows", "partbox.evaluation.run", "from ..modeling import part_classifier"),
    ("arrows", "partbox.report.html", "from ..evaluation.records import Record"),
    ("arrows", "partbox.config", "from .data import catalog"),
    ("arrows", "partbox.utils", "import os"),
    ("arrows", "partbox.files", "from .config import add_partbox_config"),
    ("arrows", "maskdino_ext.config", "from partbox.files import write_text"),
    ("arrows", "maskdino_ext.decoder", "from partbox.config import add_partbox_config"),
    ("arrows", "datasets.prepare_x", "from partbox.engine import trainer"),
    ("no_tools_package", "partbox.engine.trainer", "import tools.train_net"),
    ("no_tools_package", "tools.submit_slurm", "from tools import train_net"),
    ("no_device_names", "partbox.modeling.heads.linear", "x = x.cuda()"),
    ("no_device_names", "maskdino_ext.decoder", "x = x.to('cuda:0')"),
    ("no_device_names", "maskdino_ext.decoder", "x = f'cuda:{rank}'"),
    ("no_bare_except", "tools.train_net", "try:\n    x()\nexcept:\n    pass"),
    ("safe_load", "partbox.modeling.weights", "import torch\ntorch.load(path)"),
    ("safe_load", "tools.train_net", "import torch\ntorch.load(path, weights_only=False)"),
    ("sizes", "partbox.engine.trainer", "x = 1\n" * (MAX_FILE_LINES + 1)),
    ("sizes", "partbox.engine.trainer", "def f():\n" + "    x = 1\n" * MAX_FUNCTION_LINES),
]

KEPT = [
    ("arrows", "partbox.attacks.pgd", "from .threat import ThreatModel\nimport torch\nfrom tqdm import data"),
    ("arrows", "partbox.modeling.losses", "from partbox.data import PartDataset\nfrom ..config import keys"),
    ("arrows", "partbox.modeling.extractors.detector", "import maskdino_ext.config"),
    ("arrows", "partbox.engine.trainer", "from ..modeling import build\nfrom ..evaluation.run import run"),
    ("arrows", "partbox.report.html", "from ..files import write_text"),
    ("arrows", "partbox", "from .attacks import PGD"),
    ("arrows", "tools.train_net", "from partbox import engine, register_all\nimport maskdino_ext"),
    ("arrows", "datasets.prepare_x", "from partbox.data import write_part_dataset"),
    ("no_tools_package", "tools.train_net", "from toolshed import tools"),
    ("no_device_names", "partbox.engine.setup", "x = torch.cuda.is_available()\ny = 'cudagraph'"),
    ("no_device_names", "tools.benchmarks.speed", "x.cuda()"),
    ("no_bare_except", "tools.train_net", "try:\n    x()\nexcept ValueError:\n    pass"),
    ("safe_load", "partbox.modeling.weights", "import torch, json\ntorch.load(path, weights_only=True)\njson.load(f)"),
    ("sizes", "partbox.engine.trainer", "def f():\n" + "    x = 1\n" * (MAX_FUNCTION_LINES - 1)),
]


def source_of(module: str, text: str) -> Source:
    return Source(module, text, is_package="." not in module)


@pytest.mark.parametrize(("rule", "module", "text"), BROKEN)
def test_a_broken_rule_is_found(rule: str, module: str, text: str) -> None:
    assert list(RULES[rule](source_of(module, text)))


@pytest.mark.parametrize(("rule", "module", "text"), KEPT)
def test_a_kept_rule_is_not_reported(rule: str, module: str, text: str) -> None:
    assert list(RULES[rule](source_of(module, text))) == []
