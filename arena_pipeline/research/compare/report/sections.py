"""The sections of the page that have plots: how well the methods segment, what they cost, how they trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from arena_pipeline.model.architectures import layer_label
from arena_pipeline.research.compare.published import AVERAGE, ZERO_SHOT
from arena_pipeline.research.compare.report.parts import (
    ABSENT,
    Plot,
    Section,
    Table,
    dice_cell,
    interval,
    listing,
    number,
    p_value,
    shots_name,
    signed,
)  # fmt: skip
from arena_pipeline.research.compare.report.plots import FILL_NAMES, STYLE, Looks, cost_plot, interval_plot, loss_plot, rank_map, rank_plot
from arena_pipeline.research.compare.statistics import FEWEST_CASES, FEWEST_FOLDS, SIGNIFICANCE, fewest_folds, interval_meaning
from arena_pipeline.research.compare.tables import REFERENCE, column_names

KIND_NAMES = {"base": "Base structures (seen in pre-training)", "novel": "Novel structures (not seen in pre-training)"}
NO_PUBLISHED = "No published figures are shown: there are none for these structures and shots, or your query cases are not the published ones."
TEST_MEANING = (
    "The same folds and query cases under both methods, so the difference is paired: positive means a higher Dice with ARENA. p is two-sided, from "
    "the same t statistic as the interval; p (Holm) is corrected for all methods tested with the same structure and shots.",
    f"A method is called better only where the corrected p is below {SIGNIFICANCE}, and never with fewer than {FEWEST_FOLDS} folds or {FEWEST_CASES} "
    "cases. “No clear difference” means that these folds and cases do not tell the two apart, which is not the same as being equal.",
)
MATRIX_COLUMNS = slice(4, None)
"""The columns of a training log with the rank of one matrix each, after epoch, loss, learning_rate and the sum of the ranks."""
SHRINKING = ("arena", "adalora")
"""Beginnings of the names of methods whose rank may change during training."""

Logs = Mapping[tuple[int, str, str], Sequence[pd.DataFrame]]
"""(shots, task, method) -> the training log of each fold."""


def short_answers(tests: pd.DataFrame) -> list[str]:
    """A sentence per kind and number of shots about ARENA against LoRA, the paper's question; always with the interval."""
    sentences = []
    for row in averages(tests[tests["method"] == "lora"]).itertuples():
        where = KIND_NAMES[row.kind] + ("" if row.structure == AVERAGE else f", {row.structure}")
        start = f"{where}, {shots_name(row.shots)}: ARENA minus LoRA {signed(row.difference)} Dice"
        if pd.isna(row.difference_low):
            sentences.append(f"{start}; {_why_no_interval(tests, row)}.")
        else:
            ends = f"{signed(row.difference_low)} to {signed(row.difference_high)}"
            of = f"{int(row.cases)} query cases, {int(row.folds)} folds"
            sentences.append(f"{start} (95 % interval {ends}, {of}, corrected p {p_value(row.holm_p)}): {row.verdict}.")
    return sentences


def _why_no_interval(tests: pd.DataFrame, row: Any) -> str:
    """For an average, the structures with too few cases are named, since the others may have enough."""
    if row.structure != AVERAGE:
        return f"{_cases(row.cases)} {'is' if row.cases == 1 else 'are'} too few for an interval"
    alike = tests[(tests["method"] == row.method) & (tests["shots"] == row.shots) & (tests["kind"] == row.kind)]
    lacking = alike[(alike["structure"] != AVERAGE) & (alike["cases"] < 2)]
    few = [f"{one.structure} has {_cases(one.cases)}" for one in lacking.itertuples()]
    return f"{', '.join(few)}, too few for an interval" if few else "a structure has too few folds for an interval"


def _cases(count: float) -> str:
    return f"{int(count)} query case{'' if count == 1 else 's'}"


