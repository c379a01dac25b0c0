"""Command lines that help texts and documentation show, and the parsers of the tools that they name."""

from __future__ import annotations

import argparse
import contextlib
import io
import re
import runpy
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
TOOLS = sorted(
    str(path.relative_to(REPOSITORY))
    for pattern in ("tools/*.py", "tools/benchmarks/*.py", "datasets/*.py")
    for path in REPOSITORY.glob(pattern)
)
SCRIPTS = sorted(str(path.relative_to(REPOSITORY)) for path in (REPOSITORY / "scripts").rglob("*.sh"))
TOOL = re.compile(r"(?:^|[\s/])((?:tools|datasets)/[\w/]+\.py)(?=\s|$)")
ENDS = {"&", "&&", ";", "|", ">", "2>&1", "||"}
PLACEHOLDER = re.compile(r"(OTHER_)?(FOLDER|FILE|NAME|CONFIG|DIR|N|KEY|VALUE|OUT|IN|INPUT|VENV)|.*\.\.\..*")


class _Asked(BaseException):
    """A tool began to parse its command line."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        super().__init__()
        self.parser = parser


@cache
def parser_of(tool: str, command: str = "") -> argparse.ArgumentParser:
    """The parser that the real entry point of a tool makes; of a command of it where it has some."""

    def ask(self, *_: object, **__: object) -> None:
        raise _Asked(self)

    original, arguments = argparse.ArgumentParser.parse_known_args, sys.argv
    from partbox.arguments import ArgumentParser

    ours = ArgumentParser.parse_known_args
    argparse.ArgumentParser.parse_known_args = ArgumentParser.parse_known_args = ask  # type: ignore[method-assign]
    sys.argv = [tool, command or "--help"]
    try:
        runpy.run_path(str(REPOSITORY / tool), run_name="__main__")
    except _Asked as found:
        return found.parser
    finally:
        argparse.ArgumentParser.parse_known_args = original  # type: ignore[method-assign]
        ArgumentParser.parse_known_args = ours  # type: ignore[method-assign]
        sys.argv = arguments
    raise AssertionError(f"{tool} parses no command line")


def commands_of(tool: str) -> list[str]:
    """The commands of a tool that has some, such as ``sweep`` of submit_slurm; otherwise one empty name."""
    for action in parser_of(tool)._actions:
        if isinstance(action, argparse._SubParsersAction):
            return list(action.choices)
    return [""]


@dataclass(frozen=True)
class Example:
    """A command line.

    Attributes:
        tool: path in the repository.
        words: what follows it.
    """

    tool: str
    words: tuple[str, ...]

    @property
    def complete(self) -> bool:
        """Whether it can be run as it is, given the files that it names."""
        return not any(PLACEHOLDER.fullmatch(word) for word in self.words)

    @property
    def command(self) -> str:
        """The command of a tool that has several."""
        named = commands_of(self.tool)
        return self.words[0] if self.words and self.words[0] in named else ""


def examples_in(text: str) -> Iterator[Example]:
    """The command lines of tools in a text; lines that end with a backslash go on in the next."""
    for line in re.sub(r"\\\n\s*", " ", text).splitlines():
        if not re.match(r"\s*(?:\$ )?(?:[\w./${}\"-]*python[\d.]*|torchrun|srun|sbatch|\w+=\S+)\s", f"{line.strip()} "):
            continue
        try:
            words = shlex.split(line, comments=True)
        except ValueError:
            continue
        here: list[str] | None = None
        tool = ""
        for word in [*words, ";"]:
            match = TOOL.search(word)
            if word in ENDS:
                if here is not None:
                    yield Example(tool, tuple(here))
                here = None
            elif here is None and match and (REPOSITORY / match[1]).parent.is_dir():
                here, tool = [], match[1]
            elif here is not None:
                here.append(word)


def parsed(example: Example) -> argparse.Namespace:
    """The example as its tool's parser understands it.

    Raises:
        AssertionError: with what the parser says.
    """
    parser = parser_of(example.tool, example.command)
    words = list(example.words[1:] if example.command else example.words)
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            if any(action.dest == "options" and action.nargs == "*" for action in parser._actions):
                return parser.parse_intermixed_args(words)
            return parser.parse_args(words)
    except SystemExit:
        raise AssertionError(f"{example.tool} {' '.join(example.words)}: {said.getvalue()}") from None
