"""The tables of a comparison, from its runs: one row per method, rank, shots, structure, fold and case (`RUN_COLUMNS`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from arena_pipeline.research.compare.published import AVERAGE, ZERO_SHOT
from arena_pipeline.research.compare.statistics import Estimate, estimate, holm, overall_mean, verdict

REFERENCE = "arena"
"""The method that all others are tested against."""

RUN_COLUMNS = (
    "method", "rank", "default_rank", "shots", "kind", "task", "structure", "fold", "failed", "case", "status", "Dice", "NSD_1mm", "NSD_2mm",
    "HD95_mm", "epochs", "stop_reason", "final_loss", "seconds", "predict_seconds", "peak_memory_mib", "trained_parameters", "effective_rank",
    "allocated_rank", "folder",
)  # fmt: skip
WHOLE_NUMBERS = ("rank", "epochs", "trained_parameters", "effective_rank", "allocated_rank")
SUMMARY_COLUMNS = (
    "shots", "method", "kind", "structure", "cases", "folds", "Dice", "Dice_low", "Dice_high", "NSD_2mm", "HD95_mm", "missed",
    "failed_fits", "fits", "published_Dice",
)  # fmt: skip
DIFFERENCE_COLUMNS = ("shots", "kind", "structure", "fold", "case", "method", "arena_Dice", "method_Dice", "difference")
TEST_COLUMNS = (
    "shots", "kind", "structure", "method", "cases", "folds", "arena_Dice", "method_Dice", "difference", "difference_low", "difference_high",
    "p", "holm_p", "verdict",
)  # fmt: skip
RANK_COLUMNS = (
    "method", "shots", "kind", "structure", "rank", "cases", "folds", "Dice", "Dice_low", "Dice_high", "effective_rank", "allocated_rank",
    "trained_parameters",
)  # fmt: skip
EFFICIENCY_COLUMNS = (
    "shots", "method", "rank", "kind", "structure", "Dice", "Dice_low", "Dice_high", "trained_parameters", "seconds", "epochs", "peak_memory_mib",
)  # fmt: skip

Published = Callable[[int, str, Sequence[str]], float | None]


@dataclass(frozen=True)
class Group:
    """One structure, or ("average") all those of a kind."""

    kind: str
    structure: str
    members: tuple[str, ...]


def runs_table(rows: Sequence[dict[str, object]]) -> pd.DataFrame:
    """The runs as a table with the right types, in the order given; a row without `failed` did not fail."""
    table = pd.DataFrame(rows, columns=list(RUN_COLUMNS)).astype(dict.fromkeys(WHOLE_NUMBERS, "Int64"))
    return table.assign(failed=table["failed"].astype("boolean").fillna(False).astype(bool))


def groups(runs: pd.DataFrame) -> list[Group]:
    """Every structure, base ones first; after several structures of a kind their average."""
    found = []
    for kind in ("base", "novel"):
        members = tuple(runs.loc[runs["kind"] == kind, "structure"].unique())
        found += [Group(kind, structure, (structure,)) for structure in members]
        if len(members) > 1:
            found.append(Group(kind, AVERAGE, members))
    return found


def shots_of(runs: pd.DataFrame) -> list[int]:
    """The numbers of shots, ascending; zero-shot's 0 only where nothing else was run."""
    found = sorted(runs["shots"].unique())
    return [int(shots) for shots in found if shots] or [int(shots) for shots in found]


def summary_table(runs: pd.DataFrame, published: Published) -> pd.DataFrame:
    """Mean Dice with its interval per shots, method and structure; an average only where the method has all its structures.

    Scores are those of the fits that succeeded; a column counts those that failed. Where all fits of a structure failed there is no score.
    """
    rows = []
    for shots, method, group, cells in _cells(runs):
        fitted = score_array(cells, group, "Dice")
        others = {measure: overall_mean(score_array(cells, group, measure)) for measure in ("NSD_2mm", "HD95_mm")}
        figure = published(shots, method, group.members)
        names = {"shots": shots, "method": method, "kind": group.kind, "structure": group.structure}
        fits = _per_run(cells[cells["method"] != ZERO_SHOT])["failed"]
        counts = {"missed": int((cells["status"] == "missed").sum()), "failed_fits": int(fits.sum()), "fits": len(fits)}
        rows.append(names | _named("Dice", estimate(fitted)) | others | counts | {"published_Dice": np.nan if figure is None else figure})
    return pd.DataFrame(rows, columns=list(SUMMARY_COLUMNS))


