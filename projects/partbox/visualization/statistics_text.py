"""Statistics of part datasets as text, several files side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tabulate import tabulate

Statistics = Mapping[str, Mapping[str, Any]]
"""By the name of the file, from :func:`partbox.visualization.statistics.dataset_statistics`."""

TOTALS = {
    "images": "images",
    "mask": "images: parts labelled with masks",
    "box": "images: parts labelled with boxes alone",
    "none": "images: parts not labelled",
    "predicted": "labelled images: labels predicted by a model",
    "no_part_visible": "labelled images: no part visible",
    "annotations": "labelled parts",
    "masks_not_used": "masks in images that count as labelled with boxes (not used)",
}
PAIRS = 15  # most frequent pairs in the text; the JSON has all


def statistics_text(statistics: Statistics, shared: Sequence[Mapping[str, Any]] = (), *, style: str = "simple") -> str:
    """Tables of totals, classes, parts and pairs of parts, a column a file.

    Args:
        statistics: by the name of the file.
        shared: from :func:`partbox.visualization.statistics.shared_photographs`.
        style: of the ``tabulate`` package.
    """
    blocks = [
        _totals(statistics, style),
        "Images by class (of them with part labels)\n" + _classes(statistics, style),
        "Labelled parts (in so many images; median share of the image's area: of the box, of the mask)\n"
        + _parts(statistics, style),
        _pairs(statistics, style),
        *_remarks(statistics, shared),
    ]
    return "\n\n".join(block for block in blocks if block)


def _table(rows: Sequence[Sequence[str]], headers: Sequence[str], style: str, names: int) -> str:
    align = ["left"] * names + ["right"] * (len(headers) - names)
    return str(tabulate(rows, headers=headers, tablefmt=style, colalign=align, disable_numparse=True))


def _totals(statistics: Statistics, style: str) -> str:
    rows = [[title, *(f"{one['totals'][key]:,}" for one in statistics.values())] for key, title in TOTALS.items()]
    for side in ("width", "height"):
        found = [one[f"image_{side}"] for one in statistics.values()]
        texts = ["-" if s is None else f"{s['minimum']:.0f} / {s['median']:.0f} / {s['maximum']:.0f}" for s in found]
        rows.append([f"image {side} in pixels: least / median / most", *texts])
    return _table(rows, ["", *statistics], style, 1)


def _keys(statistics: Statistics, what: str, *names: str) -> list[tuple[str, ...]]:
    """The classes or parts of all files, in order of appearance."""
    return list(
        dict.fromkeys(tuple(entry[name] for name in names) for one in statistics.values() for entry in one[what])
    )


def _entries(one: Mapping[str, Any], what: str, *names: str) -> dict[tuple[str, ...], Mapping[str, Any]]:
    return {tuple(entry[name] for name in names): entry for entry in one[what]}


def _classes(statistics: Statistics, style: str) -> str:
    by_file = [_entries(one, "classes", "class") for one in statistics.values()]
    rows = []
    for key in _keys(statistics, "classes", "class"):
        found = [entries.get(key) for entries in by_file]
        rows.append([*key, *("-" if e is None else f"{e['images']:,} ({e['mask'] + e['box']:,})" for e in found)])
    return _table(rows, ["class", *statistics], style, 1)


def _parts(statistics: Statistics, style: str) -> str:
    by_file = [_entries(one, "parts", "class", "part") for one in statistics.values()]
    rows = []
    for key in _keys(statistics, "parts", "class", "part"):
        rows.append([*key, *(_part(entries.get(key)) for entries in by_file)])
    return _table(rows, ["class", "part", *statistics], style, 2)


def _part(entry: Mapping[str, Any] | None) -> str:
    if entry is None:
        return "-"
    box, mask = (entry[key]["median"] if entry[key] else None for key in ("box_area", "mask_area"))
    shares = ", ".join("-" if share is None else percent(share) for share in (box, mask))
    return f"{entry['annotations']:,} in {entry['images']:,}; {shares}"


def percent(share: float) -> str:
    """A share of the whole with two digits, such as ``0.042%``, ``3.4%``, ``100%``."""
    value = 100 * share
    if value >= 10:
        return f"{value:.0f}%"
    return f"{value:.2g}%" if value >= 0.001 or not value else "<0.001%"


def _pairs(statistics: Statistics, style: str) -> str:
    named: dict[frozenset[str], str] = {}  # files may list the parts of a pair in another order
    counts: list[dict[frozenset[str], int]] = []
    for one in statistics.values():
        counts.append({})
        for pair in one["together"]:
            named.setdefault(frozenset(pair["parts"]), " + ".join(pair["parts"]))
            counts[-1][frozenset(pair["parts"])] = pair["images"]
    every = sorted(named, key=lambda pair: -sum(one.get(pair, 0) for one in counts))
    if not every:
        return "No two parts appear in one image."
    rows = [[named[pair], *(f"{one.get(pair, 0):,}" for one in counts)] for pair in every[:PAIRS]]
    first = f"the {PAIRS} most frequent of {len(every)} pairs" if len(every) > PAIRS else f"{len(every)} pairs"
    return f"Images that show both parts ({first})\n" + _table(rows, ["parts", *statistics], style, 1)


def _remarks(statistics: Statistics, shared: Sequence[Mapping[str, Any]]) -> list[str]:
    """What a reader of tables would overlook."""
    remarks = []
    for name, one in statistics.items():
        empty = [entry["class"] for entry in one["classes"] if not entry["images"]]
        never = [f"{entry['class']}:{entry['part']}" for entry in one["parts"] if not entry["annotations"]]
        for what, names in (("classes without an image", empty), ("parts that no image shows", never)):
            if names:
                remarks.append(f"(!) {name}: {len(names)} {what}: {_some(names)}")
    for what, keys in (("classes", ("class",)), ("parts", ("class", "part"))):
        orders = {tuple(_entries(one, what, *keys)) for one in statistics.values()}
        if len(orders) > 1:
            remarks.append(f"(!) The files do not have the same {what} in the same order: no model reads them all")
    remarks += [
        f"(!) {' and '.join(pair['files'])} share {pair['photographs']:,} photographs, such as {pair['for_example']}: "
        "numbers measured on one after training on the other flatter"
        for pair in shared
    ]
    return ["\n".join(remarks)] if remarks else []


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
