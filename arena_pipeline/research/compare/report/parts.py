"""What the page is made of: tables, plots, sections; and how numbers are written."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

ABSENT = "–"


@dataclass(frozen=True)
class Table:
    """Rows of cells; a row's first cell is its head, and a cell's lines after the first are small. `caption` says what is shown, of how many."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Plot:
    """`title` is text of the page, `picture` a data URI, `alt_text` what a screen reader says."""

    title: str
    picture: str
    alt_text: str


@dataclass(frozen=True)
class Section:
    """A part of the page under one heading.

    Attributes:
        anchor: unique in the page.
        absent: why there is nothing to draw.
        caption: of the plots.
        numbers: those of the plots, as a table that can be unfolded.
    """

    anchor: str
    title: str
    text: Sequence[str] = ()
    tables: Sequence[Table] = ()
    plots: Sequence[Plot] = ()
    caption: str = ""
    numbers: Table | None = None
    absent: str = ""


def number(value: float, digits: int = 3) -> str:
    """Rounded to `digits` decimals; a dash where it is missing (NaN, pandas.NA)."""
    return ABSENT if pd.isna(value) else f"{value:.{digits}f}"


def signed(value: float) -> str:
    """Three decimals with + or − in front."""
    return ABSENT if pd.isna(value) else f"{value:+.3f}".replace("-", "−")


def whole(value: float) -> str:
    """A count with thin spaces between thousands; a dash where it is missing."""
    return ABSENT if pd.isna(value) else f"{value:,.0f}".replace(",", "\u202f")


def interval(low: float, high: float, write: Callable[[float], str] = number) -> str:
    """[low, high], or the words "no interval"."""
    return "no interval" if pd.isna(low) or pd.isna(high) else f"[{write(low)}, {write(high)}]"


def p_value(value: float) -> str:
    """Three decimals, "< 0.001" below; a dash where the test was not possible."""
    return "< 0.001" if value < 0.001 else number(value)


def dice_cell(row: Any) -> str:
    """Mean Dice and below it its interval, and the published figure where the row has one."""
    if pd.isna(row.Dice):
        return ABSENT
    published = getattr(row, "published_Dice", math.nan)
    note = "" if pd.isna(published) else f"\npublished {number(published)}"
    return f"{number(row.Dice)}\n{interval(row.Dice_low, row.Dice_high)}{note}"


def shots_name(shots: int) -> str:
    """5 shots, 1 shot."""
    return f"{shots} shot{'' if shots == 1 else 's'}"


FORMATS: dict[str, tuple[str, Callable[[Any], str]]] = {
    "column": ("structure", str),
    "shots": ("shots", str),
    "method": ("method", str),
    "cases": ("cases", whole),
    "folds": ("folds", whole),
    "Dice": ("Dice", number),
    "dice_cell": ("Dice", str),
    "interval": ("95 % interval", str),
    "published_Dice": ("published", number),
    "NSD_2mm": ("NSD 2 mm", number),
    "HD95_mm": ("HD95, mm", lambda value: number(value, 1)),
    "missed": ("missed", whole),
    "failed": ("failed", str),
    "arena_Dice": ("ARENA", number),
    "method_Dice": ("method", number),
    "difference_cell": ("difference", str),
    "p": ("p", p_value),
    "holm_p": ("p (Holm)", p_value),
    "verdict": ("in words", str),
    "rank": ("initial rank", whole),
    "effective_rank": ("effective rank", lambda value: number(value, 1)),
    "allocated_rank": ("allocated rank", whole),
    "trained_parameters": ("trained parameters", whole),
    "seconds": ("seconds", lambda value: number(value, 1)),
    "epochs": ("epochs", lambda value: number(value, 1)),
    "peak_memory_mib": ("peak memory, MiB", whole),
}
"""Column of the data -> its head on the page and how its values are written."""


def listing(caption: str, frame: pd.DataFrame, columns: str, **heads: str) -> Table:
    """A row per row of `frame`; `columns` are keys of FORMATS with spaces between, `heads` replace the names of some of them."""
    names = columns.split()
    rows = [[FORMATS[name][1](value) for name, value in zip(names, row, strict=True)] for row in frame[names].itertuples(index=False)]
    return Table(caption, [heads.get(name, FORMATS[name][0]) for name in names], rows)
