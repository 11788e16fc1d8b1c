"""What K scans say: the expected Dice with its interval, the difference to zero-shot, the scan that fits worst, and what they can't say."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from arena_pipeline.research.compare.published import ZERO_SHOT
from arena_pipeline.research.compare.statistics import Estimate, estimate

SCAN_COLUMNS = ("structure", "kind", "method", "case", "status", "failed", "Dice", "NSD_1mm", "NSD_2mm", "HD95_mm")
SUMMARY_COLUMNS = (
    "structure", "kind", "method", "scans", "failed_fits", "Dice", "Dice_low", "Dice_high", "NSD_2mm", "HD95_mm", "zero_shot_Dice",
    "difference", "difference_low", "difference_high", "verdict", "worst_scan", "worst_Dice",
)  # fmt: skip
COUNTS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


def expected_table(scans: pd.DataFrame) -> pd.DataFrame:
    """A row per structure and method, from a row per structure, method and scan that was left out (SCAN_COLUMNS)."""
    rows = []
    for structure, of_structure in scans.groupby("structure", sort=False):
        zero_shot = of_structure[of_structure["method"] == ZERO_SHOT].set_index("case")["Dice"]
        for method, cells in of_structure.groupby("method", sort=False):
            fitted = cells[~cells["failed"]].set_index("case")
            found = _of_scans(fitted["Dice"])
            row = {"structure": structure, "kind": cells["kind"].iloc[0], "method": method, "scans": found.cases}
            row |= {"failed_fits": int(cells["failed"].sum()), "Dice": found.mean}
            row |= {"Dice_low": max(0.0, found.low), "Dice_high": min(1.0, found.high), **fitted[["NSD_2mm", "HD95_mm"]].astype(float).mean()}
            if method != ZERO_SHOT and len(zero_shot):
                row |= _against_zero_shot(fitted["Dice"], zero_shot)
            if len(known := fitted["Dice"].dropna()):
                row |= {"worst_scan": known.idxmin(), "worst_Dice": known.min()}
            rows.append(row)
    return pd.DataFrame(rows, columns=list(SUMMARY_COLUMNS))


def verdict(difference: Estimate) -> str:
    """Of adapting against zero-shot, in words: better or not better where the 95 % interval is all on one side of 0."""
    if difference.low > 0:
        return "better than zero-shot"
    if difference.high <= 0:
        return "not better than zero-shot"
    number = COUNTS[difference.cases] if difference.cases < len(COUNTS) else str(difference.cases)
    return f"can't tell from {number} scan{'' if difference.cases == 1 else 's'}"


def caveats(scans: int, methods: int) -> list[str]:
    """What the numbers can't say, a sentence each."""
    share = 100 * scans / (scans + 1)
    found = [
        f"The interval is that of the mean over scans like these {scans}. It says nothing of another scanner, hospital, age or disease.",
        f"A single new scan may be worse than the interval: from {scans} scans no bound can be promised for more than {share:.0f} % of new ones.",
        f"Each model was adapted to {scans - 1} scans, one less than arena_adapt -shots {scans} uses; with all {scans} it should be no worse.",
    ]
    if methods > 1:
        found.append("The method that is best here was picked on these scans, so its own figure is a little too good.")
    return found


def summary_sentences(summary: pd.DataFrame) -> list[str]:
    """A sentence per structure and method, for the terminal."""
    return [_sentence(row._asdict()) for row in summary[summary["method"] != ZERO_SHOT].itertuples(index=False)]


def _sentence(row: dict[str, object]) -> str:
    name, failed = f"{row['structure']}, {row['method']}", int(str(row["failed_fits"]))
    lost = f" {failed} of {failed + int(str(row['scans']))} fits did not learn and are not in it." if failed else ""
    if pd.isna(row["Dice"]):
        return f"{name}: no Dice.{lost}"
    text = f"{name}: expected Dice {row['Dice']:.3f} [{row['Dice_low']:.3f}, {row['Dice_high']:.3f}].{lost}"
    if not pd.isna(row["verdict"]):
        text += f" {row['difference']:+.3f} [{row['difference_low']:+.3f}, {row['difference_high']:+.3f}] against zero-shot: {row['verdict']}."
    return text + f" {row['worst_scan']} fits worst (Dice {row['worst_Dice']:.3f}): its label or its anatomy is worth a look."


def ranked_methods(summary: pd.DataFrame) -> list[str]:
    """The adapted methods, best mean Dice over the structures first; one without a Dice somewhere is left out."""
    adapted = summary[summary["method"] != ZERO_SHOT]
    means = adapted.groupby("method", sort=False)["Dice"].agg(lambda values: np.mean(values.to_numpy()))
    return [str(name) for name in means.dropna().sort_values(ascending=False, kind="stable").index]


def _against_zero_shot(adapted: pd.Series, zero_shot: pd.Series) -> dict[str, object]:
    found = _of_scans(adapted - zero_shot.reindex(adapted.index))
    row: dict[str, object] = {"zero_shot_Dice": zero_shot.reindex(adapted.index).mean(), "difference": found.mean}
    return row | {"difference_low": found.low, "difference_high": found.high, "verdict": verdict(found)}


def _of_scans(values: pd.Series | Sequence[float]) -> Estimate:
    """Mean and t-interval: half width t(K - 1) sd / sqrt K, which is 1.24 sd with five scans and 0.72 sd with ten."""
    array = np.asarray(values, dtype=float)
    return estimate(array[None, None]) if len(array) else Estimate(math.nan, math.nan, math.nan, 0, 0, math.nan)
