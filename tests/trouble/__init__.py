"""Provokes the errors of docs/troubleshooting.md: each function gives what is printed, word for word.

They run in an empty current folder, so that relative paths are those of the page.
"""

from . import data, evaluation, installing, processes, training
from .provoking import PROVOKED, template

__all__ = ["PROVOKED", "data", "evaluation", "installing", "processes", "template", "training"]