@STYLE
def dice_section(summary: pd.DataFrame, methods: Sequence[str], looks: Looks, source: str) -> Section:
    """Dice of every method: a table per number of shots, a plot per structure."""
    rows = _ordered(summary, methods)
    published = rows["published_Dice"].notna().any()
    folds = rows.loc[rows["method"] != ZERO_SHOT, "folds"]
    meaning = f"In brackets: 95 % interval {interval_meaning(fewest_folds(folds))}. It does not cover other scanners or readers."
    caption = (
        f"Mean Dice with its 95 % interval, {_range(rows['cases'])} query cases per structure; a row per method. {_marker_meaning(rows)}"
        f"{' A bar across is the published figure.' if published else ''} The axes differ: read them before comparing plots."
    )
    numbers = listing(
        "The numbers of the plots and two scores of the surface: NSD is the share of both surfaces within 2 mm of the other one, "
        "HD95 the 95th percentile of the distance between them in mm, over the segmentations that are not empty; missed: the number of empty ones. "
        "Failed: adaptations that did not learn; all scores are those of the others.",
        rows.assign(
            interval=[interval(row.Dice_low, row.Dice_high) for row in rows.itertuples()],
            failed=[f"{row.failed_fits} of {row.fits}" for row in rows.itertuples()],
        ),
        "column shots method cases folds Dice interval published_Dice NSD_2mm HD95_mm missed failed",
    )
    text = (meaning, f"“published” is the figure of {source} for the same query cases." if published else NO_PUBLISHED)
    tables = [_dice_table(group, int(shots)) for shots, group in rows.groupby("shots")]
    return Section("dice", "Dice of every method", text, tables, _interval_plots(rows[rows["Dice"].notna()], "Dice", looks), caption, numbers)


@STYLE
def difference_section(tests: pd.DataFrame, methods: Sequence[str], looks: Looks) -> Section:
    """ARENA minus every other method: averages first, each structure below."""
    title = "ARENA against each method"
    if tests.empty:
        return Section("differences", title, absent="No test: arena and another method are not both among the methods compared.")
    rows = _ordered(tests, methods)
    caption = (
        f"ARENA minus each method: mean difference in Dice with its 95 % interval over {_range(rows['cases'])} query cases and "
        f"{_range(rows['folds'])} folds. {_marker_meaning(rows)} "
        "Right of the line at 0 ARENA is higher, left of it the other method."
    )
    first = _test_table(averages(rows), "The averages over the structures of a kind, or its only structure.")
    every = _test_table(rows, "Every difference of the plots.")
    return Section("differences", title, TEST_MEANING, [first], _interval_plots(rows, "difference", looks), caption, every)


@STYLE
def efficiency_section(efficiency: pd.DataFrame, methods: Sequence[str], looks: Looks) -> Section:
    """Dice against trained parameters and against seconds: a kind's average (or only structure) per number of shots."""
    title = "Dice and what it costs"
    if efficiency.empty or efficiency["seconds"].isna().all():
        return Section("efficiency", title, absent="Nothing was adapted, so there is no cost to compare.")
    rows, plots = _ordered(efficiency, methods), list[Plot]()
    for (column, shots), group in averages(rows).groupby(["column", "shots"], observed=True):
        for quantity, label in (("trained_parameters", "trained parameters"), ("seconds", "seconds per adaptation")):
            known = group[group["Dice"].notna()]
            if (known[quantity].astype(float) > 0).any():
                plots.append(_plot(f"{column}, {shots_name(shots)}", f"Dice against {label}", cost_plot(known, quantity, label, looks)))
    caption = (
        "Mean Dice with its 95 % interval, against the number of trained parameters and against the seconds of one "
        "adaptation (logarithmic axes; means over structures and folds). Upper left is good and cheap. Seconds hold for the machine named below, "
        "and for the number of runs that were made at once."
    )
    told = "Means over folds (and structures, in the averages); peak memory is the highest of them."
    numbers = listing(told, rows, "column shots method dice_cell trained_parameters seconds epochs peak_memory_mib")
    return Section("efficiency", title, plots=plots, caption=caption, numbers=numbers)


