"""What is said of K scans, against numbers worked out by hand."""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd
import pytest

from arena_pipeline.model.expected import ScanMean, zero_shot_verdict
from arena_pipeline.research.cross_validate.expected import caveats, expected_table, summary_sentences
from arena_pipeline.research.cross_validate.picture import write_picture

FIVE = (0.5, 0.6, 0.7, 0.8, 0.9)


def scans(method: str, dice: tuple[float, ...], failed: tuple[int, ...] = (), structure: str = "liver", foundation: str = "mini") -> pd.DataFrame:
    row = {
        "structure": structure,
        "kind": "base",
        "foundation": foundation,
        "method": method,
        "status": "scored",
        "NSD_1mm": 0.4,
        "NSD_2mm": 0.5,
        "HD95_mm": 3.0,
    }
    return pd.DataFrame([row | {"case": f"s{place}", "Dice": value, "failed": place in failed} for place, value in enumerate(dice)])


def test_the_interval_of_five_scans_by_hand() -> None:
    """Mean 0.7, sd 0.1581; half width 1.2417 sd = 0.1963."""
    row = expected_table(scans("arena", FIVE)).iloc[0]
    assert (row["scans"], row["Dice"]) == (5, pytest.approx(0.7))
    assert row["Dice_high"] - row["Dice"] == pytest.approx(1.2417 * 0.1581, abs=1e-4)
    assert (row["worst_scan"], row["worst_Dice"]) == ("s0", 0.5) and pd.isna(row["verdict"])


def test_an_interval_of_a_dice_stays_a_dice() -> None:
    row = expected_table(scans("arena", (0.1, 0.9, 0.9))).iloc[0]
    assert (row["Dice_low"], row["Dice_high"]) == (0.0, 1.0)


@pytest.mark.parametrize("failed", [(1, 2, 3, 4), (0, 1, 2, 3, 4)], ids=["one scan", "none"])
def test_an_interval_that_does_not_exist_is_none(failed: tuple[int, ...]) -> None:
    table = expected_table(pd.concat([scans("zero_shot", FIVE), scans("arena", FIVE, failed=failed)]))
    row = table.set_index("method").loc["arena"]
    assert pd.isna(row["Dice_low"]) and pd.isna(row["Dice_high"])
    assert "nan" not in summary_sentences(table)[0]


def test_the_difference_is_paired() -> None:
    """Scans differ by 0.4 and the gain by nothing: 0.05 in each."""
    table = expected_table(pd.concat([scans("zero_shot", FIVE), scans("arena", tuple(value + 0.05 for value in FIVE))]))
    row = table.set_index("method").loc["arena"]
    assert row["difference"] == pytest.approx(0.05) and row["zero_shot_Dice"] == pytest.approx(0.7)
    assert row["difference_low"] == pytest.approx(0.05) and row["verdict"] == "better than zero-shot"


def test_verdict_at_its_thresholds() -> None:
    def of(low: float, high: float, scans: int = 5) -> str:
        return zero_shot_verdict(ScanMean((low + high) / 2, low, high, scans))

    assert of(0.001, 0.1) == "better than zero-shot"
    assert of(0.0, 0.1) == "can't tell from five scans"
    assert of(-0.1, 0.001) == "can't tell from five scans"
    assert of(-0.1, 0.0) == of(0.0, 0.0) == of(-0.1, -0.05) == "not better than zero-shot"
    assert of(-0.1, 0.1, 12) == "can't tell from 12 scans" and of(math.nan, math.nan, 1) == "can't tell from one scan"


def test_failed_fits_are_counted_and_not_averaged() -> None:
    table = expected_table(scans("arena", FIVE, failed=(0,)))
    assert table[["scans", "failed_fits", "Dice", "worst_scan"]].values.tolist() == [[4, 1, pytest.approx(0.75), "s1"]]
    assert "1 of 5 fits did not learn" in summary_sentences(table)[0]
    assert "no Dice" in summary_sentences(expected_table(scans("arena", FIVE, failed=(0, 1, 2, 3, 4))))[0]


def test_what_is_printed() -> None:
    table = expected_table(pd.concat([scans("zero_shot", FIVE), scans("arena", (0.6, 0.6, 0.7, 0.8, 0.9))]))
    (sentence,) = summary_sentences(table)
    assert sentence.startswith("liver, arena: expected Dice 0.720 [") and "can't tell from five scans" in sentence
    assert "s0 fits worst (Dice 0.600)" in sentence
    assert "for more than 83 % of new ones" in caveats(5, 1)[1] and "91 %" in caveats(10, 1)[1]
    assert len(caveats(5, 1)) == 3 and "picked on these scans" in caveats(5, 2)[3]


def test_the_picture_is_drawn_also_of_strange_names_and_lost_fits(tmp_path: Path) -> None:
    cells = pd.concat([scans("zero_shot", FIVE, structure="a$_b"), scans("arena", FIVE, failed=(0, 1, 2, 3, 4), structure="a$_b")])
    write_picture(tmp_path / "picture.png", cells, expected_table(cells))
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")
