"""Curves and scatter plots of a report as SVG pictures inside the page."""

from __future__ import annotations

import base64
import io
import json
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .measures import (
    MAIN,
    MEASURES,
    Measure,
    Measured,
    Value,
    attacks_by_threat,
    is_unreliable,
    threats_of,
    unreliable_threats,
)
from .models import Model, by_images, distinct
from .result_files import role_of, threat_of

# Okabe & Ito without yellow, which is too light for lines on white; then the same again with other lines and markers
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
LINES = ("-", "--", ":", "-.")
# names are data: no mathematics in them, glyphs drawn as paths so that every reader sees the same, no random ids
SETTINGS: Any = {"text.parse_math": False, "svg.fonttype": "path", "svg.hashsalt": "partbox", "font.size": 10}
LONGEST_NAME = 48
MOST_CURVES = 7  # of a picture; with more, each attack has its own
HOLLOW = "Hollow: unreliable, see the warnings (!) of the table."


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


def legend_names(names: Sequence[str]) -> dict[str, str]:
    """Names that fit into a legend, different where the names are: long ones without their middle.

    matplotlib leaves names that begin with an underscore out of a legend; they get a space before it.
    """
    shown: dict[str, str] = {}
    for name in dict.fromkeys(names):
        half = LONGEST_NAME // 2
        text = name.encode("utf-8", "backslashreplace").decode()  # half a character has no glyph
        fits = text if len(text) <= LONGEST_NAME else f"{text[: half - 1]}…{text[-half:]}"
        fits = f" {fits}" if fits.startswith("_") else fits
        shown[name] = distinct(fits, shown.values())
    return shown


def eps_of(threat: str) -> float:
    """The eps of a threat model as results name it: ``linf 8/255``, ``l2 0.5``."""
    number, _, divisor = threat.split(" ")[-1].partition("/")
    return float(number) / float(divisor or 1)


@dataclass(frozen=True)
class Curve:
    """A measure of a model under one attack (or the worst case) by eps; the first point is the clean images.

    Attributes:
        model, attack: whose.
        points: (eps, number).
        unreliable: eps of the points that a self-check speaks against.
    """

    model: str
    attack: str
    points: Sequence[tuple[float, Value]]
    unreliable: frozenset[float] = field(default_factory=frozenset)

    def words(self, scale: float, unit: str) -> str:
        """For those who do not see it."""
        points = ", ".join(
            f"{value.shown} at eps {scale * eps:g}{unit}" + " (unreliable)" * (eps in self.unreliable)
            for eps, value in self.points
        )
        return f"{self.model}, {self.attack}: {points}"


def eps_curves(measured: Measured, models: Sequence[Model]) -> Iterator[tuple[str, Measure, list[Curve]]]:
    """Norm, measure and the curves of models, for each norm and main measure that was attacked."""
    threats = [threat_of(name, e["settings"]) for m in models for name, e in m.first.entries.items()]
    for norm in sorted({threat.split(" ")[0] for threat in threats if threat is not None}, reverse=True):
        attacked = {threat: its for threat, its in attacks_by_threat(models).items() if threat.split(" ")[0] == norm}
        alike = all(len(its) == 1 for its in attacked.values())
        for measure in (one for one in MEASURES if one.key in MAIN):
            each = (curve for model in models for curve in _curves(measured, model, norm, measure, alike=alike))
            curves = [curve for curve in each if len(curve.points) > 1]
            if curves:
                yield norm, measure, curves


def _curves(measured: Measured, model: Model, norm: str, measure: Measure, *, alike: bool) -> Iterator[Curve]:
    """Those of a model; ``alike``: the worst case is over the same attacks as that of the other models."""
    clean = measured.value(model, "clean", measure)
    if clean is None:
        return
    attacks: dict[str, list[tuple[float, Value]]] = {}
    doubtful: dict[str, set[float]] = {}
    for name, entry in model.first.entries.items():
        threat = threat_of(name, entry["settings"])
        if threat is None or threat.split(" ")[0] != norm or role_of(entry["settings"]) == "corruption":
            continue
        value = measured.value(model, name, measure)
        if value is not None:
            attack = name.removesuffix(threat).strip()
            attacks.setdefault(attack, []).append((eps_of(threat), value))
            if is_unreliable(model, name):
                doubtful.setdefault(attack, set()).add(eps_of(threat))
    threats = {threat: names for threat, names in threats_of(model.first).items() if threat.split(" ")[0] == norm}
    if measure.key == "accuracy" and any(len(names) > 1 for names in threats.values()):
        used = dict.fromkeys(name.removesuffix(threat).strip() for threat, names in threats.items() for name in names)
        label = "worst case" if alike else f"worst case of {', '.join(used)}"
        worst = [(eps_of(threat), measured.worst_case(model, threat)) for threat in threats]
        attacks[label] = [(eps, value) for eps, value in worst if value is not None]
        doubtful[label] = {eps_of(threat) for threat in unreliable_threats(model) if threat in threats}
    for attack, points in attacks.items():
        ordered = sorted([(0.0, clean), *points], key=lambda point: point[0])
        yield Curve(model.name, attack, ordered, frozenset(doubtful.get(attack, ())))


