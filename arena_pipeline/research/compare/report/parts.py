"""What a page is made of: tables, figures with their numbers, sections."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import pandas as pd
from markupsafe import Markup

ABSENT = "–"


@dataclass(frozen=True)
class Cell:
    """A number or word, and smaller below it, a line each, what belongs to it (its interval, say)."""

    text: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Table:
    """Rows of cells; a row's first cell is its head. `caption` says what is shown, of how many, and what an interval means."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell | str]]


@dataclass(frozen=True)
class Panel:
    """One plot of a figure. Its title is text of the page, which wraps where the plot is narrow."""

    title: str
    svg: Markup


@dataclass(frozen=True)
class LegendEntry:
    """A method's name and a small picture of its line and marker."""

    name: str
    swatch: Markup


@dataclass(frozen=True)
class Figure:
    """Small plots side by side, one legend, and a table with the numbers drawn.

    `absent` says in words why there is nothing to draw. A figure with a `folded` title is shown when that is clicked.
    `wide`: two plots side by side, not three.
    """

    caption: str = ""
    panels: Sequence[Panel] = ()
    legend: Sequence[LegendEntry] = ()
    table: Table | None = None
    absent: str = ""
    folded: str = ""
    wide: bool = False


@dataclass(frozen=True)
class Section:
    """A part of the page under one heading; `anchor` is unique in the page."""

    anchor: str
    title: str
    text: Sequence[str] = ()
    tables: Sequence[Table] = ()
    figures: Sequence[Figure] = field(default_factory=tuple)


def number(value: float, digits: int = 3) -> str:
    """Rounded to `digits` decimals; a dash where there is none (NaN, pandas.NA)."""
    return ABSENT if pd.isna(value) else f"{value:.{digits}f}"


def signed(value: float, digits: int = 3) -> str:
    """As `number`, with + or − in front."""
    return ABSENT if pd.isna(value) else f"{value:+.{digits}f}".replace("-", "−")


def whole(value: float) -> str:
    """A count with thin spaces between thousands; a dash where there is none."""
    return ABSENT if pd.isna(value) else f"{value:,.0f}".replace(",", "\u202f")


def interval(low: float, high: float, sign: bool = False) -> str:
    """[low, high], or that there is none."""
    if pd.isna(low) or pd.isna(high):
        return "no interval"
    show = signed if sign else number
    return f"[{show(low)}, {show(high)}]"


def p_value(value: float) -> str:
    """Three decimals, "< 0.001" below; a dash where the test was not possible."""
    if pd.isna(value):
        return ABSENT
    return "< 0.001" if value < 0.001 else f"{value:.3f}"
