"""The tables of a comparison, on runs whose numbers can be worked out by hand."""

from __future__ import annotations

import math

import pandas as pd
import pytest

from arena_pipeline.research.compare import markdown, tables

CASES = [f"q{index}" for index in range(8)]
NO_FIGURES: tables.Published = lambda shots, method, structures: None  # noqa: E731


def rows(method: str, structure: str, fold: int, dice: list[float], **changes: object) -> list[dict[str, object]]:
    """A run of 5 shots, with one Dice per query."""
    run: dict[str, object] = {
        "method": method, "rank": 8, "default_rank": True, "shots": 5, "kind": "base" if structure == "liver" else "novel", "task": structure,
        "structure": structure, "fold": fold, "status": "scored", "NSD_2mm": 0.5, "HD95_mm": 2.0, "epochs": 10, "seconds": 60.0 + fold,
        "peak_memory_mib": 100.0 + fold, "trained_parameters": 1000, "effective_rank": 100 + fold, "allocated_rank": 128,
    }  # fmt: skip
    return [run | changes | {"case": case, "Dice": value} for case, value in zip(CASES, dice, strict=False)]


@pytest.fixture
def runs() -> pd.DataFrame:
    """ARENA and LoRA on the liver and two novel structures, three folds; zero-shot on the liver. ARENA is 0.1 higher on the liver in every case."""
    lora = [0.1 * index for index in range(8)]
    found = rows("zero_shot", "liver", 0, [0.3] * 8, shots=0, rank=None, effective_rank=None, allocated_rank=None)
    for fold, shift in ((0, 0.0), (1, 0.02), (2, 0.01)):
        found += rows("lora", "liver", fold, [value + shift for value in lora], rank=12)
        found += rows("arena", "liver", fold, [value + 0.1 + shift for value in lora])
        for structure, level in (("a", 0.4), ("b", 0.6)):
            found += rows("lora", structure, fold, [level + shift] * 8, rank=12)
            found += rows("arena", structure, fold, [level + shift + (0.1 if case % 2 else -0.1) for case in range(8)])
    return tables.runs_table(found)


def test_groups_are_structures_and_averages_of_several(runs: pd.DataFrame) -> None:
    names = [(group.kind, group.structure, group.members) for group in tables.groups(runs)]
    assert names == [("base", "liver", ("liver",)), ("novel", "a", ("a",)), ("novel", "b", ("b",)), ("novel", "average", ("a", "b"))]


def test_summary_averages_folds_then_cases_then_structures(runs: pd.DataFrame) -> None:
    summary = tables.summary_table(runs, lambda shots, method, structures: 0.8 if (method, list(structures)) == ("arena", ["liver"]) else None)
    cell = summary.set_index(["method", "structure"])
    assert cell.loc[("lora", "liver"), "Dice"] == pytest.approx(0.35 + 0.01)
    assert cell.loc[("arena", "average"), "Dice"] == pytest.approx(0.5 + 0.01)
    half = 0.01 * 4.3027 / 3**0.5  # cases are alike, folds 0.50, 0.51, 0.52
    assert cell.loc[("lora", "average"), ["Dice_low", "Dice_high"]].tolist() == pytest.approx([0.51 - half, 0.51 + half], abs=1e-5)
    assert cell.loc[("arena", "liver"), ["cases", "folds", "NSD_2mm", "published_Dice"]].tolist() == [8, 3, 0.5, 0.8]
    assert set(summary[summary["method"] == "zero_shot"]["structure"]) == {"liver"} and set(summary["shots"]) == {5}
    assert summary["published_Dice"].notna().sum() == 1


def test_no_average_over_fewer_structures(runs: pd.DataFrame) -> None:
    partly = runs[~((runs["method"] == "lora") & (runs["structure"] == "b"))]
    summary = tables.summary_table(partly, NO_FIGURES).set_index(["method", "structure"])
    assert ("lora", "a") in summary.index and ("lora", "average") not in summary.index
    assert ("arena", "average") in summary.index