def difference_table(runs: pd.DataFrame) -> pd.DataFrame:
    """ARENA minus every other method, per fold and case. Those without a score of both are left out, and so are fits that failed."""
    main = runs[runs["default_rank"] & ~runs["failed"]]
    tables = []
    for shots in shots_of(main):
        of_shots = main[main["shots"] == shots]
        arena = of_shots.loc[of_shots["method"] == REFERENCE, ["kind", "structure", "case", "fold", "Dice"]]
        for method in [name for name in main["method"].unique() if name != REFERENCE]:
            other = (main if method == ZERO_SHOT else of_shots).loc[lambda table, name=method: table["method"] == name]
            keys = ["structure", "case"] if method == ZERO_SHOT else ["structure", "case", "fold"]
            pairs = arena.merge(other[[*keys, "Dice"]], on=keys, suffixes=("_arena", "_method")).dropna(subset=["Dice_arena", "Dice_method"])
            tables.append(pairs.rename(columns={"Dice_arena": "arena_Dice", "Dice_method": "method_Dice"}).assign(shots=shots, method=method))
    if not tables:
        return pd.DataFrame(columns=list(DIFFERENCE_COLUMNS))
    table = pd.concat(tables, ignore_index=True)
    return table.assign(difference=table["arena_Dice"] - table["method_Dice"])[list(DIFFERENCE_COLUMNS)]


