"""The sections about the runs themselves: what they cost, how the initial rank matters, how they trained."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from arena_pipeline.model.architectures import layer_label
from arena_pipeline.research.compare.published import ZERO_SHOT
from arena_pipeline.research.compare.report.dice_sections import averages, column_name, columns_of, dice_cell, shots_name
from arena_pipeline.research.compare.report.parts import Cell, Figure, LegendEntry, Panel, Section, Table, number, whole
from arena_pipeline.research.compare.report.plots import Looks, Point, loss_plot, rank_map, rank_plot, scatter_plot, swatch
from arena_pipeline.research.compare.tables import REFERENCE

TABLE_EPOCHS = 9
MATRIX_COLUMNS = slice(4, None)
"""Of a training log: after epoch, loss, learning_rate and the sum of the ranks."""
SHRINKING = ("arena", "adalora")
"""Methods, by how their names begin, whose rank may change during training."""
EVERY_EPOCH = "every epoch is in the training_log.csv beside each adapter"

Logs = Mapping[tuple[int, str, str], Sequence[pd.DataFrame]]
"""(shots, task, method) -> the training log of each fold."""


def efficiency_section(efficiency: pd.DataFrame, methods: Sequence[str], looks: Looks) -> Section:
    """Dice against trained parameters and against seconds: a kind's average (or only structure) per number of shots."""
    title = "Dice and what it costs"
    costly = efficiency[efficiency.seconds.notna()] if len(efficiency) else efficiency
    if costly.empty:
        return Section("efficiency", title, figures=[Figure(absent="Nothing was adapted, so there is no cost to compare.")])
    panels = []
    for place, ((kind, structure, shots), rows) in enumerate(averages(efficiency).groupby(["kind", "structure", "shots"], sort=False)):
        name = f"{column_name(kind, structure)}, {shots_name(shots)}"
        level = next(((ZERO_SHOT, row.Dice) for row in rows.itertuples() if row.method == ZERO_SHOT and not math.isnan(row.Dice)), None)
        for quantity, label in (("trained_parameters", "trained parameters"), ("seconds", "seconds per adaptation")):
            there = rows[(rows[quantity].astype(float) > 0) & rows.Dice.notna()]
            points = {row.method: (float(getattr(row, quantity)), _dice_point(row)) for row in there.itertuples()}
            if points:
                panels.append(Panel(name, scatter_plot(f"cost{place}{quantity[:4]}", name, label, points, looks, level)))
    caption = (
        "Mean Dice with its 95 % interval, against the number of trained parameters and against the seconds of one "
        "adaptation (logarithmic axes; means over structures and folds). Upper left is good and cheap. Seconds hold for the machine named below, "
        "and for as many runs side by side as there were."
    )
    columns = columns_of(efficiency)
    ordered = sorted(efficiency.itertuples(), key=lambda row: (row.shots, columns.index((row.kind, row.structure)), methods.index(row.method)))
    body: list[list[Cell | str]] = []
    for row in ordered:
        cost = [whole(row.trained_parameters), number(row.seconds, 1), number(row.epochs, 1), whole(row.peak_memory_mib)]
        body.append([column_name(row.kind, row.structure), str(row.shots), row.method, dice_cell(row), *cost])
    head = ["structure", "shots", "method", "Dice", "trained parameters", "seconds", "epochs", "peak memory, MiB"]
    table = Table("Means over folds (and structures, in the averages); peak memory is the highest of them.", head, body)
    key = _legend("cost-key", [method for method in methods if method in set(costly.method)], looks)
    return Section("efficiency", title, figures=[Figure(caption, panels, key, table, wide=True)])


