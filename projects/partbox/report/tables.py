"""Tables of one number by two things: corruptions by severity, classes and parts by perturbation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from matplotlib import colormaps

from .measures import MAIN, MEASURES, Measured, Value, is_unreliable
from .models import Model
from .result_files import entry_value, role_of

SEVERITIES = (1, 2, 3, 4, 5)
# part metrics of results.json: group, title
PART_GROUPS = (
    ("part_segmentation", "part IoU %"),
    ("sem_seg", "IoU %"),
    ("part_box", "part box AP"),
    ("bbox", "box AP"),
    ("segm", "mask AP"),
)


@dataclass(frozen=True)
class HeatCell:
    """A number on its colour (viridis: dark is low); text on it is black or white, whichever contrasts more."""

    value: Value | None
    share: float

    @property
    def style(self) -> str:
        """CSS of the cell."""
        if self.value is None:
            return ""
        red, green, blue, _ = colormaps["viridis"](min(max(self.share, 0.0), 1.0))
        text = "#000" if _luminance(red, green, blue) > 0.179 else "#fff"
        return f"background:#{round(255 * red):02x}{round(255 * green):02x}{round(255 * blue):02x};color:{text}"


@dataclass(frozen=True)
class HeatTable:
    """A table of one model.

    Attributes:
        model, title: whose, and what of it.
        heading: of the first column.
        columns: headings.
        rows: heading, second column (such as a count of images; may be empty), cells.
        facts: sentences below it: (name, number shown, exact number).
        second: heading of the second column; empty without one.
        note: a sentence below it.
        marked: headings of columns whose numbers a self-check speaks against.
    """

    model: str
    title: str
    heading: str
    columns: Sequence[str]
    rows: Sequence[tuple[str, str, Sequence[HeatCell]]]
    facts: Sequence[tuple[str, str, float]] = ()
    second: str = ""
    note: str = ""
    marked: frozenset[str] = frozenset()

    def shortened(self, most: int) -> HeatTable:
        """The rows with the lowest numbers, in their order, and a sentence on how many are left out."""
        if len(self.rows) <= most:
            return self
        lowest = [min((cell.share for cell in cells if cell.value), default=2.0) for _, _, cells in self.rows]
        kept = sorted(sorted(range(len(self.rows)), key=lambda place: lowest[place])[:most])
        note = f"The {most} of {len(self.rows)} rows with the lowest numbers: all would make this file too large."
        rows = [self.rows[place] for place in kept]
        return replace(self, rows=rows, note=" ".join(filter(None, (self.note, note))))


def _luminance(*channels: float) -> float:
    """Relative luminance of sRGB in [0, 1] (WCAG 2.2); 0.179 contrasts equally with black and white."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def heat(value: Value | None) -> HeatCell:
    """A cell; its colour is the number as a share of everything being right."""
    return HeatCell(value, 0.0 if value is None else value.number * value.factor / 100)


def corruption_tables(measured: Measured) -> list[HeatTable]:
    """Kind x severity of each model and main measure, with mCE, mPC and rPC where the results have them."""
    tables: list[HeatTable] = []
    for model in measured.models:
        cells = {
            (entry["settings"]["kind"], entry["settings"]["severity"]): name
            for name, entry in model.first.entries.items()
            if role_of(entry["settings"]) == "corruption"
        }
        severities = [one for one in SEVERITIES if any(severity == one for _, severity in cells)]
        for measure in MEASURES:
            if measure.key not in MAIN or not any(measured.value(model, cell, measure) for cell in cells.values()):
                continue
            rows = [
                (
                    kind.replace("_", " "),
                    "",
                    [
                        heat(measured.value(model, cells[kind, one], measure) if (kind, one) in cells else None)
                        for one in severities
                    ],
                )
                for kind in dict.fromkeys(kind for kind, _ in cells)
            ]
            title, headings = f"{measure.title} by corruption", [f"severity {one}" for one in severities]
            facts = list(_means(model, measure.key))
            mean_is_there = any(name == "mPC" for name, _, _ in facts)
            note = "" if mean_is_there else _why_no_means(model, measure.key, len(cells))
            tables.append(HeatTable(model.name, title, "corruption", headings, rows, facts, note=note))
    return tables


