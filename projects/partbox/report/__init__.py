"""Tables, pictures and a page from result files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .html import write_report
    from .result_files import ReportError

__all__ = ["ReportError", "write_report"]

_HOMES = {"ReportError": "result_files", "write_report": "html"}


def __getattr__(name: str) -> Any:
    """Import public names on first use: a table needs neither Jinja2 nor Pillow."""
    if name not in _HOMES:
        raise AttributeError(f"module 'partbox.report' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f".{_HOMES[name]}", __name__), name)
