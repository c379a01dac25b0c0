"""Table of perturbations x metrics of one detector or segmenter."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tabulate import tabulate

# evaluator's entry, metric, heading, factor to percent
COLUMNS = (
    ("bbox", "AP", "box AP", 1.0),
    ("bbox", "AP50", "box AP50", 1.0),
    ("segm", "AP", "mask AP", 1.0),
    ("keypoints", "AP", "keypoint AP", 1.0),
    ("sem_seg", "mIoU", "mIoU %", 100.0),
    ("sem_seg", "pixel_accuracy", "pixels right %", 100.0),
)
# entry, heading, factor
COUNTS = (("object_recall", "objects found %", 100.0), ("false_objects_per_image", "false objects an image", 1.0))


def detection_table(run: Mapping[str, Any], style: str = "github") -> str:
    """One row a perturbation: AP or mIoU, the share of labelled objects that are found, and false objects an image.

    Warnings of the evaluation follow below the table.

    Args:
        run: content of ``results.json``.
        style: of the ``tabulate`` package.
    """
    entries: Mapping[str, Mapping[str, Any]] = run["results"]["by_perturbation"]
    columns = [column for column in COLUMNS if any(column[0] in entry for entry in entries.values())]
    counts = [count for count in COUNTS if any(count[0] in entry for entry in entries.values())]
    rows = []
    for name, entry in entries.items():
        values = [_percent(entry.get(key, {}).get(metric), factor) for key, metric, _, factor in columns]
        rows.append([name, *values, *(_percent(entry.get(key), factor) for key, _, factor in counts)])
    headers = ["perturbation", *[heading for _, _, heading, _ in columns], *[heading for _, heading, _ in counts]]
    table = tabulate(rows, headers=headers, tablefmt=style, disable_numparse=True)
    notes = run["results"]["warnings"]
    return "\n".join([table, *([""] if notes else []), *[f"(!) {note}" for note in notes]])


def _percent(value: float | None, factor: float) -> str:
    return "-" if value is None else f"{value * factor:.1f}"