@STYLE
def rank_section(ranks: pd.DataFrame, methods: Sequence[str], looks: Looks) -> Section:
    """Dice against the initial rank, as Fig. 1(a) of the paper."""
    title = "How much the initial rank matters"
    if ranks.empty:
        return Section("ranks", title, absent="No rank sweep was run; arena_compare --ranks 2 4 8 32 64 makes one.")
    rows = _ordered(ranks, methods, "rank")
    plots = [
        _plot(f"{column}, {shots_name(shots)}", "Dice against the initial rank", rank_plot(group, group[group["method"] == REFERENCE], looks))
        for (column, shots), group in rows.groupby(["column", "shots"], observed=True)
    ]
    caption = (
        "Above: mean Dice with its 95 % interval, against the rank that a method is given at the start (ranks "
        "equally far apart, the methods' points side by side). Below: what ARENA has kept of it after adaptation, in percent, and above each "
        "bar its effective rank summed over all matrices (mean over folds)."
    )
    columns = "column shots method rank cases dice_cell effective_rank allocated_rank trained_parameters"
    numbers = listing("Effective and allocated rank are summed over all matrices, means over folds.", rows, columns)
    return Section("ranks", title, plots=plots, caption=caption, numbers=numbers)


@STYLE
def loss_section(logs: Logs, methods: Sequence[str], looks: Looks) -> Section:
    """The training loss of every method, a plot per structure and number of shots."""
    title = "Training loss"
    if not logs:
        return Section("loss", title, absent="No training logs were found.")
    plots, body = [], []
    for shots, task in dict.fromkeys((shots, task) for shots, task, _ in logs):
        curves = {method: mean_over_folds(logs[shots, task, method], ["loss"])[0] for method in methods if (shots, task, method) in logs}
        plots.append(_plot(f"{task}, {shots_name(shots)}", "loss over epochs", loss_plot(curves, looks)))
        for method, losses in curves.items():
            ends = ", ".join(str(len(log)) for log in logs[shots, task, method])
            body.append([task, str(shots), method, number(losses[0]), number(losses[-1]), ends])
    caption = (
        "Soft Dice loss on the support volumes per epoch, mean over the folds; a fold that stopped early keeps its last value, and a line ends "
        "where its longest fold ended. This is what a method was trained on, not how well it segments new cases."
    )
    head = ["structure", "shots", "method", "first epoch", "last", "epochs of each fold"]
    numbers = Table("Ends of the curves; every epoch is in the training_log.csv beside each adapter.", head, body)
    return Section("loss", title, plots=plots, caption=caption, numbers=numbers)


@STYLE
def rank_map_sections(logs: Logs) -> list[Section]:
    """Effective rank per matrix over the epochs, a section per method whose rank changes; ARENA's first."""
    title = "Effective rank during training"
    methods = list(dict.fromkeys(method for _, _, method in logs))
    moving = [method for method in methods if any(_rank_changes(log) for (*_, name), folds in logs.items() if name == method for log in folds)]
    if not moving:
        return [Section("rank-maps", title, absent=_why_no_rank_changed(logs))]
    still = [name for name in methods if name not in moving]
    text = [f"Not shown, because they have no rank or keep all of it: {', '.join(still)}."] if still else []
    sections = []
    for place, method in enumerate(sorted(moving, key=lambda method: method != REFERENCE)):
        plots, body = [], []
        for (shots, task, name), folds in logs.items():
            if name == method:
                layers = list(folds[0].columns[MATRIX_COLUMNS])
                names, ranks = [layer_label(layer) for layer in layers], mean_over_folds(folds, layers)
                allocated = max(int(log[layers].to_numpy().max()) for log in folds)
                plots.append(_plot(f"{task}, {shots_name(shots)}", "effective rank over epochs", rank_map(names, ranks, allocated)))
                body += [[task, str(shots), label, number(own[0], 1), number(own[-1], 1)] for label, own in zip(names, ranks, strict=True)]
        caption = (
            f"{method}: the effective rank of each updated matrix (row) over the epochs (columns), mean over the folds; a fold that stopped early "
            "keeps its last value. Yellow is all of the rank that was allocated, dark blue none."
        )
        numbers = Table("Ends of the maps.", ["structure", "shots", "matrix", "first epoch", "last"], body)
        where = f"rank-maps-{place}" if place else "rank-maps"
        sections.append(Section(where, f"{title}: {method}", text, (), plots, caption, numbers))
    return sections