def eps_pictures(measured: Measured) -> list[Picture]:
    """A picture for each norm and measure, of many curves for each attack; all models in one saw the same images."""
    pictures = []
    for models, of_images in _on_same_images(measured.models):
        for norm, measure, curves in eps_curves(measured, models):
            title = f"{measure.title} against eps, {norm}"
            if len(curves) <= MOST_CURVES:
                pictures.append(_eps_picture(norm, measure, curves, f"{title}{of_images}"))
                continue
            for attack in dict.fromkeys(curve.attack for curve in curves):
                its = [curve for curve in curves if curve.attack == attack]
                pictures.append(_eps_picture(norm, measure, its, f"{title}, {attack}{of_images}", single=True))
    return pictures


def _on_same_images(models: Sequence[Model]) -> Iterator[tuple[list[Model], str]]:
    """Models that may stand in one picture, and what its title says of their images where there are others."""
    groups = by_images(models)
    for group in groups:
        data = group[0].first.document["dataset"]
        yield group, f", {data['name']} ({data['images']} images)" if len(groups) > 1 else ""


def _eps_picture(norm: str, measure: Measure, curves: Sequence[Curve], title: str, *, single: bool = False) -> Picture:
    """Of curves; ``single``: of one attack, which the title names."""
    scale, unit = (255.0, " / 255") if norm == "linf" else (1.0, "")
    names = legend_names([curve.model for curve in curves])
    with matplotlib.rc_context(SETTINGS):
        figure = Figure(figsize=(4.8, 3.5 + 0.18 * len(curves)), layout="constrained")
        axes = figure.subplots()
        for curve, style in zip(curves, _styles(curves), strict=True):
            label = names[curve.model] if single else f"{names[curve.model]} · {curve.attack}"
            _draw_curve(axes, curve, scale, label, style)
        name = "AP" if "AP" in measure.title else measure.title
        axes.set(xlabel=f"eps{unit} ({norm}); 0 = clean", ylabel=name, xlim=(0, None))
        axes.set_title(title, fontsize=11, wrap=True)
        axes.grid(alpha=0.3)
        axes.set_ylim(0, min(max(1.12 * axes.dataLim.y1, 1), 103))
        figure.legend(loc="outside lower center", fontsize=8, frameon=False, handlelength=3.5)
        source = svg_source(figure)
    words = "; ".join(curve.words(scale, unit) for curve in curves)
    caption = f"{title}. Bars: 95 % intervals." + f" {HOLLOW}" * any(curve.unreliable for curve in curves)
    return Picture(source, f"{title}. {words}", caption)


def _styles(curves: Sequence[Curve]) -> list[tuple[str, str, str]]:
    """Colour, marker and line of each curve, no two alike: models have colours, attacks markers and lines.

    Of a single attack models have all three, so that they are told apart without colours, and more of them.
    """
    models = list(dict.fromkeys(curve.model for curve in curves))
    attacks = list(dict.fromkeys(curve.attack for curve in curves))
    styles = []
    for curve in curves:
        model, attack = models.index(curve.model), attacks.index(curve.attack)
        other = attack if len(attacks) > 1 else model
        line = other if len(attacks) > 1 else model // len(COLOURS)
        styles.append((COLOURS[model % len(COLOURS)], MARKERS[other % len(MARKERS)], LINES[line % len(LINES)]))
    return styles


def _draw_curve(axes: Axes, curve: Curve, scale: float, label: str, style: tuple[str, str, str]) -> None:
    colour, marker, line = style
    xs = [scale * eps for eps, _ in curve.points]
    ys = [value.percent for _, value in curve.points]
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
        label=label,
    )
    hollow = [place for place, (eps, _) in enumerate(curve.points) if eps in curve.unreliable]
    if hollow:  # a line without points has no place, for which the layout would make room at the edge of the figure
        _draw_hollow(axes, [xs[place] for place in hollow], [ys[place] for place in hollow], colour, marker)


def _draw_hollow(axes: Axes, xs: Sequence[float], ys: Sequence[float], colour: str, marker: str) -> None:
    """Markers of unreliable numbers, over those that are there."""
    axes.plot(xs, ys, marker, color=colour, markerfacecolor="white", clip_on=False, zorder=5)