def test_each_number_of_shots_has_its_own_average(runs: pd.DataFrame) -> None:
    """With 10 shots there is only structure a, and c; that with 5 there is a, b does not matter to their average."""
    more = [row for method in ("arena", "lora") for name in ("a", "c") for row in rows(method, name, 0, [0.5] * 8, shots=10)]
    both = tables.runs_table([*runs.to_dict("records"), *more])
    summary = tables.summary_table(both, NO_FIGURES)
    assert set(summary[summary["structure"] == "average"]["shots"]) == {5, 10}
    contrasts = tables.contrast_table(tables.difference_table(both), both)
    assert set(contrasts[contrasts["structure"] == "average"]["shots"]) == {5, 10}


def test_missed_structures_stand_beside_the_distance_that_is_without_them(runs: pd.DataFrame) -> None:
    lost = (runs["method"] == "lora") & (runs["structure"] == "a") & (runs["case"] == "q0")
    runs.loc[lost, ["status", "HD95_mm"]] = ["missed", math.nan]
    summary = tables.summary_table(runs, NO_FIGURES).set_index(["method", "structure"])
    assert summary.loc[("lora", "a"), ["missed", "HD95_mm"]].tolist() == [3, 2.0] and summary.loc[("arena", "a"), "missed"] == 0


def test_differences_pair_folds_and_cases(runs: pd.DataFrame) -> None:
    """Without two folds of LoRA the pairs are of the first alone, so the liver's difference stays 0.1."""
    partly = runs[~((runs["method"] == "lora") & (runs["fold"] > 0))]
    differences = tables.difference_table(partly)
    liver = differences[(differences["structure"] == "liver") & (differences["method"] == "lora")]
    assert liver["difference"].tolist() == pytest.approx([0.1] * 8)
    zero_shot = differences[differences["method"] == "zero_shot"]  # beside every fold of ARENA
    assert zero_shot["difference"].tolist() == pytest.approx([0.1 * case + 0.1 + shift - 0.3 for shift in (0.0, 0.02, 0.01) for case in range(8)])
    lost = runs.copy()
    lost.loc[(lost["case"] == "q3") & (lost["method"] == "arena"), "Dice"] = math.nan
    assert "q3" not in set(tables.difference_table(lost)["case"])


def test_contrasts_by_hand(runs: pd.DataFrame) -> None:
    """LoRA on the liver: 0.1 in every fold and case. Of the two methods there it is the smaller p, so Holm doubles it."""
    table = tables.difference_table(runs)
    found = tables.contrast_table(table, runs).set_index(["structure", "method"])
    liver = found.loc[("liver", "lora")]
    assert liver["difference"] == pytest.approx(0.1) and liver["folds"] == 3
    assert liver["p"] < 1e-6 and liver["holm_p"] == pytest.approx(2 * liver["p"]) and liver["verdict"] == "arena is better"
    average = found.loc[("average", "lora")]
    assert average["difference"] == pytest.approx(0, abs=1e-12) and average["difference_low"] < 0 < average["difference_high"]
    assert average["holm_p"] == average["p"] and average["verdict"] == "no clear difference"
    assert found.loc[("liver", "zero_shot"), "verdict"] == "no clear difference"
    two = tables.difference_table(runs[runs["fold"] < 2])
    assert set(tables.contrast_table(two, runs)["verdict"]) == {"too few folds"}


