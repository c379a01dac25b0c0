"""The HTML report: one file that opens from disk, with everything in it."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from matplotlib.figure import Figure

from partbox.files import write_text

from .figures import SETTINGS, Picture, eps_pictures, scatter_pictures, svg_source
from .gallery import Gallery, build_gallery
from .headline import Headline, headline, interval_words
from .intervals import Resampling
from .label_budget_report import budget_notes, budget_rows, draw_label_cost, threats_of_sweep
from .measures import Measured
from .models import group_by_seed
from .provenance import provenance_of
from .result_files import ReportError, Results, read_results, role_of
from .tables import by_model, class_tables, corruption_tables, part_tables

TEMPLATES = Path(__file__).parent / "templates"
MOST_BYTES = 10_000_000
SPARE = 20_000  # bytes of lists and options that come with the gallery
SECTIONS = {
    "headline-section": "Numbers",
    "eps": "Curves",
    "scatter": "Clean against robust",
    "corruptions": "Corruptions",
    "classes": "Classes",
    "parts": "Parts",
    "label-cost": "Label cost",
    "gallery-section": "Gallery",
    "provenance": "Provenance",
}


@dataclass(frozen=True)
class LabelCost:
    """A label-budget sweep: figures, and a table of text."""

    name: str
    words: str
    pictures: Sequence[Picture]
    headers: Sequence[str]
    rows: Sequence[Sequence[Any]]
    notes: Sequence[str]


def write_report(
    folders: Sequence[str | Path],
    output: str | Path,
    *,
    seed: int = 0,
    resamples: int = 2000,
    most_bytes: int = MOST_BYTES,
) -> Path:
    """Write a self-contained HTML report of one or several evaluated runs.

    Args:
        folders: run folders, their ``results.json``, or folders of sweeps (with ``label_budget.json`` or
            ``sweep_results.json``).
        output: the HTML file, written whole or not at all.
        seed: of the bootstrap resamples.
        resamples: how many for each interval.
        most_bytes: size that the file does not exceed; the gallery is made smaller to keep it, and says so.

    Returns:
        ``output``.

    Raises:
        ReportError: results that are missing, unfinished, damaged or of another version; a report that is too large
            even without a gallery. The message names the file.
        ExamplesError: damaged example images.
        ValueError: a negative seed, or fewer than 100 resamples.
    """
    resampling = Resampling(seed, resamples)
    results = read_results(folders)
    measured = Measured(group_by_seed(results.runs), resampling)
    measured.prepare()
    page = page_of(results, measured)
    bare = len(render({**page, "gallery": Gallery()}).encode())
    if bare > most_bytes:
        raise ReportError(
            f"the report of {len(results.runs)} runs has {bare / 1e6:.1f} MB without any picture of the gallery, more "
            f"than {most_bytes / 1e6:.1f} MB: give fewer runs at once"
        )
    page["gallery"] = build_gallery(results.runs, most_bytes - bare - SPARE)
    page["missing"] = list(_missing(page, results))
    text = render(page)
    if len(text.encode()) > most_bytes:
        raise ReportError(f"the report has {len(text.encode()) / 1e6:.1f} MB, more than {most_bytes / 1e6:.1f} MB")
    output = Path(output)
    write_text(output, text)
    return output


def page_of(results: Results, measured: Measured) -> dict[str, Any]:
    """Everything that the template shows, but the gallery."""
    table = headline(measured)
    names = [model.name for model in measured.models] or list(results.budgets)
    data = dict.fromkeys(run.document["dataset"]["name"] for run in results.runs)
    title = f"{len(names)} model{'s' * (len(names) != 1)} on {', '.join(data) or 'no test images'}"
    runs = f"{len(results.runs)} evaluated run{'s' * (len(results.runs) != 1)}: {', '.join(names)}."
    sources = ", ".join(str(path) for path in results.sources)
    page: dict[str, Any] = {
        "title": title,
        "lead": runs,
        "headline": table,
        "interval_words": interval_words(measured),
        "no_intervals": list(_no_intervals(table)),
        "eps": eps_pictures(measured),
        "scatter": scatter_pictures(measured),
        "corruptions": by_model(corruption_tables(measured)),
        "classes": by_model(class_tables(measured)),
        "parts": by_model(part_tables(measured)),
        "label_cost": [_label_cost(name, summary) for name, summary in results.budgets.items()],
        "provenance": [provenance_of(run) for run in results.runs],
        "footer": f"Made by partbox from {sources}. Everything is in this file.",
    }
    page["missing"] = []
    return page


def render(page: Mapping[str, Any]) -> str:
    """The page as text. What comes from files is escaped; the script's digest is the only one that may run."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    script = (TEMPLATES / "report.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment.get_template("report.html").render(
        page,
        sections=[(anchor, name) for anchor, name in SECTIONS.items() if _has(page, anchor)],
        style=(TEMPLATES / "report.css").read_text(encoding="utf-8"),
        script=script,
        script_digest=f"sha256-{digest}",
    )