def _bars(value: Value) -> tuple[float, float]:
    """Lengths of the bars below and above a point; none without an interval."""
    if value.interval is None:
        return 0.0, 0.0
    number, low, high = (value.factor * one for one in (value.number, value.interval.low, value.interval.high))
    return max(number - low, 0.0), max(high - number, 0.0)


def scatter_pictures(measured: Measured) -> list[Picture]:
    """Clean against robust, a point a model, for each threat model; of detectors the lowest value of its attacks.

    In one picture are models that saw the same images and met the same attacks.
    """
    pictures = []
    for models, of_images in _on_same_images(measured.models):
        for threat, by, members in _under_same_attacks(models):
            for measure in (one for one in MEASURES if one.key in MAIN):
                points = [one for model in members for one in _points(measured, model, threat, measure)]
                if len(points) > 1:
                    pictures.append(_scatter(threat, measure, points, f"{threat}{by}{of_images}"))
    return pictures


def _under_same_attacks(models: Sequence[Model]) -> Iterator[tuple[str, str, list[Model]]]:
    """Threat models with the models that met the same attacks with the same settings, and what tells these apart."""
    for threat, attacked in attacks_by_threat(models).items():
        for attacks, names in attacked.items():
            alike: dict[str, list[Model]] = {}
            for model in (one for one in models if one.name in names):
                settings = {name: model.first.entries[name]["settings"] for name in threats_of(model.first)[threat]}
                alike.setdefault(json.dumps(settings, sort_keys=True), []).append(model)
            for members in alike.values():
                yield threat, f" ({', '.join(attacks)})" if len(attacked) > 1 else "", members


@dataclass(frozen=True)
class Point:
    """A model in a scatter plot."""

    model: str
    clean: Value
    robust: Value
    unreliable: bool


def _points(measured: Measured, model: Model, threat: str, measure: Measure) -> Iterator[Point]:
    clean = measured.value(model, "clean", measure)
    if measure.key == "accuracy":
        robust = measured.worst_case(model, threat)
    else:
        values = [measured.value(model, name, measure) for name in threats_of(model.first).get(threat, [])]
        robust = min((one for one in values if one is not None), key=lambda one: one.number, default=None)
    if clean is not None and robust is not None:
        yield Point(model.name, clean, robust, threat in unreliable_threats(model))


def _scatter(threat: str, measure: Measure, points: Sequence[Point], under: str) -> Picture:
    """Of points; ``under``: the threat model with what sets this picture apart from others."""
    names = legend_names([point.model for point in points])
    with matplotlib.rc_context(SETTINGS):
        figure = Figure(figsize=(4.8, 3.5 + 0.18 * len(points)), layout="constrained")
        axes = figure.subplots()
        for place, point in enumerate(points):
            across, up = _bars(point.clean), _bars(point.robust)
            colour, marker = COLOURS[place % len(COLOURS)], MARKERS[place % len(MARKERS)]
            x, y = point.clean.percent, point.robust.percent
            axes.errorbar(
                x,
                y,
                xerr=[[across[0]], [across[1]]],
                yerr=[[up[0]], [up[1]]],
                color=colour,
                marker=marker,
                markersize=7,
                linestyle="",
                elinewidth=0.9,
                capsize=2,
                clip_on=False,
                label=names[point.model],
            )
            if point.unreliable:
                _draw_hollow(axes, [x], [y], colour, marker)
        low, high = axes.get_xlim()
        low, high = max(low, 0), min(high, 103)
        axes.plot([low, high], [low, high], color="#777777", linewidth=0.8, linestyle=":")
        axes.set_xlim(low, high)
        axes.set_ylim(0, min(max(axes.dataLim.y1, 1) * 1.05, 103))
        what = "worst case" if measure.key == "accuracy" else "lowest of its attacks"
        axes.set(xlabel=f"clean {measure.title}", ylabel=f"{measure.title} under {threat}\n({what})")
        axes.set_title(f"Clean against robust, {under}", fontsize=11, wrap=True)
        axes.grid(alpha=0.3)
        figure.legend(loc="outside lower center", fontsize=8, frameon=False, handlelength=3.5)
        source = svg_source(figure)
    words = "; ".join(
        f"{one.model}: clean {one.clean.shown}, under attack {one.robust.shown}" + " (unreliable)" * one.unreliable
        for one in points
    )
    caption = f"{measure.title}, clean and under {under}. Dotted: nothing lost. Bars: 95 % intervals."
    caption += f" {HOLLOW}" * any(one.unreliable for one in points)
    return Picture(source, f"{measure.title} clean against under {under}. {words}", caption)
