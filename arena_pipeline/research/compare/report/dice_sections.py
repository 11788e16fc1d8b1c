"""The sections that say how well the methods segment: the short answer, Dice of all methods, ARENA against each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd

from arena_pipeline.research.compare.published import AVERAGE, ZERO_SHOT
from arena_pipeline.research.compare.report.parts import ABSENT, Cell, Figure, Panel, Section, Table, interval, number, p_value, signed
from arena_pipeline.research.compare.report.plots import Looks, Point, Series, interval_plot
from arena_pipeline.research.compare.statistics import FEWEST_CASES, FEWEST_FOLDS, SIGNIFICANCE, interval_meaning

KIND_NAMES = {"base": "Base structures (seen in pre-training)", "novel": "Novel structures (not seen in pre-training)"}
FILL_NAMES = ("open", "filled", "left half filled", "upper half filled")
NO_PUBLISHED = "No published figures are shown: there are none for these structures and shots, or your query cases are not the published ones."
TEST_MEANING = (
    "The same folds and query cases under both methods, so the difference is paired: positive means a higher Dice with ARENA. p is two-sided, from "
    "the same t statistic as the interval; p (Holm) is corrected for all methods tested with the same structure and shots.",
    f"A method is called better only where the corrected p is below {SIGNIFICANCE}, and never with fewer than {FEWEST_FOLDS} folds or {FEWEST_CASES} "
    "cases. “No clear difference” means that these folds and cases do not tell the two apart, which is not the same as being equal.",
)


def short_answers(tests: pd.DataFrame) -> list[str]:
    """A sentence per kind and number of shots about ARENA against LoRA, the paper's question; always with the interval."""
    sentences = []
    for row in averages(tests[tests.method == "lora"]).itertuples():
        where = KIND_NAMES[row.kind] + ("" if row.structure == AVERAGE else f", {row.structure}")
        start = f"{where}, {shots_name(row.shots)}: ARENA minus LoRA {signed(row.difference)} Dice"
        if math.isnan(row.difference_low):
            sentences.append(f"{start}; {int(row.cases)} query case is too few for an interval.")
        else:
            ends = f"{signed(row.difference_low)} to {signed(row.difference_high)}"
            of = f"{int(row.cases)} query cases, {int(row.folds)} folds"
            sentences.append(f"{start} (95 % interval {ends}, {of}, corrected p {p_value(row.holm_p)}): {row.verdict}.")
    return sentences


def dice_section(summary: pd.DataFrame, methods: Sequence[str], looks: Looks, source: str) -> Section:
    """Dice of every method: a table per number of shots, a plot per structure."""
    tables = [_dice_table(group, methods, int(shots)) for shots, group in summary.groupby("shots")]
    panels = []
    for place, (kind, structure) in enumerate(columns_of(summary)):
        rows = summary[(summary.kind == kind) & (summary.structure == structure)]
        there = [method for method in methods if method in set(rows[rows.Dice.notna()].method)]
        title = column_name(kind, structure)
        panels.append(Panel(title, interval_plot(f"dice{place}", title, there, _dice_series(rows), looks)))
    published = summary.published_Dice.notna().any()
    caption = (
        f"Mean Dice with its 95 % interval, {_range(summary.cases)} query cases per structure; a row per method. {_fills(summary)}"
        f"{' A bar across is the published figure.' if published else ''} The axes differ: read them before comparing plots."
    )
    folds = summary[summary.method != ZERO_SHOT].folds
    meaning = f"In brackets: 95 % interval {interval_meaning(int(folds.min()) if len(folds) else 0)}. It does not cover other scanners or readers."
    text = (meaning, f"“published” is the figure of {source} for the same query cases." if published else NO_PUBLISHED)
    return Section("dice", "Dice of every method", text, tables, [Figure(caption, panels, (), _long_table(summary, methods))])


def difference_section(tests: pd.DataFrame, methods: Sequence[str], looks: Looks) -> Section:
    """ARENA minus every other method: averages first, each structure below."""
    title = "ARENA against each method"
    if tests.empty:
        return Section("differences", title, figures=[Figure(absent="No test: arena and another method are not both among the methods compared.")])
    others = [method for method in methods if method in set(tests.method)]
    panels = []
    for place, (kind, structure) in enumerate(columns_of(tests)):
        rows = tests[(tests.kind == kind) & (tests.structure == structure)]
        series = [Series(_points(group, "difference"), {}) for _, group in rows.groupby("shots")]
        there = [method for method in others if method in set(rows.method)]
        name = column_name(kind, structure)
        panels.append(Panel(name, interval_plot(f"diff{place}", name, there, series, looks, zero=True)))
    caption = (
        f"ARENA minus each method: mean difference in Dice with its 95 % interval over {_range(tests.cases)} query cases and "
        f"{_range(tests.folds)} folds. {_fills(tests)} "
        "Right of the line at 0 ARENA is higher, left of it the other method."
    )
    first = _test_table(averages(tests), others, "The averages over the structures of a kind, or its only structure.")
    every = _test_table(tests, others, "Every difference of the plots.")
    return Section("differences", title, TEST_MEANING, [first], [Figure(caption, panels, (), every)])


def columns_of(frame: pd.DataFrame) -> list[tuple[str, str]]:
    """(kind, structure) in their order, each kind's average after its structures."""
    pairs = list(dict.fromkeys(zip(frame["kind"], frame["structure"], strict=True)))
    kinds = list(dict.fromkeys(kind for kind, _ in pairs))
    return sorted(pairs, key=lambda pair: (kinds.index(pair[0]), pair[1] == AVERAGE))