def contrast_table(differences: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """ARENA against each method: the mean difference with its interval, its p, and Holm's correction over the methods."""
    rows: list[dict[str, object]] = []
    for shots, of_shots in differences.groupby("shots", sort=True):
        for group in groups(runs[runs["shots"] == shots]):
            family = [(str(method), cells) for method, cells in _methods_with(of_shots, group)]
            found = [estimate(score_array(cells, group, "difference")) for _, cells in family]
            for (method, cells), difference, corrected in zip(family, found, holm([one.p for one in found]), strict=True):
                outcome = verdict(difference, corrected)
                words = {"better": f"{REFERENCE} is better", "worse": f"{method} is better"}.get(outcome, outcome)
                names = {"shots": shots, "kind": group.kind, "structure": group.structure, "method": method}
                means = {name: overall_mean(score_array(cells, group, name)) for name in ("arena_Dice", "method_Dice")}
                tests = {"p": difference.p, "holm_p": corrected, "verdict": words}
                rows.append(names | means | _named("difference", difference) | tests)
    return pd.DataFrame(rows, columns=list(TEST_COLUMNS))


def rank_table(runs: pd.DataFrame) -> pd.DataFrame:
    """Dice and effective rank against the initial rank, for the methods and structures that a rank sweep was run on.

    Only the folds of a structure that all its ranks have are used: else support sets would be compared, not ranks.
    """
    rows = []
    swept = runs[~runs["default_rank"]]
    for (method, shots), sweep in swept.groupby(["method", "shots"], sort=False):
        here = runs[(runs["method"] == method) & (runs["shots"] == shots) & runs["structure"].isin(sweep["structure"])]
        ranks = here.groupby(["structure", "fold"])["rank"].transform("nunique")
        here = here[ranks == here.groupby("structure")["rank"].transform("nunique")]
        for group in groups(here):
            for rank in sorted(here["rank"].unique()):
                cells = _of_group(here[here["rank"] == rank], group)
                if cells is not None:
                    names = {"method": method, "shots": shots, "kind": group.kind, "structure": group.structure, "rank": rank}
                    costs = _per_run(cells)[["effective_rank", "allocated_rank", "trained_parameters"]].mean()
                    rows.append(names | _named("Dice", estimate(score_array(cells, group, "Dice"))) | costs.to_dict())
    return pd.DataFrame(rows, columns=list(RANK_COLUMNS))


def efficiency_table(runs: pd.DataFrame) -> pd.DataFrame:
    """Dice beside what it cost: means over the runs of trained parameters, seconds and epochs, and the highest peak memory."""
    rows = []
    for shots, method, group, cells in _cells(runs):
        per_run = _per_run(cells)
        ranks = per_run["rank"].dropna().unique()
        costs = per_run[["trained_parameters", "seconds", "epochs"]].mean().to_dict() | {"peak_memory_mib": per_run["peak_memory_mib"].max()}
        names = {"shots": shots, "method": method, "rank": ranks[0] if len(ranks) else pd.NA, "kind": group.kind, "structure": group.structure}
        rows.append(names | _named("Dice", estimate(score_array(cells, group, "Dice"))) | costs)
    return pd.DataFrame(rows, columns=list(EFFICIENCY_COLUMNS)).astype({"rank": "Int64"})


def dice_table(summary: pd.DataFrame, shots: int) -> pd.DataFrame:
    """The published papers' form: methods x structures, base and novel averages; a row "METHOD (published)" where there are figures."""
    here = summary[summary["shots"] == shots].assign(column=column_names)
    columns, methods = here["column"].unique(), here["method"].unique()
    own = here.pivot(index="method", columns="column", values="Dice").reindex(index=methods, columns=columns)
    figures = here.pivot(index="method", columns="column", values="published_Dice").reindex(index=methods, columns=columns).dropna(how="all")
    figures.index = pd.Index([f"{method} (published)" for method in figures.index], name="method")
    return pd.concat([own, figures]).rename_axis(index="method", columns=None)


def column_names(summary: pd.DataFrame) -> pd.Series:
    """The structure of every row; "base average", "novel average" for the averages."""
    return summary["structure"].where(summary["structure"] != AVERAGE, summary["kind"] + " " + AVERAGE)


def score_array(cells: pd.DataFrame, group: Group, measure: str) -> np.ndarray:
    """(structures of the group, folds, cases) of the fits that did not fail; NaN where a case has no score.

    Where all fits of one structure failed, everything is NaN: an average over the others would hide that.
    """
    fitted = cells[~cells["failed"]] if "failed" in cells else cells
    if set(fitted["structure"]) != set(group.members):
        fitted = fitted.iloc[:0]
    keys = ["structure", "fold", "case"]
    index = pd.MultiIndex.from_product([group.members, fitted["fold"].unique(), fitted["case"].unique()], names=keys)
    shape = (len(group.members), fitted["fold"].nunique(), fitted["case"].nunique())
    return fitted.groupby(keys)[measure].mean().reindex(index).to_numpy(dtype=float).reshape(shape)


def _cells(runs: pd.DataFrame) -> Iterator[tuple[int, str, Group, pd.DataFrame]]:
    """Every shots, method and group that is complete, with its rows; zero-shot under every number of shots."""
    main = runs[runs["default_rank"]]
    for shots in shots_of(main):
        for method in main["method"].unique():
            of_method = main[(main["method"] == method) & ((main["shots"] == shots) | (method == ZERO_SHOT))]
            for group in groups(main[main["shots"] == shots]):
                cells = _of_group(of_method, group)
                if cells is not None:
                    yield shots, str(method), group, cells


def _of_group(cells: pd.DataFrame, group: Group) -> pd.DataFrame | None:
    """The rows of the group's structures; None where one of them has no row, since averages over fewer structures can't be compared."""
    found = cells[(cells["kind"] == group.kind) & cells["structure"].isin(group.members)]
    return found if set(found["structure"]) == set(group.members) else None


def _methods_with(differences: pd.DataFrame, group: Group) -> Iterator[tuple[object, pd.DataFrame]]:
    for method, cells in differences.groupby("method", sort=False):
        found = _of_group(cells, group)
        if found is not None:
            yield method, found


def _per_run(cells: pd.DataFrame) -> pd.DataFrame:
    return cells.drop_duplicates(["method", "rank", "shots", "task", "fold"])


def _named(measure: str, found: Estimate) -> dict[str, object]:
    """The columns of an estimate; the interval of a Dice is cut off at 0 and 1."""
    ends = np.array([found.low, found.high])
    low, high = ends.clip(0, 1) if measure == "Dice" else ends
    return {measure: found.mean, f"{measure}_low": low, f"{measure}_high": high, "cases": found.cases, "folds": found.folds}
