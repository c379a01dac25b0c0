"""Common corruptions of photographs (Hendrycks & Dietterich 2019, arXiv 1903.12261) and what is computed from them."""

from .corrupt import corrupt
from .kinds import BENCHMARK, EXTRA, GROUPS, KINDS, SEVERITIES
from .scores import (
    ALEXNET_ERROR,
    corruption_error,
    mean_corruption_error,
    mean_error,
    mean_performance,
    relative_performance,
)

__all__ = [
    "ALEXNET_ERROR",
    "BENCHMARK",
    "EXTRA",
    "GROUPS",
    "KINDS",
    "SEVERITIES",
    "corrupt",
    "corruption_error",
    "mean_corruption_error",
    "mean_error",
    "mean_performance",
    "relative_performance",
]
