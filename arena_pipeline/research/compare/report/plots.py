"""The plots, each from rows of a table to one small picture."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator, NullLocator

from arena_pipeline.research.compare.published import ZERO_SHOT
from arena_pipeline.research.compare.report.style import DOTTED, INK, MethodStyle

Looks = Mapping[str, MethodStyle]

WIDTH_INCHES, ROW_INCHES = 3.5, 0.29
DOTS_PER_INCH = 200
SMALLEST_SPAN = 0.1
"""The least span of a Dice axis: with a smaller one nearly equal methods would look very different."""
FILLS: tuple[dict[str, Any], ...] = (
    {"markerfacecolor": "white"},
    {},
    {"fillstyle": "left", "markerfacecoloralt": "white"},
    {"fillstyle": "top", "markerfacecoloralt": "white"},
)
FILL_NAMES = ("open", "filled", "left half filled", "upper half filled")
STYLE = matplotlib.rc_context(
    {
        "text.parse_math": False,  # a dollar sign in a name is a dollar sign
        "font.size": 8,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.axisbelow": True,
        "axes.edgecolor": "silver",
        "grid.color": "gainsboro",
        "xtick.color": "silver",
        "ytick.color": "silver",
        "xtick.labelcolor": INK,
        "ytick.labelcolor": INK,
        "legend.frameon": False,
        "legend.fontsize": 7,
    }
)


def picture(figure: Figure, **settings: Any) -> str:
    """The figure as the data URI of a WebP picture; `settings` as of Figure.savefig."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="webp", **settings)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def interval_plot(rows: pd.DataFrame, measure: str, looks: Looks) -> str:
    """A line per method; on it a point with its interval for each number of shots, told apart by FILLS; a bar across is the published figure.

    Args:
        measure: "Dice"; or "difference" between arena and the method, whose plot has a line at 0.
    """
    methods, shots = list(rows["method"].unique()), sorted(rows["shots"].unique())
    figure, axes = _figure(0.5 + ROW_INCHES * max(len(methods), 2))
    for line, method in enumerate(methods):
        own = rows[rows["method"] == method].iloc[: 1 if method == ZERO_SHOT and measure == "Dice" else None]  # alike for all shots
        for step, row in enumerate(own.itertuples()):
            place, fill = line + 0.5 * ((step + 0.5) / len(own) - 0.5), FILLS[shots.index(row.shots) % len(FILLS)]
            value, low, high = (getattr(row, f"{measure}{end}") for end in ("", "_low", "_high"))
            axes.errorbar(value, place, xerr=[[value - low], [high - value]], color=looks[method].colour, marker=looks[method].marker, **fill)
            axes.plot(getattr(row, "published_Dice", math.nan), place, color=INK, marker="|", markersize=7, markeredgewidth=1.4)
    axes.set(yticks=range(len(methods)), yticklabels=methods, ylim=(len(methods) - 0.5, -0.5))
    axes.set_xlabel("Dice" if measure == "Dice" else "difference in Dice (arena minus method)")
    shown = rows.reindex(columns=[measure, f"{measure}_low", f"{measure}_high", "published_Dice"]).to_numpy(dtype=float)
    axes.set_xlim(_span(shown) if measure == "Dice" else _span([*shown.ravel(), 0], (-math.inf, math.inf)))
    if measure != "Dice":
        axes.axvline(0, color=INK, linewidth=0.8)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.grid(axis="x")
    axes.tick_params(left=False)
    return _finished(figure)


def cost_plot(rows: pd.DataFrame, quantity: str, label: str, looks: Looks) -> str:
    """Dice with its interval against a positive quantity on a logarithmic axis; zero-shot, which costs nothing, as a line."""
    figure, axes = _figure(2.8)
    costly = rows[rows[quantity].astype(float) > 0]
    for row in costly.itertuples():
        ends = [[row.Dice - row.Dice_low], [row.Dice_high - row.Dice]]
        axes.errorbar(getattr(row, quantity), row.Dice, yerr=ends, color=looks[row.method].colour, marker=looks[row.method].marker, label=row.method)
    for row in rows[rows["method"] == ZERO_SHOT].itertuples():
        axes.axhline(row.Dice, color=INK, linestyle=DOTTED, linewidth=1.2, label=row.method)
    low, high = costly[quantity].min(), costly[quantity].max()
    narrow = high / low < 30  # decades alone would give one label or none
    axes.set(xscale="log", xlabel=label, ylabel="Dice", ylim=_span(rows[["Dice", "Dice_low", "Dice_high"]].to_numpy(dtype=float)))
    axes.set_xlim(low / (1.25 if narrow else 1.8), high * (1.25 if narrow else 1.8))
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if narrow else (1.0,)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.grid()
    return _finished(figure, axes)