def rank_section(ranks: pd.DataFrame, looks: Looks) -> Section:
    """Dice against the initial rank, as Fig. 1(a) of the paper."""
    title = "How much the initial rank matters"
    if ranks.empty:
        return Section("ranks", title, figures=[Figure(absent="No rank sweep was run; arena_compare --ranks 2 4 8 32 64 makes one.")])
    panels = []
    for place, ((shots, kind, structure), rows) in enumerate(ranks.sort_values("rank").groupby(["shots", "kind", "structure"], sort=False)):
        lines = {method: {int(row.rank): _dice_point(row) for row in group.itertuples()} for method, group in rows.groupby("method", sort=False)}
        effective = {int(row.rank): (row.effective_rank, row.allocated_rank) for row in rows[rows.method == REFERENCE].itertuples()}
        name = f"{column_name(kind, structure)}, {shots_name(shots)}"
        allotted = sorted({int(rank) for rank in rows["rank"]})
        panels.append(Panel(name, rank_plot(f"rank{place}", name, allotted, lines, effective, looks)))
    caption = (
        "Above: mean Dice with its 95 % interval, against the rank that a method is given at the start (ranks "
        "equally far apart, the methods' points side by side). Below: what ARENA has kept of it after adaptation, in percent, and above each "
        "bar its effective rank summed over all matrices (mean over folds)."
    )
    body: list[list[Cell | str]] = []
    for row in ranks.itertuples():
        kept = [number(row.effective_rank, 1), whole(row.allocated_rank), whole(row.trained_parameters)]
        head = [column_name(row.kind, row.structure), str(row.shots), row.method, str(int(row.rank)), str(int(row.cases))]
        body.append([*head, dice_cell(row), *kept])
    columns = ["structure", "shots", "method", "initial rank", "cases", "Dice", "effective rank", "allocated rank", "trained parameters"]
    table = Table("Effective and allocated rank are summed over all matrices, means over folds.", columns, body)
    return Section("ranks", title, figures=[Figure(caption, panels, _legend("rank-key", list(dict.fromkeys(ranks.method)), looks), table)])


def loss_section(logs: Logs, methods: Sequence[str], looks: Looks) -> Section:
    """The training loss of every method, a plot per structure and number of shots."""
    title = "Training loss"
    if not logs:
        return Section("loss", title, figures=[Figure(absent="No training logs were found.")])
    panels, body = [], []
    shown = _shown_epochs(logs)
    for place, (shots, task) in enumerate(dict.fromkeys((shots, task) for shots, task, _ in logs)):
        curves = {method: mean_over_folds(logs[shots, task, method], ["loss"])[0] for method in methods if (shots, task, method) in logs}
        name = f"{task}, {shots_name(shots)}"
        panels.append(Panel(name, loss_plot(f"loss{place}", name, curves, looks)))
        for method, losses in curves.items():
            ends = ", ".join(str(len(log)) for log in logs[shots, task, method])
            body.append([task, str(shots), method, *_at(losses, shown, 3), ends])
    caption = (
        "Soft Dice loss on the support volumes per epoch, mean over the folds; a fold that stopped early keeps its last value, and a line ends "
        "where its longest fold ended. This is what a method was trained on, not how well it segments new cases."
    )
    head = ["structure", "shots", "method", *(f"epoch {epoch}" for epoch in shown), "last", "epochs of each fold"]
    table = Table(f"The curves at some epochs; {EVERY_EPOCH}.", head, body)
    key = _legend("loss-key", [name for name in methods if any(name == method for _, _, method in logs)], looks)
    return Section("loss", title, figures=[Figure(caption, panels, key, table)])


def rank_map_section(logs: Logs) -> Section:
    """Effective rank per matrix over the epochs, of the methods whose rank changes; ARENA's first."""
    title = "Effective rank during training"
    moving = {key: folds for key, folds in logs.items() if any(_rank_changes(log) for log in folds)}
    if not moving:
        return Section("rank-maps", title, figures=[Figure(absent=_why_no_rank_changed(logs))])
    methods = sorted(dict.fromkeys(method for _, _, method in moving), key=lambda method: method != REFERENCE)
    figures = []
    for place, method in enumerate(methods):
        own = {(shots, task): folds for (shots, task, name), folds in moving.items() if name == method}
        figures.append(_rank_figure(f"map{place}", method, own, folded=place > 0))
    still = [name for name in dict.fromkeys(method for _, _, method in logs) if name not in methods]
    text = f"Not shown, because they have no rank or keep all of it: {', '.join(still)}." if still else ""
    return Section("rank-maps", title, [text] if text else [], figures=figures)


