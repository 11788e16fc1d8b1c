"""Intervals, tests and verdicts of a comparison.

Scores come as an array (structures, folds, cases) that is NaN where a case has no score of a structure in a fold. Both a fold (its support set and
seed) and a query case are draws that many scores share, so both are resampled: each fold and each case is left out in turn (a two-way jackknife).
A percentile bootstrap is not used: with three folds its interval lies between the best and the worst of them, and holds the true mean at most
three times in four.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import stats

CONFIDENCE, SIGNIFICANCE = 0.95, 0.05
FEWEST_FOLDS = 3
FEWEST_CASES = 6
SMALLEST_DIFFERENCE = 1e-12
"""A mean below this is rounding, not a difference."""
STRUCTURES, FOLDS, CASES = range(3)

Verdict = Literal["better", "worse", "no clear difference", "too few folds", "too few cases"]


@dataclass(frozen=True)
class Estimate:
    """A mean with its 95 % interval and the two-sided p for a true mean of 0; NaN where there are too few scores for them.

    With one fold both are over the query cases alone.
    """

    mean: float
    low: float
    high: float
    cases: int
    folds: int
    p: float


def overall_mean(scores: np.ndarray) -> float:
    """The mean over folds, then over cases, then over structures, without NaN; a structure without any score is left out."""
    of_structures = _structure_means(scores)
    return float(np.nanmean(of_structures)) if not np.isnan(of_structures).all() else math.nan


def estimate(scores: np.ndarray) -> Estimate:
    """The mean of (structures, folds, cases) with its t-interval.

    Its variance is the sum of the jackknife's variances over folds and over cases. This makes the interval rather too wide: what varies with fold
    and case together counts twice. Its degrees of freedom are those of the fewer of the two, mostly folds; three folds tell little.
    """
    for axis in (STRUCTURES, FOLDS, CASES):
        others = tuple(other for other in range(3) if other != axis)
        scores = scores.compress(~np.isnan(scores).all(axis=others), axis=axis)
    _, folds, cases = scores.shape
    if not scores.size:
        return Estimate(math.nan, math.nan, math.nan, cases, folds, math.nan)
    mean = overall_mean(scores)
    resampled = [axis for axis in (FOLDS, CASES) if scores.shape[axis] > 1]
    variance = sum(_jackknife_variance(scores, axis) for axis in resampled)
    if not resampled or math.isnan(variance):
        return Estimate(mean, math.nan, math.nan, cases, folds, math.nan)
    if variance == 0:
        return Estimate(mean, mean, mean, cases, folds, 1.0 if abs(mean) < SMALLEST_DIFFERENCE else 0.0)
    freedom = min(scores.shape[axis] for axis in resampled) - 1
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, freedom)) * math.sqrt(variance)
    p = 1.0 if abs(mean) < SMALLEST_DIFFERENCE else float(2 * stats.t.sf(abs(mean) / math.sqrt(variance), freedom))
    return Estimate(mean, mean - half, mean + half, cases, folds, p)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction: the k-th smallest of m values times m - k + 1, never less than the one before it. NaN (no test) stays NaN."""
    values = np.asarray(p_values, dtype=float)
    tests = np.flatnonzero(~np.isnan(values))
    order = tests[np.argsort(values[tests], kind="stable")]
    corrected = np.full(len(values), math.nan)
    corrected[order] = np.minimum(1, np.maximum.accumulate(values[order] * np.arange(len(order), 0, -1)))
    return corrected.tolist()


def verdict(difference: Estimate, holm_p: float) -> Verdict:
    """Better or worse only from three folds and six cases, where the corrected p is below 0.05 (the interval, not corrected, then leaves out 0)."""
    if difference.folds < FEWEST_FOLDS:
        return "too few folds"
    if difference.cases < FEWEST_CASES or math.isnan(holm_p):  # NaN: a structure has too few cases for any test
        return "too few cases"
    if not holm_p < SIGNIFICANCE:
        return "no clear difference"
    return "better" if difference.mean > 0 else "worse"


def fewest_folds(folds: Iterable[int]) -> int:
    """The smallest number of folds in a table's rows. Rows without any fold, whose fits all failed, have no interval and are left out."""
    return min((int(count) for count in folds if count > 0), default=FEWEST_FOLDS)


def interval_meaning(folds: int) -> str:
    """What an interval covers, in words; `folds` is the smallest number of them in a table."""
    if folds < 2:
        return "over query cases; with one support set it can't say how another one would do, which may change a mean more than the cases do"
    return "over query cases and support sets (folds)"


def _jackknife_variance(scores: np.ndarray, axis: int) -> float:
    """(n - 1) / n times the squared deviations, summed, of the n leave-one-out means from their mean; NaN where one leaves a structure no score."""
    count = scores.shape[axis]
    means = np.array([_structure_means(np.delete(scores, left_out, axis)).mean() for left_out in range(count)])
    return float((count - 1) / count * ((means - means.mean()) ** 2).sum())


def _structure_means(scores: np.ndarray) -> np.ndarray:
    """(structures, folds, cases) -> (structures,)."""
    return _known_mean(_known_mean(scores, axis=FOLDS), axis=-1)


def _known_mean(values: np.ndarray, axis: int) -> np.ndarray:
    """The mean of what is not NaN; NaN (without a warning) where all is."""
    known = ~np.isnan(values)
    count = known.sum(axis=axis)
    total = np.where(known, values, 0.0).sum(axis=axis)
    return np.divide(total, count, out=np.full(np.shape(total), math.nan), where=count > 0)