def rank_plot(rows: pd.DataFrame, kept: pd.DataFrame, looks: Looks) -> str:
    """Above, Dice against the initial rank, a line per method; below, the share of its allocated rank that one method kept (rows `kept`)."""
    figure, axes = _figure(3.6 if len(kept) else 2.8, 2 if len(kept) else 1)
    upper = axes[0] if len(kept) else axes
    ranks = sorted(rows["rank"].unique())
    methods = list(rows["method"].unique())
    for order, method in enumerate(methods):
        own = rows[rows["method"] == method]
        at = [ranks.index(rank) + 0.12 * (order - (len(methods) - 1) / 2) for rank in own["rank"]]
        ends = [own["Dice"] - own["Dice_low"], own["Dice_high"] - own["Dice"]]
        upper.errorbar(at, own["Dice"], yerr=ends, marker=looks[method].marker, label=method, **looks[method].line())
    upper.set(ylabel="Dice", ylim=_span(rows[["Dice", "Dice_low", "Dice_high"]].to_numpy(dtype=float)))
    upper.grid(axis="y")
    for row in kept.dropna(subset=["effective_rank"]).itertuples():
        bars = axes[1].bar([ranks.index(row.rank)], [100 * row.effective_rank / row.allocated_rank], width=0.5, color=looks[row.method].colour)
        axes[1].bar_label(bars, [f"{row.effective_rank:.0f}"], fontsize=7)
        axes[1].set(ylim=(0, 122), yticks=(0, 50, 100), ylabel="kept, %")
    last = axes[1] if len(kept) else upper
    last.set_xticks(range(len(ranks)), [str(rank) for rank in ranks])
    last.set_xlabel("initial rank of each matrix")
    return _finished(figure, upper)


def loss_plot(curves: Mapping[str, np.ndarray], looks: Looks) -> str:
    """The loss (epochs,) of every method over the epochs, a marker at its end and at four places before."""
    figure, axes = _figure(2.7)
    for method, losses in curves.items():
        places = sorted({round(share * (len(losses) - 1)) for share in (0.2, 0.4, 0.6, 0.8, 1.0)})
        axes.plot(losses, marker=looks[method].marker, markersize=4, markevery=places, label=method, **looks[method].line())
    axes.set(xlabel="epoch", ylabel="soft Dice loss")
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.grid()
    return _finished(figure, axes)


def rank_map(layers: Sequence[str], ranks: np.ndarray, allocated: int) -> str:
    """Effective rank (layers, epochs) as colour: a row per matrix, a column per epoch; `allocated` is the scale's top."""
    figure, axes = _figure(0.9 + 0.15 * max(len(layers), 6))
    image = axes.imshow(ranks, aspect="auto", interpolation="none", cmap="cividis", vmin=0, vmax=max(allocated, 1))
    axes.set_yticks(range(len(layers)), list(layers), fontsize=7)
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.tick_params(left=False)
    figure.colorbar(image, ax=axes, shrink=0.8, pad=0.02, ticks=MaxNLocator(4, integer=True))
    return _finished(figure)


def _figure(height_inches: float, rows: int = 1) -> tuple[Figure, Any]:
    """A figure with one axes, or two of which the upper is larger."""
    figure = Figure(figsize=(WIDTH_INCHES, height_inches), layout="constrained")
    return figure, figure.subplots(rows, sharex=True, height_ratios=(2, 1)[:rows])


def _finished(figure: Figure, with_legend: Axes | None = None) -> str:
    if with_legend is not None:
        handles, names = with_legend.get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower center", ncols=4)
    return picture(figure, dpi=DOTS_PER_INCH, pil_kwargs={"lossless": True})


def _span(values: Iterable[float], bounds: tuple[float, float] = (-0.01, 1.01)) -> tuple[float, float]:
    """The ends of an axis of Dice values or differences: all of them and a margin, at least SMALLEST_SPAN apart, within `bounds`."""
    known = np.asarray(values, dtype=float)
    low, high = (float(np.nanmin(known)), float(np.nanmax(known))) if not np.isnan(known).all() else (0.0, 1.0)
    margin = max(0.06 * (high - low), (SMALLEST_SPAN - (high - low)) / 2)
    return max(low - margin, bounds[0]), min(high + margin, bounds[1])