def means_side_by_side(tables: Sequence[HeatTable]) -> tuple[list[str], list[tuple[HeatTable, list[tuple[str, Any]]]]]:
    """Names of the means, and those of each table, (shown, exact); nothing of fewer than two tables."""
    having = [table for table in tables if table.facts]
    names = list(dict.fromkeys(name for table in having for name, _, _ in table.facts))
    if len(having) < 2:
        return [], []
    known = [{name: (shown, number) for name, shown, number in table.facts} for table in having]
    rows = [[facts.get(name, ("", None)) for name in names] for facts in known]
    return names, list(zip(having, rows, strict=True))


def _why_no_means(model: Model, key: str, cells: int) -> str:
    refused = entry_value(model.first.results, f"performance_under_corruptions.{key.replace('.', ' ')}.not_averaged")
    if refused:
        return f"mPC and rPC: not computed, {refused}."
    evaluated = "1 corruption was" if cells == 1 else f"{cells} corruptions were"
    return (
        "mCE, mPC and rPC are means over the 15 benchmark kinds at all 5 severities ({name: corruptions}); here "
        f"{evaluated} evaluated."
    )


def _means(model: Model, key: str) -> Iterator[tuple[str, str, float]]:
    """MCE, mPC and rPC as the results have them; the mean over the runs of a model."""
    if key == "accuracy":
        places = {
            "mCE (AlexNet on ImageNet-C = 100 %)": "corruptions.mean_corruption_error",
            "mean error": "corruptions.mean_error",
            "mPC": "corruptions.mean_accuracy",
            "rPC": "corruptions.relative_accuracy",
        }
        found = {name: [entry_value(run.results, place) for run in model.runs] for name, place in places.items()}
    else:
        group = key.replace(".", " ")
        tables = [run.results.get("performance_under_corruptions", {}).get(group, {}) for run in model.runs]
        found = {name: [table.get(name) for table in tables] for name in ("mPC", "rPC")}
    for name, numbers in found.items():
        if all(number is not None for number in numbers):
            mean = numbers[0] if len(numbers) == 1 else sum(numbers) / len(numbers)
            yield name, f"{100 * mean:.1f} %", mean


def class_tables(measured: Measured) -> list[HeatTable]:
    """Class x perturbation of each classifier; corruptions are left out."""
    tables: list[HeatTable] = []
    for model in measured.models:
        if not model.first.is_classifier:
            continue
        names = model.first.document.get("class_names") or []
        columns = _perturbations(model)
        labels = sorted({int(label) for label in model.first.entries["clean"].get("accuracy_by_class", {})})
        rows = [
            (
                names[label] if label < len(names) else f"class {label}",
                _text_of(measured.images_of_class(model, label)),
                [heat(measured.of_class(model, name, label)) for name in columns],
            )
            for label in labels
        ]
        marked = _marked(model, columns)
        title = "accuracy % by class"
        tables.append(HeatTable(model.name, title, "class", columns, rows, second="images", marked=marked))
    return tables


def _text_of(count: int | None) -> str:
    return "" if count is None else str(count)


def part_tables(measured: Measured) -> list[HeatTable]:
    """Part (or category of a detector) x perturbation, for each model and each kind of number."""
    tables: list[HeatTable] = []
    for model in measured.models:
        columns = _perturbations(model)
        for group, title in PART_GROUPS:
            values = [measured.of_parts(model, name, group) for name in columns]
            tables += _by_part(model, title, columns, values)
    return tables


def _by_part(
    model: Model, title: str, columns: Sequence[str], values: Sequence[Mapping[str, Value]]
) -> Iterator[HeatTable]:
    names: dict[str, Any] = dict.fromkeys(name for column in values for name in column)
    if names:
        rows = [(name, "", [heat(column.get(name)) for column in values]) for name in names]
        yield HeatTable(model.name, f"{title} by part", "part", columns, rows, marked=_marked(model, columns))


def _marked(model: Model, columns: Sequence[str]) -> frozenset[str]:
    return frozenset(name for name in columns if is_unreliable(model, name))


def _perturbations(model: Model) -> list[str]:
    return [name for name, entry in model.first.entries.items() if role_of(entry["settings"]) != "corruption"]


def by_model(tables: Sequence[HeatTable]) -> list[tuple[str, list[HeatTable]]]:
    """Tables of each model together, in their order."""
    groups: dict[str, list[HeatTable]] = {}
    for table in tables:
        groups.setdefault(table.model, []).append(table)
    return list(groups.items())
