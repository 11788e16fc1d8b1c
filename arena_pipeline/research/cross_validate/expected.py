"""What K scans tell (expected Dice with its interval, difference to zero-shot, the scan that fits worst) and what they can't tell."""

from __future__ import annotations

import numpy as np
import pandas as pd

from arena_pipeline.model.expected import scan_mean, zero_shot_verdict
from arena_pipeline.research.compare.published import ZERO_SHOT

SCAN_COLUMNS = ("structure", "kind", "foundation", "method", "case", "status", "failed", "Dice", "NSD_1mm", "NSD_2mm", "HD95_mm")
SUMMARY_COLUMNS = (
    "structure", "kind", "foundation", "method", "scans", "failed_fits", "Dice", "Dice_low", "Dice_high", "NSD_2mm", "HD95_mm", "zero_shot_Dice",
    "difference", "difference_low", "difference_high", "verdict", "worst_scan", "worst_Dice",
)  # fmt: skip


def expected_table(scans: pd.DataFrame) -> pd.DataFrame:
    """A row per structure, foundation and method, from a row per structure, foundation, method and scan that was left out (SCAN_COLUMNS)."""
    rows = []
    for (structure, foundation), of_structure in scans.groupby(["structure", "foundation"], sort=False):
        zero_shot = of_structure[of_structure["method"] == ZERO_SHOT].set_index("case")["Dice"]
        for method, cells in of_structure.groupby("method", sort=False):
            fitted = cells[~cells["failed"]].set_index("case")
            found = scan_mean(fitted["Dice"])
            row = {"structure": structure, "kind": cells["kind"].iloc[0], "foundation": foundation, "method": method}
            row |= {"scans": found.scans, "failed_fits": int(cells["failed"].sum()), "Dice": found.mean}
            ends = np.clip((found.low, found.high), 0, 1)  # NaN stays
            row |= {"Dice_low": ends[0], "Dice_high": ends[1], **fitted[["NSD_2mm", "HD95_mm"]].astype(float).mean()}
            if method != ZERO_SHOT and len(zero_shot):
                row |= _against_zero_shot(fitted["Dice"], zero_shot)
            if len(known := fitted["Dice"].dropna()):
                row |= {"worst_scan": known.idxmin(), "worst_Dice": known.min()}
            rows.append(row)
    return pd.DataFrame(rows, columns=list(SUMMARY_COLUMNS))


def caveats(scans: int, methods: int) -> list[str]:
    """What the numbers can't tell, a sentence each."""
    share = 100 * scans / (scans + 1)
    found = [
        f"The interval is that of the mean over scans like these {scans}. It says nothing about another scanner, hospital, age or disease.",
        f"A single new scan may be worse than the interval: from {scans} scans no bound can be promised for more than {share:.0f} % of new ones.",
        f"Each model was adapted to {scans - 1} scans, one less than arena_adapt -shots {scans} uses; with all {scans} it should be no worse.",
    ]
    if methods > 1:
        found.append("The method that is best here was picked on these scans, so its own figure is a little too good.")
    return found


def summary_sentences(summary: pd.DataFrame) -> list[str]:
    """A sentence per structure, foundation and method, for the terminal."""
    several = summary["foundation"].nunique() > 1
    return [_sentence(row._asdict(), several) for row in summary[summary["method"] != ZERO_SHOT].itertuples(index=False)]


def _sentence(row: dict[str, object], several: bool) -> str:
    name, failed = f"{row['structure']}, {row['method']}" + (f" on {row['foundation']}" if several else ""), int(str(row["failed_fits"]))
    lost = f" {failed} of {failed + int(str(row['scans']))} fits did not learn and are left out." if failed else ""
    if pd.isna(row["Dice"]):
        return f"{name}: no Dice.{lost}"
    text = f"{name}: expected Dice {row['Dice']:.3f}{_spread(row, 'Dice', '.3f')}.{lost}"
    if not pd.isna(row["verdict"]):
        text += f" {row['difference']:+.3f}{_spread(row, 'difference', '+.3f')} against zero-shot: {row['verdict']}."
    return text + f" {row['worst_scan']} fits worst (Dice {row['worst_Dice']:.3f}): its label or its anatomy is worth a look."


def _spread(row: dict[str, object], name: str, form: str) -> str:
    """The interval in brackets; empty where there is a single scan, which gives none."""
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    return "" if pd.isna(low) else f" [{low:{form}}, {high:{form}}]"


def _against_zero_shot(adapted: pd.Series, zero_shot: pd.Series) -> dict[str, object]:
    found = scan_mean(adapted - zero_shot.reindex(adapted.index))
    row: dict[str, object] = {"zero_shot_Dice": zero_shot.reindex(adapted.index).mean(), "difference": found.mean}
    return row | {"difference_low": found.low, "difference_high": found.high, "verdict": zero_shot_verdict(found)}
