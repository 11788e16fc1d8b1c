"""The tables as Markdown, for people."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from arena_pipeline.research.compare.published import ZERO_SHOT
from arena_pipeline.research.compare.statistics import FEWEST_CASES, FEWEST_FOLDS, fewest_folds, interval_meaning
from arena_pipeline.research.compare.tables import REFERENCE, column_names

NONE = "-"


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table; a | inside a cell is escaped."""
    lines = [header, ["---"] * len(header), *rows]
    return "".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |\n" for line in lines)


def mean_with_interval(mean: float, low: float, high: float) -> str:
    """0.812 [0.790, 0.830]; the mean alone without an interval."""
    if pd.isna(mean):
        return NONE
    return f"{mean:.3f}" if pd.isna(low) else f"{mean:.3f} [{low:.3f}, {high:.3f}]"


def dice_markdown(summary: pd.DataFrame, shots: int, source: str) -> str:
    """Methods x structures with intervals, and the published figure in brackets where there is one."""
    here = summary[summary["shots"] == shots].assign(column=column_names)
    columns = list(here["column"].unique())
    rows = []
    for method, of_method in here.groupby("method", sort=False):
        cells = {row.column: _dice_cell(row) for row in of_method.itertuples()}
        rows.append([method, *(cells.get(column, NONE) for column in columns)])
    meaning = interval_meaning(fewest_folds(here.loc[here["method"] != ZERO_SHOT, "folds"]))
    notes = f"Mean Dice over the folds and query cases, with its 95 % interval {meaning}. An average is over the structures of its kind.\n"
    if here["failed_fits"].any():
        notes += "Adaptations that failed are counted beside the Dice, which is that of the others.\n"
    if here["published_Dice"].notna().any():
        notes += f"In brackets: the published figure ({source}).\n"
    return f"# Dice, {shots} shots\n\n{markdown_table(['method', *columns], rows)}\n{notes}"


def _dice_cell(row: object) -> str:
    mean, low, high, published = (getattr(row, name) for name in ("Dice", "Dice_low", "Dice_high", "published_Dice"))
    failed, fits = (int(getattr(row, name)) for name in ("failed_fits", "fits"))
    lost = f"; {failed} of {fits} failed" if failed else ""
    return mean_with_interval(mean, low, high) + ("" if pd.isna(published) else f" ({published:.3f})") + lost


def contrasts_markdown(tests: pd.DataFrame) -> str:
    """ARENA against each method."""
    rows = [
        [r.shots, r.structure if r.structure != "average" else f"{r.kind} average", r.method, r.cases, r.folds,
         mean_with_interval(r.difference, r.difference_low, r.difference_high), _p(r.p), _p(r.holm_p), r.verdict]
        for r in tests.itertuples()
    ]  # fmt: skip
    header = ["shots", "structure", "method", "cases", "folds", f"Dice of {REFERENCE} minus method's", "p", "p (Holm)", "verdict"]
    meaning = interval_meaning(fewest_folds(tests["folds"]))
    notes = (
        f"Differences are paired by fold and case, with their 95 % interval {meaning}. p: two-sided, from the same\n"
        "t statistic; Holm's correction is over the methods of a row's shots and structure. A verdict needs the corrected p below 0.05, at least\n"
        f"{FEWEST_FOLDS} folds and {FEWEST_CASES} cases; it is about fits that did not fail.\n"
    )
    return f"# {REFERENCE} against the others\n\n{markdown_table(header, rows)}\n{notes}"


def ranks_markdown(ranks: pd.DataFrame) -> str:
    """Dice against the initial rank."""
    rows = [
        [r.shots, r.structure if r.structure != "average" else f"{r.kind} average", r.method, r.rank,
         mean_with_interval(r.Dice, r.Dice_low, r.Dice_high), f"{r.effective_rank:.1f} of {r.allocated_rank:.0f}", f"{r.trained_parameters:,.0f}"]
        for r in ranks.itertuples()
    ]  # fmt: skip
    header = ["shots", "structure", "method", "rank", "Dice", "effective rank, sum over the layers", "trained parameters"]
    meaning = interval_meaning(fewest_folds(ranks["folds"]))
    return f"# Dice against the initial rank\n\n{markdown_table(header, rows)}\nMeans over folds; Dice with its 95 % interval {meaning}.\n"


def efficiency_markdown(efficiency: pd.DataFrame) -> str:
    """Dice beside its cost."""
    rows = [
        [r.shots, r.structure if r.structure != "average" else f"{r.kind} average", r.method, mean_with_interval(r.Dice, r.Dice_low, r.Dice_high),
         _number(r.trained_parameters), _number(r.seconds), _number(r.epochs), _number(r.peak_memory_mib)]
        for r in efficiency.itertuples()
    ]  # fmt: skip
    header = ["shots", "structure", "method", "Dice", "trained parameters", "seconds of adaptation", "epochs", "peak memory, MiB"]
    return f"# Dice and its cost\n\n{markdown_table(header, rows)}\nMeans over the runs; peak memory is the highest of them.\n"


def _number(value: float) -> str:
    return NONE if pd.isna(value) else f"{value:,.0f}"


def _p(value: float) -> str:
    return NONE if pd.isna(value) else "< 0.001" if value < 0.001 else f"{value:.3f}"
