"""Curves and scatter plots of a report as SVG pictures inside the page."""

from __future__ import annotations

import base64
import io
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .measures import MAIN, MEASURES, Measure, Measured, Value, threats_of
from .result_files import role_of, threat_of

# Okabe & Ito without yellow, which is too light for lines on white; then the same again with other lines and markers
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
LINES = ("-", "--", ":", "-.")
# names are data: no mathematics in them, glyphs drawn as paths so that every reader sees the same, no random ids
SETTINGS: Any = {"text.parse_math": False, "svg.fonttype": "path", "svg.hashsalt": "partbox", "font.size": 10}
LONGEST_NAME = 48


@dataclass(frozen=True)
class Picture:
    """A picture in the page: its address (``data:``), what it shows in words, and a caption."""

    source: str
    alternative: str
    caption: str


def svg_source(figure: Figure) -> str:
    """A figure as the address of an image."""
    buffer = io.BytesIO()
    with matplotlib.rc_context(SETTINGS), warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message="Glyph .* missing from font"
        )  # a box is drawn; the table has the name
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode()


def short(name: str) -> str:
    """A name that fits into a legend."""
    return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…"


def eps_of(threat: str) -> float:
    """The eps of a threat model as results name it: ``linf 8/255``, ``l2 0.5``."""
    number, _, divisor = threat.split(" ")[-1].partition("/")
    return float(number) / float(divisor or 1)


@dataclass(frozen=True)
class Curve:
    """A measure of a model under one attack (or the worst case) by eps; the first point is the clean images."""

    model: str
    attack: str
    points: Sequence[tuple[float, Value]]


def eps_curves(measured: Measured) -> Iterator[tuple[str, Measure, list[Curve]]]:
    """Norm, measure and its curves, for each norm and main measure that was attacked."""
    norms = {threat.split(" ")[0] for model in measured.models for threat in threats_of(model.first)}
    for norm in sorted(norms, reverse=True):
        for measure in (one for one in MEASURES if one.key in MAIN):
            curves = [curve for curve in _curves(measured, norm, measure) if len(curve.points) > 1]
            if curves:
                yield norm, measure, curves


def _curves(measured: Measured, norm: str, measure: Measure) -> Iterator[Curve]:
    for model in measured.models:
        clean = measured.value(model, "clean", measure)
        if clean is None:
            continue
        attacks: dict[str, list[tuple[float, Value]]] = {}
        for name, entry in model.first.entries.items():
            threat = threat_of(name, entry["settings"])
            if threat is None or threat.split(" ")[0] != norm or role_of(entry["settings"]) == "corruption":
                continue
            value = measured.value(model, name, measure)
            if value is not None:
                attacks.setdefault(name.removesuffix(threat).strip(), []).append((eps_of(threat), value))
        threats = {threat: names for threat, names in threats_of(model.first).items() if threat.split(" ")[0] == norm}
        if measure.key == "accuracy" and any(len(names) > 1 for names in threats.values()):
            worst = [(eps_of(threat), measured.worst_case(model, threat)) for threat in threats]
            attacks["worst case"] = [(eps, value) for eps, value in worst if value is not None]
        for attack, points in attacks.items():
            yield Curve(model.name, attack, sorted([(0.0, clean), *points], key=lambda point: point[0]))


def eps_pictures(measured: Measured) -> list[Picture]:
    """A picture for each norm and measure."""
    pictures = []
    for norm, measure, curves in eps_curves(measured):
        scale, unit = (255.0, " / 255") if norm == "linf" else (1.0, "")
        with matplotlib.rc_context(SETTINGS):
            figure = Figure(figsize=(4.8, 3.5 + 0.18 * len(curves)), layout="constrained")
            axes = figure.subplots()
            models = list(dict.fromkeys(curve.model for curve in curves))
            attacks = list(dict.fromkeys(curve.attack for curve in curves))
            for curve in curves:
                model, attack = models.index(curve.model), attacks.index(curve.attack)
                style = (COLOURS[model % len(COLOURS)], MARKERS[attack % len(MARKERS)], LINES[attack % len(LINES)])
                _draw_curve(axes, curve, scale, measure, style)
            name = "AP" if "AP" in measure.title else measure.title
            axes.set(xlabel=f"eps{unit} ({norm}); 0 = clean", ylabel=name, xlim=(0, None))
            axes.set_title(f"{measure.title} against eps, {norm}", fontsize=11)
            axes.grid(alpha=0.3)
            axes.set_ylim(0, min(max(1.12 * axes.dataLim.y1, 1), 103))
            figure.legend(loc="outside lower center", fontsize=8, frameon=False)
            source = svg_source(figure)
        words = "; ".join(
            f"{curve.model}, {curve.attack}: "
            + ", ".join(f"{value.shown} at eps {scale * eps:g}{unit}" for eps, value in curve.points)
            for curve in curves
        )
        caption = f"{measure.title} under {norm} perturbations. Bars: 95 % intervals."
        pictures.append(Picture(source, f"{measure.title} against eps ({norm}). {words}", caption))
    return pictures


