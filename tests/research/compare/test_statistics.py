"""Statistics of a comparison against numbers worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from arena_pipeline.research.compare.statistics import Estimate, estimate, holm, mean_of_structures, signed_ranks, verdict, wilcoxon_p


def test_mean_over_structures_of_means_over_cases() -> None:
    scores = np.array([[0.2, 0.4, math.nan], [0.9, math.nan, 0.7]])
    assert mean_of_structures(scores) == pytest.approx((0.3 + 0.8) / 2)
    assert mean_of_structures(np.array([[math.nan, math.nan], [0.5, 0.7]])) == pytest.approx(0.6)
    assert math.isnan(float(mean_of_structures(np.full((2, 3), math.nan))))


def test_interval_of_two_values() -> None:
    """Two cases 0 and 1 give means 0, 1/2, 1 with probability 1/4, 1/2, 1/4: the 2.5 and 97.5 % points are 0 and 1."""
    assert estimate(np.array([[0.0, 1.0]])) == Estimate(0.5, 0.0, 1.0, 2)


def test_interval_of_equal_values_is_a_point() -> None:
    found = estimate(np.full((3, 5), 0.25))
    assert (found.mean, found.low, found.high, found.cases) == (0.25, 0.25, 0.25, 5)


def test_interval_of_many_values_is_the_normal_one() -> None:
    """400 values, half 0 and half 1: standard error 0.5 / 20 = 0.025."""
    found = estimate(np.repeat([0.0, 1.0], 200)[None])
    assert found.mean == 0.5
    assert found.low == pytest.approx(0.5 - 1.96 * 0.025, abs=0.004)
    assert found.high == pytest.approx(0.5 + 1.96 * 0.025, abs=0.004)


def test_structures_of_a_case_are_drawn_together() -> None:
    """Two structures that cancel in every case: drawn by case the mean never moves, drawn apart it would."""
    values = np.array([0.1, 0.5, 0.9, 0.3])
    found = estimate(np.stack([values, 1 - values]))
    assert (found.low, found.high) == pytest.approx((0.5, 0.5))


def test_missing_scores_with_and_without_the_shortcut() -> None:
    scores = np.array([[0.2, 0.4, 0.9, 0.5], [0.6, 0.1, 0.3, math.nan]])
    found = estimate(scores)
    assert found.mean == pytest.approx((0.5 + 1 / 3) / 2)
    assert found.low < found.mean < found.high and found.cases == 4
    whole = scores[:, :3]
    assert estimate(np.column_stack([whole, [math.nan, math.nan]])) == estimate(whole)  # a case without any score is none


def test_one_case_has_no_interval() -> None:
    one, none = estimate(np.array([[0.7]])), estimate(np.zeros((1, 0)))
    assert (one.mean, one.cases) == (0.7, 1) and math.isnan(one.low) and math.isnan(one.high)
    assert math.isnan(none.mean) and none.cases == 0


def test_wilcoxon_by_hand() -> None:
    """Six differences of one sign: 2 of the 2^6 sign patterns are as extreme, p = 2 / 64. One of them turned: the smallest rank, p = 4 / 64."""
    assert wilcoxon_p(np.array([0.1, 0.2, 0.3, 0.15, 0.25, 0.05])) == pytest.approx(2 / 64)
    assert wilcoxon_p(np.array([0.1, 0.2, 0.3, 0.15, 0.25, -0.05, math.nan])) == pytest.approx(4 / 64)
    assert wilcoxon_p(np.zeros(8)) == 1
    assert math.isnan(wilcoxon_p(np.array([math.nan])))


def test_holm_by_hand() -> None:
    """0.01 * 4, 0.02 * 3, 0.03 * 2 (raised to 0.06), 0.5 * 1."""
    assert holm([0.03, 0.01, 0.5, 0.02]) == pytest.approx([0.06, 0.04, 0.5, 0.06])
    assert holm([0.6, math.nan, 0.7]) == pytest.approx([1.0, math.nan, 1.0], nan_ok=True)
    assert holm([]) == []


def test_verdicts_need_interval_and_test() -> None:
    assert verdict(Estimate(0.1, 0.02, 0.2, 10), 0.01, 1.0) == "better"
    assert verdict(Estimate(-0.1, -0.2, -0.02, 10), 0.01, -1.0) == "worse"
    assert verdict(Estimate(0.1, -0.02, 0.2, 10), 0.01, 1.0) == "no clear difference"
    assert verdict(Estimate(0.1, 0.02, 0.2, 10), 0.06, 1.0) == "no clear difference"
    assert verdict(Estimate(0.1, 0.02, 0.2, 5), 0.01, 1.0) == "too few cases"


def test_a_test_that_points_the_other_way_gives_no_verdict() -> None:
    """Forty cases of one structure a little worse, four of another much better: the mean of structures is positive, the ranks are not."""
    few_and_large = np.array([-0.01] * 40 + [0.3] * 4)
    assert few_and_large[40:].mean() + few_and_large[:40].mean() > 0 > signed_ranks(few_and_large)
    assert verdict(Estimate(0.145, 0.144, 0.146, 44), 0.001, signed_ranks(few_and_large)) == "no clear difference"


def test_resamples_without_a_structure_are_left_out() -> None:
    """Structure b is in two of forty cases: 13 % of the resamples have none of it, whose mean over a alone would be 0.9."""
    scores = np.full((2, 40), math.nan)
    scores[0], scores[1, :2] = 0.9, 0.3
    found = estimate(scores)
    assert (found.mean, found.low, found.high) == pytest.approx((0.6, 0.6, 0.6))
