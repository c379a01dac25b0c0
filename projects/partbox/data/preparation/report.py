"""The account of a preparation: what went into each split, and what was left out and why."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

COUNTS = ("photographs", "objects", "unlabelled", "parts", "clipped")
NO_SPLIT = "-"
"""Stands for the split of photographs of which nothing was kept."""


@dataclass
class PreparationReport:
    """Counts of a preparation.

    Attributes:
        kept: (split, class) -> counts of COUNTS. A photograph counts for each class that it shows; "unlabelled" are
            objects whose parts nobody labelled, "clipped" are parts that reach beyond their crop.
        photographs: split -> number of photographs.
        dropped: (split, class or "", "photograph" | "object" | "part", reason) -> how many.
    """

    kept: defaultdict[tuple[str, str], Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    photographs: Counter[str] = field(default_factory=Counter)
    dropped: Counter[tuple[str, str, str, str]] = field(default_factory=Counter)

    def as_json(self) -> dict[str, Any]:
        """The counts as JSON, in a fixed order."""
        return {
            "kept": [
                {"split": split, "class": name, **{key: counts[key] for key in COUNTS}}
                for (split, name), counts in sorted(self.kept.items())
            ],
            "photographs": dict(sorted(self.photographs.items())),
            "dropped": [
                {"split": split, "class": name, "what": what, "reason": reason, "count": count}
                for (split, name, what, reason), count in sorted(self.dropped.items())
            ],
        }


def format_report(report: PreparationReport, splits: Sequence[str]) -> str:
    """The account as text: a table of what was kept, a table of what was left out."""
    rows: list[list[str]] = [["split", "class", *COUNTS]]
    for split in splits:
        classes = sorted(name for of, name in report.kept if of == split)
        total = sum((report.kept[split, name] for name in classes), Counter[str]())
        total["photographs"] = report.photographs[split]  # not the sum: one may show several classes
        for name in classes:
            rows.append([split, name, *(str(report.kept[split, name][key]) for key in COUNTS)])
        rows.append([split, "all", *(str(total[key]) for key in COUNTS)])
    text = _table(rows, numbers_from=2)
    if not report.dropped:
        return f"{text}\nnothing was left out"
    dropped = [["split", "class", "left out", "reason", "count"]]
    for (split, name, what, reason), count in sorted(report.dropped.items()):
        dropped.append([split, name or NO_SPLIT, what, reason, str(count)])
    return f"{text}\n\n{_table(dropped, numbers_from=4)}"


def _table(rows: list[list[str]], numbers_from: int) -> str:
    """Columns of equal width; those from ``numbers_from`` on are flush right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rows = [rows[0], ["-" * width for width in widths], *rows[1:]]
    lines = []
    for row in rows:
        cells = [
            cell.rjust(width) if place >= numbers_from else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)
