"""The plots, each from plain numbers to one small SVG that a phone shows at its natural size. `title` is what a screen reader says."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from arena_pipeline.research.compare.report.style import DOTTED, INK, LINE, PAPER, MethodStyle
from arena_pipeline.research.compare.report.svg import drawing, inline_svg, new_figure

Looks = Mapping[str, MethodStyle]

WIDTH_INCHES = 3.5
ROW_INCHES = 0.29
SMALLEST_SPAN = 0.1
"""Of a Dice axis: without it a plot of nearly equal methods would look like one of large differences."""
SHOT_FILLS = ("none", "full", "left", "top")


@dataclass(frozen=True)
class Point:
    """A value with its interval, NaN where there is none."""

    value: float
    low: float = math.nan
    high: float = math.nan


@dataclass(frozen=True)
class Series:
    """The points of one number of shots, and the published figures beside them; both by method."""

    points: Mapping[str, Point]
    published: Mapping[str, float]


def interval_plot(name: str, title: str, rows: Sequence[str], series: Sequence[Series], looks: Looks, zero: bool = False) -> Markup:
    """A row per method, in it one point with its interval per series, open, then filled; the published figure is a bar across.

    Args:
        zero: differences between arena and the method, with a line at 0.
    """
    with drawing():
        figure = new_figure(WIDTH_INCHES, 0.5 + ROW_INCHES * max(len(rows), 2))
        axes = figure.subplots()
        for row, method in enumerate(rows):
            own = [(order, entry) for order, entry in enumerate(series) if method in entry.points]
            for step, (order, entry) in enumerate(own):
                place = row + 0.5 * ((step + 0.5) / len(own) - 0.5)
                _draw_point(axes, place, entry.points[method], looks[method], SHOT_FILLS[order % len(SHOT_FILLS)])
                if method in entry.published:
                    axes.plot([entry.published[method]], [place], color=INK, marker="|", markersize=7, markeredgewidth=1.4, linestyle="none")
        axes.set(yticks=range(len(rows)), yticklabels=rows, ylim=(len(rows) - 0.5, -0.5))
        axes.set_xlabel("difference in Dice (arena minus method)" if zero else "Dice")
        values = [v for entry in series for p in entry.points.values() for v in (p.value, p.low, p.high)]
        values += [v for entry in series for v in entry.published.values()]
        axes.set_xlim(_span([*values, 0.0] if zero else values, difference=zero))
        if zero:
            axes.axvline(0, color=INK, linewidth=0.8)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.grid(axis="x")
        axes.tick_params(left=False)
        return inline_svg(figure, name, f"{title}: {axes.get_xlabel()} of {', '.join(rows)}; the numbers are in the table")


def _draw_point(axes: Axes, place: float, point: Point, look: MethodStyle, fill: str) -> None:
    """With fillstyle "none" the line would show through the marker: an open marker is drawn on a marker of the page's colour."""
    if math.isnan(point.value):
        return
    if not math.isnan(point.low):
        axes.plot([point.low, point.high], [place, place], color=look.colour, linewidth=1.6)
    axes.plot([point.value], [place], color=PAPER, marker=look.marker, markersize=6, linestyle="none")
    axes.plot(
        [point.value], [place], color=look.colour, marker=look.marker, markersize=6, linestyle="none", fillstyle=fill, markerfacecoloralt="none"
    )


def _span(values: Sequence[float], difference: bool = False) -> tuple[float, float]:
    """Of an axis of Dice values or differences: all of them, a margin, and not less than SMALLEST_SPAN; a Dice is never below 0 or above 1."""
    finite = [v for v in values if not math.isnan(v)] or [0.0, 1.0]
    low, high = min(finite), max(finite)
    margin = max(0.06 * (high - low), (SMALLEST_SPAN - (high - low)) / 2)
    return (low - margin, high + margin) if difference else (max(low - margin, -0.01), min(high + margin, 1.01))


def scatter_plot(
    name: str, title: str, x_label: str, points: Mapping[str, tuple[float, Point]], looks: Looks, level: tuple[str, float] | None
) -> Markup:
    """Dice with its interval against a positive quantity on a logarithmic axis.

    Args:
        points: method -> (x, Dice).
        level: name and Dice of a method without an x (zero-shot trains nothing), drawn as a line.
    """
    with drawing():
        figure = new_figure(WIDTH_INCHES, 2.6)
        axes = figure.subplots()
        for method, (x, point) in points.items():
            look = looks[method]
            if not math.isnan(point.low):
                axes.plot([x, x], [point.low, point.high], color=look.colour, linewidth=1.4)
            axes.plot([x], [point.value], color=look.colour, marker=look.marker, markersize=6.5, linestyle="none")
        if level is not None:
            axes.axhline(level[1], color=INK, linestyle=DOTTED, linewidth=1.2)
            axes.text(0.99, level[1], f"{level[0]} ", transform=axes.get_yaxis_transform(), ha="right", va="bottom", fontsize=7)
        axes.set(xscale="log", xlabel=x_label, ylabel="Dice")
        _log_ticks(axes, [x for x, _ in points.values()])
        values = [v for _, p in points.values() for v in (p.value, p.low, p.high)]
        axes.set_ylim(_span(values if level is None else [*values, level[1]]))
        axes.grid()
        return inline_svg(figure, name, f"{title}: Dice against {x_label}; the numbers are in the table")


