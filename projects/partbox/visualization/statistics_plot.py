"""Statistics of part datasets as one picture."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from partbox.colours import OKABE_ITO, colours_of
from partbox.files import write_atomically

from .statistics_text import Statistics
from .text import plain_text

MOST = 40  # rows of a panel; more cannot be read
KINDS = {"mask": ("masks", OKABE_ITO[4], ""), "box": ("boxes alone", OKABE_ITO[0], "//"), "none": ("none", "0.8", "")}
HATCHES = ("", "//", "..", "xx", "\\\\")


def save_statistics_plot(statistics: Statistics, path: Path) -> None:
    """Draw four panels: images by class, parts by count, sizes of parts, parts that appear together.

    Files stand side by side in the first two; sizes and pairs are those of all files together. Of more than MOST
    classes or parts the most frequent are drawn, which the panel's title says.
    """
    parts = _most_frequent(statistics, "parts", ("class", "part"), "annotations")
    classes = _most_frequent(statistics, "classes", ("class",), "images")
    rows = max(len(parts[0]), len(classes[0]), 6)
    height = 2.2 + 0.16 * rows * max(1, 0.6 * len(statistics))
    with plain_text():
        figure = Figure(figsize=(24, height + 1), layout="constrained")
        panels = figure.subplots(1, 4, width_ratios=[1, 1, 1, 1.2])
        _draw_classes(panels[0], statistics, *classes)
        _draw_parts(panels[1], statistics, *parts)
        _draw_sizes(panels[2], statistics, *parts)
        _draw_pairs(panels[3], statistics, *parts)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=90)
    write_atomically(path, lambda file: file.write(buffer.getvalue()))


Key = tuple[str, ...]


def _most_frequent(statistics: Statistics, what: str, names: Sequence[str], count: str) -> tuple[list[Key], str]:
    """Which entries are drawn, in the order of the files, and what the title says about the others."""
    totals: dict[Key, int] = {}
    for one in statistics.values():
        for entry in one[what]:
            key = tuple(entry[name] for name in names)
            totals[key] = totals.get(key, 0) + entry[count]
    chosen = set(sorted(totals, key=lambda key: -totals[key])[:MOST])
    left_out = f" (the {MOST} most frequent of {len(totals)})" if len(totals) > MOST else ""
    return [key for key in totals if key in chosen], left_out


def _values(one: Mapping[str, Any], what: str, names: Sequence[str], keys: Sequence[Key]) -> list[Mapping[str, Any]]:
    entries = {tuple(entry[name] for name in names): entry for entry in one[what]}
    return [entries.get(key, {}) for key in keys]


def _rows(axes: Axes, keys: Sequence[Key], title: str, xlabel: str) -> None:
    axes.set_yticks(range(len(keys)), [": ".join(key) for key in keys], fontsize=8)
    axes.set_ylim(len(keys) - 0.4, -0.6)
    axes.set(title=title, xlabel=xlabel)
    axes.grid(axis="x", alpha=0.3)


def _draw_classes(axes: Axes, statistics: Statistics, keys: Sequence[Key], left_out: str) -> None:
    thick = 0.8 / len(statistics)
    for number, one in enumerate(statistics.values()):
        place = np.arange(len(keys)) + (number + 0.5) * thick - 0.4
        left = np.zeros(len(keys))
        for kind, (label, colour, hatch) in KINDS.items():
            width = np.array([entry.get(kind, 0) for entry in _values(one, "classes", ("class",), keys)])
            shown = f"part labels: {label}" if not number else None
            axes.barh(place, width, 0.9 * thick, left=left, color=colour, hatch=hatch, edgecolor="0.3", label=shown)
            left = left + width
    axes.legend(fontsize=8)
    files = "\n".join(["", "a bar a file, from above:", *statistics]) if len(statistics) > 1 else ""
    _rows(axes, keys, f"images by class{left_out}", f"images{files}")


def _draw_parts(axes: Axes, statistics: Statistics, keys: Sequence[Key], left_out: str) -> None:
    thick = 0.8 / len(statistics)
    for number, (name, one) in enumerate(statistics.items()):
        place = np.arange(len(keys)) + (number + 0.5) * thick - 0.4
        width = [entry.get("annotations", 0) for entry in _values(one, "parts", ("class", "part"), keys)]
        colour, hatch = OKABE_ITO[(4 + number) % len(OKABE_ITO)], HATCHES[number % len(HATCHES)]
        axes.barh(place, width, 0.9 * thick, color=colour, hatch=hatch, edgecolor="0.3", label=name)
    axes.legend(fontsize=8)
    _rows(axes, keys, f"labelled parts{left_out}", "parts")


def _draw_sizes(axes: Axes, statistics: Statistics, keys: Sequence[Key], left_out: str) -> None:
    """A line from the 5th to the 95th percentile and a point at the median; a row a file."""
    colours = colours_of([":".join(key) for key in keys])
    thick = 0.8 / len(statistics)
    for number, one in enumerate(statistics.values()):
        for row, entry in enumerate(_values(one, "parts", ("class", "part"), keys)):
            size = entry.get("box_area")
            if size:
                place = row + (number + 0.5) * thick - 0.4
                axes.plot([100 * size["p05"], 100 * size["p95"]], [place, place], color="0.4", linewidth=1)
                axes.plot(100 * size["median"], place, "o", color=colours[row], markeredgecolor="0.2", markersize=4)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g} %")
    _rows(axes, keys, f"size of the boxes{left_out}", "share of the image's area: median, 5th to 95th percentile")


def _draw_pairs(axes: Axes, statistics: Statistics, keys: Sequence[Key], left_out: str) -> None:
    """Share of the images with the row's part that show the column's as well, all files together."""
    names = [":".join(key) for key in keys]
    place = {name: index for index, name in enumerate(names)}
    both = np.zeros((len(names), len(names)))
    for one in statistics.values():
        for entry, key in zip(_values(one, "parts", ("class", "part"), keys), keys, strict=True):
            both[place[":".join(key)], place[":".join(key)]] += entry.get("images", 0)
        for pair in one["together"]:
            first, second = (place.get(name) for name in pair["parts"])
            if first is not None and second is not None:
                both[first, second] += pair["images"]
                both[second, first] += pair["images"]
    images = np.diag(both)[:, None]
    shares = np.divide(both, images, out=np.full_like(both, np.nan), where=images > 0)
    drawn = axes.imshow(shares, cmap="cividis", vmin=0, vmax=1, aspect="auto")
    axes.set_xticks(range(len(names)), names, fontsize=7, rotation=90)
    axes.set_yticks(range(len(names)), names, fontsize=7)
    axes.set_title(f"of the images with the row's part,\nhow many show the column's{left_out}")
    axes.figure.colorbar(drawn, ax=axes, shrink=0.8, format=lambda value, _: f"{value:.0%}")