def _draw_curve(axes: Axes, curve: Curve, scale: float, measure: Measure, style: tuple[str, str, str]) -> None:
    colour, marker, line = style
    xs = [scale * eps for eps, _ in curve.points]
    ys = [value.number * value.factor for _, value in curve.points]
    errors = [_bars(value) for _, value in curve.points]
    axes.errorbar(
        xs,
        ys,
        yerr=[[low for low, _ in errors], [high for _, high in errors]],
        color=colour,
        marker=marker,
        linestyle=line,
        capsize=3,
        elinewidth=0.9,
        clip_on=False,
        label=f"{short(curve.model)} · {curve.attack}",
    )


def _bars(value: Value) -> tuple[float, float]:
    """Lengths of the bars below and above a point; none without an interval."""
    if value.interval is None:
        return 0.0, 0.0
    number, low, high = (value.factor * one for one in (value.number, value.interval.low, value.interval.high))
    return max(number - low, 0.0), max(high - number, 0.0)


def scatter_pictures(measured: Measured) -> list[Picture]:
    """Clean against robust, a point a model, for each threat model; of detectors the lowest value of its attacks."""
    pictures = []
    threats = list(dict.fromkeys(threat for model in measured.models for threat in threats_of(model.first)))
    for threat in threats:
        for measure in (one for one in MEASURES if one.key in MAIN):
            points = _points(measured, threat, measure)
            if len(points) > 1:
                pictures.append(_scatter(threat, measure, points))
    return pictures


def _points(measured: Measured, threat: str, measure: Measure) -> list[tuple[str, Value, Value]]:
    points = []
    for model in measured.models:
        clean = measured.value(model, "clean", measure)
        if measure.key == "accuracy":
            robust = measured.worst_case(model, threat)
        else:
            values = [measured.value(model, name, measure) for name in threats_of(model.first).get(threat, [])]
            robust = min((one for one in values if one is not None), key=lambda one: one.number, default=None)
        if clean is not None and robust is not None:
            points.append((model.name, clean, robust))
    return points


def _scatter(threat: str, measure: Measure, points: Sequence[tuple[str, Value, Value]]) -> Picture:
    with matplotlib.rc_context(SETTINGS):
        figure = Figure(figsize=(4.8, 3.5 + 0.18 * len(points)), layout="constrained")
        axes = figure.subplots()
        for place, (name, clean, robust) in enumerate(points):
            across, up = _bars(clean), _bars(robust)
            axes.errorbar(
                clean.number * clean.factor,
                robust.number * robust.factor,
                xerr=[[across[0]], [across[1]]],
                yerr=[[up[0]], [up[1]]],
                color=COLOURS[place % len(COLOURS)],
                marker=MARKERS[place % len(MARKERS)],
                markersize=7,
                linestyle="",
                elinewidth=0.9,
                capsize=2,
                label=short(name),
            )
        low, high = axes.get_xlim()
        axes.plot([max(low, 0), high], [max(low, 0), high], color="#777777", linewidth=0.8, linestyle=":")
        axes.set_xlim(max(low, 0), high)
        axes.set_ylim(0, max(axes.dataLim.y1, 1) * 1.05)
        what = "worst case" if measure.key == "accuracy" else "lowest of its attacks"
        axes.set(xlabel=f"clean {measure.title}", ylabel=f"{measure.title} under {threat}, {what}")
        axes.set_title(f"Clean against robust, {threat}", fontsize=11)
        axes.grid(alpha=0.3)
        figure.legend(loc="outside lower center", fontsize=8, frameon=False)
        source = svg_source(figure)
    words = "; ".join(f"{name}: clean {clean.shown}, under attack {robust.shown}" for name, clean, robust in points)
    caption = f"{measure.title}, clean and under {threat}. Dotted: nothing lost. Bars: 95 % intervals."
    return Picture(source, f"{measure.title} clean against under {threat}. {words}", caption)
