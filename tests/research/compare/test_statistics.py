"""Statistics of a comparison against numbers worked out by hand, and how often a verdict is wrong."""

from __future__ import annotations

import math

import numpy as np
import pytest

from arena_pipeline.research.compare.statistics import Estimate, estimate, fewest_folds, holm, interval_meaning, overall_mean, verdict


def cases(*values: float) -> np.ndarray:
    """One structure, one fold."""
    return np.array(values)[None, None]


def difference(mean: float = 0.1, folds: int = 3, cases: int = 10) -> Estimate:
    return Estimate(mean, mean - 0.01, mean + 0.01, cases, folds, 0.0)


def test_mean_over_structures_of_means_over_cases() -> None:
    scores = np.array([[[0.2, 0.4, math.nan]], [[0.9, math.nan, 0.7]]])
    assert overall_mean(scores) == pytest.approx((0.3 + 0.8) / 2)
    assert overall_mean(np.array([[[math.nan, math.nan]], [[0.5, 0.7]]])) == pytest.approx(0.6)
    assert math.isnan(overall_mean(np.full((2, 1, 3), math.nan)))


def test_interval_over_cases_is_the_t_interval() -> None:
    """0.1, 0.2, 0.3: sd 0.1, standard error 0.1 / sqrt 3, and t with 2 degrees of freedom is 4.3027."""
    found = estimate(cases(0.1, 0.2, 0.3))
    assert (found.mean, found.cases, found.folds) == (pytest.approx(0.2), 3, 1)
    assert [found.high - found.mean, found.mean - found.low] == pytest.approx([4.3027 * 0.1 / math.sqrt(3)] * 2, rel=1e-4)
    assert found.p == pytest.approx(0.0742, abs=1e-4)  # t = 0.2 / (0.1 / sqrt 3) = 3.464


def test_interval_over_folds_that_all_cases_share() -> None:
    """Three folds 0.1, 0.2, 0.3, each the same in fifty cases: the interval is that of three values, not of fifty."""
    found = estimate(np.repeat([0.1, 0.2, 0.3], 50).reshape(1, 3, 50))
    assert found.high - found.mean == pytest.approx(4.3027 * 0.1 / math.sqrt(3), rel=1e-4)
    assert found.p == pytest.approx(0.0742, abs=1e-4)


def test_both_sources_add_up() -> None:
    """Folds and cases that both go -0.1, 0, 0.1: variance 2 * 0.01 / 3; three of each leave 2 degrees of freedom, t 4.3027."""
    steps = np.array([-0.1, 0.0, 0.1])
    found = estimate((0.5 + steps[:, None] + steps)[None])
    assert found.high - found.mean == pytest.approx(4.3027 * math.sqrt(2 * 0.01 / 3), rel=1e-4)


def test_equal_values_are_a_point() -> None:
    found = estimate(np.full((3, 2, 5), 0.25))
    assert (found.mean, found.low, found.high, found.cases, found.folds) == (0.25, 0.25, 0.25, 5, 2)
    assert estimate(np.zeros((1, 3, 8))).p == 1 and estimate(np.full((1, 3, 8), 1e-17)).p == 1


def test_structures_of_a_case_go_together() -> None:
    """Two structures that cancel in every case: left out by case the mean never moves, left out apart it would."""
    values = np.array([0.1, 0.5, 0.9, 0.3])
    found = estimate(np.stack([values, 1 - values])[:, None])
    assert (found.low, found.high) == pytest.approx((0.5, 0.5))


def test_what_is_missing_does_not_count() -> None:
    scores = np.array([[[0.2, 0.4, 0.9, 0.5]], [[0.6, 0.1, 0.3, math.nan]]])
    found = estimate(scores)
    assert found.mean == pytest.approx((0.5 + 1 / 3) / 2) and found.low < found.mean < found.high and found.cases == 4
    whole = scores[..., :3]
    padded = np.pad(whole, ((0, 1), (0, 1), (0, 1)), constant_values=math.nan)  # a structure, fold and case without any score are none
    assert estimate(padded) == estimate(whole)


def test_no_interval_from_one_value_or_where_a_structure_has_one_case() -> None:
    one, none = estimate(cases(0.7)), estimate(np.zeros((1, 0, 0)))
    assert (one.mean, one.cases) == (0.7, 1) and math.isnan(one.low) and math.isnan(one.high) and math.isnan(one.p)
    assert math.isnan(none.mean) and none.cases == 0
    assert math.isnan(estimate(np.array([[[0.9, 0.8, 0.7]], [[0.3, math.nan, math.nan]]])).low)


def test_holm_by_hand() -> None:
    """0.01 * 4, 0.02 * 3, 0.03 * 2 (raised to 0.06), 0.5 * 1."""
    assert holm([0.03, 0.01, 0.5, 0.02]) == pytest.approx([0.06, 0.04, 0.5, 0.06])
    assert holm([0.6, math.nan, 0.7]) == pytest.approx([1.0, math.nan, 1.0], nan_ok=True)
    assert holm([]) == []


def test_verdicts_at_their_thresholds() -> None:
    assert verdict(difference(), 0.049) == "better"
    assert verdict(difference(-0.1), 0.049) == "worse"
    assert verdict(difference(), 0.05) == "no clear difference"
    assert verdict(difference(), math.nan) == "too few cases"  # not tested, which is no equality
    assert verdict(difference(folds=2), 0.001) == "too few folds"
    assert verdict(difference(folds=2, cases=5), 0.001) == "too few folds"
    assert verdict(difference(cases=5), 0.001) == "too few cases"
    assert verdict(difference(cases=6), 0.001) == "better"


def test_what_an_interval_covers() -> None:
    assert "can't say how another one would do" in interval_meaning(1)
    assert fewest_folds([0, 3, 2]) == 2 and fewest_folds([0]) == fewest_folds([]) == 3
    assert interval_meaning(3) == "over query cases and support sets (folds)"


@pytest.mark.parametrize("folds", [3, 6])
def test_verdicts_are_wrong_at_most_once_in_twenty_when_only_support_sets_differ(folds: int) -> None:
    """No difference on average, every support set moves all thirty cases of its fold: 2,000 comparisons; two standard errors of 5 % are 1 %."""
    rng = np.random.default_rng(1)
    moved = rng.normal(0, 0.02, (2_000, 1, folds, 1)) + rng.normal(0, 0.01, (2_000, 1, folds, 30))
    found = [estimate(scores) for scores in moved]
    wrong = np.mean([verdict(one, one.p) in ("better", "worse") for one in found])
    assert wrong <= 0.06
    assert wrong >= 0.03  # and not because nothing ever gets a verdict
