"""Why a model does not become a file."""

from __future__ import annotations


class ExportError(ValueError):
    """A model, an option or a result with which no file is written; says which and why."""