def _has(page: Mapping[str, Any], anchor: str) -> bool:
    """Whether there is anything for a section."""
    if anchor == "headline-section":
        return bool(page["headline"].rows)
    if anchor == "gallery-section":
        return bool(page["gallery"].cards)
    return bool(page[anchor.replace("-", "_")])


def _no_intervals(table: Headline) -> Iterator[tuple[str, str]]:
    """(measures, why they have no interval), each reason once."""
    measures: dict[str, dict[str, None]] = {}
    for row in table.rows:
        for cell in row.cells:
            if cell.value is not None and cell.value.interval is None:
                measures.setdefault(cell.value.no_interval, {})[row.measure] = None
    yield from ((", ".join(names), reason) for reason, names in measures.items())


def _missing(page: Mapping[str, Any], results: Results) -> Iterator[str]:
    """A line for each section that there is nothing for, and what sweeps lack."""
    runs = results.runs
    attacked = any(role_of(entry["settings"]) == "attack" for run in runs for entry in run.entries.values())
    reasons = {
        "headline-section": "Numbers: none of the runs of the sweep is there.",
        "eps": "Curves against eps: no run was evaluated under an attack or noise.",
        "scatter": "Clean against robust: it takes at least two models that were attacked under one threat model."
        if attacked
        else "Clean against robust: no run was evaluated under an attack.",
        "corruptions": "Corruptions: no run was evaluated under corruptions ({name: corruptions}).",
        "classes": "Classes: only classifiers have an accuracy of each class.",
        "parts": "Parts: no run has part labels or a model that finds parts.",
        "label-cost": "Label cost: none of the folders is that of a sweep of tools/label_budget.py.",
        "provenance": "Provenance: none of the runs of the sweep is there.",
    }
    yield from (reason for anchor, reason in reasons.items() if not _has(page, anchor))
    if not page["gallery"].cards:
        yield from page["gallery"].remarks or ["Gallery: no run has example images."]
    yield from results.missing


def _label_cost(name: str, summary: Mapping[str, Any]) -> LabelCost:
    """Accuracy against hours of labelling: clean, and under each threat model."""
    panels: list[tuple[str, str | None]] = [("clean", None)]
    panels += [(f"robust, {threat}", threat) for threat in threats_of_sweep(summary)]
    headers, rows = budget_rows(summary)
    pictures = []
    for title, threat in panels:
        with matplotlib.rc_context(SETTINGS):
            figure = Figure(figsize=(4.8, 3.6), layout="constrained")
            draw_label_cost(figure.subplots(), summary, title, threat)
            source = svg_source(figure)
        column = headers.index("clean %" if threat is None else f"robust % {threat}")
        hours = headers.index("hours")
        words = "; ".join(f"{row[hours]} hours: {row[column]}" for row in rows)
        pictures.append(
            Picture(source, f"Accuracy ({title}) against hours of labelling. {words}", f"Accuracy, {title}.")
        )
    about = (
        f"{summary['dataset']}, {summary['training_images']} training images; {summary['seconds_per_box']:g} s a box, "
        f"{summary['seconds_per_mask']:g} s a mask. Each point is a training, the line their mean."
    )
    return LabelCost(name, about, pictures, headers, rows, budget_notes(summary))
