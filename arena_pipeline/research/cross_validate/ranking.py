"""Ranks foundations and methods by leave-one-out on a person's own scans, and tells which differences mean anything."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from arena_pipeline.model.expected import scans_in_words
from arena_pipeline.research.compare.statistics import SIGNIFICANCE, Estimate, estimate, holm

RANKING_COLUMNS = ("foundation", "method", "Dice", "failed_fits", "behind", "behind_low", "behind_high", "p", "holm_p", "verdict")
FIRST, WORSE = "first", "worse than the first"


def ranking(scans: pd.DataFrame) -> pd.DataFrame:
    """A row per foundation and method, highest mean Dice first, from a row per structure, foundation, method and left-out scan.

    `behind`: how much higher the first one's Dice is, the mean over scans of the paired differences, with its 95 % interval, p, and p corrected by
    Holm. A fit that failed counts as a Dice of 0. A foundation and method that were not tried on every structure have no row.
    """
    cells = scans.assign(Dice=scans["Dice"].astype(float).mask(scans["failed"].astype(bool), 0.0))
    tables = {
        option: own.pivot(index="structure", columns="case", values="Dice")
        for option, own in cells.groupby(["foundation", "method"], sort=False)
        if set(own["structure"]) == set(cells["structure"])
    }
    means = {option: _over_scans(table).mean for option, table in tables.items()}
    order = sorted((option for option in tables if not math.isnan(means[option])), key=lambda option: -means[option])
    if not order:
        return pd.DataFrame(columns=list(RANKING_COLUMNS))
    behind = [_over_scans(tables[order[0]] - tables[option]) for option in order[1:]]
    corrected = holm([one.p for one in behind])
    failed = scans.groupby(["foundation", "method"], sort=False)["failed"].sum()
    rows: list[dict[str, object]] = [{"verdict": FIRST}, *(_against_first(one, p) for one, p in zip(behind, corrected, strict=True))]
    named: list[dict[str, object]] = [
        {"foundation": foundation, "method": method, "Dice": means[foundation, method], "failed_fits": int(failed[foundation, method])}
        for foundation, method in order
    ]
    return pd.DataFrame([name | row for name, row in zip(named, rows, strict=True)], columns=list(RANKING_COLUMNS))


def ranking_sentences(table: pd.DataFrame) -> list[str]:
    """Which is first, and which of the others the scans can tell from it."""
    if table.empty:
        return []
    several = table["foundation"].nunique() > 1
    names = [f"{row.method} on {row.foundation}" if several else str(row.method) for row in table.itertuples()]
    said = [f"Highest mean Dice: {names[0]}, {table['Dice'].iloc[0]:.3f}."]
    others = list(zip(names[1:], table.iloc[1:].itertuples(), strict=True))
    worse = [f"{name} ({-row.behind:+.3f} [{-row.behind_high:+.3f}, {-row.behind_low:+.3f}])" for name, row in others if row.verdict == WORSE]
    alike = [f"{name} ({-row.behind:+.3f})" for name, row in others if row.verdict != WORSE]
    said += [f"Worse: {', '.join(worse)}."] if worse else []
    if alike:
        said.append(f"These scans can't tell it from {', '.join(alike)}: take the one that costs least, or whichever you trust.")
    return said


def _against_first(behind: Estimate, holm_p: float) -> dict[str, object]:
    told = WORSE if holm_p < SIGNIFICANCE and behind.mean > 0 else f"can't tell from {scans_in_words(behind.cases)}"
    return {"behind": behind.mean, "behind_low": behind.low, "behind_high": behind.high, "p": behind.p, "holm_p": holm_p, "verdict": told}


def _over_scans(table: pd.DataFrame | Sequence[Sequence[float]]) -> Estimate:
    """The mean over structures and scans with its interval over the scans."""
    return estimate(np.asarray(table, dtype=float)[:, None, :])