def _log_ticks(axes: Axes, values: Sequence[float]) -> None:
    """Labels at 1, 2, 5 of each decade where the values span little, else at the decades; whole numbers in full, not as powers."""
    low, high = min(values), max(values)
    narrow = high / low < 30
    axes.set_xlim(low / (1.25 if narrow else 1.8), high * (1.25 if narrow else 1.8))
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if narrow else (1.0,)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(lambda value, _: _short_number(value))


def _short_number(value: float) -> str:
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"


def rank_plot(
    name: str, title: str, ranks: Sequence[int], lines: Mapping[str, Mapping[int, Point]], kept: Mapping[int, tuple[float, float]], looks: Looks
) -> Markup:
    """Dice against the initial rank above, the part of it that ARENA keeps below, both over ranks equally far apart.

    Args:
        lines: method -> initial rank -> Dice.
        kept: initial rank -> (effective rank, allocated rank) of ARENA, each summed over the matrices; empty: the upper part alone.
    """
    with drawing():
        figure = new_figure(WIDTH_INCHES, 3.5 if kept else 2.3)
        upper, *lower = figure.subplots(2 if kept else 1, 1, sharex=True, squeeze=False, height_ratios=(1.6, 1) if kept else None)[:, 0]
        places = {rank: place for place, rank in enumerate(ranks)}
        for order, (method, points) in enumerate(lines.items()):
            at = [places[rank] + 0.12 * (order - (len(lines) - 1) / 2) for rank in points]
            for place, point in zip(at, points.values(), strict=True):
                if not math.isnan(point.low):
                    upper.plot([place, place], [point.low, point.high], color=looks[method].colour, linewidth=1.4)
            upper.plot(at, [point.value for point in points.values()], marker=looks[method].marker, markersize=5.5, **looks[method].line())
        upper.set(ylabel="Dice", ylim=_span([v for line in lines.values() for p in line.values() for v in (p.value, p.low, p.high)]))
        for axes in lower:
            _draw_kept(axes, {places[rank]: parts for rank, parts in kept.items()}, looks["arena"].colour)
        for axes in (upper, *lower):
            axes.grid(axis="y")
        axes.set_xlabel("initial rank of each matrix")
        axes.set_xticks(range(len(ranks)), [str(rank) for rank in ranks])
        return inline_svg(figure, name, f"{title}: Dice against initial rank of {', '.join(lines)}; the numbers are in the table")


def _draw_kept(axes: Axes, kept: Mapping[int, tuple[float, float]], colour: str) -> None:
    """Bars in percent of what was allocated, with the effective rank above."""
    for place, (effective, allocated) in kept.items():
        if allocated and not math.isnan(effective):
            share = 100 * effective / allocated
            axes.bar([place], [share], width=0.5, color=colour)
            axes.text(place, share + 2, f"{effective:.0f}", ha="center", va="bottom", fontsize=7, clip_on=True)
    axes.set(ylim=(0, 118), yticks=(0, 50, 100), ylabel="kept, %")


def loss_plot(name: str, title: str, curves: Mapping[str, np.ndarray], looks: Looks) -> Markup:
    """The loss over the epochs: a line per method, a marker at its end and at four places before.

    Args:
        curves: method -> (epochs,) loss, epoch 0 first.
    """
    with drawing():
        figure = new_figure(WIDTH_INCHES, 2.5)
        axes = figure.subplots()
        for method, losses in curves.items():
            places = sorted({round(share * (len(losses) - 1)) for share in (0.2, 0.4, 0.6, 0.8, 1.0)})
            axes.plot(
                np.arange(len(losses)), losses, linewidth=1.3, marker=looks[method].marker, markersize=4, markevery=places, **looks[method].line()
            )
        axes.set(xlabel="epoch", ylabel="soft Dice loss")
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.grid()
        return inline_svg(figure, name, f"{title}: loss over epochs of {', '.join(curves)}; the numbers are in the table")


def rank_map(name: str, title: str, layers: Sequence[str], ranks: np.ndarray, allocated: int) -> Markup:
    """Effective rank as colour: a row per matrix, a column per epoch.

    Args:
        ranks: (layers, epochs).
        allocated: the rank there was at most; the scale's top.
    """
    with drawing():
        figure = new_figure(WIDTH_INCHES, 0.9 + 0.15 * max(len(layers), 6))
        axes = figure.subplots()
        extent = (-0.5, ranks.shape[1] - 0.5, len(layers) - 0.5, -0.5)
        image = axes.imshow(ranks, aspect="auto", interpolation="none", cmap="cividis", vmin=0, vmax=max(allocated, 1), extent=extent)
        axes.set_yticks(range(len(layers)), list(layers), fontsize=7)
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.tick_params(left=False)
        axes.spines[:].set_visible(False)
        bar = figure.colorbar(image, ax=axes, shrink=0.8, pad=0.02)
        bar.outline.set_edgecolor(LINE)
        bar.locator = MaxNLocator(4, integer=True)
        bar.update_ticks()
        return inline_svg(
            figure, name, f"{title}: effective rank of {len(layers)} matrices over {ranks.shape[1]} epochs; the numbers are in the table"
        )


def swatch(name: str, look: MethodStyle, fill: str = "full") -> Markup:
    """A method's line and marker, for a legend."""
    with drawing():
        figure = new_figure(0.42, 0.16, layout=None)
        axes = figure.add_axes((0, 0, 1, 1))
        axes.plot([0, 2], [0, 0], linewidth=1.3, **look.line())
        axes.plot([1], [0], color=look.colour, marker=look.marker, markersize=6, linestyle="none", fillstyle=fill, markerfacecoloralt="none")
        axes.set(xlim=(0, 2), ylim=(-1, 1))
        axes.set_axis_off()
        return inline_svg(figure, name, "")