def column_name(kind: str, structure: str) -> str:
    """What a column, row or plot is called."""
    return f"average of {kind}" if structure == AVERAGE else structure


def shots_name(shots: int) -> str:
    """5 shots, 1 shot."""
    return f"{shots} shot{'' if shots == 1 else 's'}"


def dice_cell(row: Any) -> Cell:
    """Mean Dice and below it its interval, and the published figure where the row has one. None: not measured."""
    if row is None or math.isnan(row.Dice):
        return Cell(ABSENT)
    published = getattr(row, "published_Dice", math.nan)
    notes = () if math.isnan(published) else (f"published {number(published)}",)
    return Cell(number(row.Dice), (interval(row.Dice_low, row.Dice_high), *notes))


def averages(table: pd.DataFrame) -> pd.DataFrame:
    """Of every kind and number of shots the rows of its average, or of its structure where there is only one."""
    means = table[table.structure == AVERAGE]
    with_average = set(zip(means.shots, means.kind, strict=True))
    keep = [row.structure == AVERAGE or (row.shots, row.kind) not in with_average for row in table.itertuples()]
    return table[keep]


def _points(rows: pd.DataFrame, measure: str) -> dict[str, Point]:
    values = zip(rows["method"], rows[measure], rows[f"{measure}_low"], rows[f"{measure}_high"], strict=True)
    return {method: Point(value, low, high) for method, value, low, high in values}


def _dice_series(rows: pd.DataFrame) -> list[Series]:
    """One per number of shots; zero-shot, the same with any, is in the first alone."""
    series: list[Series] = []
    for _, group in rows.groupby("shots"):
        points = {method: point for method, point in _points(group, "Dice").items() if method != ZERO_SHOT or not series}
        published = {row.method: row.published_Dice for row in group.itertuples() if row.method in points and not math.isnan(row.published_Dice)}
        series.append(Series(points, published))
    return series


def _fills(frame: pd.DataFrame) -> str:
    """Which marker means which number of shots."""
    shots = sorted(set(frame.shots))
    if len(shots) < 2:
        return f"All with {shots_name(shots[0])}."
    return "Markers: " + ", ".join(f"{FILL_NAMES[i % len(FILL_NAMES)]} with {shots_name(k)}" for i, k in enumerate(shots)) + "."


def _range(counts: pd.Series) -> str:
    known = sorted({int(count) for count in counts.dropna()})
    return str(known[0]) if len(known) == 1 else f"{known[0]} to {known[-1]}"


def _dice_table(rows: pd.DataFrame, methods: Sequence[str], shots: int) -> Table:
    """The paper's table: methods x structures."""
    columns = columns_of(rows)
    found = {(row.method, row.kind, row.structure): row for row in rows.itertuples()}
    body = [[Cell(method), *(dice_cell(found.get((method, *column))) for column in columns)] for method in methods if method in set(rows.method)]
    folds = rows[rows.method != ZERO_SHOT].folds
    over = f" and {_range(folds)} fold{'' if set(folds) == {1} else 's'}" if len(folds) else ""
    dash = " A dash: not measured; zero-shot has only structures of the pre-training." if any(c.text == ABSENT for row in body for c in row) else ""
    caption = f"{shots_name(shots)}: mean Dice over {_range(rows.cases)} query cases per structure{over}, with its 95 % interval.{dash}"
    return Table(caption, ["method", *(column_name(*column) for column in columns)], body)


def _long_table(summary: pd.DataFrame, methods: Sequence[str]) -> Table:
    """Every number of the plots and the two other scores."""
    body = []
    for row in _ordered(summary, methods):
        head = [column_name(row.kind, row.structure), str(row.shots), row.method, str(int(row.cases)), str(int(row.folds))]
        dice = [number(row.Dice), interval(row.Dice_low, row.Dice_high), number(row.published_Dice)]
        body.append([*head, *dice, number(row.NSD_2mm), number(row.HD95_mm, 1), str(int(row.missed)), f"{row.failed_fits} of {row.fits}"])
    caption = (
        "The numbers of the plots and two scores of the surface: NSD is the share of both surfaces within 2 mm of the other one, "
        "HD95 the 95th percentile of the distance between them in mm, over the segmentations that are not empty; missed: those that are. "
        "Failed: adaptations that did not learn; all scores are of the others."
    )
    head = ["structure", "shots", "method", "cases", "folds", "Dice", "95 % interval", "published", "NSD 2 mm", "HD95, mm", "missed", "failed"]
    return Table(caption, head, body)


def _test_table(tests: pd.DataFrame, methods: Sequence[str], caption: str) -> Table:
    body = []
    for row in _ordered(tests, methods):
        head = [column_name(row.kind, row.structure), str(row.shots), row.method, str(int(row.cases))]
        difference = Cell(signed(row.difference), (interval(row.difference_low, row.difference_high, sign=True),))
        body.append([*head, number(row.arena_Dice), number(row.method_Dice), difference, p_value(row.p), p_value(row.holm_p), row.verdict])
    return Table(caption, ["structure", "shots", "against", "cases", "ARENA", "method", "difference", "p", "p (Holm)", "in words"], body)


def _ordered(frame: pd.DataFrame, methods: Sequence[str]) -> list[Any]:
    """Rows by structure, shots and method."""
    columns = columns_of(frame)
    return sorted(frame.itertuples(), key=lambda row: (columns.index((row.kind, row.structure)), row.shots, methods.index(row.method)))