def averages(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of each kind's average, or of its structure where there is only one."""
    average = table["structure"] == AVERAGE
    return table[average | ~average.groupby([table["shots"], table["kind"]]).transform("any")]


def mean_over_folds(folds: Sequence[pd.DataFrame], columns: Sequence[str]) -> np.ndarray:
    """(columns, epochs of the longest fold): the mean over the folds, a shorter one continued with its last row."""
    longest = max(len(log) for log in folds)
    stacked = [np.pad(log[list(columns)].to_numpy(dtype=float), ((0, longest - len(log)), (0, 0)), mode="edge") for log in folds]
    return np.asarray(np.mean(stacked, axis=0).T)


def _ordered(frame: pd.DataFrame, methods: Sequence[str], *then: str) -> pd.DataFrame:
    """Sorted by structure (each kind's average after its structures), shots and method; the new `column` names the structure or average."""
    frame = frame.assign(column=column_names, average=frame["structure"] == AVERAGE).sort_values(["kind", "average"], kind="stable")
    column, method = pd.Categorical(frame["column"], frame["column"].unique()), pd.Categorical(frame["method"], methods)
    if "Dice" in frame:
        frame = frame.assign(dice_cell=[dice_cell(row) for row in frame.itertuples()])
    return frame.assign(column=column, method=method).sort_values(["column", "shots", "method", *then])


def _plot(title: str, what: str, picture: str) -> Plot:
    return Plot(title, picture, f"{title}: {what}; the numbers are in the table")


def _interval_plots(rows: pd.DataFrame, measure: str, looks: Looks) -> list[Plot]:
    groups = rows.groupby("column", observed=True)
    return [_plot(str(name), f"{measure} of each method", interval_plot(group, measure, looks)) for name, group in groups]


def _marker_meaning(frame: pd.DataFrame) -> str:
    """Which marker means which number of shots."""
    shots = sorted(set(frame["shots"]))
    if len(shots) < 2:
        return f"All with {shots_name(shots[0])}."
    return "Markers: " + ", ".join(f"{FILL_NAMES[i % len(FILL_NAMES)]} with {shots_name(k)}" for i, k in enumerate(shots)) + "."


def _range(counts: pd.Series) -> str:
    known = sorted({int(count) for count in counts.dropna()})
    return str(known[0]) if len(known) == 1 else f"{known[0]} to {known[-1]}"


def _dice_table(rows: pd.DataFrame, shots: int) -> Table:
    """The paper's table: methods x structures."""
    cells = rows.pivot(index="method", columns="column", values="dice_cell").astype(object).dropna(how="all").fillna(ABSENT)
    folds = rows.loc[(rows["method"] != ZERO_SHOT) & (rows["folds"] > 0), "folds"]  # none where all fits failed, as the cell says
    over = f" and {_range(folds)} fold{'' if set(folds) == {1} else 's'}" if len(folds) else ""
    dash = " A dash: not measured; zero-shot has only structures of the pre-training." if (cells == ABSENT).any(axis=None) else ""
    caption = f"{shots_name(shots)}: mean Dice over {_range(rows['cases'])} query cases per structure{over}, with its 95 % interval.{dash}"
    body = [[str(method), *line] for method, line in zip(cells.index, cells.to_numpy(), strict=True)]
    return Table(caption, ["method", *map(str, cells.columns)], body)


def _test_table(rows: pd.DataFrame, caption: str) -> Table:
    cells = [f"{signed(row.difference)}\n{interval(row.difference_low, row.difference_high, signed)}" for row in rows.itertuples()]
    columns = "column shots method cases arena_Dice method_Dice difference_cell p holm_p verdict"
    return listing(caption, rows.assign(difference_cell=cells), columns, method="against", method_Dice="method")


def _why_no_rank_changed(logs: Logs) -> str:
    """A sentence: no method here can change its rank, or the schedule was too short for a change."""
    epochs = [len(log) for (_, _, method), folds in logs.items() if method.startswith(SHRINKING) for log in folds]
    if not epochs:
        return "Nothing to show: no method here has a rank that changes during training."
    return f"Nothing to show: no rank had changed when the adaptations ended, after at most {max(epochs)} epoch{'' if max(epochs) == 1 else 's'}."


def _rank_changes(log: pd.DataFrame) -> bool:
    ranks = log[log.columns[MATRIX_COLUMNS]].to_numpy()
    return bool(ranks.size and (ranks != ranks[0]).any())
