"""What the files beside this one share: the register of entries, and how a message is caught."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from partbox.engine.user_errors import sentence_of

REPOSITORY = Path(__file__).resolve().parents[2]
CPU = ["MODEL.DEVICE", "cpu"]
PROVOKED: dict[str, Callable[[], str]] = {}


def entry(title: str) -> Callable[[Callable[[], str]], Callable[[], str]]:
    """Under which heading of the page the message stands."""

    def add(function: Callable[[], str]) -> Callable[[], str]:
        assert title not in PROVOKED
        PROVOKED[title] = function
        return function

    return add


def said(kind: type[Exception] | tuple[type[Exception], ...], act: Callable[[], Any]) -> str:
    """The sentence that a tool ends with."""
    try:
        act()
    except kind as problem:
        return sentence_of(problem)
    raise AssertionError("nothing went wrong")


def logged(act: Callable[[], Any]) -> str:
    """The last warning that was logged meanwhile."""
    messages: list[str] = []

    class Kept(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            messages.append(record.getMessage())

    handler = Kept(logging.WARNING)
    logger = logging.getLogger("partbox")
    logger.addHandler(handler)
    try:
        act()
    finally:
        logger.removeHandler(handler)
    return messages[-1]


def template(file: str, beginning: str, message: str) -> str:
    """For what cannot be provoked: the message, if the text in a source file gives it; else that text.

    What a shell or Python fills in (``$1``, ``${NAME}``, ``{name}``, ``%s``) may be anything.
    """
    source = (REPOSITORY / file).read_text(encoding="utf-8")
    place = source.index(beginning)
    text = source[place : source.index("\n", place)]
    text = re.split(r'(?<!\\)"(?=$| |,|\))', text)[0].rstrip()
    pattern = re.sub(r"\\\$\\\{[^}]*\\\}|\\\$\\\([^)]*\\\)|\\\$\w+|\\\{[^}]*\\\}|%[sd]", ".+", re.escape(text))
    return message if re.search(pattern, message) else text
