"""The command lines of the tools: misspelt options get the nearest right one, the help shows every default.

Imported before detectron2, it keeps a warning from the screen that detectron2 gives when it is imported.
"""

from __future__ import annotations

import argparse
import re
import sys
import warnings
from collections.abc import Sequence
from typing import Any

from .suggestions import did_you_mean

# detectron2 and fvcore script functions when they are imported: nothing that somebody who runs a tool can change
warnings.filterwarnings("ignore", message="`torch.jit.script` is deprecated", category=FutureWarning)

_KEY = re.compile(r"-*([A-Z][A-Za-z0-9_]*(?:\.[A-Za-z0-9_]+)+)(?:=.*)?")


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """The description as it is written; an option's default behind its help, where that does not name it."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        default = default_of(action)
        if not default or action.help is None or names_default(action.help, default):
            return action.help
        return f"{action.help} ({default.replace('%', '%%')})"


def default_of(action: argparse.Action) -> str:
    """The default of an option as one would type it; empty where there is none to be told."""
    default = action.default
    if action.nargs == 0 or default is None or default is argparse.SUPPRESS or isinstance(default, tuple | bool):
        return ""  # a tuple is what a type made of the text: its help says it in words
    return " ".join(map(str, default)) if isinstance(default, list) else str(default)


def names_default(text: str, default: str) -> bool:
    """Whether a help text tells a default already."""
    forms = {default, default.removesuffix(".0")}
    return "%(default" in text or any(re.search(rf"(?<![\w.,]){re.escape(one)}(?![\w,]|\.\d)", text) for one in forms)


class ArgumentParser(argparse.ArgumentParser):
    """As that of argparse, but it says which option, choice or way to write a key was meant."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("formatter_class", HelpFormatter)
        super().__init__(*args, **kwargs)

    def parse_known_args(  # type: ignore[override]  # argparse declares it twice, by the type of the namespace
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> tuple[Any, list[str]]:
        words = list(sys.argv[1:] if args is None else args)
        if self._subparsers is None:  # else what follows the command is that parser's
            self._refuse_unknown(words)
        return super().parse_known_args(words, namespace)

    def _refuse_unknown(self, words: Sequence[str]) -> None:
        """End with a sentence at an option that does not exist, before argparse misses another one."""
        options = list(self._option_string_actions)
        for word in words:
            if word == "--":
                return
            name = word.split("=", 1)[0]
            if not re.match(r"--?[A-Za-z]", word) or " " in word or any(one.startswith(name) for one in options):
                continue
            key = _KEY.fullmatch(word)
            if key:
                self.error(f"unknown option {name}: configuration keys are written without dashes, {key[1]} VALUE")
            shown = [option for option in options if option.startswith("--")]
            self.error(f"unknown option {name}{did_you_mean(name, shown)}")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        try:
            super()._check_value(action, value)
        except argparse.ArgumentError as problem:
            hint = did_you_mean(value, action.choices or ())
            raise argparse.ArgumentError(action, f"{problem.message}{hint}") from None


def add_configuration_keys(parser: argparse.ArgumentParser) -> None:
    """Let a tool take ``KEY VALUE`` pairs, as ``options`` of what it parsed."""
    text = "configuration keys to change; docs/configuration.md explains them"
    parser.add_argument("options", nargs="*", metavar="KEY VALUE", help=text)


def examples_of(description: str | None, tool: str, command: str) -> str:
    """What the help of one command of a tool ends with: its examples from the tool's own help, and where the rest is.

    Args:
        description: of the tool; its paragraphs that call the command are the examples.
        tool: such as ``tools/submit_slurm.py``.
        command: such as ``sweep``.
    """
    paragraphs = (description or "").replace("Examples:\n", "", 1).split("\n\n")
    shown = [one for one in paragraphs if f"{tool} {command} " in one]
    examples = "\n\n".join(["Examples:", *shown])
    return f"{examples}\n\nAll commands: python {tool} --help"
