"""Intervals and tests of a comparison. The unit is always the query case: folds and structures of one case are averaged, never counted as cases.

Scores come as a matrix (structures, cases) that is NaN where a case has no score of a structure. Its mean is the mean over the structures of
each structure's mean over its cases, as the published tables average.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import stats

CONFIDENCE = 0.95
RESAMPLES = 9_999
FEWEST_CASES = 6
"""With five pairs the smallest two-sided p of Wilcoxon's test is 2 / 2^5 = 0.0625: nothing could come out."""

Verdict = Literal["better", "worse", "no clear difference", "too few cases"]


@dataclass(frozen=True)
class Estimate:
    """A mean over `cases` query cases with its 95 % bootstrap interval; NaN ends where fewer than two cases leave none."""

    mean: float
    low: float
    high: float
    cases: int


def mean_of_structures(scores: np.ndarray) -> np.ndarray:
    """(structures, ..., cases) -> (...): the mean over structures of their means over cases, both over what is not NaN."""
    return _known_mean(_known_mean(scores, axis=-1), axis=0)


def mean_per_case(scores: np.ndarray) -> np.ndarray:
    """(structures, cases) -> (cases,): every case's mean over the structures it has a score of."""
    return _known_mean(scores, axis=0)


def estimate(scores: np.ndarray) -> Estimate:
    """The mean of (structures, cases) with its percentile bootstrap interval: cases are drawn with replacement, each with all its structures.

    A resample in which a structure has no case at all would estimate the mean over the others, and is left out.
    """
    scores = scores[:, ~np.isnan(scores).all(axis=0)]
    cases = scores.shape[1]
    mean = float(mean_of_structures(scores)) if cases else math.nan
    if cases < 2:
        return Estimate(mean, math.nan, math.nan, cases)
    if not np.isnan(scores).any():
        scores = scores.mean(axis=0, keepdims=True)  # the same mean in any resample, and less to compute

    def resampled(index: np.ndarray, axis: int = -1) -> np.ndarray:
        drawn = scores[:, index.astype(np.int64)]
        return np.where(np.isnan(drawn).all(axis=-1).any(axis=0), math.nan, mean_of_structures(drawn))

    options = {"n_resamples": RESAMPLES, "batch": 1_000, "vectorized": True, "random_state": np.random.default_rng(0)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)  # of an interval that is taken here without the resamples left out
        distribution = stats.bootstrap((np.arange(cases),), resampled, method="percentile", **options).bootstrap_distribution
    low, high = np.nanpercentile(distribution, [50 * (1 - CONFIDENCE), 50 * (1 + CONFIDENCE)])
    return Estimate(mean, float(low), float(high), cases)


def wilcoxon_p(differences: np.ndarray) -> float:
    """Two-sided p of Wilcoxon's signed-rank test on paired differences, a value per case; NaN without any, 1 where none differs from 0."""
    known = differences[~np.isnan(differences)]
    if not len(known):
        return math.nan
    return float(stats.wilcoxon(known).pvalue) if known.any() else 1.0


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction: the k-th smallest of m values times m - k + 1, never less than the one before it. NaN is no test and stays."""
    values = np.asarray(p_values, dtype=float)
    tests = np.flatnonzero(~np.isnan(values))
    order = tests[np.argsort(values[tests], kind="stable")]
    corrected = np.full(len(values), math.nan)
    corrected[order] = np.minimum(1, np.maximum.accumulate(values[order] * np.arange(len(order), 0, -1)))
    return corrected.tolist()


def signed_ranks(differences: np.ndarray) -> float:
    """Positive where the ranks of the positive differences prevail in Wilcoxon's test, which need not be so where their mean is positive."""
    known = differences[~np.isnan(differences) & (differences != 0)]
    return float((np.sign(known) * stats.rankdata(np.abs(known))).sum())


def verdict(difference: Estimate, holm_p: float, direction: float) -> Verdict:
    """Better or worse only where the interval leaves out 0, the corrected p is below 0.05, and both point the same way.

    Args:
        direction: `signed_ranks` of the differences that were tested.
    """
    if difference.cases < FEWEST_CASES:
        return "too few cases"
    if not holm_p < 1 - CONFIDENCE:
        return "no clear difference"
    if difference.low > 0 and direction > 0:
        return "better"
    return "worse" if difference.high < 0 and direction < 0 else "no clear difference"


def _known_mean(values: np.ndarray, axis: int) -> np.ndarray:
    """The mean of what is not NaN; NaN (without a warning) where nothing is."""
    known = ~np.isnan(values)
    count = known.sum(axis=axis)
    total = np.where(known, values, 0.0).sum(axis=axis)
    return np.divide(total, count, out=np.full(np.shape(total), math.nan), where=count > 0)