def _why_no_rank_changed(logs: Logs) -> str:
    """Of methods whose rank is fixed, and of those whose rank could have changed in a longer schedule."""
    epochs = [len(log) for (_, _, method), folds in logs.items() if method.startswith(SHRINKING) for log in folds]
    if not epochs:
        return "Nothing to show: no method here has a rank that changes during training."
    return f"Nothing to show: no rank had changed when the adaptations ended, after at most {max(epochs)} epoch{'' if max(epochs) == 1 else 's'}."


def _rank_figure(name: str, method: str, runs: Mapping[tuple[int, str], Sequence[pd.DataFrame]], folded: bool) -> Figure:
    panels, body = [], []
    shown = _shown_epochs(runs)
    for place, ((shots, task), folds) in enumerate(runs.items()):
        layers = list(folds[0].columns[MATRIX_COLUMNS])
        ranks = mean_over_folds(folds, layers)
        title = f"{task}, {shots_name(shots)}"
        allocated = max(int(log[layers].to_numpy().max()) for log in folds)
        panels.append(Panel(title, rank_map(f"{name}-{place}", f"{method}, {title}", [layer_label(layer) for layer in layers], ranks, allocated)))
        body += [[task, str(shots), layer_label(layer), *_at(values, shown, 1)] for layer, values in zip(layers, ranks, strict=True)]
    caption = (
        f"{method}: the effective rank of each updated matrix (row) over the epochs (columns), mean over the folds; a fold that stopped early "
        "keeps its last value. Yellow is all of the rank that was allocated, dark blue none."
    )
    head = ["structure", "shots", "matrix", *(f"epoch {epoch}" for epoch in shown), "last"]
    table = Table(f"The maps at some epochs; {EVERY_EPOCH}.", head, body)
    return Figure(caption, panels, (), table, folded=f"{method}: {len(panels)} map{'' if len(panels) == 1 else 's'}" if folded else "")


def mean_over_folds(folds: Sequence[pd.DataFrame], columns: Sequence[str]) -> np.ndarray:
    """(columns, epochs of the longest fold): the mean over the folds, a shorter one continued with its last row."""
    longest = max(len(log) for log in folds)
    stacked = [np.pad(log[list(columns)].to_numpy(dtype=float), ((0, longest - len(log)), (0, 0)), mode="edge") for log in folds]
    return np.asarray(np.mean(stacked, axis=0).T)


def _dice_point(row: object) -> Point:
    return Point(*(float(getattr(row, name)) for name in ("Dice", "Dice_low", "Dice_high")))


def _legend(name: str, methods: Sequence[str], looks: Looks) -> list[LegendEntry]:
    return [LegendEntry(method, swatch(f"{name}{place}", looks[method])) for place, method in enumerate(methods)]


def _shown_epochs(runs: Mapping[tuple[int, str], Sequence[pd.DataFrame]] | Logs) -> list[int]:
    """Up to TABLE_EPOCHS epochs from the first to the last, equally far apart."""
    longest = max(len(log) for folds in runs.values() for log in folds)
    return sorted({round(place) for place in np.linspace(0, longest - 1, min(TABLE_EPOCHS, longest))})


def _at(values: np.ndarray, epochs: Sequence[int], digits: int) -> list[str]:
    """The values at these epochs, empty after the end, then the last one."""
    return [*(number(values[epoch], digits) if epoch < len(values) else "" for epoch in epochs), number(values[-1], digits)]


def _rank_changes(log: pd.DataFrame) -> bool:
    ranks = log[log.columns[MATRIX_COLUMNS]].to_numpy()
    return bool(ranks.size and (ranks != ranks[0]).any())
