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
    """ARENA and LoRA on the liver and two novel structures, two folds; zero-shot on the liver. ARENA is 0.1 higher on the liver in every case."""
    lora = [0.1 * index for index in range(8)]
    found = rows("zero_shot", "liver", 0, [0.3] * 8, shots=0, rank=None, effective_rank=None, allocated_rank=None)
    for fold, shift in ((0, 0.0), (1, 0.02)):
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
    assert cell.loc[("lora", "average"), ["Dice_low", "Dice_high"]].tolist() == pytest.approx([0.51, 0.51])  # every case is the same
    assert cell.loc[("arena", "liver"), ["cases", "folds", "NSD_2mm", "published_Dice"]].tolist() == [8, 2, 0.5, 0.8]
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
    assert summary.loc[("lora", "a"), ["missed", "HD95_mm"]].tolist() == [2, 2.0] and summary.loc[("arena", "a"), "missed"] == 0


def test_differences_pair_folds_and_cases(runs: pd.DataFrame) -> None:
    """Without LoRA's second fold the pairs are of the first alone, so the liver's difference stays 0.1."""
    partly = runs[~((runs["method"] == "lora") & (runs["fold"] == 1))]
    differences = tables.difference_table(partly)
    liver = differences[(differences["structure"] == "liver") & (differences["method"] == "lora")]
    assert liver["difference"].tolist() == pytest.approx([0.1] * 8)
    zero_shot = differences[differences["method"] == "zero_shot"]
    assert zero_shot["difference"].tolist() == pytest.approx([0.1 * case + 0.1 + 0.01 - 0.3 for case in range(8)])  # both folds of ARENA
    lost = runs.copy()
    lost.loc[(lost["case"] == "q3") & (lost["method"] == "arena"), "Dice"] = math.nan
    assert "q3" not in set(tables.difference_table(lost)["case"])


def test_contrasts_by_hand(runs: pd.DataFrame) -> None:
    """LoRA on the liver: eight equal signs, p = 2 / 2^8; of the two methods there it is the smaller p, so Holm doubles it."""
    found = tables.contrast_table(tables.difference_table(runs), runs).set_index(["structure", "method"])
    liver = found.loc[("liver", "lora")]
    assert liver["difference"] == pytest.approx(0.1)
    assert liver["wilcoxon_p"] == pytest.approx(2 / 2**8, abs=5e-3)  # tied ranks: not the exact distribution
    assert liver["holm_p"] == pytest.approx(2 * liver["wilcoxon_p"]) and liver["verdict"] == "arena is better"
    average = found.loc[("average", "lora")]
    assert average["difference"] == pytest.approx(0, abs=1e-12) and average["difference_low"] < 0 < average["difference_high"]
    assert average["holm_p"] == average["wilcoxon_p"] and average["verdict"] == "no clear difference"
    assert found.loc[("liver", "zero_shot"), "verdict"] == "no clear difference"


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
    assert (row["seconds"], row["peak_memory_mib"], row["trained_parameters"], row["rank"]) == (60.5, 101.0, 1000, 8)


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
    assert "| 5 | novel average | lora | 8 | " in markdown.contrasts_markdown(contrasts)
    assert "| arena | " in markdown.efficiency_markdown(tables.efficiency_table(runs))


def test_markdown_cells() -> None:
    assert markdown.markdown_table(["a|b", "c"], [[1, "x|y"]]) == "| a\\|b | c |\n| --- | --- |\n| 1 | x\\|y |\n"
    assert markdown.interval(0.5, math.nan, math.nan) == "0.500" and markdown.interval(math.nan, 0, 1) == "-"
