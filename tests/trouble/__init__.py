"""Provokes the errors of docs/troubleshooting.md: each function gives what is printed, word for word.

They run in an empty current folder, so that relative paths are those of the page.
"""

from . import data, evaluation, export, installing, processes, training
from .provoking import PROVOKED, template

__all__ = ["PROVOKED", "data", "evaluation", "export", "installing", "processes", "template", "training"]
