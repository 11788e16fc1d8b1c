"""The ranking of foundations and methods, against numbers worked out by hand."""

from __future__ import annotations

import pandas as pd
import pytest

from arena_pipeline.research.cross_validate.ranking import ranking, ranking_sentences

FIVE = (0.5, 0.6, 0.7, 0.8, 0.9)


def scans(foundation: str, method: str, dice: tuple[float, ...], structure: str = "liver", failed: int = 0) -> pd.DataFrame:
    rows = [{"case": f"s{place}", "Dice": None if place < failed else value, "failed": place < failed} for place, value in enumerate(dice)]
    return pd.DataFrame([{"structure": structure, "foundation": foundation, "method": method} | row for row in rows])


def less(*amounts: float) -> tuple[float, ...]:
    return tuple(value - amount for value, amount in zip(FIVE, amounts, strict=True))


def test_paired_differences_tell_what_the_spread_of_scans_would_hide() -> None:
    """0.10 +- 0.0158 in every scan, while the scans differ by 0.4: t = 0.1 / (0.0158 / sqrt 5) = 14.1, p = 0.00014; the half width is 1.2417 sd."""
    clear, unclear = less(0.08, 0.09, 0.10, 0.11, 0.12), less(-0.1, 0.1, -0.1, 0.1, 0.1)
    table = ranking(pd.concat([scans("mini", "lora", unclear), scans("mini", "arena", FIVE), scans("big", "arena", clear)]))
    assert table[["foundation", "method"]].values.tolist() == [["mini", "arena"], ["mini", "lora"], ["big", "arena"]]
    last = table.iloc[2]
    assert (last["behind"], last["behind_high"] - last["behind"]) == (pytest.approx(0.1), pytest.approx(1.2417 * 0.01581, abs=1e-4))
    assert last["p"] == pytest.approx(0.000145, abs=5e-6) and last["holm_p"] == pytest.approx(2 * last["p"])
    assert table["verdict"].tolist() == ["first", "can't tell from five scans", "worse than the first"]
    best, worse, alike = ranking_sentences(table)
    assert best == "Highest mean Dice: arena on mini, 0.700."
    assert worse == "Worse: arena on big (-0.100 [-0.120, -0.080])." and "can't tell it from lora on mini (-0.020)" in alike


def test_a_verdict_needs_the_corrected_p() -> None:
    """t = 0.1 / (sd / sqrt 5) with p = 0.03 alone: enough for one comparison, and not for two."""
    other = less(0.02, 0.18, 0.10, 0.04, 0.16)
    one = ranking(pd.concat([scans("mini", "arena", FIVE), scans("mini", "lora", other)]))
    assert 0.025 < one["p"].iloc[1] < 0.05 and one["verdict"].iloc[1] == "worse than the first"
    two = ranking(pd.concat([scans("mini", "arena", FIVE), scans("mini", "lora", other), scans("mini", "fft", other)]))
    assert two["verdict"].tolist()[1:] == ["can't tell from five scans"] * 2


def test_a_failed_fit_counts_as_nothing_found_and_an_option_without_every_structure_is_left_out() -> None:
    cells = [scans("mini", "arena", (0.8,) * 5), scans("mini", "fft", (0.99,) * 5, failed=2), scans("mini", "zero_shot", (1.0,) * 5)]
    cells += [scans("mini", method, (0.8,) * 5, structure="spleen") for method in ("arena", "fft")]
    table = ranking(pd.concat(cells)).set_index("method")
    assert list(table.index) == ["arena", "fft"] and table.loc["fft", "failed_fits"] == 2
    assert table.loc["fft", "Dice"] == pytest.approx((0.6 * 0.99 + 0.8) / 2)
    assert ranking_sentences(ranking(pd.concat([scans("mini", "arena", FIVE, failed=5)]))) == ["Highest mean Dice: arena, 0.000."]
