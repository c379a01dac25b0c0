"""Comparison with stored runs and parameter names of the official code."""

from .comparison import Comparison
from .folder import runs_of
from .keys import KeyDifferences, compare_keys

__all__ = ["Comparison", "KeyDifferences", "compare_keys", "runs_of"]
