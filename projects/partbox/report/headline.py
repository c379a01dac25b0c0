"""The headline table: models x perturbations, with what must be known before a number is believed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from .measures import (
    ACCURACY,
    FALSE_OBJECTS,
    MEASURES,
    Measure,
    Measured,
    Value,
    attacks_by_threat,
    class_names_of,
    threats_of,
    unreliable_threats,
)
from .models import Model, by_images
from .result_files import entry_value, role_of

ORDER = ("clean", "worst case", "attack", "noise", "corruptions")


@dataclass(frozen=True)
class Column:
    """One perturbation.

    Attributes:
        name: of the perturbation, or of the worst case with its attacks.
        role: see ``ORDER``.
        threat: of a worst case.
    """

    name: str
    role: str
    threat: str = ""


@dataclass(frozen=True)
class Cell:
    """One number, or an empty place.

    Attributes:
        value: None where it was not measured.
        metric: its key in results.json.
        notes: numbers of the notes that speak against it.
    """

    value: Value | None
    metric: str
    notes: tuple[int, ...] = ()


@dataclass(frozen=True)
class Row:
    """One measure of one model.

    Attributes:
        model, measure, dataset, images, seeds: of the model, the images of its evaluation.
        measured: images that the measure rests on.
        notes: against the model as a whole.
        cells: one a column.
    """

    model: str
    measure: str
    dataset: str
    images: int
    measured: int
    seeds: Sequence[int]
    notes: tuple[int, ...]
    cells: Sequence[Cell]


@dataclass
class Headline:
    """The table.

    Attributes:
        columns, rows: of it.
        notes: unreliable results and other warnings, numbered from 1 as the cells refer to them.
        remarks: sentences on the table as a whole.
    """

    columns: list[Column]
    rows: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    @property
    def has_counts(self) -> bool:
        """Whether not every row is in percent."""
        return any(row.measure == FALSE_OBJECTS.title for row in self.rows)

    def note(self, text: str) -> int:
        """Its number; the same text keeps its number."""
        if text not in self.notes:
            self.notes.append(text)
        return self.notes.index(text) + 1


def headline(measured: Measured) -> Headline:
    """The table of all models."""
    table = Headline(_columns(measured))
    for model in measured.models:
        marks = _unreliable(table, model)
        general = tuple(
            table.note(f"{run.name}: {warning}")
            for run in model.runs
            for warning in run.results["warnings"]
            if not (marks and warning.removeprefix("unreliable, ") in run.results.get("unreliable", []))
        )
        for measure in MEASURES:
            cells = [_cell(measured, model, column, measure, marks) for column in table.columns]
            if any(cell.value is not None for cell in cells):
                data, measured_on = model.first.document["dataset"], measured.images_of(model, measure)
                row = Row(
                    model=model.name,
                    measure=measure.title,
                    dataset=data["name"],
                    images=data["images"],
                    measured=measured_on,
                    seeds=model.seeds,
                    notes=general,
                    cells=cells,
                )
                table.rows.append(row)
    table.remarks = list(_remarks(measured, table))
    return table


def _columns(measured: Measured) -> list[Column]:
    """Clean, worst cases, attacks, noise, mean over corruptions; single corruptions have a section of their own.

    With one attack the worst case is that attack, and has no column.
    """
    columns: dict[Column, None] = {}
    for model in measured.models:
        for name, entry in model.first.entries.items():
            role = role_of(entry["settings"])
            if role != "corruption":
                columns.setdefault(Column(name, role))
        for threat, attacks in threats_of(model.first).items():
            if len(attacks) > 1 and threat in model.first.results.get("robust_accuracy", {}):
                columns.setdefault(Column(worst_case_name(threat, attacks), "worst case", threat))
        if any(measured.mean_under_corruptions(model, measure) for measure in MEASURES):
            columns.setdefault(Column("mean over corruptions", "corruptions"))
    return sorted(columns, key=lambda column: ORDER.index(column.role))


def worst_case_name(threat: str, attacks: Sequence[str]) -> str:
    """Two models share a column only if the same attacks were used."""
    return f"worst case {threat} ({', '.join(name.removesuffix(threat).strip() for name in attacks)})"


def _cell(
    measured: Measured, model: Model, column: Column, measure: Measure, marks: dict[str, tuple[int, ...]]
) -> Cell:
    metric, notes = measure.key, marks.get(column.name, ())
    if column.role == "worst case":
        attacks = threats_of(model.first).get(column.threat)
        same = attacks is not None and worst_case_name(column.threat, attacks) == column.name
        value = measured.worst_case(model, column.threat) if same and measure == ACCURACY else None
        return Cell(value, "robust_accuracy", notes)
    if column.role == "corruptions":
        return Cell(measured.mean_under_corruptions(model, measure), f"mPC {metric}")
    return Cell(measured.value(model, column.name, measure), metric, notes)


def _unreliable(table: Headline, model: Model) -> dict[str, tuple[int, ...]]:
    """Numbers of the notes against each column of a model, from the self-checks that failed."""
    marks: dict[str, tuple[int, ...]] = {}
    threats = threats_of(model.first)
    for threat, reasons in unreliable_threats(model).items():
        for column in (worst_case_name(threat, threats[threat]), *threats[threat]):
            marks[column] = tuple(table.note(reason) for reason in reasons)
    return marks


def _remarks(measured: Measured, table: Headline) -> Iterator[str]:
    models = measured.models
    data = dict.fromkeys((row.dataset, row.images) for row in table.rows)
    if len(data) > 1:
        shown = ", ".join(f"{name} ({images} images)" for name, images in data)
        yield f"Rows were measured on different images and are not comparable with each other: {shown}."
    for name, images in data:
        shares = {
            model.first.results["majority_share"]
            for model in models
            if model.first.is_classifier
            and model.first.document["dataset"]["name"] == name
            and model.first.document["dataset"]["images"] == images
        }
        for share in sorted(shares):
            yield (
                f"Always answering the most frequent class is right on {100 * share:.1f} % of the {images} images of "
                f"{name}, and robust to everything: read a robust accuracy near it as none."
            )
    yield from _different_images(models)
    yield from _different_parts(models)
    different = list(_different_attacks(models))
    single = all(len(names) == 1 for model in models for names in threats_of(model.first).values())
    if single and not different and any(column.role == "attack" for column in table.columns):
        yield "Each threat model has one attack: its number is the worst case, and an upper bound of the robust one."
    yield from different
    unchecked = [m.name for m in models if threats_of(m.first) and any("self_checks" not in r.results for r in m.runs)]
    if unchecked:
        yield (
            "Without self-checks (ROBUST_EVAL.SELF_CHECK_IMAGES 0), so that no mark says nothing: "
            f"{', '.join(unchecked)}."
        )
    yield from _different_settings(models)


def _different_images(models: Sequence[Model]) -> Iterator[str]:
    """Models that saw as many images of a data set, and others."""
    drawn: dict[tuple[str, int], list[list[Model]]] = {}
    for group in by_images(models):
        data = group[0].first.document["dataset"]
        drawn.setdefault((data["name"], data["images"]), []).append(group)
    for (name, images), groups in drawn.items():
        if len(groups) > 1:
            shown = "; ".join(", ".join(model.name for model in group) for group in groups)
            yield (
                f"Not all models saw the same {images} images of {name} (ROBUST_EVAL.SEED draws them), and these are "
                f"not comparable with each other: {shown}."
            )


def _different_parts(models: Sequence[Model]) -> Iterator[str]:
    """Means over other parts or classes under one title."""
    titles: dict[str, str] = {}
    for measure in MEASURES:
        if "." in measure.key:
            titles.setdefault(measure.key.split(".")[0], measure.title)
    for together in by_images(models):
        for group, title in titles.items():
            over: dict[frozenset[str], list[str]] = {}
            for model in together:
                if names := class_names_of(model.first, group):
                    over.setdefault(frozenset(names), []).append(model.name)
            if len(over) > 1:
                shown = "; ".join(f"{len(names)} for {', '.join(owners)}" for names, owners in over.items())
                yield f"{title} is a mean over other parts or classes, and not comparable: over {shown}."


def _different_attacks(models: Sequence[Model]) -> Iterator[str]:
    """Threat models under which not all models were attacked alike."""
    for together in by_images(models):
        for threat, attacked in attacks_by_threat(together).items():
            if len(attacked) > 1:
                shown = "; ".join(f"{', '.join(attacks)} for {', '.join(names)}" for attacks, names in attacked.items())
                yield (
                    f"Under {threat} not all models met the same attacks, and their robust numbers are not comparable "
                    f"with each other: {shown}. The worst case over all of these may be lower than any of them."
                )


def _different_settings(models: Sequence[Model]) -> Iterator[str]:
    """Perturbations of one name that were not made in the same way."""
    seen: dict[str, tuple[str, dict[str, object]]] = {}
    for model in models:
        for name, entry in model.first.entries.items():
            owner, settings = seen.setdefault(name, (model.name, entry["settings"]))
            keys = sorted(settings.keys() | entry["settings"].keys())
            changed = [key for key in keys if settings.get(key) != entry["settings"].get(key)]
            if changed:
                yield (
                    f"{name} was made with other settings for {model.name} than for {owner}: "
                    + ", ".join(f"{k} {entry_value(entry, f'settings.{k}')} and {settings.get(k)}" for k in changed)
                    + "."
                )


def interval_words(measured: Measured) -> str:
    """What the intervals of this report are, in one paragraph."""
    resampling = measured.resampling
    words = (
        f"Below a number: its 95 % interval, from {resampling.resamples} bootstrap resamples of the images (seed "
        f"{resampling.seed}). It says how far the number would move on other images of the same kind, not whether the "
        "attack was strong enough. “exact”: of 0 or 100 %, where resampling gives no width, the binomial interval."
    )
    grouped = [model for model in measured.models if len(model.runs) > 1]
    if grouped:
        seeds = ", ".join(f"{model.name}: {', '.join(map(str, model.seeds))}" for model in grouped)
        words += (
            f" Runs that differ only in their training seed are one model ({seeds}): its numbers are means over the "
            "seeds, and images and seeds are resampled together. Of few seeds such an interval is rough."
        )
    return words
