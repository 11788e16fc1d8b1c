"""What is said of a model from scans left out, or from its own support set where none were."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from arena_pipeline.model.adapter import AdapterRecord
from arena_pipeline.model.attempts import Attempt
from arena_pipeline.model.expected import ExpectedDice, doubts, expected_of, scan_mean, setup_of, write_expected
from arena_pipeline.settings import AdaptationSettings

FIVE = (0.5, 0.6, 0.7, 0.8, 0.9)


def record(before: dict[str, float], after: float, train_decoder: bool = False, **facts: object) -> AdapterRecord:
    rates = {"learning_rate": 1e-3, "decoder_learning_rate": 1e-4, "new_head_learning_rate": None}
    attempt = Attempt(seed=(0,), **rates, epochs=20, final_loss=0.3, support_dice={"liver": after}, dice_before=before, fault=None)  # type: ignore[arg-type]
    made = {
        "structures": {"liver": 1},
        "settings": AdaptationSettings(),
        "shots": 5,
        "attempts": (attempt,),
        "train_decoder": train_decoder,
        "fold": 0,
    }
    return AdapterRecord.model_construct(**(made | {"foundation_sha256": "f", "support_sha256": "s"} | facts))  # type: ignore[arg-type]


def test_the_interval_by_hand() -> None:
    """Mean 0.7, sd 0.1581; half width 1.2417 sd with five scans; a scan without the structure has no part in it."""
    found = scan_mean((*FIVE, math.nan))
    assert (found.mean, found.scans) == (pytest.approx(0.7), 5)
    assert (found.high - found.mean, found.mean - found.low) == (pytest.approx(1.2417 * 0.1581, abs=1e-4),) * 2
    assert math.isnan(scan_mean((0.5,)).low) and math.isnan(scan_mean(()).mean)


def test_expected_dice_in_words_and_on_disk(tmp_path: Path) -> None:
    novel = ExpectedDice.of("liver", "arena", FIVE, None)
    assert novel.sentence() == "liver: expected Dice 0.700 [0.504, 0.896], from five scans, each left out once."
    base = ExpectedDice.of("liver", "arena", FIVE, tuple(value - 0.05 for value in FIVE))
    assert base.sentence().endswith("each left out once; +0.050 against zero-shot: better than zero-shot.")
    assert ExpectedDice.of("liver", "arena", (0.1, 0.9, 0.9), None).low == 0.0
    one = ExpectedDice.of("liver", "arena", (0.7, math.nan, math.nan), None)
    assert (one.low, one.high) == (None, None) and one.sentence() == "liver: expected Dice 0.700, from one scan, each left out once."
    none = ExpectedDice.of("liver", "arena", (math.nan,) * 3, None)
    assert (none.dice, none.low, none.high) == (None, None, None)
    assert "no Dice to expect" in ExpectedDice.of("liver", "arena", (math.nan,) * 3, None).sentence()
    write_expected(tmp_path, [base])
    assert expected_of(tmp_path, record({}, 0.5)) == [base]


def test_figures_of_a_cross_validation_serve_for_the_same_method_and_shots(tmp_path: Path) -> None:
    task = tmp_path / "arena_5shots" / "liver"
    row = {"structure": "liver", "method": "arena", "scans": 5, "Dice": 0.6, "Dice_low": 0.5, "Dice_high": 0.7, "difference": -0.1}
    row |= {"made_with": setup_of("f", False, AdaptationSettings(micro_batch=1), "s")}  # which changes no number
    rows = [row | {"verdict": "not better than zero-shot", "worst_scan": "s0"}, row | {"method": "lora"}]
    tried = tmp_path / "cross_validation" / "5shots" / "cross_validation.json"
    tried.parent.mkdir(parents=True)
    tried.write_text(json.dumps({"expected": rows}))
    assert [one.method for one in expected_of(task, record({}, 0.5))] == ["arena"]
    (doubt,) = doubts(task, [record({"liver": 0.2}, 0.9)])
    assert doubt.startswith("liver: adapting is not better than zero-shot on scans left out (-0.100 Dice)")
    assert not expected_of(task, record({}, 0.5, train_decoder=True))  # other plans than those that were tried
    assert not expected_of(task, record({}, 0.5, support_sha256="of corrected labels"))
    tried.write_text("{")
    assert not expected_of(task, record({}, 0.5))


def test_without_left_out_scans_only_a_model_no_better_on_its_own_scans_is_doubted(tmp_path: Path) -> None:
    before = {"liver": 0.8}
    assert not doubts(tmp_path, [record(before, 0.801)]) and not doubts(tmp_path, [record({}, 0.3)])
    (doubt,) = doubts(tmp_path, [record(before, 0.7), record(before, 0.9)])
    assert "no better even on its own support set (Dice 0.800, the foundation as it is 0.800" in doubt
    (doubt,) = doubts(tmp_path, [record({"liver": 0.1}, 0.3), record({"liver": 0.1}, 0.5)])
    assert "the fit is poor even on its own support set (Dice 0.400); try -method fft" in doubt
    assert not doubts(tmp_path, [record({"liver": 0.1}, 0.3, train_decoder=True)])
    write_expected(tmp_path, [ExpectedDice.of("liver", "arena", FIVE, tuple(value - 0.05 for value in FIVE))])
    assert not doubts(tmp_path, [record(before, 0.7)])  # scans that it has not seen say more


@pytest.mark.parametrize("older", [False, True])
def test_a_structure_that_collapsed_beside_others_is_told(tmp_path: Path, older: bool) -> None:
    both = record({}, 0.7, structures={"liver": 1, "spleen": 2})
    one_off = both.attempts[0].model_copy(update={"support_dice": {"liver": 0.7, "spleen": 0.0}, "not_learned": () if older else ("spleen",)})
    collapsed = both.model_copy(update={"attempts": (one_off,), "fold": 1})
    (doubt,) = doubts(tmp_path, [both, collapsed])
    assert doubt.startswith("spleen: not learned in fold 1 of 2, with other structures that were (Dice 0.000 on its own support set)")
    write_expected(tmp_path, [ExpectedDice.of("spleen", "arena", FIVE, FIVE)])
    assert [one.partition(" ")[0] for one in doubts(tmp_path, [both, collapsed])] == ["spleen:", "spleen:"]


def test_the_expected_dice_costs_no_import_of_all_statistics() -> None:
    """scipy.stats takes a second of every arena_predict, for one quantile."""
    code = "import sys, arena_pipeline.model.expected; sys.exit('scipy.stats' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 0