def test_failed_fits_are_counted_and_not_averaged(runs: pd.DataFrame) -> None:
    runs.loc[(runs["method"] == "arena") & (runs["task"] == "a") & (runs["fold"] == 2), ["failed", "Dice"]] = [True, 0.0]
    summary = tables.summary_table(runs, NO_FIGURES).set_index(["method", "structure"])
    assert summary.loc[("arena", "a"), ["failed_fits", "fits", "folds", "Dice"]].tolist() == pytest.approx([1, 3, 2, 0.41])
    assert summary.loc[("arena", "average"), ["failed_fits", "fits"]].tolist() == [1, 6]
    assert summary.loc[("lora", "a"), ["failed_fits", "fits"]].tolist() == [0, 3] and summary.loc[("zero_shot", "liver"), "fits"] == 0
    text = markdown.dice_markdown(summary.reset_index(), 5, "the paper")
    assert "; 1 of 3 failed |" in text and "Adaptations that failed are counted beside" in text
    differences = tables.difference_table(runs).query("structure == 'a' and method == 'lora'")
    assert set(differences["fold"]) == {0, 1}
    runs.loc[(runs["method"] == "arena") & (runs["task"] == "a"), "failed"] = True
    summary = tables.summary_table(runs, NO_FIGURES).set_index(["method", "structure"])
    assert math.isnan(summary.loc[("arena", "a"), "Dice"]) and math.isnan(summary.loc[("arena", "average"), "Dice"])
    assert summary.loc[("arena", "a"), ["failed_fits", "fits"]].tolist() == [3, 3]


def test_nothing_to_contrast_without_arena(runs: pd.DataFrame) -> None:
    differences = tables.difference_table(runs[runs["method"] != "arena"])
    assert len(differences) == 0 and len(tables.contrast_table(differences, runs)) == 0


def test_ranks_of_the_sweep_alone(runs: pd.DataFrame) -> None:
    sweep = rows("arena", "liver", 0, [0.2] * 8, rank=2, default_rank=False, effective_rank=20, allocated_rank=32)
    ranks = tables.rank_table(tables.runs_table([*runs.to_dict("records"), *sweep]))
    assert ranks[["method", "structure", "rank"]].values.tolist() == [["arena", "liver", 2], ["arena", "liver", 8]]
    assert ranks["effective_rank"].tolist() == [20, 100] and ranks["Dice"].tolist() == pytest.approx([0.2, 0.45])  # rank 8 in the same fold alone
    assert len(tables.rank_table(runs)) == 0


def test_efficiency_counts_runs_not_cases(runs: pd.DataFrame) -> None:
    row = tables.efficiency_table(runs).set_index(["method", "structure"]).loc[("arena", "average")]
    assert (row["seconds"], row["peak_memory_mib"], row["trained_parameters"], row["rank"]) == (61.0, 102.0, 1000, 8)


def test_wide_table_and_markdown(runs: pd.DataFrame) -> None:
    summary = tables.summary_table(runs, lambda shots, method, structures: 0.8 if method == "arena" and "liver" in structures else None)
    table = tables.dice_table(summary, 5)
    assert list(table.columns) == ["liver", "a", "b", "novel average"]
    assert list(table.index) == ["zero_shot", "lora", "arena", "arena (published)"]
    assert table.loc["arena (published)", "liver"] == 0.8 and math.isnan(table.loc["zero_shot", "a"])
    text = markdown.dice_markdown(summary, 5, "the paper")
    assert "| method | liver | a | b | novel average |\n| --- | --- | --- | --- | --- |\n| zero_shot | 0.300 [0.300, 0.300] | - | - | - |" in text
    assert "(0.800)" in text and "the paper" in text
    contrasts = tables.contrast_table(tables.difference_table(runs), runs)
    assert "| 5 | novel average | lora | 8 | 3 | " in markdown.contrasts_markdown(contrasts)
    assert "| arena | " in markdown.efficiency_markdown(tables.efficiency_table(runs))


def test_markdown_cells() -> None:
    assert markdown.markdown_table(["a|b", "c"], [[1, "x|y"]]) == "| a\\|b | c |\n| --- | --- |\n| 1 | x\\|y |\n"
    assert markdown.mean_with_interval(0.5, math.nan, math.nan) == "0.500" and markdown.mean_with_interval(math.nan, 0, 1) == "-"
