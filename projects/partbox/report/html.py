"""The HTML report: one file that opens from disk, with everything in it."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape
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
from .tables import HeatTable, by_model, class_tables, corruption_tables, means_side_by_side, part_tables

TEMPLATES = Path(__file__).parent / "templates"
MOST_BYTES = 10_000_000
SPARE = 20_000  # bytes of lists and options that come with the gallery
FOR_GALLERY = 0.3  # of the file, before rows of long tables are left out
ROWS = (300, 100, 30, 10)  # of a table by class or part: as many of the lowest as there is room for
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
        most_bytes: size that the file does not exceed; long tables by class and part and the gallery are made smaller
            to keep it, and say so.

    Returns:
        ``output``.

    Raises:
        ReportError: results that are missing, unfinished, damaged or of another version; an output that would replace
            something else than a page; a report that is too large even without a gallery. The message names the file.
        ExamplesError: damaged example images.
        ValueError: a negative seed, or fewer than 100 resamples.
    """
    resampling, output = Resampling(seed, resamples), Path(output)
    _check_output(output)
    results = read_results(folders)
    measured = Measured(group_by_seed(results.runs), resampling)
    measured.prepare()
    page = page_of(results, measured)
    bare = _without_gallery(page, most_bytes)
    if bare > most_bytes:
        raise ReportError(
            f"the report of {len(results.runs)} runs has {bare / 1e6:.1f} MB without any picture of the gallery, more "
            f"than {most_bytes / 1e6:.1f} MB: give fewer runs at once"
        )
    text = _with_gallery(page, results, most_bytes, most_bytes - bare - SPARE)
    write_text(output, text)
    return output


def _check_output(output: Path) -> None:
    """Refuse to write over a folder, or over results: a page is all that a page may replace."""
    if output.is_dir():
        raise ReportError(f"{output} is a folder: give the page a name, such as {output / 'report.html'}")
    if output.exists() and output.suffix.lower() not in (".html", ".htm"):
        raise ReportError(f"{output} is there already and is no page: give the page another name, ending in .html")


def _without_gallery(page: dict[str, Any], most_bytes: int) -> int:
    """Bytes of the page without its gallery, once rows of long tables are left out to make room."""
    tables: dict[str, Sequence[HeatTable]] = {name: page[name] for name in ("classes", "parts")}
    for most in (None, *ROWS):
        for name, its in tables.items():
            page[name] = by_model(its if most is None else [one.shortened(most) for one in its])
        bare = len(render({**page, "gallery": Gallery()}).encode())
        if bare <= (1 - FOR_GALLERY) * most_bytes:
            break
    return bare


def _with_gallery(page: dict[str, Any], results: Results, most_bytes: int, room: int) -> str:
    """The page with as much of a gallery as it has room for; with less where names are longer than was reckoned."""
    while True:
        page["gallery"] = build_gallery(results.runs, room)
        page["missing"] = list(_missing(page, results))
        text = render(page)
        excess = len(text.encode()) - most_bytes
        if excess <= 0:
            return text
        if not page["gallery"].cards:
            raise ReportError(f"the report is {excess} bytes too large even without a gallery: give fewer runs at once")
        room -= excess + SPARE


def page_of(results: Results, measured: Measured) -> dict[str, Any]:
    """Everything that the template shows, but the gallery; tables by class and part not yet by model."""
    table, by_corruption = headline(measured), corruption_tables(measured)
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
        "corruptions": by_model(by_corruption),
        "corruption_means": means_side_by_side(by_corruption),
        "classes": class_tables(measured),
        "parts": part_tables(measured),
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
    environment.filters["breakable"] = breakable
    script = (TEMPLATES / "report.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    text = environment.get_template("report.html").render(
        page,
        sections=[(anchor, name) for anchor, name in SECTIONS.items() if _has(page, anchor)],
        style=(TEMPLATES / "report.css").read_text(encoding="utf-8"),
        script=script,
        script_digest=f"sha256-{digest}",
    )
    # a name of a file that is no UTF-8 has half a character, which no page can hold
    return text.encode("utf-8", "backslashreplace").decode()


def breakable(name: Any) -> Markup:
    """A name that may be broken behind its own signs; escaped."""
    return Markup(re.sub(r"([_/:.\-]+)(?=\w)", r"\1<wbr>", str(escape(name))))


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
        words = "; ".join(f"masks {row[0]} %, boxes {row[1]} %, {row[hours]} hours: {row[column]}" for row in rows)
        pictures.append(
            Picture(source, f"Accuracy ({title}) against hours of labelling. {words}", f"Accuracy, {title}.")
        )
    about = (
        f"{summary['dataset']}, {summary['training_images']} training images; {summary['seconds_per_box']:g} s a box, "
        f"{summary['seconds_per_mask']:g} s a mask. Each point is a training, the line their mean."
    )
    return LabelCost(name, about, pictures, headers, rows, budget_notes(summary))
